"""The cells of a sweep: each is one run of `resproto train`, told by its specification alone.

The files are the state. `result.json` of the cell's specification says that it is done; Ray and this program's memory
say nothing.
"""

import hashlib
import itertools
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from resproto_fd.configs import loading
from resproto_fd.configs.errors import UnreadableFile, UserError, shown
from resproto_fd.configs.file_names import fault_of, hashed_name, twins
from resproto_fd.configs.schema import ProtocolConfig, RunConfig
from resproto_fd.configs.sweep_schema import CellGroup, Needs, SweepConfig
from resproto_fd.detectors.registry import check_model, defaults_of, detector_class
from resproto_fd.trainer import checkpoint
from resproto_fd.training.calibration import is_due, is_tried
from resproto_fd.training.lineage import TRAINED
from resproto_fd.training.overriding import configuration, detector_called
from resproto_fd.training.results import RunResult
from resproto_fd.training.settings import folder_of, with_keywords

State = Literal["done", "broken", "failed", "to do"]
SIDE = "sweep"
"""Folder in the folder of runs: what a sweep keeps beside the runs, a folder for each cell's digest."""
LONGEST_TASK = 80
OF_SWEEP = {"seed": "seeds:", "run.out": "--out", "run.task": "", "run.resume": "", "run.save_checkpoints": ""}
"""Settings that a sweep makes itself, and what gives them."""
OF_LEARNING = ("shuffle_labels", "max_steps")
"""Settings of `run` that change what is learnt."""
OF_DETECTOR = ("name", "detector", "model", "input", "train")
"""What of a detector's configuration changes its numbers."""
TEXTS = (*sorted(checkpoint.TEXTS), "metrics")


