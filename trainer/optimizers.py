"""Optimisers and learning-rate schedules, from their configuration."""

import math

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from resproto_fd.configs.schema import OptimizerConfig, ScheduleConfig


def make_optimizer(
    config: OptimizerConfig, parameters: list[nn.Parameter], device: torch.device
) -> torch.optim.Optimizer:
    """The configured optimiser; `fused` is used where the device has it for these parameters."""
    floating = all(p.is_floating_point() for p in parameters)
    fused = config.fused and floating and device.type in ("cuda", "cpu")
    if config.name == "sgd":
        return torch.optim.SGD(
            parameters, lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay, fused=fused
        )
    kind = torch.optim.Adam if config.name == "adam" else torch.optim.AdamW
    return kind(parameters, lr=config.lr, betas=tuple(config.betas), weight_decay=config.weight_decay, fused=fused)


def lr_factor(config: ScheduleConfig, lr: float, step: int, steps_per_epoch: int, epochs: int) -> float:
    """What the learning rate is multiplied by at an optimiser step, counting from 0.

    >>> [round(lr_factor(ScheduleConfig(name="step", gamma=0.5), 1.0, s, 2, 3), 3) for s in range(6)]
    [1.0, 1.0, 0.5, 0.5, 0.25, 0.25]
    """
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    if config.name == "constant":
        return 1.0
    if config.name == "step":
        return config.gamma ** (step // steps_per_epoch // config.step_epochs)
    total = max(1, steps_per_epoch * epochs - config.warmup_steps)
    progress = min(1.0, (step - config.warmup_steps) / total)
    floor = config.min_lr / lr
    shape = (1 + math.cos(math.pi * progress)) / 2 if config.name == "cosine" else 1 - progress
    return floor + (1 - floor) * shape


def make_schedule(
    config: ScheduleConfig, optimizer: torch.optim.Optimizer, lr: float, steps_per_epoch: int, epochs: int
) -> LambdaLR:
    """The schedule as torch's LambdaLR; call its `step()` after each optimiser step."""
    return LambdaLR(optimizer, lambda step: lr_factor(config, lr, step, steps_per_epoch, epochs))


class WeightAverage:
    """Exponential moving average of the trained parameters (EMA); buffers are the live model's.

    Args:
        parameters: The live parameters, in a fixed order.
        decay: Share of the old average kept at each update.
    """

    def __init__(self, parameters: list[nn.Parameter], decay: float):
        self.live = parameters
        self.decay = decay
        self.average = [p.detach().clone() for p in parameters]

    @torch.no_grad()
    def update(self) -> None:
        torch._foreach_lerp_(self.average, [p.detach() for p in self.live], 1 - self.decay)

    @torch.no_grad()
    def swap(self) -> None:
        """Exchanges live and averaged values; call it again to change back."""
        for live, average in zip(self.live, self.average, strict=True):
            kept = live.detach().clone()
            live.copy_(average)
            average.copy_(kept)

    def state_dict(self) -> dict[str, list[torch.Tensor]]:
        return {"average": self.average}

    def load_state_dict(self, state: dict[str, list[torch.Tensor]]) -> None:
        for own, saved in zip(self.average, state["average"], strict=True):
            own.copy_(saved)
