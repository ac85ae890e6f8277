"""Optimisers and learning-rate schedules, from their configuration."""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from resproto_fd.configs.schema import OptimizerConfig, ScheduleConfig


def make_optimizer(
    config: OptimizerConfig, parameters: list[nn.Parameter], device: torch.device
) -> torch.optim.Optimizer:
    """Makes the configured optimiser; `fused` only if the device supports it for these parameters."""
    floating = all(p.is_floating_point() for p in parameters)
    fused = config.fused and floating and device.type in ("cuda", "cpu")
    if config.name == "sgd":
        return torch.optim.SGD(
            parameters, lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay, fused=fused
        )
    kind = torch.optim.Adam if config.name == "adam" else torch.optim.AdamW
    return kind(parameters, lr=config.lr, betas=tuple(config.betas), weight_decay=config.weight_decay, fused=fused)


@contextmanager
def climbed(parameters: list[nn.Parameter], rho: float) -> Iterator[None]:
    """Moves the parameters by rho along their gradient within the block, and empties `grad`.

    Sharpness-aware minimisation (Foret et al., ICLR 2021, eq 2 and algorithm 1): the step uses the gradient of the loss
    near the worst point of a ball around the parameters. After the block the parameters have their former bits.

    Args:
        parameters: Have gradients of the loss, of any common scale.
        rho: Euclidean radius of the ball, over all parameters.
    """
    moved = [p for p in parameters if p.grad is not None]
    gradients = [p.grad for p in moved]
    kept = [p.detach().clone() for p in moved]
    length = nn.utils.get_total_norm(gradients) + 1e-12
    with torch.no_grad():
        for parameter, gradient in zip(moved, gradients, strict=True):
            parameter.add_(gradient * (rho / length).to(gradient.dtype))
            parameter.grad = None
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter, value in zip(moved, kept, strict=True):
                parameter.copy_(value)


@contextmanager
def memory_kept(module: nn.Module) -> Iterator[None]:
    """Restores a module's buffers (batch norm's statistics, prototypes) at the end of the block."""
    learnt = {name for name, _ in module.named_parameters(remove_duplicate=False)}
    kept = {name: value.clone() for name, value in module.state_dict().items() if name not in learnt}
    beside = [(value, value.clone()) for name, value in module.named_buffers() if name not in kept]  # not persistent
    try:
        yield
    finally:
        module.load_state_dict(kept, strict=False)
        for value, before in beside:
            value.copy_(before)


def lr_factor(config: ScheduleConfig, lr: float, step: int, steps_per_epoch: int, epochs: int) -> float:
    """Factor of the learning rate at an optimiser step; steps count from 0.

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
    progress = min(1.0, max(0.0, (step - config.warmup_steps) / total - config.hold) / (1 - config.hold))
    floor = config.min_lr / lr
    shape = (1 + math.cos(math.pi * progress)) / 2 if config.name == "cosine" else 1 - progress
    return floor + (1 - floor) * shape


def make_schedule(
    config: ScheduleConfig, optimizer: torch.optim.Optimizer, lr: float, steps_per_epoch: int, epochs: int
) -> LambdaLR:
    """Makes the schedule as torch's LambdaLR; call its `step()` after each optimiser step."""
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
