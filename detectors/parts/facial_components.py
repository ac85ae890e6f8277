"""Facial components: where they are in a picture, what CLIP's keys are there, and queries that are held to these keys.

Source: Han et al., "Towards More General Video-based Deepfake Detection through Facial Component Guided Adaptation for
Foundation Model", CVPR 2025, and its authors' code.

Legend: F pictures, K landmarks, M points of a component, C components, L layers, G patches a side, W width, S side of
the pictures in pixels. Places in a picture are (x, y) from -1, its left and top, to 1.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from resproto_fd.configs.errors import UserError
from resproto_fd.detectors.parts.clip_tower import Clip
from resproto_fd.detectors.parts.side_network import clip_layers
from resproto_fd.detectors.weights import read_state_dict
from resproto_fd.losses.global_batch import gather_rows
from resproto_fd.losses.precision import at_least_float32, without_autocast

OF_68 = {"lips": (*range(61, 64), *range(65, 68)), "skin": range(17), "eyes": range(36, 48), "nose": range(27, 31)}
"""Landmarks of each component among 68: the inner edge of the lips, the jaw, the eyes and the ridge of the nose."""
COMPONENTS = tuple(OF_68)
AREA = (0.5, 0.7)
"""Least and largest share of a picture that a random view shows."""
TEMPERATURE = 30
"""Factor of the cosines of queries with components."""


class ComponentKeys(nn.Module):
    """Mean of CLIP's unit keys at each component, in each layer.

    Args:
        layers, width: L and W.
    """

    def __init__(self, layers: int, width: int):
        super().__init__()
        self.register_buffer("sums", torch.zeros(layers, len(COMPONENTS), width))
        self.register_buffer("counts", torch.zeros(len(COMPONENTS)))

    def means(self) -> Tensor:
        """[L, C, W]; 0 for a component that has not been seen."""
        return self.sums / self.counts.clamp(min=1)[:, None]

    @torch.no_grad()
    def gather(self, clip: Clip, pictures: Tensor, landmarks: Tensor, used: Tensor) -> None:
        """Add the keys at the landmarks in a random view of each picture, of all processes.

        Args:
            clip: Its image tower is a ViT of open_clip.
            pictures: Normalised, [F, 3, S, S].
            landmarks: In pixels, [F, K, 2].
            used: Whether a picture counts, [F].

        Raises:
            UserError: As `component_points`.
        """
        views, points = random_views(pictures, component_points(landmarks, pictures.shape[-1]))
        places = (on_patches(points, clip.visual.grid_size[0]) * used[:, None, None]).to(self.sums.dtype)
        sums = []
        for layer in clip_layers(clip, views):
            keys = F.normalize(layer.key.flatten(2).to(places.dtype), dim=-1)
            with without_autocast(keys):
                sums.append(torch.einsum("fcn,fnw->cw", places, keys))
        self.sums += gather_rows(torch.stack(sums)[None]).sum(dim=0)
        self.counts += gather_rows(places.sum(dim=(0, 2))[None]).sum(dim=0)

    def read(self, path: str) -> None:
        """Take the means from a file with a tensor [L, W] for each component by name.

        Raises:
            UserError: The file cannot be read, or a component is missing or has another shape.
        """
        state, shape = read_state_dict(path), [len(self.sums), self.sums.shape[2]]
        for name in COMPONENTS:
            got = "none" if name not in state else list(state[name].shape)
            if got != shape:
                raise UserError(
                    f"{path}: expected a tensor {name} of {shape} (layers, width), got {got}; set model.components to "
                    "a file made for this model.backbone"
                )
        self.sums.copy_(torch.stack([state[name] for name in COMPONENTS], dim=1))
        self.counts.fill_(1)


def component_loss(queries: Tensor, components: Tensor) -> Tensor:
    """Cross-entropy of telling by its cosines which component of its layer each query belongs to, a scalar.

    Args:
        queries, components: [L, C, W].
    """
    with without_autocast(queries):
        queries, components = (F.normalize(at_least_float32(each), dim=-1) for each in (queries, components))
        cosines = queries @ components.mT
    own = torch.arange(queries.shape[1], device=queries.device).repeat(len(queries))
    return F.cross_entropy(TEMPERATURE * cosines.flatten(0, 1), own)


def component_points(landmarks: Tensor, side: int) -> list[Tensor]:
    """Places of each component, [F, M, 2], in the order of `COMPONENTS`.

    Five landmarks (eyes, tip of the nose, corners of the mouth) have no jaw. The skin is then read at both cheeks,
    midway between an eye and a corner of the mouth.

    Args:
        landmarks: In pixels, [F, K, 2].
        side: S.

    Raises:
        UserError: There are neither five landmarks nor at least 68.
    """
    count, places = landmarks.shape[1], 2 * landmarks / side - 1
    if count == 5:
        cheeks = (places[:, :2] + places[:, 3:]) / 2
        return [places[:, 3:], cheeks, places[:, :2], places[:, 2:3]]
    if count < 68:
        raise UserError(
            f"expected 5 landmarks or at least 68, got {count}; crop the training frames with `resproto faces`"
        )
    return [places[:, list(points)] for points in OF_68.values()]


def random_views(pictures: Tensor, points: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """A random square part of each picture, turned by quarters and mirrored, so that components are at all places.

    Args:
        pictures: [F, 3, S, S].
        points: Places, [F, M, 2] each; those outside the view are beyond -1 or 1 afterwards.

    Returns:
        [F, 3, S, S], and the same points in the views.
    """
    count, device = len(pictures), pictures.device
    scale = torch.empty(count, 1, 1, device=device).uniform_(*AREA).sqrt()
    shift = (1 - scale) * (2 * torch.rand(count, 2, 1, device=device) - 1)
    turn = torch.pi / 2 * torch.randint(4, (count,), device=device)
    cosine, sine = turn.cos().round(), turn.sin().round()
    turned = torch.stack([torch.stack([cosine, -sine], dim=1), torch.stack([sine, cosine], dim=1)], dim=1)
    mirrored = 1 - 2 * torch.randint(2, (count, 1), device=device)
    turned = turned * torch.cat([mirrored, torch.ones_like(mirrored)], dim=1)[:, None]
    moves = torch.cat([scale * turned, shift], dim=2).to(pictures.dtype)
    grid = F.affine_grid(moves, list(pictures.shape), align_corners=False)
    views = F.grid_sample(pictures, grid, padding_mode="border", align_corners=False)
    # A view's place u shows the picture's place scale * turned u + shift, and `turned` is orthogonal.
    return views, [(place - shift.mT) / scale @ turned for place in points]


def on_patches(points: Sequence[Tensor], grid: int) -> Tensor:
    """How many points of each component lie on each patch, [F, C, G * G].

    Args:
        points: Places of each component, [F, M, 2].
        grid: G.
    """
    found = []
    for place in points:
        cell = ((place + 1) / 2 * grid).floor().long()
        inside = ((cell >= 0) & (cell < grid)).all(dim=-1, keepdim=True)
        number = (cell[..., 1] * grid + cell[..., 0])[..., None]
        found.append(((number == torch.arange(grid**2, device=place.device)) & inside).sum(dim=1))
    return torch.stack(found, dim=1)
