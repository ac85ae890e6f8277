"""The typed form of every YAML file and of a run's resolved configuration.

Strict: an unknown key or a wrong type is an error. A default stands here once; a YAML holds only what differs.
"""

from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationError,
    field_validator,
    model_validator,
)

from resproto_fd.configs.file_names import expected, fault_of, twins
from resproto_fd.configs.suggestions import nearest

MOST = 2**31 - 1
"""Counts of settings fit 32 bits."""
LARGEST_SEED = 2**63 - 1
LARGEST_INPUT = 4096  # pixels a side
LONGEST_CLIP = 1024  # frames
MOST_WORKERS = 1024
LARGEST_RATE = 1000.0
LARGEST_CHANNEL = 1000
Positive = Annotated[int, Field(gt=0, le=MOST)]
NonNegative = Annotated[int, Field(ge=0, le=MOST)]
Share = Annotated[float, Field(ge=0.0, lt=1.0)]
Probability = Annotated[float, Field(ge=0.0, le=1.0)]


def _of_file(name: str) -> str:
    if name and (fault := fault_of(name)):
        raise ValueError(expected(name, fault))
    return name


def _path(path: str) -> str:
    if "\0" in path:
        raise ValueError(f"expected a path, got {path[:60]!r}, which has a NUL")
    return path


FileName = Annotated[str, AfterValidator(_of_file)]
"""A name that files and folders are called by; "" where it is not given."""
Place = Annotated[str, AfterValidator(_path)]
Split = Literal["train", "val", "test"]
Metric = Literal[
    "frame_auc", "frame_ap", "frame_eer", "frame_acc", "frame_balanced_acc",
    "video_auc", "video_ap", "video_eer", "video_acc", "video_balanced_acc",
]  # fmt: skip

COMPRESSIONS = ("raw", "c23", "c40")
"""Levels of the FaceForensics++ family."""
AUGMENTS = ("none", "flip", "resproto_fd", "deepfakebench", "crop")
"""Names of the built-in augmentations."""

NORMALISATIONS = {
    "clip": ([0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]),
    "imagenet": ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
    "half": ([0.5, 0.5, 0.5], [0.5, 0.5, 0.5]),
}
"""Names for the channel means and deviations in use, RGB, of values in [0, 1]."""
Normalisation = Literal["clip", "imagenet", "half"]


class Strict(BaseModel):
    """Base of all: unknown keys are errors, and no value is converted to another type."""

    model_config = ConfigDict(extra="forbid", strict=True, validate_default=True, allow_inf_nan=False)


class InputConfig(Strict):
    """What the detector is fed: a square of `size` pixels (the whole face resized, or a centre crop), normalised.

    Attributes:
        size: Side of the square, in pixels.
        fit: `resize` resizes the whole face; `crop` takes its centre.
        mean, std: Mean and deviation of each channel, RGB of values in [0, 1]: a name, or three numbers.
        frames: Frames of a clip, T; 1 feeds single frames.
        stride: Stored frames from one frame of a clip to the next.
        clips: Clips of each video in testing, evenly spaced; null: as many as the protocol's frames of a video fill.
        short: What becomes of a video with fewer stored frames than a clip takes: its frames are repeated from the
            first on, mirrored (forwards and backwards in turn), or the video is left out, and counted.
    """

    size: Annotated[int, Field(gt=0, le=LARGEST_INPUT)] = 224
    fit: Literal["resize", "crop"] = "resize"
    mean: str | list[float] = "clip"
    std: str | list[float] = "clip"
    frames: Annotated[int, Field(gt=0, le=LONGEST_CLIP)] = 1
    stride: Positive = 1
    clips: Positive | None = None
    short: Literal["repeat", "mirror", "leave_out"] = "repeat"

    @field_validator("mean", "std")
    @classmethod
    def _known(cls, value):
        if isinstance(value, str) and value not in NORMALISATIONS:
            raise ValueError(f"expected {', '.join(NORMALISATIONS)} or three numbers, got '{value}'")
        if isinstance(value, list) and len(value) != 3:
            raise ValueError(f"expected three numbers, one a channel, got {len(value)}")
        if isinstance(value, list) and max(map(abs, value)) > LARGEST_CHANNEL:
            raise ValueError(f"expected numbers of pixels in [0, 1], at most {LARGEST_CHANNEL}, got {value}")
        return value

    @field_validator("std")
    @classmethod
    def _not_zero(cls, value):
        if isinstance(value, list) and min(value) < 1 / LARGEST_CHANNEL:
            raise ValueError(f"expected numbers of at least {1 / LARGEST_CHANNEL}, got {value}")
        return value

    def channel_mean(self) -> list[float]:
        return NORMALISATIONS[self.mean][0] if isinstance(self.mean, str) else self.mean

    def channel_std(self) -> list[float]:
        return NORMALISATIONS[self.std][1] if isinstance(self.std, str) else self.std


