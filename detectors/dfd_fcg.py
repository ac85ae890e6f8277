"""DFD-FCG: a network beside CLIP reads clips in space and over time, and looks at lips, skin, eyes and nose.

Source: Han et al., "Towards More General Video-based Deepfake Detection through Facial Component Guided Adaptation for
Foundation Model", CVPR 2025, and its authors' code.

Legend: B clips, T frames, N patches of a frame, W width of CLIP's image tower, C facial components, L layers, K
landmarks; H and W of a picture are pixels.
"""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from resproto_fd.configs.schema import Positive
from resproto_fd.detectors.base import Output, two_class_output
from resproto_fd.detectors.parts.clip_detector import ClipDetector
from resproto_fd.detectors.parts.clip_frames import check_frames
from resproto_fd.detectors.parts.clip_tower import Backbone
from resproto_fd.detectors.parts.facial_components import COMPONENTS, ComponentKeys, component_loss
from resproto_fd.detectors.parts.side_network import SideLayer, clip_layers
from resproto_fd.detectors.registry import register
from resproto_fd.detectors.weights import pretrained_skipped, replaced
from resproto_fd.losses.focal import focal_loss
from resproto_fd.losses.precision import at_least_float32

KERNEL = 5
"""Side of all kernels."""
GAMMA, FOCAL = 4, 10
"""Exponent of the focal loss, and its weight."""
SMALL = 1e-4
"""Added to the mean probability."""
_AUTHORS = (
    (r"^encoder\.model\.", "clip.visual."),
    (r"^encoder\.decoder\.decoder_layers\.(\d+)\.syno_embedding", r"layers.\1.queries"),
    (r"^encoder\.decoder\.decoder_layers\.(\d+)\.t_conv\.", r"layers.\1.over_time."),
    (r"^encoder\.decoder\.decoder_layers\.(\d+)\.t_proj\.", r"layers.\1.mix."),
    (r"^encoder\.decoder\.decoder_layers\.(\d+)\.p_conv\.", r"layers.\1.over_places."),
)
"""Beginnings of the names in the authors' code, and of those here."""


@register("dfd_fcg")
class DfdFcg(ClipDetector):
    """Read frozen CLIP's layers beside it, in space and over time, guided by facial components (Han et al., CVPR 2025).

    In each layer, queries gather the tokens of patches whose keys are like them (spatial module), and convolutions read
    how alike the patches of one place are in each two frames (temporal module). What the modules find is added up over
    the layers. One linear classifier reads the spatial sum, one the temporal sum, one both; the score is the mean of
    their probabilities. All three train by a focal loss.

    The queries start at CLIP's mean keys at lips, skin, eyes and nose of real faces. A loss holds each to its own
    component (FCG). The mean keys come from a file, or are gathered in the first steps of training: from each frame of
    a real clip, in a random view, at the landmarks. Until that is done the queries follow the means.

    Args:
        backbone: See `clip_tower.Backbone`; a ViT of open_clip.
        frames: T, as `input.frames`.
        components: A file of mean keys, see `ComponentKeys.read`. None: they are gathered.
        guidance: Weight of the loss that holds the queries. With 0 and no file, the queries start at random, and no
            landmarks are needed.
        gathering: Number of steps in which mean keys are gathered.
        clip: `pretrained` and `quick_gelu`, see `ClipDetector`.

    Raises:
        UserError: As `ClipDetector` and `ComponentKeys.read`; or the backbone is not a ViT of open_clip.
    """

    clips = True

    def __init__(
        self,
        backbone: Backbone = "ViT-L-14",
        frames: Positive = 10,
        components: str | None = None,
        guidance: Annotated[float, Field(ge=0)] = 1.5,
        gathering: Positive = 10,
        **clip,
    ):
        super().__init__(backbone, **clip)
        self.clip.drop_text()
        visual = self.clip.require_vit("dfd_fcg")
        visual.proj = None
        self.freeze("clip")
        blocks, width = visual.transformer.resblocks, visual.class_embedding.numel()
        self.frames, self.guidance, self.gathering = frames, guidance, gathering
        heads, places = blocks[0].attn.num_heads, visual.grid_size[0] * visual.grid_size[1]
        self.layers = nn.ModuleList(SideLayer(width, heads, frames, len(COMPONENTS), KERNEL) for _ in blocks)
        self.s_ln, self.s_head = nn.LayerNorm(width), nn.Linear(width, 2)
        self.t_ln, self.t_head = nn.LayerNorm(places), nn.Linear(places, 2)
        self.a_head = nn.Linear(width + places, 2)
        self.component_keys = ComponentKeys(len(blocks), width)
        self.requires = frozenset({"landmarks"} if guidance and components is None else ())
        self._step = 0
        if components is not None and not pretrained_skipped():
            self.component_keys.read(components)
            self._follow_components()

    def from_authors(self, state: dict[str, Tensor]) -> dict[str, Tensor] | None:
        """See `Detector.from_authors`; their names hold no components, which scores do not need."""
        if not any(key.startswith("encoder.decoder.decoder_layers.") for key in state):
            return None
        own = ("clip.logit_scale", "component_keys.")
        found = {key: value for key, value in self.state_dict().items() if key.startswith(own)}
        found |= {replaced(key, _AUTHORS): value for key, value in state.items()}
        return found | {"clip.quick_gelu": torch.tensor(True)}

    def start_step(self, step: int, frames: Tensor) -> None:
        self._step = step

    def encode(self, images: Tensor) -> Tensor:
        """Sums over the layers of what the modules find, the spatial one first: [B, T, 3, H, W] -> [B, W + N]"""
        check_frames(images, self.frames, "dfd_fcg", "frames")
        found = clip_layers(self.clip, images.flatten(0, 1))
        read = [layer(given, len(images)) for layer, given in zip(self.layers, found, strict=True)]
        return torch.cat([sum(part) for part in zip(*read, strict=True)], dim=1)

    def head(self, features: Tensor, labels: Tensor | None = None, **fields: Tensor) -> Output:
        space, time = features.split([self.s_head.in_features, self.t_head.in_features], dim=1)
        space, time = self.s_ln(space), self.t_ln(time)
        each = self.s_head(space), self.t_head(time), self.a_head(torch.cat([space, time], dim=1))
        each = [at_least_float32(logits) for logits in each]
        mean = sum(logits.softmax(dim=1) for logits in each) / len(each)
        output = two_class_output((mean + SMALL).log(), features)
        if labels is not None:
            focal = focal_loss(torch.cat(each), labels.repeat(len(each)), GAMMA)
            output.losses = {"focal": focal, "total": FOCAL * focal}
            if self.guidance:
                queries = torch.stack([layer.queries for layer in self.layers])
                output.add_loss("guidance", component_loss(queries, self.component_keys.means()), self.guidance)
        return output

    def forward(
        self, images: Tensor, labels: Tensor | None = None, landmarks: Tensor | None = None, **fields: Tensor
    ) -> Output:
        """See `Detector.forward`; in the first training steps it gathers the components at landmarks [B, T, K, 2]."""
        if self.training and landmarks is not None and self._step < self.gathering:
            real = (labels == 0).repeat_interleave(images.shape[1])
            self.component_keys.gather(self.clip, images.flatten(0, 1), landmarks.flatten(0, 1), real)
            self._follow_components()
        return super().forward(images, labels)

    @torch.no_grad()
    def _follow_components(self) -> None:
        seen = self.component_keys.counts[:, None] > 0
        for layer, found in zip(self.layers, self.component_keys.means(), strict=True):
            layer.queries.copy_(torch.where(seen, found, layer.queries))
