"""Clips of frames: the check that a network can read them.

Legend: B clips, T frames of a clip, H and W pixels.
"""

from torch import Tensor

from resproto_fd.configs.errors import WrongInput


def check_frames(clips: Tensor, count: int, name: str, keyword: str | None = None) -> None:
    """Check that clips [B, T, 3, H, W] have the number of frames for which a network was built.

    Args:
        count: The number.
        name: Name of the network, for the message.
        keyword: The network's keyword for the number, if it has one.

    Raises:
        WrongInput: The clips have another number of frames.
    """
    if clips.shape[1] != count:
        remedy = f"input.frames={count}" if keyword is None else f"model.{keyword} and input.frames to the same number"
        raise WrongInput(f"{name} expected clips of {count} frames, got {clips.shape[1]}; set {remedy}")


def check_groups(clips: Tensor, group: int, name: str, keyword: str) -> None:
    """Check that clips [B, T, 3, H, W] have a multiple of some number of frames.

    Args:
        group, name, keyword: The number, and names of the network and of its keyword for the number, for the message.

    Raises:
        WrongInput: The clips have another number of frames.
    """
    if clips.shape[1] % group:
        raise WrongInput(
            f"{name} expected clips of a multiple of {group} frames, got {clips.shape[1]}; set input.frames to a "
            f"multiple of model.{keyword}"
        )
