"""Where weights come from: the run that made them, what it trained on, its recipe, and how they were chosen.

Two things tell it: the result file of a run that has these weights, known by their SHA-256 or by their tensors' values;
and the record in the file itself (`WeightsRecord`), so that a copy on another machine keeps its history.
"""

import json
import sys
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, JsonValue, ValidationError

from resproto_fd.configs import loading
from resproto_fd.configs.errors import UnreadableFile, UserError
from resproto_fd.configs.files import sha256_of
from resproto_fd.configs.readers.json_reader import LARGEST
from resproto_fd.configs.readers.text import read_bytes
from resproto_fd.configs.schema import DetectorConfig, ProtocolConfig, RunConfig, RunSettings, TrainConfig
from resproto_fd.detectors.weights import read_state_dict, tensors_sha256
from resproto_fd.trainer import checkpoint
from resproto_fd.trainer.frame_list import FrameList
from resproto_fd.training import protocols
from resproto_fd.training.protocols import ResolvedProtocol
from resproto_fd.training.provenance import settings_differing
from resproto_fd.training.results import Record, RunResult, Selection
from resproto_fd.training.settings import overrides_of

RECORD_FORMAT = 1
TRAINED = ("best", "last")
"""Rules of selection by which a run chooses weights that it has trained."""


class WeightsRecord(Record):
    """What a file of weights tells of its training. It is data alone: no class is taken from it."""

    format: int = RECORD_FORMAT
    detector: str  # preset
    protocol: str
    fingerprint: Annotated[str, Field(min_length=8)]
    seed: int
    overrides: list[str]
    trained_on: list[str]
    train_frames: str  # hash of the training frames and their labels
    selected_on: Selection
    config: dict[str, JsonValue]  # detector, protocol, and what of `run` changes training


def record_for(config: RunConfig, selection: Selection, resolved: ResolvedProtocol) -> dict[str, Any]:
    """The record that a run's weights carry; the checkpoint adds the chosen epoch and its value."""
    kept = {"detector": True, "protocol": True, "run": {"shuffle_labels", "max_steps"}}
    return WeightsRecord(
        detector=config.detector.name,
        protocol=config.protocol.name,
        fingerprint=resolved.fingerprint,
        seed=config.seed,
        overrides=overrides_of(config),
        trained_on=list(config.protocol.train),
        train_frames=resolved.train.digest(),
        selected_on=selection,
        config=config.model_dump(mode="json", by_alias=True, include=kept),
    ).model_dump(mode="json")


@dataclass
class Origin:
    """What is known of the training of some weights.

    Attributes:
        where: File that tells it.
        config: The configuration's parts that training depends on.
        trained_on: Training sets; None if they are not known.
        train_frames: Hash of the training frames and their labels; None if it is not known.
        state: How far training had come, if it had not come to its end or if no rule chose these weights.
    """

    where: str
    protocol: str
    fingerprint: str
    seed: int
    overrides: list[str]
    trained_on: list[str] | None
    selected_on: Selection
    config: dict[str, JsonValue]
    timing: dict[str, float] = field(default_factory=dict)
    train_images: int | None = None
    note: str = ""
    train_frames: str | None = None
    state: str = ""

    @classmethod
    def of_result(cls, known: RunResult) -> "Origin":
        return cls(
            where=f"{known.folder}/result.json",
            protocol=known.protocol,
            fingerprint=known.fingerprint,
            seed=known.seed,
            overrides=known.overrides,
            trained_on=training_sets_of(known),
            selected_on=known.selected_on,
            config=known.config,
            timing={name: value for name, value in known.timing.items() if name.startswith("train")},
            train_images=known.train_images,
            note=known.note,
        )

    @classmethod
    def of_record(cls, weights: Path, record: WeightsRecord, state: str) -> "Origin":
        same = {"protocol", "fingerprint", "seed", "overrides", "trained_on", "train_frames", "config"}
        note = "; ".join(filter(None, [f"history from the record in {weights.name}", state]))
        return cls(
            where=str(weights),
            selected_on=record.selected_on,
            note=note,
            state=state,
            **record.model_dump(include=same),
        )


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


