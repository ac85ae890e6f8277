"""X-CLIP: CLIP's image tower, whose frames exchange messages.

Legend: B clips, T frames, H and W pixels, D width.
"""

from functools import partial

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from resproto_fd.configs.schema import Positive
from resproto_fd.detectors.parts.clip_frames import check_groups
from resproto_fd.detectors.parts.temporal_attention import FrameMessages
from resproto_fd.detectors.parts.timm_classifier import TimmClassifier
from resproto_fd.detectors.parts.transformers_names import transformers_xclip
from resproto_fd.detectors.registry import register


@register("xclip")
class XClip(TimmClassifier):
    """Classify a clip by CLIP's image tower with messages between frames (Ni et al., ECCV 2022).

    In each block every frame writes a message from its class token. The messages of a group of frames attend to each
    other, and each frame then attends to its own message. This is the paper's cross-frame transformer. Its multi-frame
    transformer and its prompts of text, which name actions, are left out: the class tokens' mean over the frames is
    normalised and classified with cross-entropy, as in DeepfakeBench.

    Args:
        backbone: An image tower of CLIP in timm.
        group: Frames that exchange messages. A clip has a multiple of them.
        timm: `pretrained` (of the tower), `dropout` and `options`, see `TimmClassifier`.
    """

    clips = True

    def __init__(self, backbone: str = "vit_base_patch32_clip_quickgelu_224.openai", group: Positive = 8, **timm):
        super().__init__(backbone, **timm)
        self.group = group
        self.messages = nn.ModuleList(FrameMessages(block) for block in self.backbone.blocks)
        self.norm = nn.LayerNorm(self.backbone.embed_dim)

    def from_deepfakebench(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """See `Detector.from_deepfakebench`; its names are those of Hugging Face's X-CLIP, of version 4 or 5."""
        tower = "backbone."
        inner = {k.removeprefix(tower): v for k, v in state.items() if k.startswith(tower)}
        named = transformers_xclip({key.removeprefix("vision_model."): value for key, value in inner.items()})
        found = {key if key.startswith("messages.") else f"backbone.{key}": v for key, v in named.items()}
        rest = {key: value for key, value in state.items() if not key.startswith(tower)}
        return found | {k.replace("fc_norm.", "norm.").replace("head.", "classifier.1."): v for k, v in rest.items()}

    def encode(self, images: Tensor) -> Tensor:
        """Normalised mean of the frames' class tokens: [B, T, 3, H, W] -> [B, D]"""
        check_groups(images, self.group, "xclip", "group")
        net = self.backbone
        run = partial(checkpoint, use_reentrant=False) if net.grad_checkpointing else lambda part, *args: part(*args)
        tokens = net.norm_pre(net._pos_embed(net.patch_embed(images.flatten(0, 1))))
        for block, messages in zip(net.blocks, self.messages, strict=True):
            tokens = run(messages, block, tokens, self.group)
        return self.norm(net.norm(tokens[:, 0]).unflatten(0, images.shape[:2]).mean(dim=1))
