"""Forensics Adapter: a small network beside frozen CLIP that finds blending boundaries.

Source: Cui et al., "Forensics Adapter: Adapting CLIP for Generalizable Face Forgery Detection", CVPR 2025, and its
authors' code.

Legend: B batch, Q queries, L patches (G x G), W the adapter's width, D embedding size.
"""

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from resproto_fd.configs.errors import UserError
from resproto_fd.detectors.base import Losses, Output
from resproto_fd.detectors.parts.clip_detector import ClipDetector
from resproto_fd.detectors.parts.clip_tower import Backbone
from resproto_fd.detectors.parts.side_adapter import Adapter, BoundaryMap, frozen_layers, look_where_told, resized
from resproto_fd.detectors.registry import register
from resproto_fd.losses.boundary import blending_boundary, patch_contrast, sample_contrast
from resproto_fd.losses.global_batch import gather_rows
from resproto_fd.losses.precision import at_least_float32


@register("forensics_adapter")
class ForensicsAdapter(ClipDetector):
    """Direct frozen CLIP's attention to blending boundaries by a small adapter network (Cui et al., CVPR 2025).

    Copies of CLIP's class token attend where the adapter's biases point; their output is classified. The losses are
    cross-entropy and a contrast of real images against fakes. With masks there are two more: the mean squared error of
    the blending boundary, and a contrast between a fake's patches on the boundary and its other patches.

    Args:
        backbone: See `clip_tower.Backbone`; a ViT of open_clip.
        queries, width, heads, depth, patch, hidden, out: See `Adapter`.
        joins: CLIP's layers, counted from 1, that join after the adapter's first, second, ... block.
        contrasted: The adapter's blocks, counted from 1, whose patches are contrasted.
        label_weight, mask_weight, patch_weight, sample_weight: Weights of the four losses. Masks are required if the
            second or the third is not 0.
        clip: `pretrained` and `quick_gelu`, see `ClipDetector`.

    Raises:
        UserError: As `ClipDetector`; the tower is of another kind; a layer or block does not exist.
    """

    reads_texts: ClassVar[bool] = False
    """Whether a subclass needs CLIP's text tower."""

    def __init__(
        self,
        backbone: Backbone = "ViT-L-14",
        queries: int = 128,
        width: int = 192,
        heads: int = 3,
        depth: int = 8,
        patch: int = 16,
        hidden: int = 256,
        out: int = 128,
        joins: Sequence[int] = (1, 8, 15),
        contrasted: Sequence[int] = (4, 5, 6),
        label_weight: float = 10.0,
        mask_weight: float = 200.0,
        patch_weight: float = 20.0,
        sample_weight: float = 10.0,
        **clip,
    ):
        super().__init__(backbone, **clip)
        if not self.reads_texts:
            self.clip.drop_text()
        self.clip.requires_grad_(False)
        visual = self.clip.require_vit("forensics_adapter")
        known = visual.transformer.layers
        for name, given, most in (("joins", joins, known), ("contrasted", contrasted, depth)):
            if any(not 1 <= number <= most for number in given) or len(given) > depth:
                raise UserError(
                    f"forensics_adapter: expected at most {depth} {name} between 1 and {most}, got {list(given)}; "
                    f"set model.{name}"
                )
        grid, clip_heads = visual.grid_size[0], visual.transformer.resblocks[0].attn.num_heads
        clip_width = len(visual.class_embedding)
        self.adapter = Adapter(
            grid, clip_width, clip_heads, queries, width, heads, depth, patch, len(joins), hidden, out
        )
        self.boundary = BoundaryMap(grid, queries, width, patch, hidden, out) if mask_weight else None
        self.joins, self.contrasted, self.grid = list(joins), list(contrasted), grid
        self.label_weight, self.mask_weight = label_weight, mask_weight
        self.patch_weight, self.sample_weight = patch_weight, sample_weight
        self.requires = frozenset({"mask"} if mask_weight or patch_weight else ())
        self.couples_batch = bool(sample_weight)
        layers: list[nn.Module] = []
        for before, after in ((queries, queries // 2), (queries // 2, queries // 4)):
            layers += [nn.Conv1d(before, after, 3, padding=1), nn.BatchNorm1d(after), nn.ReLU()]
        self.gather = nn.Sequential(*layers, nn.Conv1d(queries // 4, 1, 3, padding=1))
        size = self.clip.embed_dim
        self.classifier = nn.Sequential(
            nn.Linear(size, size // 2), nn.ReLU(), nn.Linear(size // 2, size // 4), nn.ReLU(), nn.Linear(size // 4, 2)
        )

    def from_authors(self, state: dict[str, Tensor]) -> dict[str, Tensor] | None:
        """See `Detector.from_authors`; names what their checkpoints have and lack.

        Raises:
            UserError: It is such a checkpoint.
        """
        if not any(key.startswith(("rec_attn_clip.", "clip_post_process.")) for key in state):
            return None
        first = next((key for key in state if key.startswith("rec_attn_clip.clip_intra_blocks.")), None)
        raise UserError(
            "a checkpoint of Forensics Adapter's authors cannot be scored here. Their code draws the layers that join "
            "CLIP to the adapter anew in every pass, so that the file lacks them"
            + (f", and {first} {list(state[first].shape)} is of a layer that this detector lacks" if first else "")
            + ". Score it with their code, and read the scores: resproto submit"
        )

    def encode(self, images: Tensor) -> Tensor:
        return self._look(images)[0]

    def encode_with_losses(
        self, images: Tensor, labels: Tensor, mask: Tensor | None = None, **fields: Tensor
    ) -> tuple[Tensor, Losses]:
        """See `Detector.encode_with_losses`; with masks, [B, 1, ., .] in [0, 1], those of boundary and patches."""
        features, asked, after = self._look(images)
        found = None if self.boundary is None else at_least_float32(self.boundary(asked, after[-1]))
        if mask is None:
            # A gradient for data parallelism.
            return features if found is None else features + 0 * found.sum(), {}
        wanted, losses = blending_boundary(resized(mask, self.adapter.side)), {}
        if found is not None:
            losses["mask"] = F.mse_loss(found, wanted), self.mask_weight
        if self.patch_weight:
            forged = F.adaptive_max_pool2d(wanted, self.grid).flatten(1) > 0.5
            parts = [patch_contrast(after[number - 1], forged, labels) for number in self.contrasted]
            losses["patch"] = sum(parts), self.patch_weight
        return features, losses

    def head(self, features: Tensor, labels: Tensor | None = None, **fields: Tensor) -> Output:
        output = super().head(features, labels)
        if labels is not None:
            ce = output.losses["total"]
            output.losses = {"ce": ce, "total": self.label_weight * ce}
            if self.sample_weight:
                found = sample_contrast(gather_rows(features), gather_rows(labels))
                output.add_loss("sample", found, self.sample_weight)
        return output

    def forward(self, images: Tensor, labels: Tensor | None = None, **fields: Tensor) -> Output:
        """See `Detector.forward`; in training also the losses of `encode_with_losses`."""
        if labels is None:
            return self.head(self.encode(images))
        features, losses = self.encode_with_losses(images, labels, **fields)
        output = self.head(features, labels, **fields)
        output.add_losses(losses)
        return output

    def predicted_map(self, images: Tensor) -> Tensor | None:
        """See `Detector.predicted_map`; the blending boundary."""
        if self.boundary is None:
            return None
        _, asked, after = self._look(images)
        return self.boundary(asked, after[-1])[:, 0].clamp(0, 1)

    def _look(self, images: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Features [B, D], and what `Adapter` returns for the queries and the patches."""
        visual = self.clip.visual
        inputs = frozen_layers(visual, resized(images, visual.image_size[0]))
        bias, asked, after = self.adapter(images, [inputs[number][:, 1:] for number in self.joins])
        seen = look_where_told(visual, inputs[:-1], bias)
        return self.gather(F.normalize(seen, dim=-1)).squeeze(1), asked, after
