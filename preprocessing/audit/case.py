"""Facts that an audit has about data sets, and its findings."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Literal

from resproto_fd.preprocessing.audit.frame_facts import FrameFacts
from resproto_fd.preprocessing.side_file import SideRecord
from resproto_fd.preprocessing.store.frame_store import FrameStore
from resproto_fd.preprocessing.video import Video

Severity = Literal["error", "warning"]


@dataclass(frozen=True)
class Finding:
    """A fault.

    Attributes:
        check: Name of the check.
        severity: "error": results on this data are wrong. "warning": they may mislead.
        where: The manifest, or manifests, and split.
        text: What was found, a sentence.
        count: How many.
        names: Some of them.
        pictures: Frames to show: (canonical path, caption).
    """

    check: str
    severity: Severity
    where: str
    text: str
    count: int = 1
    names: tuple[str, ...] = ()
    pictures: tuple[tuple[str, str], ...] = ()


@dataclass
class Listed:
    """Content of a manifest that was read.

    Attributes:
        name: The data set.
        videos: By split.
        empty: Videos without frames, by split.
        repeated: Videos and frames named twice, by split.
        broken: Why a split cannot be read, by split.
        records: The side file's, by video id; empty without a side file.
    """

    name: str
    videos: dict[str, list[Video]] = field(default_factory=dict)
    empty: dict[str, Sequence[str]] = field(default_factory=dict)
    repeated: dict[str, Sequence[str]] = field(default_factory=dict)
    broken: dict[str, str] = field(default_factory=dict)
    records: Mapping[str, SideRecord] = field(default_factory=dict)


@dataclass
class Case:
    """All facts of an audit.

    Attributes:
        sets: The manifests.
        missing: Frames that the store lacks.
        facts: Facts of the frames that were read; None without a store.
        media: What `resproto faces` recorded of the source videos, by video id.
    """

    sets: list[Listed]
    missing: Sequence[str] = ()
    facts: FrameFacts | None = None
    media: Mapping[str, Mapping] = field(default_factory=dict)

    @cached_property
    def videos(self) -> list[tuple[Listed, Video]]:
        """Every video with its manifest."""
        return [(listed, video) for listed in self.sets for split in listed.videos for video in listed.videos[split]]

    @cached_property
    def row(self) -> dict[str, int]:
        """Row of the facts by frame."""
        return {path: i for i, path in enumerate(self.facts.paths)} if self.facts else {}

    def rows(self, video: Video) -> list[int]:
        """Lists the rows of the facts for a video's frames that were read."""
        return [self.row[frame] for frame in video.frames if frame in self.row]


@dataclass
class Audit:
    """Result of an audit.

    Attributes:
        sets: A row for each manifest and split: data set, split, videos, frames, share of fake frames, people, sizes.
        findings: The worst first.
        notes: Parts that could not be checked, and why; number of frames that were read.
        store: Store of the frames; None if they were not read.
    """

    sets: list[dict] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    store: FrameStore | None = None

    def count(self, severity: str) -> int:
        """Counts the findings of a severity."""
        return sum(finding.severity == severity for finding in self.findings)

    def failed(self, fail_on: str) -> bool:
        """Whether there is a finding of that severity or a worse one."""
        return bool(self.count("error") or (fail_on == "warning" and self.count("warning")))

    def as_json(self) -> dict:
        """Returns the audit for JSON."""
        return {
            "sets": self.sets,
            "findings": [asdict(finding) for finding in self.findings],
            "notes": self.notes,
            "errors": self.count("error"),
            "warnings": self.count("warning"),
        }