def origin_of(weights: Path, runs: str | Path | None = None) -> Origin | None:
    """What is known of the training of a file of weights, whatever its name and place; None if nothing is.

    The file's own record comes first: its tensors vouch for it. A result file adds what only a finished run knows.

    Args:
        weights: The file.
        runs: Folder of runs to look through.

    Raises:
        UserError: The result file beside the weights is not a valid one.
    """
    if not weights.is_file():
        return None
    record, state = _record_in(weights)
    known = run_that_made(weights, runs)
    told = known and Origin.of_result(known)
    if record is None or (told and record.selected_on.rule == "given"):  # a step's weights that the run chose, too
        return told
    own = Origin.of_record(weights, record, state)
    return own if told is None else replace(own, timing=told.timing, train_images=told.train_images, note=told.note)


def run_that_made(weights: Path, runs: str | Path | None = None) -> RunResult | None:
    """The result of the run that trained these weights, so that a copy of them keeps its history.

    Args:
        weights: The file. The run is told by its SHA-256, or by the values of its tensors if they were saved anew.
        runs: Folder of runs to look through, if the result beside the weights is not theirs.

    Returns:
        None if no result is of these weights.

    Raises:
        UserError: The result file beside them is not a valid one.
    """
    if not weights.is_file():
        return None
    beside, sha = weights.parent / "result.json", sha256_of(weights)
    if beside.is_file():
        known = RunResult.load(beside)
        if _made(known, sha) or (known.tensors_sha256 and _made(known, _tensors_in(weights) or "")):
            return known
    files = _result_files(runs)
    if known := _first_that_made(files, sha):
        return known
    if not any('"tensors_sha256": "' in content for content in files.values()):
        return None
    tensors = _tensors_in(weights)
    return _first_that_made(files, tensors) if tensors else None


def _result_files(runs: str | Path | None) -> dict[Path, str]:
    """The texts of all result files in a folder of runs; what cannot be read is left out."""
    found: dict[Path, str] = {}
    for path in sorted(Path(runs).rglob("result.json")) if runs is not None else ():
        with suppress(UnreadableFile):
            found[path] = read_bytes(path, LARGEST).decode(errors="replace")
    return found


def _first_that_made(files: dict[Path, str], sha: str) -> RunResult | None:
    for path, content in files.items():
        if sha not in content:
            continue
        try:
            known = RunResult.load(path)
        except UserError:
            continue
        if _made(known, sha):
            return known
    return None


def _made(known: RunResult, sha: str) -> bool:
    """Whether a run trained the weights of this SHA-256, of the file or of its tensors; a mere test did not."""
    return known.selected_on.rule in TRAINED and sha in (known.checkpoint_sha256, known.tensors_sha256)


def _tensors_in(weights: Path) -> str | None:
    return _tensors_at(weights, *_state_of(weights))


def _state_of(file: Path) -> tuple[int, int, int]:
    status = file.stat()
    return status.st_mtime_ns, status.st_ctime_ns, status.st_size


@cache
def _tensors_at(weights: Path, *state: int) -> str | None:
    try:
        return tensors_sha256(read_state_dict(weights))
    except UserError:  # the test itself will say why
        return None


def _record_in(weights: Path) -> tuple[WeightsRecord | None, str]:
    """The record in a file of weights, and how far its run had come; None if there is none, or it is of other tensors.

    Weights of a step's checkpoint were not chosen by the run's rule: how they were chosen is not known.
    """
    return _record_at(weights, *_state_of(weights))


@cache
def _record_at(weights: Path, *file_state: int) -> tuple[WeightsRecord | None, str]:
    found = checkpoint.record_in(weights)
    if found is None:
        return None, ""
    state = "its run had not ended when this file was written" if found.get("finished") is False else ""
    try:
        record = WeightsRecord.model_validate(found["history"])
        if record.format > RECORD_FORMAT:
            raise ValueError(f"format {record.format}; this version reads up to {RECORD_FORMAT}")
        if "progress" in found:
            state = f"weights of step {int(found['progress']['step'])}, which no rule has chosen"
            record.selected_on = Selection(rule="given", oracle=record.selected_on.oracle)
        else:
            chosen = {"epoch": found.get("epoch"), "value": found.get("value")}
            record.selected_on = Selection.model_validate(record.selected_on.model_dump() | chosen)
    except (ValidationError, LookupError, ValueError, TypeError) as error:
        print(f"note: {weights}: its record of training is not used: {str(error).splitlines()[0]}", file=sys.stderr)
        return None, ""
    if found.get("tensors_sha256") != _tensors_in(weights):
        print(
            f"note: {weights}: its record of training is of other tensors; the weights were changed since, and their "
            "history is not known",
            file=sys.stderr,
        )
        return None, ""
    return record, state


