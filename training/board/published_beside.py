"""Published numbers that belong beside a measured table: the same training sets, the same test sets, the same metric.

They stand apart from the measured rows: nobody here knows their frames, their checkpoints or how these were chosen.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache

from resproto_fd.training.published import PublishedRow, load_published

METRICS = {"auc": ("frame_auc", "video_auc"), "ap": ("frame_ap",), "eer": ("frame_eer",), "acc": ("frame_acc",)}
"""Published metric -> ours at the level of frames (or pictures), and of videos."""
_GENIMAGE = re.compile(r"GenImage/SD v(.*)")
_DF40 = re.compile(r"DF40/(\w+)")


@dataclass
class PublishedLine:
    """One method of one source: its numbers by test set, as the source prints them, and its name in full."""

    method: str
    venue: str
    source: str
    table: str
    values: dict[str, PublishedRow] = field(default_factory=dict)


def own_names(published: str) -> tuple[str, ...]:
    """Names that a published data set may have here.

    >>> own_names("GenFace/AM"), own_names("DF40/e4s"), own_names("GenImage/SD v1.4"), own_names("DFDC")
    (('GenFace-AM',), ('e4s_ff',), ('GenImage-SD1.4',), ('DFDC',))
    """
    if match := _GENIMAGE.fullmatch(published):
        return (f"GenImage-SD{match[1]}",)
    if match := _DF40.fullmatch(published):
        return (f"{match[1]}_ff",)  # the tables here train on FF++, whose real videos these lists have
    return (published.replace("/", "-"),) if published.startswith(("GenFace/", "GenImage/")) else (published,)


def published_lines(train: Sequence[str], test_sets: Iterable[str], metric: str) -> list[PublishedLine]:
    """Methods as their papers propose them, by source and in the order of print.

    Args:
        train: The protocol's training sets.
        test_sets: Of the measured table.
        metric: Of ours, "frame_auc", ...
    """
    lines: dict[tuple, PublishedLine] = {}
    wanted = set(test_sets)
    for row in _proposed(metric):
        if {own_names(name)[0] for name in row.train_set.split(" & ")} != set(train):
            continue
        for name in own_names(row.test_set):
            if name in wanted:
                line = lines.setdefault(row.run, PublishedLine(row.method, row.venue, row.source, row.table))
                line.values[name] = row
    return list(lines.values())


@cache
def _proposed(metric: str) -> tuple[PublishedRow, ...]:
    return tuple(row for row in _all_proposed() if metric_here(row.level, row.metric) == metric)


@cache
def _all_proposed() -> tuple[PublishedRow, ...]:
    return tuple(row for row in load_published() if not row.setting and not row.is_average)


def metric_here(level: str, metric: str) -> str | None:
    """The name here of a published metric: "frame_auc" of "auc" over frames or pictures; None if it is not measured.

    >>> metric_here("image", "auc"), metric_here("video", "ap")
    ('frame_auc', None)
    """
    level = "frame" if level == "image" else level
    return next((name for name in METRICS.get(metric, ()) if name.startswith(f"{level}_")), None)
