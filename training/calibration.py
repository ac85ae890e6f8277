"""The calibration of a run, kept beside its result as `calibration.json`: what its scores mean, and where they end.

It holds calibrators and thresholds, fitted on the split that the checkpoint was selected on, and the reference: what
frames of that split look like to the detector. It belongs to one set of weights, one set of settings and one table of
scores, and names the digests of all three.
"""

import hashlib
import json
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field, ValidationError, model_serializer, model_validator

from resproto_fd.configs import loading
from resproto_fd.configs.errors import UnreadableFile, UserError, cut
from resproto_fd.configs.files import atomic_file, sha256_of
from resproto_fd.configs.readers.json_reader import read_json_object
from resproto_fd.configs.readers.npz_reader import Kind, read_npz
from resproto_fd.configs.readers.text import MIB
from resproto_fd.configs.schema import LONGEST_CLIP, DetectorConfig
from resproto_fd.training.measures.calibration import KINDS, Calibrator
from resproto_fd.training.results import Count, Estimate, Rate, Record, RunResult, Sha256
from resproto_fd.training.scores import ScoreTable

FILE = "calibration.json"
FAILED = "not_calibrated.txt"
"""Says why training left no calibration."""
REFERENCE = "calibration_reference.npz"
LEVELS = ("frame", "video")
RATES = (0.01, 0.05, 0.1)
"""Shares of false alarms that thresholds are stated for."""
VERSION = 1
REMEDY = "fit it again: resproto calibrate RUN"
MOST_VALUES = 4_000_000
"""Numbers of a reference's features."""
Finite = Annotated[float, Field(allow_inf_nan=False)]


class Errors(Record):
    """How far probabilities are from the shares of fakes: the ECE and the Brier score."""

    ece: Rate
    brier: Rate


class Rates(Record):
    """Shares of the reals and of the fakes of a test set that a threshold calls fake; None where a class is absent."""

    fpr: Rate | None
    tpr: Rate | None


class Threshold(Record):
    """The lowest threshold with at most a stated share of false alarms on the split it was set on.

    It is 1 if every threshold has more. Then reals whose score is 1 are called fake, and may be more than that share.
    What the split shows is in `false_alarms` and `misses`, with 95 % limits; `elsewhere` is what it does on test sets.
    """

    threshold: Rate
    false_alarms: Estimate
    misses: Estimate
    elsewhere: dict[str, Rates] = {}


class Level(Record):
    """Calibrators and thresholds of frames, or of videos, whose score is the mean of their frames'.

    Attributes:
        fakes: Share of fakes of the split: what the calibrated probabilities hold for.
        calibrators: Parameters by kind, see `measures.calibration`.
        before: Errors of the scores themselves.
        held_out: Errors of calibrated scores, by kind, each by a calibrator that was fitted without the person recorded
            or, where people are not known, without the video. The person whose face is seen in a fake may be among
            the others.
        tests: Errors on each test set, by "before" and by kind.
        thresholds: By the stated share of false alarms, "0.05".
    """

    count: Count
    reals: Count
    fakes: Rate
    calibrators: dict[str, dict[str, list[Finite]]]
    before: Errors
    held_out: dict[str, Errors] = {}
    tests: dict[str, dict[str, Errors]] = {}
    thresholds: dict[str, Threshold]

    @model_validator(mode="after")
    def _calibrators_can_be_used(self):
        for kind, parameters in self.calibrators.items():
            wanted = {"temperature": ["temperature"], "platt": ["intercept", "slope"], "isotonic": ["scores", "shares"]}
            if kind not in wanted or sorted(parameters) != wanted[kind]:
                raise ValueError(f"calibrators: expected {', '.join(KINDS)} with their parameters, got {kind!r}")
            columns = list(parameters.values())
            if not columns[0] or (kind != "isotonic" and any(len(column) != 1 for column in columns)):
                raise ValueError(f"calibrators.{kind}: expected one number for each parameter")
            if len({len(column) for column in columns}) != 1 or (kind == "isotonic" and _falls(parameters)):
                raise ValueError(f"calibrators.{kind}: expected rising columns of one length")
            if kind == "temperature" and columns[0][0] <= 0:
                raise ValueError("calibrators.temperature: expected a number above 0")
            if kind == "isotonic" and not 0 <= parameters["shares"][0] <= parameters["shares"][-1] <= 1:
                raise ValueError("calibrators.isotonic: expected shares in [0, 1]")
        for what, found, needed in (
            ("calibrators", self.calibrators, KINDS),
            ("thresholds", self.thresholds, [f"{rate:g}" for rate in RATES]),
        ):
            if lacking := [name for name in needed if name not in found]:
                raise ValueError(f"{what}: expected {', '.join(needed)}, got none for {', '.join(lacking)}")
        return self

    def calibrator(self, kind: str) -> Calibrator:
        """The calibrator of a kind."""
        return Calibrator(kind, self.calibrators[kind])