def history_of(
    weights: Path | None, known: Origin | None, protocol: ProtocolConfig, train: FrameList | None = None
) -> History:
    """How given weights came about.

    Args:
        weights: The file; None for a detector that needs none.
        known: The run that made them, if it is known.
        protocol: What they are tested under.
        train: Its training frames, if they are on this machine.
    """
    if weights is None:
        return History(Selection(rule="none"), list(protocol.train))
    if known is None:
        return History(Selection(rule="given"), None, note=f"weights from {weights.name}")
    sets = known.trained_on
    notes = [known.note] if known.note else []
    if known.protocol != protocol.name or sets != protocol.train:
        notes.append(f"weights trained under {known.protocol}" + (f" (on {', '.join(sets)})" if sets else ""))
    under = trained_under(known, protocol, train)
    return History(known.selected_on, sets, under, known.timing, known.train_images, "; ".join(notes))


def choice_here(selection: Selection, resolved: ResolvedProtocol) -> tuple[Selection, list[str]]:
    """A choice that was made elsewhere, marked as an oracle if it looked at videos that a protocol tests; and notes."""
    if selection.rule != "best" or selection.oracle:
        return selection, []
    shared = protocols.tested_in_split(selection.dataset, selection.split, resolved)
    if shared is None:
        where = f"{selection.dataset} {selection.split}"
        return selection, [
            f"no manifest of {where} is here, so that it is not known whether the choice saw tested videos"
        ]
    return selection.model_copy(update={"oracle": bool(shared)}), protocols.oracle_notes(shared)


def training_sets_of(known: RunResult) -> list[str] | None:
    """The training sets of a run; None if its result file does not tell."""
    if known.trained_on is not None:
        return known.trained_on
    protocol = known.config.get("protocol")  # of an older file
    sets = protocol.get("train") if isinstance(protocol, dict) else None
    return [str(name) for name in sets] if isinstance(sets, list) else None


def trained_under(known: Origin, protocol: ProtocolConfig, train: FrameList | None = None) -> list[str]:
    """`trained_under=NAME` if a run's weights learnt from other frames than the protocol's: they are another row.

    If the protocol is the same, but its manifests named other training frames or labels then, it is NAME@FINGERPRINT.
    """
    earlier = [word for word in known.overrides if word.startswith("trained_under=")]
    theirs = known.config.get("protocol")
    if earlier or not isinstance(theirs, dict):
        return [word for word in earlier if word != f"trained_under={protocol.name}"]
    ours = protocol.model_dump(mode="json", by_alias=True)
    same = all(
        theirs.get(key, ours[key]) == ours[key] for key in ("train", "train_splits", "sampling", "share", "recode")
    )
    theirs = theirs.get("frames") or {}
    if not same or theirs.get("train") != protocol.frames.train:
        return [f"trained_under={known.protocol}"]
    if train is not None and known.train_frames not in (None, train.digest()):
        return [f"trained_under={known.protocol}@{known.fingerprint[:8]}"]
    return []


def with_recipe_of(known: Origin | None, config: RunConfig) -> RunConfig:
    """The configuration with all that training depends on taken from the run that made the weights.

    Raises:
        UserError: That run's result holds settings that this version does not know.
    """
    if known is None:
        return config
    where = f"{known.where}: config"
    detector = known.config.get("detector")
    if isinstance(detector, dict) and "train" in detector:
        recipe = loading.validated(TrainConfig, detector["train"], f"{where}.detector.train")
        config = config.model_copy(update={"detector": config.detector.model_copy(update={"train": recipe})})
    if isinstance(settings := known.config.get("run"), dict):
        changed = {name: settings[name] for name in ("shuffle_labels", "max_steps") if name in settings}
        run = loading.validated(RunSettings, config.run.model_dump() | changed, f"{where}.run")
        config = config.model_copy(update={"run": run})
    return config