class OptimizerConfig(Strict):
    """The optimiser and its settings.

    Attributes:
        name: The optimiser.
        lr: Learning rate.
        weight_decay: Weight decay; of adamw apart from the gradient.
        betas: Used by adam and adamw.
        momentum: Used by sgd.
        sam_rho: Radius of sharpness-aware minimisation (SAM, Foret et al., ICLR 2021), which doubles the work of a
            step; 0 switches it off.
        fused: Use one kernel for all parameters where the device has one.
    """

    name: Literal["adam", "adamw", "sgd"] = "adam"
    lr: Annotated[float, Field(gt=0, le=LARGEST_RATE)] = 2e-4
    weight_decay: Annotated[float, Field(ge=0, le=LARGEST_RATE)] = 0.0
    betas: Annotated[list[Share], Field(min_length=2, max_length=2)] = [0.9, 0.999]
    momentum: Probability = 0.9
    sam_rho: Annotated[float, Field(ge=0, le=LARGEST_RATE)] = 0.0
    fused: bool = True


class ScheduleConfig(Strict):
    """Learning rate over optimiser steps.

    Attributes:
        name: The course of the rate.
        warmup_steps: Steps in which the rate rises from 0.
        step_epochs, gamma: Used by `step`: every `step_epochs` epochs the rate is multiplied by `gamma`.
        min_lr: Used by `cosine` and `linear`: the last rate.
        hold: Used by `cosine` and `linear`: share of the steps after the warm-up before the rate begins to fall.
    """

    name: Literal["constant", "cosine", "linear", "step"] = "constant"
    warmup_steps: NonNegative = 0
    step_epochs: Positive = 1
    gamma: Annotated[float, Field(gt=0, le=1)] = 0.1
    min_lr: Annotated[float, Field(ge=0, le=LARGEST_RATE)] = 0.0
    hold: Annotated[float, Field(ge=0, lt=1)] = 0.0


class DeepfakeBenchAugment(Strict):
    """Settings of the built-in recipe `deepfakebench`, called as in DeepfakeBench's `data_aug`.

    Attributes:
        flip_prob, rotate_prob, blur_prob: How often each step is done.
        rotate_limit: Least and largest angle, in degrees.
        blur_limit: Least and largest side of the blur's kernel, odd.
        brightness_limit, contrast_limit: Least and largest change, as shares.
        quality_lower, quality_upper: Least and largest quality of the JPEG.
    """

    flip_prob: Probability = 0.5
    rotate_prob: Probability = 0.5
    rotate_limit: list[float] = [-10, 10]
    blur_prob: Probability = 0.5
    blur_limit: list[int] = [3, 7]
    brightness_limit: list[float] = [-0.1, 0.1]
    contrast_limit: list[float] = [-0.1, 0.1]
    quality_lower: Annotated[int, Field(ge=1, le=100)] = 40
    quality_upper: Annotated[int, Field(ge=1, le=100)] = 100

    @model_validator(mode="after")
    def _limits(self):
        for name in ("rotate_limit", "blur_limit", "brightness_limit", "contrast_limit"):
            limit = getattr(self, name)
            if len(limit) != 2 or limit[0] > limit[1]:
                raise ValueError(f"{name}: expected [least, largest], got {limit}")
        if self.blur_limit[0] < 3 or not all(side % 2 for side in self.blur_limit):
            raise ValueError(f"blur_limit: expected odd numbers from 3, got {self.blur_limit}")
        if self.quality_lower > self.quality_upper:
            raise ValueError(f"expected quality_lower of at most {self.quality_upper}, got {self.quality_lower}")
        return self


