"""The record of one run: what was trained and how, which checkpoint was tested, and every number that came out.

A leaderboard is made from these files and nothing else. Rates and scores are in [0, 1]; null means undefined.
"""

import json
from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    PrivateAttr,
    ValidationError,
    model_serializer,
    model_validator,
)

from resproto_fd.configs.errors import MissingFile, UnreadableFile, cut, shown
from resproto_fd.configs.files import atomic_file
from resproto_fd.configs.readers.json_reader import read_json
from resproto_fd.configs.readers.text import LARGEST_NUMBER
from resproto_fd.configs.schema import LONGEST_CLIP
from resproto_fd.training.measures.intervals import table_intervals
from resproto_fd.training.measures.metrics import NAMES, method_metrics, table_metrics
from resproto_fd.training.scores import ScoreTable

SCHEMA_VERSION = 1
LONGEST_NAME = 240  # bytes of a test set's name
Rate = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0, le=LARGEST_NUMBER)]
Seconds = Annotated[float, Field(ge=0)]
BY_CLIPS = "scored by clips"
"""Why a metric of frames has no value for a detector of clips."""
_OF_CLIPS = ("clips", "clip_frames", "short_videos")
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Record(BaseModel):
    """Every part of a result file: no unknown key, no coercion, no NaN."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


class Estimate(Record):
    """A metric with its 95 % confidence interval (see `intervals.table_intervals`); None where it is undefined."""

    value: Rate | None
    low: Rate | None
    high: Rate | None


class Transfer(Record):
    """Frames called fake by a threshold that was fixed on the split which the checkpoint was selected on."""

    threshold: Rate
    fpr: Rate | None
    tpr: Rate | None
    acc: Rate | None = None  # share of right answers; None in older files


class Compute(Record):
    """What a row costs and sees; compare rows that agree in it."""

    backbone: str = ""
    input_size: Count | None = None
    gflops: Annotated[float, Field(ge=0)] | None = None  # of one image or clip, multiply and add counted apart


class Metrics(Record):
    """Metrics of one set of frames or clips (see `metrics.table_metrics`); None is undefined, see `why_none`.

    The file of a detector of frames has no key of clips, so that versions without them read it as ever.
    """

    frames: Count  # that were scored; of clips those that they hold, each counted once
    real_frames: Count
    videos: Count
    real_videos: Count
    frame_auc: Rate | None
    frame_ap: Rate | None
    frame_eer: Rate | None
    frame_acc: Rate | None
    frame_balanced_acc: Rate | None
    video_auc: Rate | None
    video_ap: Rate | None
    video_eer: Rate | None
    video_acc: Rate | None
    video_balanced_acc: Rate | None
    clips: Count | None = None  # that were scored; None: frames were
    clip_frames: Annotated[int, Field(ge=2, le=LONGEST_CLIP)] | None = None  # T, frames of a clip

    @property
    def undefined(self) -> str | None:
        """Why metrics are undefined here, None when they are defined."""
        if self.frames == 0:
            return "no frames"
        if self.real_frames == 0:
            return "no real frames in this test set"
        if self.real_frames == self.frames:
            return "no fake frames in this test set"
        return None

    def why_none(self, metric: str) -> str:
        """Why a metric has no value."""
        if self.clips is not None and metric.startswith("frame_"):
            return BY_CLIPS
        return self.undefined or "not defined"

    @model_validator(mode="after")
    def _counts_agree(self):
        if self.real_frames > self.frames or self.real_videos > self.videos:
            raise ValueError("more real frames or videos than there are frames or videos")
        return self

    @model_validator(mode="after")
    def _clips_score_no_frame(self):
        if (self.clips is None) != (self.clip_frames is None):
            raise ValueError("expected clips and clip_frames together, got one of them")
        if self.clips is not None and any(getattr(self, f"frame_{name}") is not None for name in NAMES):
            raise ValueError("expected no metric of frames beside clips; test again")
        return self

    @model_serializer(mode="wrap")
    def _without_keys_of_clips(self, handler):
        return {name: value for name, value in handler(self).items() if value is not None or name not in _OF_CLIPS}


class MethodResult(Metrics):
    """One forgery method's fakes against all reals of its test set."""

    forgery_type: str


class TestResult(Metrics):
    """One test set."""

    __test__ = False  # pytest: not a test class, despite its name

    per_method: dict[str, MethodResult] = {}
    variants: dict[str, Metrics] = {}  # other scores of the same frames, e.g. "clip" and "grp" of ResProto-FD
    transfer: dict[str, Transfer] = {}  # by rule, see `shift.RULES`; empty without a selection split
    intervals: dict[str, Estimate] = {}  # "frame_auc", "video_tpr_at_fpr_1_in_100", ...; empty in older files
    answered: Rate | None = None  # share of the frames that got a score; the others count as 0.5. None: all did
    over_answered: Metrics | None = None  # metrics of these frames alone; None where all or none were answered
    skipped: Count = 0  # frames that could not be read, or clips with such frames; they are in no number
    short_videos: Count | None = None  # with fewer frames than a clip takes, see `input.short`; None: not by clips
    frames_hash: Sha256
    made_from: Sha256 | None = None  # of all that the scores were made from, see `provenance`; None: not known
    in_domain: bool | None = None  # the detector was trained on this data set's training split; None: not known

    @model_validator(mode="after")
    def _clips_have_no_frame_scores(self):
        if self.clips is not None and (self.transfer or any(name.startswith("frame_") for name in self.intervals)):
            raise ValueError("expected no threshold and no interval of frames beside clips; test again")
        return self


