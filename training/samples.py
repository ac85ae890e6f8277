"""What a detector is trained and tested on: a protocol's frames, or clips of their videos."""

from collections.abc import Mapping

import numpy as np

from resproto_fd.configs.errors import UserError
from resproto_fd.configs.schema import InputConfig, RunConfig
from resproto_fd.preprocessing.store.frame_store import FrameStore
from resproto_fd.trainer.blended_clips import VIDEO_BLENDED
from resproto_fd.trainer.clip_list import ClipList, span
from resproto_fd.trainer.frame_list import FrameList

OF_CLIPS = ("stride", "clips", "short")
"""Keys of `input` that mean nothing for single frames."""


def check_clips(config: RunConfig) -> None:
    """Checks that a run's settings suit clips or single frames, before any data are looked at.

    Raises:
        UserError: The detector takes clips, and a setting is for single frames, or the other way round.
    """
    given, samples = config.detector.input, config.detector.train.samples
    if given.frames == 1:
        for name in OF_CLIPS:
            if (value := getattr(given, name)) != InputConfig.model_fields[name].default:
                raise UserError(
                    f"input.{name}={value}: only for clips, and the detector takes single frames (input.frames=1); "
                    f"remove input.{name}"
                )
        if samples == VIDEO_BLENDED:
            raise UserError(
                f"train.samples={samples}: forgeries are made of clips, and the detector takes single frames; set "
                "train.samples=frames or self_blended"
            )
        return
    if config.detector.train.from_reals_alone:
        raise UserError(
            f"train.samples={samples}: forgeries are made of single frames, and the detector takes clips "
            f"(input.frames={given.frames}); set train.samples=frames or {VIDEO_BLENDED}"
        )
    if config.run.encode_once:
        raise UserError(
            f"run.encode_once: features are kept of single frames, and the detector takes clips (input.frames="
            f"{given.frames}); set run.encode_once=false"
        )


def one_sample(given: InputConfig) -> tuple[int, ...]:
    """The shape of a batch of one picture, [1, 3, S, S], or of one clip, [1, T, 3, S, S]."""
    return (1, *((given.frames,) if given.frames > 1 else ()), 3, given.size, given.size)


def samples_of(
    frames: FrameList | None, config: RunConfig, stores: Mapping[str, FrameStore], what: str, training: bool = False
) -> FrameList | None:
    """What a detector gets of a protocol's frames: the frames themselves, or clips of their videos.

    Args:
        frames: The protocol's; None if there are none.
        config: Of the run.
        stores: The frame store of each data set, by name.
        what: What they are for, for messages.
        training: Whether they are trained on. Then `input.clips`, which is for tests, does not count.

    Raises:
        UserError: A store lacks a stored frame of a video, and data.on_bad_frame is not `skip`; or no video is long
            enough for a clip; or a share of the frames alone is trained on.
    """
    given = config.detector.input
    if frames is None or given.frames == 1:
        return frames
    if training and config.protocol.share < 1:
        raise UserError(
            f"protocol.share={config.protocol.share:g}: it leaves out single frames, and most videos would still have "
            f"a clip (input.frames={given.frames}); set protocol.share=1"
        )
    absent = _absent(FrameList.of([frames.videos[i] for i in np.unique(frames.video_index)], None), stores)
    if absent and config.data.on_bad_frame == "stop":
        raise UserError(
            f"{what}: the stores lack {len(absent)} frames that the manifests name, first: {', '.join(absent[:3])}; "
            "complete the store, or leave them out: data.on_bad_frame=skip"
        )
    try:
        return ClipList.within(frames, given, None if training else given.clips, absent)
    except UserError as error:
        raise UserError(f"{what}: {error}") from None


def _absent(frames: FrameList, stores: Mapping[str, FrameStore]) -> list[str]:
    """Paths of the frames that the stores lack."""
    names, sets = list(dict.fromkeys(video.dataset for video in frames.videos)), frames.groups()
    wanted = {name: [frames.paths[i] for i in np.flatnonzero(sets == place)] for place, name in enumerate(names)}
    return [path for name, paths in wanted.items() for path in stores[name].missing(paths)]


def note_on_clips(clips: FrameList | None, what: str) -> str:
    """What becomes of videos that are too short for a clip, in words; "" if there are none."""
    if not isinstance(clips, ClipList) or not clips.short:
        return ""
    done = {"repeat": "repeated", "mirror": "mirrored", "leave_out": "left out"}[clips.given.short]
    least = span(clips.given)
    return f"{what}: videos with fewer than {least} stored frames: {clips.short}; they are {done} (input.short)"