class TrainConfig(Strict):
    """The recipe: what a paper prescribes for its method.

    Attributes:
        epochs: Passes over the training frames.
        batch_size: Samples of one optimiser step, of all processes together.
        accumulate: Parts that a batch is computed in, one after the other; the gradients are added.
        augment: none, flip, crop, resproto_fd or deepfakebench (see `trainer.augment.transforms`), the last also with
            settings, {deepfakebench: {rotate_prob: 0}}; or a list of Albumentations transforms, {albumentations: [...]}
            (see `trainer.augment.library`).
        precision: Arithmetic of the forward pass; weights stay fp32, or fp64.
        grad_clip: Largest norm of the gradient; null means no limit.
        ema: Decay of the moving average of the weights that is tested; null means no average.
        compile: Compile the detector with torch.compile.
        channels_last: Memory order of pictures and convolutions.
        checkpoint_activations: Compute activations again in the backward pass, to save memory.
        sync_batchnorm: Batch statistics over all processes.
        samples: What the detector trains on: `frames`, the real and fake frames of the training sets; or forgeries
            made during training from the real frames alone, a new one of each frame in each epoch. These need
            landmarks (see `trainer.blending`). They are `self_blended` (SBI), `cross_blended` (Face X-ray; masks are
            boundaries), `i2g` (PCL; the same with masks of the blended region) and `warped` (FWA). A frame and its
            forgery are in one batch; `batch_size`, an even number, counts both. An epoch shows each real frame once.
            For detectors of clips there is `video_blended` (StA): the real and fake clips, and a forgery of each real
            one beside them, in which facial features drift; an epoch shows each clip and each forgery once.
        sampling: How frames are dealt to batches. `shuffled` is a random order. With `paired` each fake is followed by
            the frame at the same moment of the real video it was made from, as side files or names like
            FaceForensics++'s tell; if that video is not known, by a random real frame of its data set. Half of each
            batch is real. An epoch has as many frames as with `shuffled`, so that it repeats real frames and may leave
            out fakes. An unreadable frame that is skipped is replaced together with the other one of its pair.
    """

    epochs: NonNegative = 10
    batch_size: Positive = 32
    accumulate: Positive = 1
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    samples: Literal["frames", "self_blended", "cross_blended", "i2g", "warped", "video_blended"] = "frames"
    sampling: Literal["shuffled", "paired"] = "shuffled"
    augment: str | dict[str, Any] = "none"
    precision: Literal["fp32", "bf16", "fp16", "fp64"] = "fp32"
    grad_clip: Annotated[float, Field(gt=0, le=1e9)] | None = None
    ema: Annotated[float, Field(gt=0, lt=1)] | None = None
    compile: bool = False
    channels_last: bool = False
    checkpoint_activations: bool = False
    sync_batchnorm: bool = True

    @property
    def in_pairs(self) -> bool:
        """Whether each fake comes with a real frame, one after the other."""
        return self.from_reals_alone or self.sampling == "paired"

    @property
    def from_reals_alone(self) -> bool:
        """Whether it trains on real frames and forgeries of them, without a data set's own fakes."""
        return self.samples not in ("frames", "video_blended")

    @field_validator("augment")
    @classmethod
    def _augmentation(cls, value):
        if isinstance(value, str):
            if value not in AUGMENTS:
                raise ValueError(
                    f"expected {', '.join(AUGMENTS)} or {{albumentations: [...]}}, got '{value}'"
                    f"{nearest(value, AUGMENTS)}"
                )
            return value
        if list(value) == ["deepfakebench"] and isinstance(value["deepfakebench"], dict):
            try:
                DeepfakeBenchAugment.model_validate(value["deepfakebench"])
            except ValidationError as error:
                first = error.errors()[0]
                where = ".".join(["deepfakebench", *map(str, first["loc"])])
                raise ValueError(f"{where}: {first['msg'].removeprefix('Value error, ')}") from error
            return value
        steps = value.get("albumentations")
        if list(value) != ["albumentations"] or not isinstance(steps, list) or not steps:
            raise ValueError(f"expected {{albumentations: [transform, ...]}}, got {value}")
        for step in steps:
            arguments = next(iter(step.values())) if isinstance(step, dict) and len(step) == 1 else {}
            named = isinstance(step, str) or (isinstance(step, dict) and len(step) == 1)
            if not named or not isinstance(arguments, dict | type(None)):
                raise ValueError(f"expected NAME or {{NAME: {{argument: value, ...}}}}, got {step}")
        return value

    @model_validator(mode="after")
    def _whole_micro_batches(self):
        if self.batch_size % self.accumulate:
            raise ValueError(
                f"expected batch_size to be a multiple of accumulate={self.accumulate}, got {self.batch_size}"
            )
        if self.samples != "frames" and self.sampling == "paired":
            why = "are paired already" if self.from_reals_alone else "have no known partner"
            raise ValueError(
                f"sampling 'paired' is for a data set's own fakes, and samples '{self.samples}' {why}: "
                "set sampling: shuffled"
            )
        if self.in_pairs and self.batch_size // self.accumulate % 2:
            what = f"samples '{self.samples}'" if self.from_reals_alone else "frames with sampling 'paired'"
            raise ValueError(
                f"{what} come in pairs: expected an even batch_size / accumulate, got "
                f"{self.batch_size} / {self.accumulate}"
            )
        return self


