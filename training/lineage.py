"""Where weights come from: the run that made them, what it trained on, its recipe, and how they were chosen."""

from pathlib import Path

from resproto_fd.configs import loading
from resproto_fd.configs.errors import UserError
from resproto_fd.configs.files import sha256_of
from resproto_fd.configs.schema import ProtocolConfig, RunConfig, RunSettings, TrainConfig
from resproto_fd.training.results import RunResult, Selection


def run_that_made(weights: Path) -> RunResult | None:
    """The result of the run that trained these weights, from the file beside them; None where none is known.

    Raises:
        UserError: The result file beside them is not a valid one.
    """
    beside = weights.parent / "result.json"
    if not (weights.is_file() and beside.is_file()):
        return None
    known = RunResult.load(beside)
    trained = known.selected_on.rule in ("best", "last")
    return known if trained and known.checkpoint_sha256 == sha256_of(weights) else None


def history_of(
    weights: Path | None, known: RunResult | None, protocol: ProtocolConfig
) -> tuple[Selection, dict[str, float], int | None, str]:
    """How given weights came about: selection, timing, images and note, from the run that made them, if it is known."""
    if weights is None:
        return Selection(rule="none"), {}, None, ""
    if known is None:
        return Selection(rule="given"), {}, None, f"weights from {weights.name}"
    timing = {name: value for name, value in known.timing.items() if name.startswith("train")}
    sets = training_sets_of(known)
    notes = [known.note] if known.note else []
    if known.protocol != protocol.name or sets != protocol.train:
        notes.append(f"weights trained under {known.protocol}" + (f" (on {', '.join(sets)})" if sets else ""))
    return known.selected_on, timing, known.train_images, "; ".join(notes)


def training_sets_of(known: RunResult | None) -> list[str] | None:
    """What a run trained on; None where it is not known."""
    if known is None or known.trained_on is not None:
        return known and known.trained_on
    protocol = known.config.get("protocol")  # of an older file
    sets = protocol.get("train") if isinstance(protocol, dict) else None
    return [str(name) for name in sets] if isinstance(sets, list) else None


def trained_under(known: RunResult | None, protocol: ProtocolConfig) -> list[str]:
    """`trained_under=NAME` for weights that learnt from other frames than the protocol's: they are another row."""
    if known is None:
        return []
    earlier = [word for word in known.overrides if word.startswith("trained_under=")]
    theirs = known.config.get("protocol")
    if earlier or not isinstance(theirs, dict):
        return [word for word in earlier if word != f"trained_under={protocol.name}"]
    ours = protocol.model_dump(mode="json", by_alias=True)
    same = all(theirs.get(key, ours[key]) == ours[key] for key in ("train", "sampling", "share", "recode"))
    theirs = theirs.get("frames") or {}
    return [] if same and theirs.get("train") == protocol.frames.train else [f"trained_under={known.protocol}"]


def with_recipe_of(known: RunResult | None, config: RunConfig) -> RunConfig:
    """The configuration, all that training depends on as it was in the run that made the weights.

    Raises:
        UserError: That run's result holds settings that this version does not know.
    """
    if known is None:
        return config
    where = f"{known.folder}/result.json: config"
    detector = known.config.get("detector")
    if isinstance(detector, dict) and "train" in detector:
        recipe = loading.validated(TrainConfig, detector["train"], f"{where}.detector.train")
        config = config.model_copy(update={"detector": config.detector.model_copy(update={"train": recipe})})
    if isinstance(settings := known.config.get("run"), dict):
        changed = {name: settings[name] for name in ("shuffle_labels", "max_steps") if name in settings}
        run = loading.validated(RunSettings, config.run.model_dump() | changed, f"{where}.run")
        config = config.model_copy(update={"run": run})
    return config


def refuse_other_weights(folder: Path, weights: Path | None) -> None:
    """Stops before the record of another run is overwritten: it cannot be remade without training again."""
    best = folder / "best.pt"
    if best.is_file() and (weights is None or sha256_of(best) != sha256_of(weights)):
        what = f"other weights than {weights}" if weights else "weights that this test does not use"
        raise UserError(f"{folder}: holds a run whose best.pt is {what}; name another place: --out DIR")
