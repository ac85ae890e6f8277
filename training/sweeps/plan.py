"""The plan of a sweep: what is done, what is to do, and what it costs on paper.

The cost is that of images: those seen in training, those of the selection split after each epoch, and those of the
tests, divided by a stated number of images a second. A clip counts as its frames. Runs of the same kind that are done
replace it by their own time.
"""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path

from resproto_fd.configs import loading
from resproto_fd.configs.errors import UserError
from resproto_fd.configs.schema import DataConfig, DatasetConfig, InputConfig, TrainConfig
from resproto_fd.configs.sweep_schema import SweepConfig
from resproto_fd.trainer.clip_list import clips_of_video
from resproto_fd.training.protocols import dataset_config
from resproto_fd.training.results import RunResult
from resproto_fd.training.sweeps.cells import Cell, State, fault_in, state

STATES: tuple[State, ...] = ("done", "broken", "to do", "failed")
LISTED = 20


@dataclass
class Row:
    """One cell in the plan.

    Attributes:
        seconds: Time of the whole run on what it needs; None if it is not known.
        measured: Whether that is the time of runs of its kind, not one on paper.
    """

    cell: Cell
    state: State
    images: int | None = None
    seconds: float | None = None
    measured: bool = False


@dataclass
class Plan:
    """All cells of a sweep.

    Attributes:
        unknown: Data sets without a known size, so that runs on them have no cost on paper.
        assumed: Data sets whose size is a guess.
    """

    config: SweepConfig
    rows: list[Row]
    unknown: list[str] = field(default_factory=list)
    assumed: list[str] = field(default_factory=list)

    def count(self, *states: State) -> int:
        return sum(row.state in states for row in self.rows)

    def seconds_of(self, cell: Cell) -> float | None:
        """How long a cell takes, if that is known."""
        return self._seconds.get(cell.digest)

    @cached_property
    def _seconds(self) -> dict[str, float | None]:
        return {row.cell.digest: row.seconds for row in self.rows}

    def hours(self, *states: State, cards: bool) -> float:
        """Card-hours, or core-hours of the runs without a card, of the cells in these states."""
        chosen = [row for row in self.rows if row.state in states and bool(row.cell.needs.cards) == cards]
        share = (lambda cell: max(1, cell.needs.cards)) if cards else (lambda cell: cell.needs.cpus)
        return sum((row.seconds or 0.0) * share(row.cell) for row in chosen) / 3600

    def status(self) -> int:
        """Exit status of what the files say: 0 all done, 1 some failed, 75 some are to do."""
        if self.count("failed"):
            return 1
        return 0 if self.count("done") == len(self.rows) else 75


def plan_of(config: SweepConfig, cells: Sequence[Cell], runs: str | Path, data: DataConfig | None = None) -> Plan:
    """The plan of a sweep, from the files.

    Args:
        config: The sweep.
        cells: Its cells.
        runs: The folder of runs.
        data: Where this machine keeps the data; None if it has none.

    Raises:
        UserError: A run folder holds another run than its cell; every such folder is named.
    """
    faults, rows = [], []
    for cell in cells:
        try:
            rows.append(Row(cell, state(cell, runs)))
        except UserError as error:
            faults.append(str(error))
    if faults:
        more = f"\nand {len(faults) - 5} more" if len(faults) > 5 else ""
        raise UserError("\n".join(faults[:5]) + more)
    plan, measured = Plan(config, rows), _measured(rows, runs)
    unknown, assumed = set(), set()
    for row in rows:
        sizes = _Sizes(row.cell, data)
        row.images = sizes.images()
        unknown |= sizes.unknown
        assumed |= sizes.assumed
        rates = config.images_per_second
        rate = rates.get(row.cell.detector, rates.get("default"))
        if known := measured.get(_kind(row.cell)):
            row.seconds, row.measured = known, True
        elif row.images is not None and rate:
            row.seconds = row.images / rate / max(1, row.cell.needs.cards)
    plan.unknown, plan.assumed = sorted(unknown), sorted(assumed - unknown)
    return plan


