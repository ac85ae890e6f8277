"""The typed form of every YAML file and of a run's resolved configuration.

Strict: an unknown key or a wrong type is an error. A default stands here once; a YAML holds only what differs.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

Positive = Annotated[int, Field(gt=0)]
NonNegative = Annotated[int, Field(ge=0)]
Probability = Annotated[float, Field(ge=0.0, le=1.0)]
Split = Literal["train", "val", "test"]
Metric = Literal["frame_auc", "frame_ap", "frame_eer", "frame_acc", "video_auc", "video_ap", "video_eer", "video_acc"]

NORMALISATIONS = {
    "clip": ([0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]),
    "imagenet": ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
    "half": ([0.5, 0.5, 0.5], [0.5, 0.5, 0.5]),
}
"""Names for the channel means and deviations in use, RGB, of values in [0, 1]."""


class Strict(BaseModel):
    """Base of all: unknown keys are errors, and no value is converted to another type."""

    model_config = ConfigDict(extra="forbid", strict=True, validate_default=True)


class InputConfig(Strict):
    """What the detector is fed: a square of `size` pixels (the whole face resized, or a centre crop), normalised."""

    size: Positive = 224
    fit: Literal["resize", "crop"] = "resize"
    mean: str | list[float] = "clip"
    std: str | list[float] = "clip"

    @field_validator("mean", "std")
    @classmethod
    def _known(cls, value):
        if isinstance(value, str) and value not in NORMALISATIONS:
            raise ValueError(f"'{value}' is not one of {', '.join(NORMALISATIONS)}, nor three numbers")
        if isinstance(value, list) and len(value) != 3:
            raise ValueError(f"expected three numbers, one a channel, got {len(value)}")
        return value

    def channel_mean(self) -> list[float]:
        return NORMALISATIONS[self.mean][0] if isinstance(self.mean, str) else self.mean

    def channel_std(self) -> list[float]:
        return NORMALISATIONS[self.std][1] if isinstance(self.std, str) else self.std


class OptimizerConfig(Strict):
    """`betas` are of adam and adamw, `momentum` of sgd; `fused`: one kernel for all parameters, if there is one.

    `sam_rho`: how far sharpness-aware minimisation (SAM, Foret et al., ICLR 2021) climbs before each step takes its
    gradient, which doubles a step's work; 0 is the optimiser alone.
    """

    name: Literal["adam", "adamw", "sgd"] = "adam"
    lr: Annotated[float, Field(gt=0)] = 2e-4
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    betas: list[float] = [0.9, 0.999]
    momentum: Probability = 0.9
    sam_rho: Annotated[float, Field(ge=0)] = 0.0
    fused: bool = True


class ScheduleConfig(Strict):
    """Learning rate over optimiser steps.

    `step_epochs` and `gamma` belong to `step`; `min_lr` and `hold`, the share of the steps after the warm-up before the
    rate begins to fall, to `cosine` and `linear`.
    """

    name: Literal["constant", "cosine", "linear", "step"] = "constant"
    warmup_steps: NonNegative = 0
    step_epochs: Positive = 1
    gamma: Annotated[float, Field(gt=0, le=1)] = 0.1
    min_lr: Annotated[float, Field(ge=0)] = 0.0
    hold: Annotated[float, Field(ge=0, lt=1)] = 0.0


class TrainConfig(Strict):
    """The recipe: what a paper prescribes for its method.

    `samples`: what is trained on. `frames`: those of the training sets, real and fake. The others are made while
    training from the real ones alone, which needs their landmarks (see `trainer.blending`): of each frame a
    `self_blended` (SBI), `cross_blended` (Face X-ray; masks are boundaries), `i2g` (PCL; the same with masks of what is
    blended in) or `warped` (FWA) forgery, a new one each epoch. Both of a pair are in one batch; `batch_size`, an even
    number, counts both, and an epoch shows each real frame once.
    """

    epochs: NonNegative = 10
    batch_size: Positive = 32
    accumulate: Positive = 1
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    samples: Literal["frames", "self_blended", "cross_blended", "i2g", "warped"] = "frames"
    augment: Literal["none", "flip", "resproto_fd", "deepfakebench", "crop"] = "none"
    precision: Literal["fp32", "bf16", "fp16", "fp64"] = "fp32"
    grad_clip: Annotated[float, Field(gt=0)] | None = None
    ema: Annotated[float, Field(gt=0, lt=1)] | None = None
    compile: bool = False
    channels_last: bool = False
    checkpoint_activations: bool = False
    sync_batchnorm: bool = True

    @model_validator(mode="after")
    def _whole_micro_batches(self):
        if self.batch_size % self.accumulate:
            raise ValueError(f"batch_size {self.batch_size} is not a multiple of accumulate {self.accumulate}")
        if self.samples != "frames" and self.batch_size // self.accumulate % 2:
            raise ValueError(
                f"batch_size {self.batch_size} with accumulate {self.accumulate}: samples '{self.samples}' come in "
                "pairs, which needs an even number of pictures each time"
            )
        return self


class DetectorConfig(Strict):
    """`configs/detectors/NAME.yaml`: a registered class, its constructor's keywords, its input and its recipe.

    `role`: a control stands in the table for comparison and is not ranked; one that does not see faces (`sees_faces`)
    and beats chance is warned of. `fidelity` is how close method and recipe are to the paper: "faithful" in all that
    the paper states, "approximate" where what differs should not matter or the paper leaves open, "deviates" where a
    part of the method is missing or other; `deviations` lists what. `deepfakebench`: the checkpoints of DeepfakeBench's
    detector of this name load, and give its numbers, with `deepfakebench_input` in the place of `input` if they were
    trained with another. `parameters` (all, trained or not) and `needs` (what it requires
    of a training batch beside images and labels) are what the built detector has, so that a list need not build it;
    `trainable` counts the parameters that train, where these are not all. `backbone` names its network where
    `model.backbone` does not. `tiny` holds keywords of the constructor that make the class small enough for the tests
    that every detector must pass (`tests/tiny.py` knows the backbones tiny_vit and tiny_resnet); neither it nor
    `trainable` is part of a run's configuration.
    """

    name: str = ""
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
    parameters: NonNegative | None = None
    trainable: Annotated[NonNegative | None, Field(exclude=True)] = None
    needs: list[str] = []
    backbone: str = ""
    tiny: Annotated[dict[str, Any], Field(exclude=True)] = {}
    model: dict[str, Any] = {}
    input: InputConfig = InputConfig()
    train: TrainConfig = TrainConfig()

    @model_validator(mode="after")
    def _deviations_are_named(self):
        if (self.fidelity in (None, "faithful")) == bool(self.deviations):
            raise ValueError(
                f"fidelity {self.fidelity or 'not stated'} with {len(self.deviations)} deviations: "
                "list them for 'approximate' and 'deviates', and for these alone"
            )
        return self


class DatasetConfig(Strict):
    """`configs/datasets/NAME.yaml`: which JSON, which store, which compression a data set's name means."""

    name: str = ""
    json_file: Annotated[str, Field(alias="json")]
    key: str | None = None
    folder: str | list[str] | None = None
    store: str
    compression: Literal["raw", "c23", "c40"] | None = None
    labels: dict[str, Any] = {}
    source: str = ""
    note: str = ""
    model_config = ConfigDict(extra="forbid", strict=True, populate_by_name=True)