class DetectorConfig(Strict):
    """`configs/detectors/NAME.yaml`: a registered class, its constructor's keywords, its input and its recipe.

    Attributes:
        role: A control stands in the table for comparison and is not ranked.
        sees_faces: False for a control that sees no face. If such a control beats chance, the board warns.
        fidelity: How close method and recipe are to the paper: "faithful" in all that the paper states; "approximate"
            if the differences should not matter or the paper leaves them open; "deviates" if a part of the method is
            missing or different.
        deviations: The differences from the paper.
        deepfakebench: Whether checkpoints of DeepfakeBench's detector of this name load and give its numbers.
        deepfakebench_input: Replaces `input` for these checkpoints, if they were trained with another input.
        parameters: Number of all parameters of the built detector, stated so that a list need not build it.
        trainable: Number of the parameters that train, if not all do; not part of a run's configuration.
        needs: What the detector requires of a training batch beside images and labels.
        backbone: Name of the network, if `model.backbone` does not give it.
        tiny: Keywords that make the class small enough for the tests of every detector (`tests/tiny.py` knows the
            backbones tiny_vit and tiny_resnet); not part of a run's configuration.
        model: Keywords of the constructor.
    """

    name: FileName = ""
    detector: str
    title: str = ""
    paper: str = ""
    source: str = ""
    note: str = ""
    role: Literal["detector", "control"] = "detector"
    sees_faces: bool = True
    fidelity: Literal["faithful", "approximate", "deviates"] | None = None
    deviations: list[str] = []
    deepfakebench: bool = False
    deepfakebench_input: InputConfig | None = None
    parameters: Annotated[int, Field(ge=0)] | None = None
    trainable: Annotated[Annotated[int, Field(ge=0)] | None, Field(exclude=True)] = None
    needs: list[str] = []
    backbone: str = ""
    tiny: Annotated[dict[str, Any], Field(exclude=True)] = {}
    model: dict[str, Any] = {}
    input: InputConfig = InputConfig()
    train: TrainConfig = TrainConfig()
    _trusted: frozenset[str] | None = PrivateAttr(frozenset())

    def trusts(self, keyword: str) -> bool:
        """Whether this keyword of `model` may name code to import (see `Detector.names_code`); no file can set it.

        "train.augment" is whether the augmentation may name files to open.
        """
        return self._trusted is None or keyword in self._trusted

    def trusting(self, keywords: Iterable[str] | None = None) -> "DetectorConfig":
        """A copy whose keywords may name code and files: the user typed them; None if all files are trusted."""
        copy = self.model_copy()
        copy._trusted = None if keywords is None else frozenset(keywords)
        return copy

    @model_validator(mode="after")
    def _deviations_are_named(self):
        if (self.fidelity in (None, "faithful")) == bool(self.deviations):
            raise ValueError(
                f"fidelity {self.fidelity or 'not stated'} with {len(self.deviations)} deviations: "
                "list them for 'approximate' and 'deviates', and for these alone"
            )
        return self


class SplitSize(Strict):
    """How large a split is, where it is whole.

    Attributes:
        videos: Videos; of a set of pictures, pictures.
        reals: Those of them that are real; null where nobody states it.
        frames: Frames that are kept of each; 1 of a set of pictures.
        assumed: Whether the number is a guess, since nobody states it.
    """

    videos: NonNegative
    reals: NonNegative | None = None
    frames: Positive = 32
    assumed: bool = False