def _falls(parameters: Mapping[str, list[float]]) -> bool:
    return any(later < former for column in parameters.values() for former, later in pairwise(column))


class Clips(Record):
    """Clips of the split that the levels are of.

    Attributes:
        count: Their number.
        frames: Frames of a clip, T.
        consecutive: Share of them whose frames' numbers in the original video rise by exactly `input.stride` wherever
            they rise. It is low where the store has frames that are spread over the video.
    """

    count: Count
    frames: Annotated[int, Field(ge=2, le=LONGEST_CLIP)]
    consecutive: Rate


class Reference(Record):
    """What frames of the split look like, to tell what is unlike them.

    Attributes:
        frames: Frames, or clips, that were looked at, spread evenly over the split.
        frame_side: Shorter side in pixels of the stored frames, the median.
        file: SHA-256 of the file with their features.
        neighbours: A frame's distance is that to so many of the nearest frames of other videos, the farthest of them.
            Of clips, it is the clip's.
        far: Distance that 1 % of the frames exceed; None if the features tell nothing.
        distances: Distances by quantile, "0.5", "0.95", "0.99".
        sharp: Sharpness that 1 % of the frames lack, see `answers.reasons.sharpness`.
    """

    frames: Count
    frame_side: Count
    file: Sha256 | None = None
    neighbours: Count = 0
    far: Annotated[float, Field(ge=0)] | None = None
    distances: dict[str, Finite] = {}
    sharp: Annotated[float, Field(ge=0)]