class Selection(Record):
    """How the tested checkpoint was chosen.

    It is the best by `metric` on one split of a data set, the last, none (no training), or was given from outside, so
    that its choice is not known. A checkpoint chosen on a test split is an oracle: it is marked and never ranked.
    """

    rule: Literal["best", "last", "none", "given"]
    dataset: str | None = None  # these three only with "best"
    split: str | None = None
    metric: str | None = None
    oracle: bool = False
    epoch: Count | None = None
    value: float | None = None  # what the metric was

    @model_validator(mode="after")
    def _is_whole_and_honest(self):
        where = (self.dataset, self.split, self.metric)
        if self.rule == "best" and None in where:
            raise ValueError("rule 'best' needs the data set, the split and the metric that it looked at")
        if self.rule != "best" and where != (None, None, None):
            raise ValueError(f"rule {self.rule!r} looks at no data set, split or metric")
        if self.split == "test" and not self.oracle:
            raise ValueError("chosen on a test split: oracle must be true")
        return self

    def text(self) -> str:
        """The choice in words.

        >>> Selection(rule="best", metric="frame_auc", dataset="Demo-A", split="val").text()
        'best frame_auc on Demo-A val'
        """
        if self.rule == "best":
            return f"best {self.metric} on {self.dataset} {self.split}"
        return {"last": "last epoch", "none": "not trained", "given": "given weights, choice unknown"}[self.rule]


