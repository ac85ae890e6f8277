"""Gradient of a loss over a whole batch that is too large for the device.

Gao et al., Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup, 2021.
"""

import torch
from torch import Tensor

from resproto_fd.detectors.base import Detector, Output, Step, weighted_sum

Fields = dict[str, Tensor | list[str]]


def backward_whole_batch(
    detector: Detector,
    images: list[Tensor],
    labels: list[Tensor],
    fields: list[Fields],
    step: Step,
    device: torch.device,
) -> dict[str, Tensor]:
    """Computes the gradients of a loss over the whole batch; the encoder runs on one micro-batch at a time.

    The features of all micro-batches are computed without a graph. The head's loss is differentiated with respect to
    them. Each micro-batch is then encoded again, under the same random numbers, to carry its part of that gradient
    back, and that of its own losses. The result is exact, except that batch norm's statistics are those of each
    micro-batch, and that a loss which is a mean over some of the samples counts each micro-batch alike.

    Args:
        detector: Its parameters get the gradients.
        images: Normalised images of each micro-batch, [b, 3, S, S].
        labels: Of each micro-batch, [b].
        fields: Further fields of each micro-batch.
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
        output: Output = detector.head(leaf, torch.cat(labels), **joined_fields(fields))
    step.backward(output.losses["total"])
    losses = {name: value.detach() for name, value in output.losses.items()}
    gradients = leaf.grad.split([len(part) for part in images])
    for part, given, named, state, gradient in zip(images, labels, fields, states, gradients, strict=True):
        _set_random_state(state, device)
        with step.autocast():
            encoded, own = detector.encode_with_losses(part, given, **named)
        encoded.backward(gradient.to(encoded.dtype), retain_graph=bool(own))
        if own:
            share = weighted_sum(own) / len(images)
            step.backward(share)
            losses["total"] = losses["total"] + share.detach()
            losses |= {name: losses.get(name, 0) + loss.detach() / len(images) for name, (loss, _) in own.items()}
    _set_random_state(after, device)
    return losses


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
