"""EfficientNet-B4 as in DeepfakeBench (Tan & Le, ICML 2019): its padding is that of 380 pixels."""

from timm.models import checkpoint_seq
from torch import Tensor, nn
from torch.nn import functional as F

from resproto_fd.detectors.parts.deepfakebench_names import efficientnet
from resproto_fd.detectors.parts.timm_classifier import TimmClassifier
from resproto_fd.detectors.weights import two_outputs

STRIDED = {
    "blocks.1.0": (0, 1, 0, 1),
    "blocks.2.0": (2, 2, 2, 2),
    "blocks.3.0": (0, 1, 0, 1),
    "blocks.5.0": (1, 2, 1, 2),
}
"""Padding (left, right, top, bottom) of the depthwise convolutions of stride 2, as TensorFlow pads 380 pixels."""

STEM = (0, 1, 0, 1)
"""The same of the stem, in efficientnet_pytorch; DeepfakeBench's stem has none."""


class EfficientNetB4(TimmClassifier):
    """timm's EfficientNet-B4 with DeepfakeBench's padding: none in the stem, that of 380 pixels in the strided blocks.

    Args:
        timm: `pretrained`, `dropout` and `options`, see `TimmClassifier`; the ImageNet weights are ported from
            TensorFlow.
    """

    def __init__(self, **timm):
        super().__init__("tf_efficientnet_b4.aa_in1k", **timm)
        stem = self.backbone.conv_stem
        self.backbone.conv_stem = _unpadded(stem)
        for name, padding in STRIDED.items():
            block = self.backbone.get_submodule(name)
            block.conv_dw = _unpadded(block.conv_dw)
            block.conv_dw.register_forward_pre_hook(_padding(padding))

    def from_authors(self, state: dict[str, Tensor]) -> dict[str, Tensor] | None:
        """See `Detector.from_authors`; efficientnet_pytorch's names, as SBI's. Its stem pads, and then so does this."""
        if "_conv_stem.weight" not in state:
            return super().from_authors(state)
        stem = self.backbone.conv_stem
        if not stem._forward_pre_hooks:
            stem.register_forward_pre_hook(_padding(STEM))
        named = {}
        for key, value in state.items():
            if key.startswith("_fc."):
                named[key.replace("_fc.", "classifier.1.")] = two_outputs(value)
            else:
                named[efficientnet(f"backbone.efficientnet.{key}")] = value
        return named


def stages(backbone: nn.Module, x: Tensor, start: int, stop: int | None = None) -> Tensor:
    """Run some of the seven stages of an EfficientNet, with activation checkpointing if it is set."""
    blocks = backbone.blocks[start:stop]
    return checkpoint_seq(blocks, x, flatten=True) if backbone.grad_checkpointing else blocks(x)


def _unpadded(convolution: nn.Conv2d) -> nn.Conv2d:
    """The same weights in a plain convolution without padding (timm's pads by the size of its input)."""
    plain = nn.Conv2d(
        convolution.in_channels,
        convolution.out_channels,
        convolution.kernel_size,
        convolution.stride,
        groups=convolution.groups,
        bias=False,
    )
    plain.weight = convolution.weight
    return plain


def _padding(sizes: tuple[int, ...]):
    def pad(module: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
        return (F.pad(args[0], sizes),)

    return pad