class RunResult(Record):
    """One detector, one protocol, one seed."""

    schema_version: int = SCHEMA_VERSION
    source: Literal["measured", "submitted", "callable"] = "measured"  # the last two: not a detector of this package
    role: Literal["detector", "control"] = "detector"
    sees_faces: bool = True
    detector: str  # preset, as on the command line
    title: str
    paper: str = ""
    detector_class: str = ""
    overrides: list[str] = []  # "model.top_k=16": what the command line changed; other overrides are another row
    protocol: str
    fingerprint: Annotated[str, Field(min_length=8)]
    seed: int
    config: dict[str, JsonValue]
    commit: str | None = None
    dirty: bool | None = None  # the working tree had changes that the commit lacks
    versions: dict[str, str] = {}
    checkpoint_sha256: Sha256 | None = None
    tensors_sha256: Sha256 | None = None  # of the weights' names and values, whatever file they are saved in
    selected_on: Selection
    tests: dict[str, TestResult]
    compute: Compute = Compute()
    pooled_auc: Rate | None = None  # frames of all test sets as one
    cross_auc: dict[str, dict[str, Rate]] = {}  # reals of one test set against fakes of another
    robustness: dict[str, dict[str, dict[str, Metrics]]] = {}  # test set, corruption, severity "1" to "5"
    parameters: Count | None = None
    trainable_parameters: Count | None = None
    train_images: Count | None = None
    trained_on: list[str] | None = None  # training sets of the tested weights; None: not known, or an older file
    timing: dict[str, Seconds] = {}  # "train_seconds", "test_images_per_second", ...
    note: str = ""
    _folder: Path | None = PrivateAttr(None)

    @property
    def clip_frames(self) -> int | None:
        """T of a detector of clips; None of one of frames."""
        return next(iter(self.tests.values())).clip_frames

    @property
    def level(self) -> str:
        """What its main metrics are of: "frame", or of a detector of clips "video"."""
        return "frame" if self.clip_frames is None else "video"

    @property
    def folder(self) -> Path | None:
        """The run folder that the file was read from or written to; its score tables lie there too."""
        return self._folder

    @model_validator(mode="after")
    def _has_test_sets_alone(self):
        if not self.tests:
            raise ValueError("no test set")
        for name in self.tests:  # it is the name of a score table's file
            if not name or "\0" in name or len(name.encode(errors="replace")) > LONGEST_NAME:
                raise ValueError(
                    f"tests: expected a data set's name of at most {LONGEST_NAME} bytes, got {shown(name)}"
                )
        sets = {*self.robustness, *self.cross_auc, *(name for by_set in self.cross_auc.values() for name in by_set)}
        if unknown := sorted(sets - set(self.tests)):
            raise ValueError(f"robustness or cross_auc: {shown(unknown[0])} is none of the test sets")
        found = {level for by in self.robustness.values() for levels in by.values() for level in levels}
        if unknown := sorted(found - set("12345")):
            raise ValueError(f"robustness: expected severities 1 to 5, got {shown(unknown[0])}")
        return self

    @model_validator(mode="after")
    def _scores_frames_or_clips(self):
        corrupted = [each for by in self.robustness.values() for levels in by.values() for each in levels.values()]
        found = {each.clip_frames for each in (*self.tests.values(), *corrupted)}
        if len(found) > 1:
            raise ValueError("tests, robustness: expected frames alone, or clips of one length; test again")
        if found != {None} and (self.pooled_auc is not None or self.cross_auc):
            raise ValueError("expected no pooled_auc and no cross_auc, which are of frames, beside clips; test again")
        return self

    def unseen(self) -> list[str]:
        """Names of the test sets whose training split the detector was not trained on; all, where it was on each."""
        return [name for name, test in self.tests.items() if not test.in_domain] or list(self.tests)

    def m_eer(self) -> float | None:
        """M_EER: the largest frame EER of the unseen test sets, in [0, 1]; None where one is undefined, as of clips.

        Lai et al., GM-DF, section 4.1, take the largest so that no domain hides behind a mean. They also speak of a
        prior of real faces, without its value; none is used.
        """
        values = [self.tests[name].frame_eer for name in self.unseen()]
        return None if None in values else max(values)

    def save(self, path: str | Path) -> None:
        """Write as JSON with sorted keys; the file appears whole or not at all."""
        checked = type(self).model_validate(self.model_dump())  # fields may have been assigned since
        text = json.dumps(checked.model_dump(mode="json"), indent=1, sort_keys=True, allow_nan=False)
        with atomic_file(path) as file:
            file.write(text.encode() + b"\n")
        self._folder = Path(path).parent

    @classmethod
    def load(cls, path: str | Path) -> "RunResult":
        """Read and check a result file.

        Raises:
            UnreadableFile: No such file, not JSON or cut short, NaN, a missing or unknown key, a wrong type, a number
                outside its range, or a file that a newer version wrote. The message names the file and each key.
        """
        try:
            data = read_json(path, "test again")
        except MissingFile:
            raise MissingFile(f"{path}: no such result file") from None
        except UnreadableFile as error:
            raise UnreadableFile(str(error).replace(f"{path}: ", f"{path}: not a readable result file: ", 1)) from error
        if not isinstance(data, dict):
            raise UnreadableFile(f"{path}: not a result file: a {type(data).__name__}; expected an object of keys")
        version = data.get("schema_version")
        if isinstance(version, int) and version > SCHEMA_VERSION:
            raise UnreadableFile(
                f"{path}: result schema {version} is newer than this version's {SCHEMA_VERSION}; upgrade"
            )
        try:
            result = cls.model_validate(data)
            result._folder = Path(path).parent
            return result
        except ValidationError as error:
            found = error.errors(include_url=False, include_context=False, include_input=False)
            faults = [f"{cut('.'.join(map(str, e['loc']))) or 'file'}: {cut(e['msg'])}" for e in found]
            more = "" if len(faults) <= 5 else f"; and {len(faults) - 5} more"
            raise UnreadableFile(f"{path}: not a valid result file: {'; '.join(faults[:5])}{more}") from None


def test_result(table: ScoreTable, in_domain: bool | None = None) -> TestResult:
    """All numbers of one test set from its score table: overall, per forgery method, and of every score variant.

    Args:
        table: The scores.
        in_domain: Whether the detector was trained on this data set; leaderboard means do not count such sets.
    """
    types = dict(zip(table.video_method.tolist(), table.video_type.tolist()))
    answered = table.over_answered()
    return TestResult(
        **table_metrics(table),
        per_method={
            method: MethodResult(**values, forgery_type=types[method])
            for method, values in method_metrics(table).items()
        },
        variants={name: Metrics(**table_metrics(table, name)) for name in sorted(table.variants)},
        intervals=interval_estimates(table),
        answered=None if table.answered is None else float(table.answered.mean()),
        over_answered=answered and Metrics(**table_metrics(answered)),
        skipped=table.skipped,
        short_videos=None if table.clips is None else table.short_videos,
        frames_hash=table.frames_hash(),
        made_from=table.made_from_hash(),
        in_domain=in_domain,
    )


def interval_estimates(table: ScoreTable) -> dict[str, Estimate]:
    """Every metric of a table with its 95 % interval, as a result file holds them."""
    return {name: Estimate(**_estimate(found)) for name, found in table_intervals(table).items()}


def _estimate(found) -> dict[str, float | None]:
    """Value and limits, those of a bootstrap kept within [0, 1]."""
    parts = {"value": found.value, "low": found.low, "high": found.high}
    return {name: None if part is None else min(max(float(part), 0.0), 1.0) for name, part in parts.items()}


test_result.__test__ = False  # pytest: not a test