def refuse_to_overwrite(folder: Path, weights: Path | None, config: RunConfig) -> None:
    """Refuses a test whose folder holds the record of other weights, or of other settings of the detector.

    Raises:
        UserError: It does; or its result file cannot be read.
    """
    if weights and not weights.is_file():
        return  # loading them says so
    best = folder / "best.pt"
    sha = sha256_of(weights) if weights else None
    if best.is_file() and (weights is None or sha256_of(best) != sha):
        what = f"other weights than {weights}" if weights else "weights that this test does not use"
        raise UserError(f"{folder}: holds a run whose best.pt is {what}; set another folder of runs: --out DIR")
    if not (folder / "result.json").is_file():
        return
    known = RunResult.load(folder / "result.json")
    if known.checkpoint_sha256 != sha:
        hashes = f"SHA-256 {known.checkpoint_sha256 or 'none'}; here {sha or 'none'}"
        if best.is_file() and known.selected_on.rule in TRAINED:
            if _is_later(best, known):
                return
            raise UserError(
                f"{best}: was changed after its run was tested ({hashes}); put the run's file back, or test this one "
                f"as other weights: --weights {best} --detector NAME --protocol NAME --out DIR"
            )
        raise UserError(
            f"{folder}: holds the result of other weights ({hashes}), which would be lost; to keep both set "
            "--task_target WORD (a row of its own on the board) or --out DIR, or remove the folder"
        )
    if found := _other_settings(known, config):
        remedy = "set --out DIR" if best.is_file() else "set --task_target WORD or --out DIR, or remove the folder"
        raise UserError(f"{folder}: the run's own results would be overwritten: {'; '.join(found)}; {remedy}")


def _is_later(best: Path, known: RunResult) -> bool:
    """Whether weights are a further checkpoint of a run that was tested before its training had ended."""
    record, _ = _record_in(best)
    if record is None or known.tensors_sha256 in (None, _tensors_in(best)):
        return False
    return (record.fingerprint, record.seed, record.overrides) == (known.fingerprint, known.seed, known.overrides)


def _other_settings(known: RunResult, config: RunConfig) -> list[str]:
    try:
        saved = loading.validated(DetectorConfig, known.config.get("detector"), f"{known.folder}/result.json")
    except UserError:  # of another version
        return []
    return settings_differing(saved, config.detector)


def refuse_another_run(folder: Path, config: RunConfig, trains: bool) -> None:
    """Refuses to train in a folder that holds a result which this run would not give.

    A run with checkpoints is not looked at: the trainer compares them with the configuration.

    Args:
        folder: The run folder.
        config: Of the run.
        trains: Whether the detector has anything to train.

    Raises:
        UserError: The folder's result is of given weights, submitted, or of a run with other settings.
    """
    if checkpoint.stored(folder / "checkpoints") or not (folder / "result.json").is_file():
        return
    known, remedy = RunResult.load(folder / "result.json"), "set --task_target WORD or --out DIR, or remove the folder"
    if known.source != "measured" or known.selected_on.rule not in (TRAINED if trains else ("none",)):
        elsewhere = {"submitted": "submitted scores", "callable": "a test of a function (--callable)"}
        what = elsewhere.get(known.source, f"a test ({known.selected_on.text()})")
        raise UserError(f"{folder}: holds the result of {what}, which would be lost; {remedy}")
    learning = {"detector", "protocol", "seed"}
    ours = json.loads(config.model_dump_json(by_alias=True, include=learning))
    theirs = {key: value for key, value in known.config.items() if key in learning}
    found = checkpoint.differing_keys({"config": ours}, {"config": theirs})
    if found := [text for text in found if "saved with '(absent)'" not in text]:  # such keys are newer than the run
        listed = "\n  ".join(found)
        raise UserError(
            f"{folder}: holds the result of a run with other settings:\n  {listed}\nits checkpoints are gone, so that "
            f"it would be lost; {remedy}"
        )