class Frames(Strict):
    """Frames of each video, evenly spaced; null means all."""

    train: Positive | None = 32
    val: Positive | None = 32
    test: Positive | None = 32


class Selection(Strict):
    """How the reported checkpoint is chosen: `last`, or the best `metric` on one split of one data set.

    Choosing on a test split is an oracle: it must be written out with `oracle: true`, and its rows are never ranked.
    """

    rule: Literal["best", "last"] = "best"
    dataset: str | None = None
    split: Split = "val"
    metric: Metric = "frame_auc"
    oracle: bool = False

    @model_validator(mode="after")
    def _honest(self):
        if self.rule == "best" and not self.dataset:
            raise ValueError("selection by 'best' needs the data set it is made on")
        if self.rule == "best" and self.split == "test" and not self.oracle:
            raise ValueError(
                "selects the checkpoint on a test split; write 'oracle: true' beside it if that is meant "
                "(its rows are marked and never ranked), or select on 'val'"
            )
        return self


class ProtocolConfig(Strict):
    """`configs/protocols/NAME.yaml`: the data every detector is trained, selected and tested on.

    `sampling`: frames of several training sets as they come, or each set an equal share of every batch; an epoch has as
    many frames either way, so that of a small set some come more than once. `share`: of the training frames, drawn by
    their names, so that a smaller share lies within a larger one. `recode`: every frame, of training too, is put
    through JPEG of that quality first, so that files are alike (a control). `corruptions`: severities of each (see
    `trainer.corruptions`) that the test sets are tested under, beside the clean ones.
    """

    name: str = ""
    title: str = ""
    source: str = ""
    note: str = ""
    train: list[str]
    frames: Frames = Frames()
    selection: Selection
    test: list[str]
    sampling: Literal["proportional", "balanced"] = "proportional"
    share: Annotated[float, Field(gt=0, le=1)] = 1.0
    recode: Annotated[int, Field(ge=1, le=100)] | None = None
    corruptions: dict[str, list[Annotated[int, Field(ge=1, le=5)]]] = {}
    metrics: list[Metric] = ["frame_auc", "frame_ap", "frame_eer", "frame_acc", "video_auc"]

    @model_validator(mode="after")
    def _no_repeats(self):
        for field in ("train", "test"):
            names = getattr(self, field)
            repeated = sorted({name for name in names if names.count(name) > 1})
            if repeated:
                raise ValueError(f"{field} names {', '.join(repeated)} twice")
        if not self.test:
            raise ValueError("test names no data set")
        return self


class DataConfig(Strict):
    """Where this machine keeps the data: dataset JSONs, LMDBs and frame files, as DeepfakeBench lays them out.

    `root` holds `dataset_json/`, `lmdb/` and `rgb/` unless those are given one by one.
    """

    root: str | None = None
    json_dir: str | None = None
    lmdb_dir: str | None = None
    rgb_dir: str | None = None
    lmdb: bool = True
    on_bad_frame: Literal["stop", "skip"] = "stop"


class RunSettings(Strict):
    """How this machine runs it; nothing here changes what is learnt beyond rounding.

    `augment_on`: the same random views are taken by data workers picture by picture, or by the device in batches.
    `save_features`: of tested frames, so that `resproto ablate` can try other ways of scoring them.
    """

    out: str = "runs"
    device: str = "auto"
    workers: NonNegative = 2
    augment_on: Literal["host", "device"] = "host"
    test_batch_size: Positive = 64
    log_every: Positive = 20
    save_every: Positive | None = None
    keep: Positive = 2
    save_checkpoints: bool = True
    save_features: bool = False
    resume: bool = True
    progress: bool = True
    deterministic: bool = True
    task: str | None = None
    max_steps: Positive | None = None
    shuffle_labels: bool = False


class RunConfig(Strict):
    """Everything a run was made with; saved beside it as `config.yaml`."""

    detector: DetectorConfig
    protocol: ProtocolConfig
    data: DataConfig = DataConfig()
    run: RunSettings = RunSettings()
    seed: NonNegative = 0
