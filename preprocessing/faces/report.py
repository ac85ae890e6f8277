"""The report of `resproto faces`: what was found and made, and what could not be read."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from resproto_fd.configs.files import write_text


@dataclass
class Report:
    """What a run found and made; sums are over all its sources, done now or before.

    Attributes:
        sources: How many videos, pictures and sequences were found, by kind.
        done_before: Sources that an earlier run had finished.
        frames_wanted, frames_kept: Frames asked for, and crops that were kept.
        faces_missed: Frames in which no face was found, or not the tracked one.
        frames_unreadable: Frames that could not be decoded.
        several_faces: Frames with more than one face.
        runs: Runs of consecutive frames that were asked for.
        runs_whole: Those of them of which every frame was kept.
        failed: Sources that were not done, with the reason: unreadable ones, and those whose place is taken.
        place_taken: Those of them whose crops would lie where others lie, such as a.png beside a.jpg.
        notes: Sources that were changed to be read, and how: 16 bits scaled to 8, the first picture of several.
        damaged: Sources that could be read in part, with the fault.
        without_faces: Sources in which no face was found.
        masks: Crops of masks that were kept.
        masks_failed: Sources whose mask video could not be read wholly, with the reason.
        other_files: Number of files of other kinds, which were ignored, by suffix.
        options: The options on which the crops depend.
        seconds: Duration of this run; of merged shards, the sum of theirs.
        shard: Which share of the sources this is, "3/16 of 1000 sources"; None means all.
    """

    sources: dict[str, int] = field(default_factory=dict)
    done_before: int = 0
    frames_wanted: int = 0
    frames_kept: int = 0
    faces_missed: int = 0
    frames_unreadable: int = 0
    several_faces: int = 0
    runs: int = 0
    runs_whole: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    place_taken: list[str] = field(default_factory=list)
    notes: dict[str, str] = field(default_factory=dict)
    damaged: dict[str, str] = field(default_factory=dict)
    without_faces: list[str] = field(default_factory=list)
    masks: int = 0
    masks_failed: dict[str, str] = field(default_factory=dict)
    other_files: dict[str, int] = field(default_factory=dict)
    options: dict = field(default_factory=dict)
    seconds: float = 0.0
    shard: str | None = None

    @property
    def exit_code(self) -> int:
        """0 if every file could be read wholly, else 1. A video without faces is no fault."""
        return int(bool(self.failed or self.damaged or self.masks_failed))

    def add(self, record: dict) -> None:
        """Counts one source's record or failure."""
        name = record["source"]
        if "failed" in record:
            self.failed[name] = record["failed"]
            if record.get("place_taken"):
                self.place_taken.append(name)
            return
        if note := record.get("note"):
            self.notes[name] = note
        self.frames_wanted += len(record["wanted"])
        self.frames_kept += len(record["kept"])
        self.faces_missed += len(record["missed"])
        self.frames_unreadable += len(record["unreadable"])
        self.several_faces += len(record["several"])
        self._add_runs(record)
        if record["damage"] or record["unreadable"]:
            lost = f"{len(record['unreadable'])} of {len(record['wanted'])} wanted frames lost"
            self.damaged[name] = "; ".join(filter(None, [record["damage"], lost]))
        if not record["kept"] and record["missed"]:
            self.without_faces.append(name)
        if masks := record["masks"]:
            if "failed" in masks:
                self.masks_failed[name] = masks["failed"]
            else:
                self.masks += masks["kept"]
                if masks["missing"]:
                    self.masks_failed[name] = f"the mask video lacks {len(masks['missing'])} of the frames"

    def _add_runs(self, record: dict) -> None:
        kept, length = {face["frame"] for face in record["kept"]}, record["options"].get("clips", 0)
        starts = record.get("starts", [])
        self.runs += len(starts)
        self.runs_whole += sum(kept.issuperset(range(start, start + length)) for start in starts)

    def as_text(self) -> str:
        """Returns the report for a reader, with at most 50 names of each kind; names that are no text are escaped."""
        share = f" ({self.frames_kept / self.frames_wanted:.1%})" if self.frames_wanted else ""
        rate = (sum(self.sources.values()) - self.done_before) / self.seconds if self.seconds else 0
        kinds = ", ".join(f"{count} {kind}{'s' * (count != 1)}" for kind, count in self.sources.items())
        others = ", ".join(f"{count} {suffix}" for suffix, count in sorted(self.other_files.items()))
        rows = [("shard", self.shard)] if self.shard else []
        rows += [
            ("sources", f"{kinds or 'none'}; done before: {self.done_before}"),
            ("frames wanted", self.frames_wanted),
            ("crops", f"{self.frames_kept}{share}"),
            ("faces missed", self.faces_missed),
            ("frames unreadable", self.frames_unreadable),
            ("frames with several faces", self.several_faces),
            *([("runs of frames", f"{self.runs}, {self.runs_whole} whole")] if self.runs else []),
            ("masks", self.masks),
            ("without any face", len(self.without_faces)),
            ("damaged files", len(self.damaged)),
            ("unreadable files", len(self.failed) - len(self.place_taken)),
            ("place taken by others", len(self.place_taken)),
            ("changed to be read", len(self.notes)),
            ("mask videos with faults", len(self.masks_failed)),
            ("other files ignored", others or "none"),
            ("time", f"{self.seconds:.1f} s, {rate:.2f} sources/s"),
        ]
        lines = [f"{name:<26} {value}" for name, value in rows]
        taken = set(self.place_taken)
        named = [
            ("Unreadable", [f"{name}: {why}" for name, why in sorted(self.failed.items()) if name not in taken]),
            ("Not done, place taken", [f"{name}: {self.failed[name]}" for name in sorted(taken)]),
            ("Changed to be read", [f"{name}: {how}" for name, how in sorted(self.notes.items())]),
            ("Damaged, used in part", [f"{name}: {why}" for name, why in sorted(self.damaged.items())]),
            ("Masks", [f"{name}: {why}" for name, why in sorted(self.masks_failed.items())]),
            ("Without any face", sorted(self.without_faces)),
        ]
        for title, entries in named:
            if entries:
                more = [f"... and {len(entries) - 50} more, in faces_report.json"] if len(entries) > 50 else []
                lines += ["", f"{title}:", *(f"  {entry}" for entry in entries[:50] + more)]
        if self.sources and not self.frames_kept:
            lines += ["", "No crop was made. --min-face finds smaller faces; --detector none resizes pictures of faces"]
        return ("\n".join(lines) + "\n").encode(errors="backslashreplace").decode()

    def save(self, out: Path) -> None:
        """Writes faces_report.json and faces_report.txt into the output folder."""
        write_text(out / "faces_report.json", json.dumps(asdict(self), indent=1) + "\n")
        write_text(out / "faces_report.txt", self.as_text())
