"""VideoMAE: a ViT over tubes of a clip, pre-trained by reconstructing masked tubes.

Legend: B clips, T frames, H and W pixels, D width.
"""

from torch import Tensor, nn

from resproto_fd.detectors.base import Detector
from resproto_fd.detectors.parts.transformers_names import transformers_vit
from resproto_fd.detectors.parts.tube_encoder import TubeEncoder
from resproto_fd.detectors.registry import register
from resproto_fd.detectors.weights import fetch, load_all, pretrained_skipped, read_state_dict

PUBLISHED = "MCG-NJU/videomae-base"


@register("videomae")
class VideoMAE(Detector):
    """Fine-tune VideoMAE's encoder under a linear classifier (Tong et al., NeurIPS 2022).

    A clip is cut into tubes of two frames. All tubes attend to each other; their mean is normalised and classified with
    cross-entropy. The encoder was trained on Kinetics-400 to reconstruct tubes that were masked. The mean of all tubes
    is read, and nothing is masked, as in the paper's fine-tuning.

    Args:
        pretrained: True for the published weights of the encoder; a file in Hugging Face's naming (a decoder and a
            classifier are left out); False or None for random weights.
        width, depth, heads, patch, tube: See `TubeEncoder`.

    Raises:
        UserError: The weights are not available or do not fit.
    """

    clips = True

    def __init__(
        self,
        pretrained: bool | str | None = True,
        width: int = 768,
        depth: int = 12,
        heads: int = 12,
        patch: int = 16,
        tube: int = 2,
    ):
        super().__init__()
        self.backbone = TubeEncoder(width, depth, heads, patch, tube)
        self.norm = nn.LayerNorm(width)
        self.classifier = nn.Linear(width, 2)
        if pretrained and not pretrained_skipped():
            names = ("model.safetensors", "pytorch_model.bin")
            path = pretrained
            if pretrained is True:
                path = fetch("VideoMAE's weights", PUBLISHED, names, "", "set model.pretrained=/path/to/the/file")
            state = {key.removeprefix("videomae."): value for key, value in read_state_dict(path).items()}
            state = {key: value for key, value in state.items() if key.startswith(("embeddings.", "encoder."))}
            load_all(self.backbone, _named(state), str(path))

    def from_deepfakebench(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """See `Detector.from_deepfakebench`; its names are those of Hugging Face's VideoMAE."""
        prefix = "backbone."
        tower = _named({key.removeprefix(prefix): v for key, v in state.items() if key.startswith(prefix)})
        rest = {key: value for key, value in state.items() if not key.startswith(prefix)}
        rest = {k.replace("fc_norm.", "norm.").replace("head.", "classifier."): v for k, v in rest.items()}
        return {prefix + key: value for key, value in tower.items()} | rest

    def encode(self, images: Tensor) -> Tensor:
        """Normalised mean of the tubes: [B, T, 3, H, W] -> [B, D]"""
        return self.norm(self.backbone(images).mean(dim=1))


def _named(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of Hugging Face's encoder under the names of `TubeEncoder`."""
    return {k.replace("patch_embed.proj.", "patch_embed."): v for k, v in transformers_vit(state).items()}