class Calibration(Record):
    """See the module's text.

    Attributes:
        weights: SHA-256 of the file of weights; None if there is none.
        tensors: SHA-256 of the weights' names and values, whatever file they are in; None if it is not known.
        settings: Digest of what else a score depends on, see `settings_digest`.
        scores: Digest of the table of scores, see `scores_digest`.
        oracle: The split is one that is tested on, so that nothing here is known to hold elsewhere.
        levels: "frame" and "video"; of a detector of clips "video" alone.
        clips: What clips the scores are of; None if they are of frames.
    """

    version: int = VERSION
    weights: Sha256 | None
    tensors: Sha256 | None
    settings: Sha256
    scores: Sha256
    dataset: str
    split: str
    oracle: bool = False
    levels: dict[str, Level]
    reference: Reference | None = None
    clips: Clips | None = None

    @model_serializer(mode="wrap")
    def _without_keys_of_clips(self, handler):
        return {name: value for name, value in handler(self).items() if value is not None or name != "clips"}

    @model_validator(mode="after")
    def _has_all_levels(self):
        if sorted(self.levels) not in (sorted(LEVELS), ["video"]):  # a detector of clips scores videos alone
            raise ValueError(
                f"levels: expected {' and '.join(LEVELS)}, or video, got {', '.join(self.levels) or 'none'}"
            )
        if self.weights is None and self.tensors is None:
            raise ValueError("expected the digest of the weights or of their tensors, got neither")
        return self

    def save(self, folder: Path, features: np.ndarray | None = None) -> None:
        """Writes `calibration.json` into a run's folder, and before it the features of the reference, if given.

        Each file appears whole or not at all. The reference's digest stands in the JSON, so that one of another
        calibration is never used.
        """
        if features is not None:
            with atomic_file(folder / REFERENCE) as file:
                np.savez(file, features=features.astype(np.float16))
            self.reference = self.reference.model_copy(update={"file": sha256_of(folder / REFERENCE)})
        checked = type(self).model_validate(self.model_dump())
        text = json.dumps(checked.model_dump(mode="json"), indent=1, sort_keys=True, allow_nan=False)
        with atomic_file(folder / FILE) as file:
            file.write(text.encode() + b"\n")
        (folder / FAILED).unlink(missing_ok=True)

    @classmethod
    def load(cls, folder: Path) -> "Calibration":
        """Reads and checks the calibration in a folder.

        Raises:
            MissingFile: There is none.
            UnreadableFile: It is damaged, or a newer version wrote it.
        """
        path = Path(folder) / FILE
        data = read_json_object(path, REMEDY)
        if isinstance(data.get("version"), int) and data["version"] > VERSION:
            raise UnreadableFile(f"{path}: version {data['version']} is newer than this one's {VERSION}; upgrade")
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            found = error.errors(include_url=False, include_context=False, include_input=False)[0]
            where = ".".join(map(str, found["loc"])) or "file"
            raise UnreadableFile(
                f"{path}: not a valid calibration: {cut(where)}: {cut(found['msg'])}; {REMEDY}"
            ) from None

    def of_others(self, weights: str | None, tensors: str | None, settings: str) -> str:
        """What says that this calibration is not of such weights and settings; empty if it is of them.

        Args:
            weights: SHA-256 of the file of weights, None without one.
            tensors: SHA-256 of their names and values; None if it is not known.
            settings: See `settings_digest`.
        """
        same = (weights, self.weights) if None not in (weights, self.weights) else (tensors, self.tensors)
        if None in same or same[0] != same[1]:
            return f"it is of other weights ({cut((self.weights or self.tensors)[:12])})"
        return "" if settings == self.settings else "it is of other settings of the detector"

    def features(self, folder: Path) -> np.ndarray | None:
        """Features of the reference, of length 1, float32 [N, D]; None if it has none.

        Raises:
            UnreadableFile: The file is missing, damaged, or of another calibration.
        """
        if self.reference is None or self.reference.file is None:
            return None
        path = Path(folder) / REFERENCE
        features = read_npz(path, {"features": Kind("f", 2)}, REMEDY, MOST_VALUES * 2 + MIB)["features"]
        if sha256_of(path) != self.reference.file:
            raise UnreadableFile(f"{path}: expected the one that {FILE} beside it names, got another; {REMEDY}")
        if not len(features) or not np.isfinite(features).all():
            raise UnreadableFile(f"{path}: expected features that are finite numbers, got others or none; {REMEDY}")
        return features.astype(np.float32)


def is_due(rule: str) -> bool:
    """Whether training fits a calibration at its end.

    Args:
        rule: How the run chooses its checkpoint; there is a split to calibrate on if it is "best".
    """
    return rule == "best"


def is_tried(folder: Path) -> bool:
    """Whether a run was calibrated, or it is known why it was not; a run killed after its tests is neither."""
    return (folder / FILE).is_file() or (folder / FAILED).is_file()


def scores_digest(table: ScoreTable) -> str:
    """SHA-256 of a table's frames or clips, labels, scores and weights."""
    digest = hashlib.sha256(f"{table.frames_hash()} {table.checkpoint}".encode())
    order = np.lexsort((*table.numbers.T[::-1], table.video))
    digest.update(np.ascontiguousarray(table.score[order], dtype="<f8"))
    return digest.hexdigest()


def settings_digest(parts: Mapping[str, Any]) -> str:
    """SHA-256 of the detector's class and settings, its input and its precision.

    Args:
        parts: See `provenance.detector_parts`.
    """
    kept = {name: parts[name] for name in ("class", "model", "input", "precision")}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


def calibration_of(result: RunResult) -> Calibration | None:
    """The calibration beside a result file that belongs to its weights; None without one."""
    if result.folder is None:
        return None
    try:
        found = Calibration.load(result.folder)
    except UserError:
        return None
    if found.weights != result.checkpoint_sha256:
        return None
    return found if found.weights or found.settings == _settings_of(result) else None


def _settings_of(result: RunResult) -> str | None:
    """Digest of the settings of a run without weights; None if they are of another version."""
    from resproto_fd.training.provenance import settings_parts

    try:
        config = loading.validated(DetectorConfig, result.config.get("detector"), f"{result.folder}/result.json")
    except UserError:
        return None
    return settings_digest(settings_parts(config))
