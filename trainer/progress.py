"""Progress of a run: the step it has reached, and whether its latest steps were sound."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from resproto_fd.configs.errors import UserError
from resproto_fd.trainer import checkpoint

LOWER_IS_BETTER = ("frame_eer", "video_eer")
OTHER_FILES = (
    "training went on over other files of its frames than it began with; whether they show the same is not known"
)
PATIENCE_WITH_FP16 = 50
"""Steps in a row that fp16's scaler may skip."""


@dataclass
class Progress:
    """The step that a run has reached, and the best epoch so far. Checkpoints hold it."""

    epoch: int = 0
    step_in_epoch: int = 0
    step: int = 0
    unvalidated: bool = False
    best_value: float | None = None
    best_epoch: int | None = None
    skipped_steps: int = 0
    skipped_in_a_row: int = 0
    bad_frames: list[int] = field(default_factory=list)
    seconds: float = 0.0
    files: str | None = None
    """Identity of the files of the training frames; None if it is not known."""
    other_files: bool = False
    """Whether the run went on over other files than it began with."""

    def is_better(self, value: float | None, metric: str) -> bool:
        """Whether a value of the selection metric is better than the best one so far."""
        if value is None or self.best_value is None:
            return value is not None
        return value < self.best_value if metric in LOWER_IS_BETTER else value > self.best_value


class LatestSteps:
    """Losses and gradient norms of the steps since the last log. They stay on the device until `check` reads them.

    Args:
        paths: Canonical paths of the training frames, for messages.
        checkpoints: Folder of the run's checkpoints, for messages.
        may_skip: Whether fp16's scaler skips steps whose gradient overflows.
    """

    def __init__(self, paths: Sequence[str], checkpoints: Path, may_skip: bool):
        self._paths, self._checkpoints, self._may_skip = paths, checkpoints, may_skip
        self._steps: list[dict[str, Any]] = []
        self._checked = 0

    def add(self, step: int, norm: Tensor, losses: dict[str, Tensor], frames: list[Tensor]) -> None:
        """Adds a step.

        Args:
            step: Its number.
            norm: Norm of the gradient, before clipping.
            losses: "total" and its terms.
            frames: Positions of its frames, by micro-batch.
        """
        self._steps.append({"step": step, "norm": norm, "losses": losses, "frames": frames})

    def take_last(self) -> dict[str, Any] | None:
        """Returns the last step and forgets all; None if there is none."""
        last = self._steps[-1] if self._steps else None
        self._steps.clear()
        self._checked = 0
        return last

    def check(self, progress: Progress) -> None:
        """Checks the steps that were not checked before, and counts those that fp16's scaler skipped in `progress`.

        Raises:
            UserError: A loss or gradient is not finite, and the scaler did not skip the step, or skipped too many in a
                row. The message has the step, its loss terms and its frames.
        """
        steps = self._steps[self._checked :]
        self._checked = len(self._steps)
        if not steps:
            return
        finite = [entry["losses"]["total"].isfinite() & entry["norm"].isfinite() for entry in steps]
        misses = (~torch.stack(finite).cpu()).nonzero().flatten().tolist()
        if not misses:
            progress.skipped_in_a_row = 0
            return
        if self._may_skip:
            progress.skipped_steps += len(misses)
            before = progress.skipped_in_a_row if len(misses) == len(steps) else 0
            progress.skipped_in_a_row = before + len(misses)
            if progress.skipped_in_a_row < PATIENCE_WITH_FP16:
                return
        raise self._not_finite(steps[misses[0]])

    def _not_finite(self, entry: dict[str, Any]) -> UserError:
        terms = ", ".join(f"{name} {float(value):g}" for name, value in entry["losses"].items())
        frames = [self._paths[i] for part in entry["frames"] for i in part.tolist()]
        kept = checkpoint.stored(self._checkpoints)
        return UserError(
            f"step {entry['step']}: loss or gradient is not finite ({terms}, gradient norm {float(entry['norm']):g}); "
            f"frames of the batch: {', '.join(frames[:8])}{', ...' if len(frames) > 8 else ''}. "
            f"The last good checkpoint is {kept[-1] if kept else 'none: the run stopped before its first'}; "
            "try a lower train.optimizer.lr, train.grad_clip=1 or train.precision=fp32"
        )
