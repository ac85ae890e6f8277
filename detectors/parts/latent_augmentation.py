"""Augmentation of forgeries' features within a method and across methods (LSDA, Yan et al., CVPR 2024).

Legend: N samples, C channels, H and W places.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

ANGLE, ZOOM = math.pi / 6, 0.2
"""Largest rotation and change of scale of the affine move; the paper gives none."""
SHAPES = (0.5, 2.0)
"""Range of the parameters of the Beta distribution of the mixing weights."""


def within_method(maps: Tensor, channel_maps: bool = False) -> Tensor:
    """Move each sample in one of four random ways, by a random share in [0, 1).

    The ways are: towards the sample farthest from the mean, away from the mean, by noise, or turned and scaled as a
    picture.

    Args:
        maps: Features of one forgery method, [N, C, H, W].
        channel_maps: As in DeepfakeBench, move the C maps of each sample instead of the samples, each by its own share;
            the fourth move is then the difference of the first two maps.

    Returns:
        [N, C, H, W]
    """
    points = maps.flatten(0, 1).flatten(1) if channel_maps else maps.flatten(1)
    mean = points.mean(dim=0)
    hard = points[(points - mean).square().sum(dim=1).argmax(dim=0, keepdim=True)]
    share, scale = torch.rand(2, len(points), 1, device=maps.device, dtype=maps.dtype)
    last = points[:1] - points[1:2] if channel_maps else _turned(maps).flatten(1) - points
    moves = torch.stack([hard - points, points - mean, scale * torch.randn_like(points), last.expand_as(points)])
    drawn = torch.randint(len(moves), (len(maps),), device=maps.device)
    drawn = drawn.repeat_interleave(len(points) // len(maps))
    move = moves[drawn, torch.arange(len(points), device=maps.device)]
    return (points + share * move).view_as(maps)


def across_methods(maps: Tensor, methods: Tensor) -> Tensor:
    """Mix each sample with a random one of another method, or with itself if there is none.

    Args:
        maps: [N, C, H, W]
        methods: [N]

    Returns:
        [N, C, H, W]
    """
    other = methods[:, None] != methods
    if not len(maps):
        return maps
    keys = torch.rand(other.shape, device=maps.device) + 2 * other + torch.eye(len(maps), device=maps.device)
    shape = torch.empty((), device=maps.device).uniform_(*SHAPES)
    # Checking the arguments would wait for the device.
    weight = torch.distributions.Beta(shape, shape, validate_args=False).sample((len(maps), 1, 1, 1)).to(maps)
    return weight * maps + (1 - weight) * maps[keys.argmax(dim=1)]


def _turned(maps: Tensor) -> Tensor:
    """Maps rotated and scaled about their centre, at random for each sample; places outside are 0."""
    angle, zoom = 2 * torch.rand(2, len(maps), device=maps.device) - 1
    angle, zoom = ANGLE * angle, ZOOM * zoom
    cosine, sine = (1 + zoom) * angle.cos(), (1 + zoom) * angle.sin()
    zero = torch.zeros_like(angle)
    matrix = torch.stack([torch.stack([cosine, -sine, zero], 1), torch.stack([sine, cosine, zero], 1)], 1)
    grid = F.affine_grid(matrix.to(maps), list(maps.shape), align_corners=False)
    return F.grid_sample(maps, grid, align_corners=False)
