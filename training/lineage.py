"""Where weights come from: the run that made them, what it trained on, its recipe, and how they were chosen."""

from dataclasses import dataclass, field
from pathlib import Path

from resproto_fd.configs import loading
from resproto_fd.configs.errors import UserError
from resproto_fd.configs.files import sha256_of
from resproto_fd.configs.schema import ProtocolConfig, RunConfig, RunSettings, TrainConfig
from resproto_fd.training.results import RunResult, Selection


@dataclass
class History:
    """How the tested weights came about.

    Attributes:
        selection: How the checkpoint was chosen.
        trained_on: Training sets; None if they are not known.
        trained_under: The override `trained_under=PROTOCOL`, if the weights learnt from other frames than the
            protocol's.
        timing: "train_seconds" and the like.
        train_images: Images seen in training, repeats counted; None if that is not known.
        note: What a reader must know.
    """

    selection: Selection
    trained_on: list[str] | None
    trained_under: list[str] = field(default_factory=list)
    timing: dict[str, float] = field(default_factory=dict)
    train_images: int | None = None
    note: str = ""


def run_that_made(weights: Path, runs: str | Path | None = None) -> RunResult | None:
    """The result of the run that trained these weights, so that a copy of them keeps its history.

    Args:
        weights: The file. The run is told by its SHA-256, whatever the file's name and place.
        runs: Folder of runs to look through, if the result beside the weights is not theirs.

    Returns:
        None if no result is of these weights.

    Raises:
        UserError: The result file beside them is not a valid one.
    """
    if not weights.is_file():
        return None
    beside, sha = weights.parent / "result.json", sha256_of(weights)
    if beside.is_file() and _made(known := RunResult.load(beside), sha):
        return known
    for path in sorted(Path(runs).rglob("result.json")) if runs is not None else []:
        if sha not in path.read_text(encoding="utf-8", errors="replace"):
            continue
        try:
            known = RunResult.load(path)
        except UserError:
            continue
        if _made(known, sha):
            return known
    return None


def _made(known: RunResult, sha: str) -> bool:
    """Whether a run trained the weights of this SHA-256; a test of given weights did not."""
    return known.selected_on.rule in ("best", "last") and known.checkpoint_sha256 == sha


def history_of(weights: Path | None, known: RunResult | None, protocol: ProtocolConfig) -> History:
    """How given weights came about.

    Args:
        weights: The file; None for a detector that needs none.
        known: The run that made them, if it is known.
        protocol: What they are tested under.
    """
    if weights is None:
        return History(Selection(rule="none"), list(protocol.train))
    if known is None:
        return History(Selection(rule="given"), None, note=f"weights from {weights.name}")
    timing = {name: value for name, value in known.timing.items() if name.startswith("train")}
    sets = training_sets_of(known)
    notes = [known.note] if known.note else []
    if known.protocol != protocol.name or sets != protocol.train:
        notes.append(f"weights trained under {known.protocol}" + (f" (on {', '.join(sets)})" if sets else ""))
    under = trained_under(known, protocol)
    return History(known.selected_on, sets, under, timing, known.train_images, "; ".join(notes))


def training_sets_of(known: RunResult) -> list[str] | None:
    """The training sets of a run; None if its result file does not tell."""
    if known.trained_on is not None:
        return known.trained_on
    protocol = known.config.get("protocol")  # of an older file
    sets = protocol.get("train") if isinstance(protocol, dict) else None
    return [str(name) for name in sets] if isinstance(sets, list) else None


def trained_under(known: RunResult, protocol: ProtocolConfig) -> list[str]:
    """`trained_under=NAME` if a run's weights learnt from other frames than the protocol's: they are another row."""
    earlier = [word for word in known.overrides if word.startswith("trained_under=")]
    theirs = known.config.get("protocol")
    if earlier or not isinstance(theirs, dict):
        return [word for word in earlier if word != f"trained_under={protocol.name}"]
    ours = protocol.model_dump(mode="json", by_alias=True)
    same = all(theirs.get(key, ours[key]) == ours[key] for key in ("train", "sampling", "share", "recode"))
    theirs = theirs.get("frames") or {}
    return [] if same and theirs.get("train") == protocol.frames.train else [f"trained_under={known.protocol}"]


def with_recipe_of(known: RunResult | None, config: RunConfig) -> RunConfig:
    """The configuration with all that training depends on taken from the run that made the weights.

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
    """Refuses a folder whose run has other weights: its record could not be made again without training."""
    best = folder / "best.pt"
    if best.is_file() and (weights is None or sha256_of(best) != sha256_of(weights)):
        what = f"other weights than {weights}" if weights else "weights that this test does not use"
        raise UserError(f"{folder}: holds a run whose best.pt is {what}; set another folder of runs: --out DIR")