class DatasetConfig(Strict):
    """`configs/datasets/NAME.yaml`: which JSON, which store, which compression a data set's name means.

    Attributes:
        part_of: Data sets that hold the fakes of this one; see `overlap`.
        made: Whether code drew the data, so that numbers on them say nothing about real forgeries.
        size: How large each split is, for estimates of cost on machines without the data. A split that is absent here
            has no published size.
    """

    name: FileName = ""
    json_file: Annotated[str, Field(alias="json")]
    key: str | None = None
    folder: str | list[str] | None = None
    store: str
    compression: Literal["raw", "c23", "c40"] | None = None
    labels: dict[str, Any] = {}
    source: str = ""
    note: str = ""
    part_of: list[str] = []
    made: bool = False
    size: dict[Split, SplitSize] = {}
    model_config = ConfigDict(extra="forbid", strict=True, populate_by_name=True)


class Frames(Strict):
    """Frames of each video, evenly spaced; null means all.

    Attributes:
        train, val, test: Number of frames of a video of this split.
    """

    train: Positive | None = 32
    val: Positive | None = 32
    test: Positive | None = 32


class Selection(Strict):
    """How the reported checkpoint is chosen: `last`, or the best `metric` on one split of one data set.

    A choice on a test split is an oracle. It needs `oracle: true`, and its rows are never ranked.

    Attributes:
        rule: `best` takes the epoch with the best value; `last` takes the last epoch.
        dataset, split, metric: What is measured after each epoch.
        oracle: Allow a choice on a test split.
    """

    rule: Literal["best", "last"] = "best"
    dataset: FileName | None = None
    split: Split = "val"
    metric: Metric = "frame_auc"
    oracle: bool = False

    @model_validator(mode="after")
    def _honest(self):
        if self.rule == "best" and not self.dataset:
            raise ValueError("rule 'best' needs a data set to choose on; set selection.dataset, or rule: last")
        if self.rule == "best" and self.split == "test" and not self.oracle:
            raise ValueError(
                "expected split 'val', got 'test'; to choose on a test split on purpose set oracle: true (its rows are "
                "marked and never ranked)"
            )
        return self


class ProtocolConfig(Strict):
    """`configs/protocols/NAME.yaml`: the data every detector is trained, selected and tested on.

    Attributes:
        train: Training sets.
        test: Test sets.
        metrics: Metrics of the table.
        sampling: "proportional" draws from several training sets in proportion to their size; "balanced" gives each set
            an equal share of every batch. An epoch has the same number of frames either way, so "balanced" repeats
            frames of a small set.
        train_splits: Splits of the training sets that are trained on, `train` alone or `train` and `val`. Frames that a
            test set has too, as those of `val` in DF40's lists, are then left out.
        share: Share of the training frames, drawn by their names, so that a smaller share lies within a larger one.
        recode: JPEG quality with which every frame is coded anew, in training too, so that files do not differ in their
            coding (a control).
        corruptions: Severities of each corruption (see `trainer.corruptions`) under which the test sets are tested, in
            addition to the clean frames.
    """

    name: FileName = ""
    title: str = ""
    source: str = ""
    note: str = ""
    train: list[FileName]
    frames: Frames = Frames()
    selection: Selection
    test: list[FileName]
    sampling: Literal["proportional", "balanced"] = "proportional"
    train_splits: list[Literal["train", "val"]] = ["train"]
    share: Annotated[float, Field(gt=0, le=1)] = 1.0
    recode: Annotated[int, Field(ge=1, le=100)] | None = None
    corruptions: dict[str, list[Annotated[int, Field(ge=1, le=5)]]] = {}
    metrics: list[Metric] = ["frame_auc", "frame_ap", "frame_eer", "frame_acc", "video_auc"]

    @field_validator("metrics")
    @classmethod
    def _some_metric(cls, value):
        if not value:
            raise ValueError("expected at least one metric, got none; leave it out for the usual ones")
        return value

    @field_validator("corruptions")
    @classmethod
    def _some_severity(cls, value):
        if empty := [name for name, severities in value.items() if not severities]:
            raise ValueError(f"{empty[0]}: expected at least one severity, 1 to 5, got none; leave {empty[0]} out")
        return value

    @model_validator(mode="after")
    def _no_repeats(self):
        for field in ("train", "test"):
            names = getattr(self, field)
            repeated = sorted({name for name in names if names.count(name) > 1})
            if repeated:
                raise ValueError(f"{field} names {', '.join(repeated)} twice")
            for one, other in twins(names):
                raise ValueError(f"{field} names '{one}' and '{other}', which differ in case or Unicode form alone")
        if not self.test:
            raise ValueError("expected at least one data set in test, got none")
        return self

    @model_validator(mode="after")
    def _selects_on_other_frames(self):
        if self.train_splits not in (["train"], ["train", "val"]):
            raise ValueError(f"train_splits: expected [train] or [train, val], got {self.train_splits}")
        chosen = self.selection
        if chosen.rule == "best" and chosen.split in self.train_splits and chosen.dataset in self.train:
            raise ValueError(
                f"selection: expected a split that is not trained on, got {chosen.dataset} {chosen.split} with "
                f"train_splits {self.train_splits}; set selection.rule: last"
            )
        return self


