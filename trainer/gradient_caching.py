"""Gradient of a loss over a whole batch that is too large for the device.

Gao et al., Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup, 2021.
"""

import torch
from torch import Tensor

from resproto_fd.detectors.base import Detector, Output, Step

Fields = dict[str, Tensor | list[str]]


def backward_whole_batch(
    detector: Detector, images: list[Tensor], labels: Tensor, fields: Fields, step: Step, device: torch.device
) -> dict[str, Tensor]:
    """Computes the gradients of a loss over the whole batch; the encoder runs on one micro-batch at a time.

    The features of all micro-batches are computed without a graph. The head's loss is differentiated with respect to
    them. Each micro-batch is then encoded again, under the same random numbers, to carry its part of that gradient
    back. The result is exact, except that batch norm's statistics are those of each micro-batch.

    Args:
        detector: Its parameters get the gradients.
        images: Normalised images of each micro-batch, [b, 3, S, S].
        labels: Of the whole batch, [B].
        fields: Further fields of the whole batch.
        step: Precision and scale of the losses.
        device: The detector's.

    Returns:
        The loss terms.
    """
    states, features = [], []
    for part in images:
        states.append(_random_state(device))
        with torch.no_grad(), step.autocast():
            features.append(detector.encode(part))
    after = _random_state(device)
    leaf = torch.cat(features).detach().requires_grad_()
    with step.autocast():
        output: Output = detector.head(leaf, labels, **fields)
    step.backward(output.losses["total"])
    for part, state, gradient in zip(images, states, leaf.grad.split([len(p) for p in images]), strict=True):
        _set_random_state(state, device)
        with step.autocast():
            encoded = detector.encode(part)
        encoded.backward(gradient.to(encoded.dtype))
    _set_random_state(after, device)
    return {name: value.detach() for name, value in output.losses.items()}


def joined_fields(parts: list[Fields]) -> Fields:
    """Joins the fields of micro-batches to those of the whole batch."""
    return {
        name: torch.cat([part[name] for part in parts])
        if isinstance(value, Tensor)
        else [text for part in parts for text in part[name]]
        for name, value in parts[0].items()
    }


def _random_state(device: torch.device) -> Tensor:
    if device.type == "mps":
        return torch.mps.get_rng_state()
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()


def _set_random_state(state: Tensor, device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.set_rng_state(state, device)
    elif device.type == "mps":
        torch.mps.set_rng_state(state)
    else:
        torch.set_rng_state(state)