@dataclass(frozen=True)
class Cell:
    """One run of a sweep.

    Attributes:
        detector, protocol: As `resproto train` takes them: names, or absolute paths of YAMLs.
        seed: Seed of everything random.
        overrides: `key=value` words that change what is learnt.
        needs: What the run takes of a machine; `cpus` is always given.
        folder: Its run folder, from the folder of runs, with "/" between the parts.
        digest: Hash of the specification: it names the cell's files in `RUNS/sweep/`.
        settings: Words that change nothing of what is learnt.
        task: Word that the run folder's name gets for the overrides; "" for none.
        epochs: Epochs of training; 0 for a detector without anything to train.
        workers: Data workers of each of its processes.
        split_batch: Parts that its settings have each batch computed in.
        spec: The specification as JSON; `state` compares a run's record with it.
    """

    detector: str
    protocol: str
    seed: int
    overrides: tuple[str, ...]
    needs: Needs
    folder: str
    digest: str
    settings: tuple[str, ...] = ()
    task: str = ""
    epochs: int = 0
    workers: int = 0
    split_batch: int = 1
    spec: str = field(default="{}", repr=False, compare=False)

    def words(self, runs: str | Path) -> list[str]:
        """The words after `resproto` that train the cell, or go on with it.

        Args:
            runs: The folder of runs.
        """
        device = "cuda" if self.needs.cards else "cpu"
        named = [f"--detector={self.detector}", f"--protocol={self.protocol}", f"--seed={self.seed}", f"--out={runs}"]
        task = [f"--task_target={self.task}"] if self.task else []
        given = loading.in_one_line([*self.settings, *self.overrides])
        run = loading.parse_overrides([word for word in given if not word.startswith("-")]).get("run") or {}
        own = {"progress": "false", "device": device}
        rest = [f"run.{key}={value}" for key, value in own.items() if key not in run]
        return ["train", *named, *task, *given, *rest]

    @property
    def threads(self) -> int:
        """Threads of each of its processes: what its data workers leave.

        They follow from the cell alone, not from the machine: the bits of a run on a CPU depend on them.
        """
        return max(1, (self.needs.cpus or 1) // max(1, int(self.needs.cards)) - self.workers)

    def protocol_config(self) -> ProtocolConfig:
        """The protocol, as its specification has it."""
        return ProtocolConfig.model_validate(json.loads(self.spec)["protocol"])

    @property
    def frames(self) -> int:
        """Pictures of a sample of its detector, as its specification has it."""
        return json.loads(self.spec)["detector"]["input"]["frames"]

    def side(self, runs: str | Path) -> Path:
        """The folder for what a sweep keeps of this cell: its log, and why it failed."""
        return Path(runs, SIDE, self.digest)

    def failed_file(self, runs: str | Path) -> Path:
        """The file that says why the cell failed."""
        return self.side(runs) / "failed.json"


def cells_of(
    config: SweepConfig, base: Path | None = None, typed: Sequence[str] = (), trust_code: bool = False
) -> list[Cell]:
    """The cells of a sweep, each once, in the file's order.

    Args:
        config: The sweep.
        base: Folder that paths of detectors and protocols start from; None means the current one.
        typed: `key=value` words of the command line: they change every cell.
        trust_code: Whether a file may name code to import.

    Raises:
        UserError: A name or a word is wrong; or two cells of different settings would have one run folder.
    """
    _refuse(typed, "command line")
    loading.parse_overrides(typed)
    cells: dict[str, Cell] = {}
    makers: dict[tuple[str, str], _Maker] = {}
    for number, group in enumerate(config.cells):
        where = f"{config.name}: cells.{number}"
        shared = [*config.settings, *group.settings]
        for words in _sets_of_words(group):
            _refuse([*shared, *words], where, of_file=True)
            with _named(where):
                for layer in (config.settings, group.settings, words):
                    loading.parse_overrides(layer)
            for protocol, detector in itertools.product(group.protocols, group.detectors):
                with _named(f"{where}: {detector}, {protocol}"):
                    names = _placed(detector, base), _placed(protocol, base)
                    maker = makers.get(names) or makers.setdefault(names, _Maker(*names, typed, trust_code))
                    for seed in group.seeds or config.seeds:
                        cell = maker.cell([*shared, *words], seed, group.needs or config.needs)
                        cells.setdefault(cell.digest, cell)
    _refuse_one_folder(cells.values())
    return list(cells.values())


def state(cell: Cell, runs: str | Path) -> State:
    """What the files say of a cell.

    Returns:
        "done" if its result is there, and its calibration if it can have one; "failed" if a sweep gave it up, or a file
        of it cannot be read, see `fault_in`; "broken" if it can go on from a checkpoint, also if only its calibration
        is missing; else "to do".

    Raises:
        UserError: Its folder holds a run of another specification.
    """
    try:
        return _state(cell, runs)
    except UnreadableFile:
        return "failed"


def fault_in(cell: Cell, runs: str | Path) -> str | None:
    """Which file of a cell's folder cannot be read, and why; None if all that `state` needs can.

    Raises:
        UserError: Its folder holds a run of another specification.
    """
    try:
        _state(cell, runs)
    except UnreadableFile as error:
        return f"{error}; or remove it, and the sweep makes it anew"
    return None


def _state(cell: Cell, runs: str | Path) -> State:
    """See `state`; UnreadableFile is raised."""
    folder = Path(runs, cell.folder)
    has_checkpoint = bool(checkpoint.stored(folder / "checkpoints"))
    if (result := folder / "result.json").is_file():
        try:
            known = RunResult.load(result)
        except UnreadableFile:
            if not has_checkpoint:
                raise
            known = None  # training writes it anew
        if known is not None and _is_of_training(known, cell, result):
            due = has_checkpoint and is_due(known.selected_on.rule)
            if not due or is_tried(folder):
                return "done"
    if cell.failed_file(runs).is_file():
        return "failed"
    if not has_checkpoint:
        return "to do"
    if (saved := folder / "config.yaml").is_file():
        _refuse_other(cell, loading.load_yaml(saved), saved)
    return "broken"


def _is_of_training(known: RunResult, cell: Cell, path: Path) -> bool:
    """Whether a result is that of the cell's finished training; a test of an unfinished run's weights is none.

    Raises:
        UserError: It is of another run.
    """
    under = [word for word in known.overrides if word.startswith("trained_under=")]
    if known.source != "measured" or known.selected_on.rule not in (*TRAINED, "none") or under:
        what = "submitted scores" if known.source != "measured" else "a test of other weights"
        raise UserError(f"{path}: expected the result of this sweep's run, got that of {what}; {_REMEDY}")
    _refuse_other(cell, known.config, path)
    return known.selected_on.rule == "none" or known.train_images is not None


def _refuse_other(cell: Cell, saved: dict[str, Any], path: Path) -> None:
    """Refuses a folder of a run with other settings. Keys that are newer than that run are not compared."""
    ours, theirs = json.loads(cell.spec), _specification(saved)
    model = theirs.get("detector", {}).get("model", {})
    for keyword in _filled_by_frames(ours["detector"]["detector"]) - set(ours["detector"]["model"]):
        model.pop(keyword, None)
    found = checkpoint.differing_keys({"config": ours}, {"config": theirs})
    if found := [text for text in found if "saved with '(absent)'" not in text]:
        listed = "\n  ".join(found[:8])
        raise UserError(f"{path}: is of a run with other settings than the sweep's cell:\n  {listed}\n{_REMEDY}")


_REMEDY = "set another --out, give the detector another name, or remove the run's folder"


class _Maker:
    """Makes the cells of one detector under one protocol."""

    def __init__(self, detector: str, protocol: str, typed: Sequence[str], trust_code: bool):
        self.names, self.typed, self.trust_code = (detector, protocol), list(typed), trust_code
        called = detector_called(detector)
        self._detector = loading.load("detectors", called) if isinstance(called, str) else called
        self._protocol = _protocol(protocol)
        self._known: dict[tuple[str, ...], RunConfig] = {}

    def cell(self, words: list[str], seed: int, needs: Needs) -> Cell:
        words = [*words, *self.typed]
        config = self._configuration(words)
        kept = self._without_idle(words)
        settings = tuple(word for word in words if word not in kept and _is_setting(word))
        task = self._task(kept, config)
        out_of = {"out": "", "task": task or None}
        config = config.model_copy(update={"seed": seed, "run": config.run.model_copy(update=out_of)})
        processes = max(1, int(needs.cards))
        cpus = needs.cpus or processes * (config.run.workers + 1)
        return Cell(
            *self.names,
            seed,
            tuple(kept),
            needs.model_copy(update={"cpus": cpus}),
            folder_of(config).as_posix(),
            _digest(config),
            settings=(*settings, *(["--trust-code"] if self.trust_code else [])),
            task=task,
            epochs=0 if self._detector.trainable == 0 else config.detector.train.epochs,
            workers=config.run.workers,
            split_batch=config.run.split_batch,
            spec=json.dumps(_specification(config.model_dump(mode="json", by_alias=True)), sort_keys=True),
        )

    def _configuration(self, words: Sequence[str]) -> RunConfig:
        if (key := tuple(words)) not in self._known:
            changes = loading.parse_overrides(*([word] for word in words))
            config = with_keywords(configuration(self._detector, self._protocol, changes))
            trusted = loading.parse_overrides(self.typed).get("model") or ()
            check_model(config.detector.trusting(None if self.trust_code else trusted))
            self._known[key] = config
        return self._known[key]

    def _without_idle(self, words: list[str]) -> list[str]:
        """The words that change the specification: one that states the detector's own value makes no other run."""
        kept, whole = list(words), _digest(self._configuration(words))
        for word in words:
            fewer = [other for other in kept if other != word]
            try:
                is_idle = _digest(self._configuration(fewer)) == whole
            except UserError:  # as where a detector needs the word
                continue
            if is_idle:
                kept = fewer
        return kept

    def _task(self, kept: list[str], config: RunConfig) -> str:
        """A word for the overrides, the same however they are written; a protocol's change names the protocol."""
        ours = [word for word in kept if not word.startswith("protocol.")]
        parts = sorted(_canonical(word) for word in ours)
        task = "+".join(parts)
        whole = f"{config.detector.name}_{task}"
        if not task:
            return ""
        return hashed_name(task) if len(task) > LONGEST_TASK or fault_of(whole) else task


@lru_cache
def _protocol_of(name: str, *state: int) -> ProtocolConfig:
    return loading.load("protocols", name)


def _protocol(name: str) -> ProtocolConfig:
    """A protocol, read once as long as its file is the same."""
    status = loading.find("protocols", name).stat()
    return _protocol_of(name, status.st_mtime_ns, status.st_size)


def _canonical(word: str) -> str:
    """A `key=value` word in one form: `top_k=16` of `model.top_k=0x10`."""
    key, _, text = word.partition("=")
    value = loading.parse_yaml(text, f"value of {key}")
    return f"{key.partition('.')[2]}={value if isinstance(value, str) else json.dumps(value, sort_keys=True)}"


def _is_setting(word: str) -> bool:
    """Whether a word that changes nothing of what is learnt does something nevertheless."""
    return word.partition("=")[0].partition(".")[0] in ("run", "data")


def _specification(config: dict[str, Any]) -> dict[str, Any]:
    """What of a run's configuration, as JSON has it, changes what is learnt and tested."""

    def part(of: Any, name: str) -> dict[str, Any]:
        found = of.get(name) if isinstance(of, dict) else None
        return dict(found) if isinstance(found, dict) else {}

    whole, run = part(config, "detector"), part(config, "run")
    detector = {key: whole[key] for key in OF_DETECTOR if key in whole}
    defaults = _plain_defaults(detector.get("detector"))
    given = part(whole, "model")
    detector["model"] = {key: value for key, value in given.items() if defaults.get(key, ...) != value}
    protocol = {key: value for key, value in part(config, "protocol").items() if key not in TEXTS}
    spec = {"detector": detector, "protocol": protocol, "run": {key: run[key] for key in OF_LEARNING if key in run}}
    return {**spec, "seed": config["seed"]} if "seed" in config else spec


def _digest(config: RunConfig) -> str:
    """Hash of a specification. Values that are defaults are left out, so that a new setting changes no digest."""
    content = _specification(config.model_dump(mode="json", by_alias=True, exclude_defaults=True))
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def _plain_defaults(name: Any) -> dict[str, Any]:
    """A class's defaults as JSON has them; {} for a class that is not known."""
    try:
        defaults = defaults_of(name) if isinstance(name, str) else {}
    except UserError:
        return {}
    return json.loads(json.dumps(defaults, default=str))


def _filled_by_frames(name: str) -> set[str]:
    """Keywords of a class that only the training frames can fill (see `settings.with_methods`)."""
    declared = dict(getattr(detector_class(name), "keywords_from_data", {}))
    return {keyword for keyword, what in declared.items() if what == "train_methods"}


def _sets_of_words(group: CellGroup) -> list[list[str]]:
    """The override words of each of a group's sets of runs."""
    if isinstance(group.overrides, list):
        return group.overrides
    choices = [[loading.as_word(key, value) for value in values] for key, values in group.overrides.items()]
    return [list(words) for words in itertools.product(*choices)]


def _placed(name: str, base: Path | None) -> str:
    """A name as it is; the path of a YAML as an absolute one."""
    if not name.endswith((".yaml", ".yml")) and "/" not in name and os.sep not in name:
        return name
    return os.path.abspath(os.path.join(base or "", os.path.expanduser(name)))


def _refuse(words: Iterable[str], where: str, of_file: bool = False) -> None:
    """Refuses words that a sweep makes itself; and, in a file, those that belong to a machine."""
    for word in words:
        if "=" not in word:
            raise UserError(f"{where}: expected key=value, got {shown(word)}")
        with _named(where):
            tree = loading.parse_overrides([word])
        for key, value in _entries(tree):
            if key in OF_SWEEP:
                instead = f"; set {OF_SWEEP[key]} instead" if OF_SWEEP[key] else ""
                raise UserError(f"{where}: got {shown(word)}, which a sweep sets itself{instead}")
            if of_file and key.partition(".")[0] == "data":
                raise UserError(f"{where}: got {shown(word)}, which belongs to a machine; type it after the command")
            if of_file and key == "run.encode_once" and not isinstance(value, bool):
                raise UserError(f"{where}: expected true or false, got {shown(word)}; type a folder after the command")


def _entries(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The dotted keys of nested mappings with their values, those of inner ones too."""
    for key, value in tree.items():
        yield f"{prefix}{key}", value
        if isinstance(value, dict):
            yield from _entries(value, f"{prefix}{key}.")


def _refuse_one_folder(cells: Iterable[Cell]) -> None:
    """Refuses two cells of one run folder, also where only some file systems take two names for one."""
    by_folder: dict[str, Cell] = {}
    for cell in cells:
        if (other := by_folder.setdefault(cell.folder, cell)) is not cell:
            raise UserError(
                f"two cells of different settings would have the run folder {cell.folder}: {other.detector} under "
                f"{other.protocol}, and {cell.detector} under {cell.protocol}; give one of the YAMLs another name"
            )
    for one, other in twins(by_folder):
        raise UserError(f"the run folders {one} and {other} differ in case or Unicode form alone; rename one")


class _named:
    """Puts where it happened before the message of a fault."""

    def __init__(self, where: str):
        self.where = where

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        if isinstance(error, UserError):
            raise UserError(f"{self.where}: {error}") from error