class DataConfig(Strict):
    """Where this machine keeps the data: dataset JSONs, LMDBs and frame files, as DeepfakeBench lays them out.

    `root` holds `dataset_json/`, `lmdb/` and `rgb/`, unless you give these folders one by one.

    Attributes:
        root: Folder of all three; by default the environment's RESPROTO_DATA.
        json_dir, lmdb_dir, rgb_dir: Folder of the dataset JSONs, of the LMDBs, of the frame files.
        lmdb: Read LMDBs where there are some; false reads frame files.
        on_bad_frame: What to do about a frame that is missing or unreadable.
    """

    root: Place | None = None
    json_dir: Place | None = None
    lmdb_dir: Place | None = None
    rgb_dir: Place | None = None
    lmdb: bool = True
    on_bad_frame: Literal["stop", "skip"] = "stop"


class RunSettings(Strict):
    """How this machine runs it. Apart from rounding, only `max_steps` and `shuffle_labels` change what is learnt.

    Attributes:
        out: Folder of runs.
        device: `auto` (CUDA or else the CPU), `cpu`, `cuda`, `cuda:1`, ..., or `mps` (Apple's GPU, without float64).
        workers: Processes that read frames; 0 reads in the main process.
        test_batch_size: Frames of a batch in tests.
        split_batch: Parts that each batch (each part of it, with train.accumulate) is computed in, because the device's
            memory is small; the gradients are added. What is learnt is the same but for rounding, random draws within
            the detector, and batch norm, which sees each part by itself.
        log_every: Steps between two lines of the log.
        save_every: Steps between two checkpoints within an epoch; null saves at the end of epochs alone.
        keep: Checkpoints that are kept.
        save_checkpoints: Keep checkpoints, so that a stopped run goes on.
        resume: Go on from the checkpoints of the run's folder.
        progress: Show a bar.
        deterministic: Use deterministic algorithms.
        task: Word added to the name of the run's folder.
        max_steps: Stop training after so many steps (to try things out).
        shuffle_labels: Train on shuffled labels (a control).
        augment_on: Where the random views are made: picture by picture in the data workers, or in batches on the
            device. The views are the same.
        encode_once: Encode each frame once where a detector's encoder never changes (a linear probe, zero-shot), and
            train and test from the kept features: true keeps them in the folder `encoded` of `out`, a path elsewhere,
            for all runs that name it. A flip is kept too, other augmentations are encoded anew. Scores are the same.
        save_features: Save the features of the tested frames and of the selection split, so that `resproto ablate` can
            try other scoring rules.
    """

    out: Place = "runs"
    device: str = "auto"
    workers: Annotated[int, Field(ge=0, le=MOST_WORKERS)] = 2
    augment_on: Literal["host", "device"] = "host"
    test_batch_size: Positive = 64
    split_batch: Positive = 1
    log_every: Positive = 20
    save_every: Positive | None = None
    keep: Positive = 2
    save_checkpoints: bool = True
    encode_once: bool | Place = False
    save_features: bool = False
    resume: bool = True
    progress: bool = True
    deterministic: bool = True
    task: FileName | None = None
    max_steps: Positive | None = None
    shuffle_labels: bool = False


class RunConfig(Strict):
    """Everything a run was made with; saved beside it as `config.yaml`.

    Attributes:
        seed: Seed of everything random.
    """

    detector: DetectorConfig
    protocol: ProtocolConfig
    data: DataConfig = DataConfig()
    run: RunSettings = RunSettings()
    seed: Annotated[int, Field(ge=0, le=LARGEST_SEED)] = 0

    @property
    def selection_metric(self) -> str:
        """What checkpoints are selected by: the protocol's metric. A detector of clips has no metric of frames, so that
        it takes the same one of videos."""
        return self.metric_of(self.protocol.selection.metric)

    def metric_of(self, metric: str) -> str:
        """A metric of the protocol as this detector has it: `video_auc` for `frame_auc` if it scores clips."""
        return metric.replace("frame_", "video_") if self.detector.input.frames > 1 else metric