def text_of(plan: Plan, runs: str | Path, elsewhere: Iterable[str] = ()) -> str:
    """The plan in words.

    Args:
        plan: The plan.
        runs: The folder of runs.
        elsewhere: Digests of cells that a running sweep has.
    """
    elsewhere = set(elsewhere)
    lines = [f"sweep {plan.config.name}: {plan.config.title or 'no title'}", *_groups(plan.rows), ""]
    names = {"broken": "begun (they go on from a checkpoint)", "failed": "failed", "done": "done", "to do": "to do"}
    lines += [f"{plan.count(each):5} {names[each]}" for each in STATES]
    if running := sum(row.cell.digest in elsewhere for row in plan.rows):
        lines.append(f"{running:5} of these are at work now")
    lines += ["", *_cost(plan)]
    for row in [row for row in plan.rows if row.state == "failed"][:LISTED]:
        lines.append(f"failed: {row.cell.folder}: {fault_in(row.cell, runs) or row.cell.failed_file(runs)}")
    return "\n".join(lines)


def _groups(rows: list[Row]) -> list[str]:
    """A line for each detector and protocol: its seeds, its overrides, its state."""
    grouped: dict[tuple, list[Row]] = {}
    for row in rows:
        detector, protocol = row.cell.folder.split("/")[1], row.cell.folder.split("/")[0]
        grouped.setdefault((detector, protocol), []).append(row)
    width = max(len(name) for name, _ in grouped) if grouped else 0
    lines = [f"{len(rows)} cells"]
    for (detector, protocol), of_kind in grouped.items():
        counts = Counter(row.state for row in of_kind)
        seeds = ",".join(str(row.cell.seed) for row in of_kind)
        what = ", ".join(f"{counts[each]} {each}" for each in STATES if counts[each])
        seconds = [row.seconds for row in of_kind]
        each = "" if None in seconds else f"  {hours(sum(seconds) / len(seconds))} each"
        lines.append(f"  {detector:{width}}  {protocol}  seeds {seeds}: {what}{each}")
    return lines


def _cost(plan: Plan) -> list[str]:
    """What the whole sweep and what is left of it cost."""
    lines, left = [], ("to do", "broken")
    for cards, unit in ((True, "card-hours"), (False, "core-hours")):
        if any(bool(row.cell.needs.cards) == cards for row in plan.rows):
            whole, rest = plan.hours(*STATES, cards=cards), plan.hours(*left, cards=cards)
            lines.append(f"cost: {whole:,.1f} {unit} in all, {rest:,.1f} of them to do")
    images = sum(row.images or 0 for row in plan.rows)
    rates = ", ".join(f"{name} {rate:g}" for name, rate in plan.config.images_per_second.items())
    lines.append(f"on paper: {images:,} images at so many a second: {rates or 'none is stated'}")
    if measured := sum(row.measured for row in plan.rows):
        lines.append(f"measured: the times of {measured} cells are those of runs of their kind")
    if plan.unknown:
        lines.append(f"not counted: runs on data sets of unknown size: {', '.join(plan.unknown)}")
    if plan.assumed:
        lines.append(f"sizes assumed, since nobody states them: {', '.join(plan.assumed)}")
    return lines


def hours(seconds: float) -> str:
    """A duration in a unit that suits it.

    >>> hours(45), hours(600), hours(9000)
    ('45 s', '10.0 min', '2.5 h')
    """
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _kind(cell: Cell) -> tuple:
    """What cells that take equally long have in common."""
    return cell.detector, cell.protocol, cell.task, cell.needs.cards


def _measured(rows: list[Row], runs: str | Path) -> dict[tuple, float]:
    """Mean seconds of the done runs of each kind."""
    times: dict[tuple, list[float]] = {}
    for row in rows:
        if row.state == "done":
            timing = RunResult.load(Path(runs, row.cell.folder, "result.json")).timing
            seconds = timing.get("train_seconds", 0.0) + timing.get("test_seconds", 0.0)
            if seconds:
                times.setdefault(_kind(row.cell), []).append(seconds)
    return {kind: sum(found) / len(found) for kind, found in times.items()}


