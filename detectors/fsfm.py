"""FSFM: a ViT that was pretrained on faces without labels, fine-tuned."""

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field
from torch import Tensor

from resproto_fd.configs.errors import UserError
from resproto_fd.detectors.parts.timm_classifier import TimmClassifier
from resproto_fd.detectors.registry import register
from resproto_fd.detectors.weights import load_all, pretrained_skipped, read_state_dict

ENCODER = ("cls_token", "pos_embed", "patch_embed.", "blocks.")
"""Beginnings of the names of the encoder's tensors; a checkpoint of pretraining has decoders and projectors too."""
POOLED = "fc_norm."
"""The layer norm after the mean of the patches, which pretraining does not train."""


@register("fsfm")
class FSFM(TimmClassifier):
    """Fine-tune a ViT that was pretrained on faces (Wang et al., FSFM, CVPR 2025).

    A linear classifier reads the normalised mean of the patches; all parameters train with cross-entropy. The
    pretrained weights are a file of the authors; they are not fetched.

    Args:
        backbone: Name of a plain ViT of timm, without its weights.
        pretrained: File of the authors' pretraining (the online network), or of a fine-tuned network; None for random
            weights. True asks for the file.
        drop_path: Largest share of samples for which a block is left out in training.
        dropout, options: See `TimmClassifier`.

    Raises:
        UserError: As `TimmClassifier`; or no file is given.
    """

    def __init__(
        self,
        backbone: str = "vit_base_patch16_224",
        pretrained: bool | str | None = True,
        drop_path: Annotated[float, Field(ge=0, lt=1)] = 0.1,
        dropout: float = 0.0,
        options: dict[str, Any] | None = None,
    ):
        if pretrained is True and not pretrained_skipped():
            raise UserError(
                "fsfm: expected a file of weights pretrained on faces, got none; download the authors' "
                "checkpoint-400.pth and set model.pretrained=FILE, or model.pretrained=null for random weights"
            )
        layout = {"global_pool": "avg", "drop_path_rate": drop_path}
        super().__init__(backbone, None, dropout, layout | (options or {}))
        if isinstance(pretrained, str) and not pretrained_skipped():
            self._read(pretrained)

    def from_authors(self, state: dict[str, Tensor]) -> dict[str, Tensor] | None:
        """See `Detector.from_authors`; the classes of their detectors are in the order fake, real."""
        found = super().from_authors(state)
        if found is None:
            return None
        return {key: value.flip(0) if key.startswith("classifier.") else value for key, value in found.items()}

    def _read(self, path: str) -> None:
        if not Path(path).is_file():
            raise UserError(f"pretrained: no file {path}; set another one, or null for random weights")
        norm = {key: value for key, value in self.backbone.state_dict().items() if key.startswith(POOLED)}
        state = read_state_dict(path)
        found = {key: value for key, value in state.items() if key.startswith((*ENCODER, POOLED))}
        load_all(self.backbone, norm | found, f"pretrained file {path}")