class _Sizes:
    """Images that a cell reads, by the stated sizes of its data sets."""

    def __init__(self, cell: Cell, data: DataConfig | None):
        self.protocol, self.epochs, self.data = cell.protocol_config(), cell.epochs, data
        detector = json.loads(cell.spec)["detector"]
        self.recipe = TrainConfig.model_validate(detector["train"])
        self.input = InputConfig.model_validate(detector["input"])
        self.unknown: set[str] = set()
        self.assumed: set[str] = set()

    def images(self) -> int | None:
        """Images of training, of the selection after each epoch, and of the tests; None if a size is not known."""
        protocol, frames = self.protocol, self.protocol.frames
        train = sum(
            self._of(name, split, frames.train, training=True)
            for name in protocol.train
            for split in protocol.train_splits
        )
        chosen = protocol.selection
        kept = getattr(frames, chosen.split)
        selection = self._of(chosen.dataset, chosen.split, kept) if chosen.rule == "best" else 0
        test = sum(self._of(name, "test", frames.test) for name in protocol.test)
        conditions = 1 + sum(map(len, protocol.corruptions.values()))
        if self.unknown:
            return None
        return round(self.epochs * (train * protocol.share + selection) + test * conditions)

    def _of(self, name: str, split: str, kept: int | None, training: bool = False) -> int:
        size = _config(name, self.data).size.get(split)
        if size is None:
            if not training or split == "train":  # a set without a validation split is trained on without it
                self.unknown.add(name)
            return 0
        if size.assumed:
            self.assumed.add(name)
        videos = size.videos
        if training and size.reals is not None:
            if self.recipe.from_reals_alone:  # a frame and its forgery
                videos = 2 * size.reals
            elif self.recipe.samples == "video_blended":  # a forgery of each real clip, beside all clips
                videos += size.reals
        listed = size.frames if kept is None else min(kept, size.frames)
        if self.input.frames == 1:
            return videos * listed
        clips = clips_of_video(listed, size.frames, self.input, None if training else self.input.clips)
        return videos * clips * self.input.frames


def _config(name: str, data: DataConfig | None) -> DatasetConfig:
    return _shipped(name) if name in loading.names("datasets") else _own(name, data)


@cache
def _shipped(name: str) -> DatasetConfig:
    return loading.load("datasets", name)


def _own(name: str, data: DataConfig | None) -> DatasetConfig:
    try:
        return dataset_config(name, loading.data_folders(data or DataConfig())["json"])
    except UserError:  # the run itself will say so
        return DatasetConfig(name=name, json_file=f"{name}.json", store=f"{name}_lmdb")


def missing_data(cells: Iterable[Cell], data: DataConfig) -> list[str]:
    """What of the cells' data this machine lacks, in a sentence for manifests and one for frames.

    Raises:
        UserError: No folder of data is named, or it does not exist.
    """
    folders = loading.data_folders(data)
    manifests, frames = [], []
    for name in datasets_of(cells):
        try:
            config = dataset_config(name, folders["json"])
        except UserError:  # nothing there is called so
            manifests.append(name)
            continue
        if not (folders["json"] / config.json_file).is_file():
            manifests.append(name)
        lmdb = folders["lmdb"]
        if not folders["rgb"] and not (data.lmdb and lmdb and (lmdb / config.store).is_dir()):
            frames.append(name)
    found = []
    if manifests:
        found.append(f"{folders['json']} has no manifest of {', '.join(manifests)}")
    if frames:
        found.append(f"neither {folders['lmdb'] or 'data.lmdb_dir'} nor data.rgb_dir has frames of {', '.join(frames)}")
    return found


def datasets_of(cells: Iterable[Cell]) -> list[str]:
    """The data sets that cells train on, choose on or test."""
    names: dict[str, None] = {}
    # Not by the protocol's name: overrides change what it says.
    for protocol in {each.model_dump_json(): each for each in map(Cell.protocol_config, cells)}.values():
        chosen = [protocol.selection.dataset] if protocol.selection.rule == "best" else []
        names.update(dict.fromkeys([*protocol.train, *chosen, *protocol.test]))
    return list(names)
