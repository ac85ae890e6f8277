"""CLIP from open_clip: finds and reads weights safely, and encodes prompts.

Legend: B batch, C classes, D embedding size, H and W pixels, N texts, T tokens of a text, V size of a word's vector.
"""

import warnings
from collections.abc import Callable, Iterable, Sequence
from copy import deepcopy
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Literal

import open_clip
import timm
import torch
from open_clip.model import CustomTextCLIP, convert_to_custom_text_state_dict
from open_clip.modified_resnet import ModifiedResNet
from open_clip.transformer import QuickGELU, VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from resproto_fd.configs.errors import UnreadableFile, UserError, WrongInput, shown
from resproto_fd.configs.readers.json_reader import read_json_object
from resproto_fd.configs.suggestions import nearest
from resproto_fd.detectors.parts.transformers_names import transformers_clip
from resproto_fd.detectors.weights import fetch, load_all, pretrained_skipped, read_state_dict

Backbone = str | dict[str, Any]
"""Name of an open_clip model, path of an open_clip JSON, or the layout {embed_dim, vision_cfg, text_cfg} itself."""

Prompts = dict[Literal["real", "forged"], list[str]]
"""Texts of the two classes; a class that is not given takes those of Table 1 of the ResProto-FD paper."""

REAL_PROMPTS = [
    "This is an example of a real face",
    "This is a real face",
    "This is how a real face looks like",
    "a photo of a real face",
]
FORGED_PROMPTS = [
    "This is an example of a forged face",
    "This is a synthetic face",
    "This is how a manipulated face looks like",
    "a photo of an artificial face",
]
"""Table 1 of the ResProto-FD paper."""

OPENAI_MARKS = ("input_resolution", "context_length", "vocab_size")
"""Entries beside the weights that only OpenAI's own files have."""


class Clip(nn.Module):
    """CLIP model that maps images [B, 3, H, W] to embeddings [B, D], projected, not normalised.

    The buffer `quick_gelu` keeps the activation with the weights. QuickGELU (x * sigmoid(1.702 x)), with which OpenAI
    trained, has no parameters. Weights loaded under the other activation would silently give other numbers.

    Attributes:
        visual: Image tower of open_clip.
        text: Text tower of open_clip, token ids [N, T] -> [N, D]; None after `drop_text`.
        logit_scale: ln of CLIP's temperature factor, scalar.
    """

    def __init__(
        self, model: CustomTextCLIP, tokenizer: Callable[[list[str]], Tensor], embed_dim: int, quick_gelu: bool
    ):
        super().__init__()
        self.visual = model.visual
        self.text = model.text
        self.logit_scale = nn.Parameter(model.logit_scale.detach().reshape(()))
        self.tokenizer = tokenizer
        self.embed_dim = embed_dim
        self.register_buffer("quick_gelu", torch.tensor(quick_gelu))
        self.register_load_state_dict_post_hook(lambda clip, _: clip._follow_quick_gelu())

    def forward(self, images: Tensor) -> Tensor:
        """Embeddings [B, D] of normalised images [B, 3, H, W].

        Raises:
            WrongInput: The image tower has position embeddings for another image size.
        """
        self.check_size(images)
        return self.visual(images)

    def layers(self, images: Tensor) -> tuple[list[Tensor], Tensor]:
        """A feature of the whole image from each layer, L tensors [B, W], and the embeddings [B, D] of `forward`.

        A ViT gives the class token after each block; a ResNet the mean over the maps of its stem and its stages.

        Raises:
            UserError: The tower is neither a ViT nor a ResNet of open_clip; or as `forward`.
        """
        self.check_size(images)
        if isinstance(self.visual, VisionTransformer):
            found = self.visual.forward_intermediates(images, output_extra_tokens=True)
            return [tokens[:, 0] for tokens in found["image_intermediates_prefix"]], found["image_features"]
        if isinstance(self.visual, ModifiedResNet):
            found = self.visual.forward_intermediates(images)
            return [maps.mean(dim=(2, 3)) for maps in found["image_intermediates"]], found["image_features"]
        kind = type(self.visual).__name__
        raise UserError(f"expected a ViT or ResNet of open_clip, got {kind}; set model.backbone")

    def tokens(self, images: Tensor) -> Tensor:
        """Embeddings of a ViT's class token and patches, in this order, projected alike, [B, 1 + L, D].

        Raises:
            WrongInput: As `forward`.
        """
        self.check_size(images)
        last = {"indices": 1, "normalize_intermediates": True, "intermediates_only": True}
        found = self.visual.forward_intermediates(images, **last, output_fmt="NLC", output_extra_tokens=True)
        names = "image_intermediates_prefix", "image_intermediates"
        return torch.cat([found[name][0] for name in names], dim=1) @ self.visual.proj

    @torch.no_grad()
    def text_features(self, prompts: Iterable[Sequence[str]]) -> Tensor:
        """One unit vector for each class, [C, D]: the L2-normalised mean of its prompts' raw embeddings."""
        self.text.eval()
        return F.normalize(torch.stack([self.text(self.tokenizer(list(p))).mean(dim=0) for p in prompts]), dim=-1)

    def class_features(self, prompts: Prompts | None = None) -> Tensor:
        """`text_features` of real and forged faces, [2, D]; see `Prompts`."""
        texts = {"real": REAL_PROMPTS, "forged": FORGED_PROMPTS, **(prompts or {})}
        return self.text_features([texts["real"], texts["forged"]])

    def require_vit(self, name: str) -> VisionTransformer:
        """The image tower, for a detector that works on its blocks.

        Args:
            name: Name of the detector, for the message.

        Raises:
            UserError: It is not a ViT of open_clip.
        """
        if not isinstance(self.visual, VisionTransformer):
            kind = type(self.visual).__name__
            raise UserError(f"{name}: expected a ViT of open_clip, got {kind}; set model.backbone")
        return self.visual

    def require_words(self, name: str) -> int:
        """Size of the text tower's word embeddings, V, for a detector that replaces words by vectors.

        Args:
            name: Name of the detector, for the message.

        Raises:
            UserError: The tower is not open_clip's own.
        """
        if not hasattr(self.text, "token_embedding"):
            raise UserError(f"{name}: {type(self.text).__name__} has no word embeddings that can be replaced")
        return self.text.token_embedding.embedding_dim

    def text_with(self, tokens: Tensor, places: Tensor, words: Tensor) -> Tensor:
        """Embeddings [N, D] of texts in which vectors stand for some words.

        Args:
            tokens: [N, T].
            places: Whether the word at a place is replaced, [T].
            words: The vectors for all places, [N, T, V], or of a shape that extends to it.
        """

        def replaced(module: nn.Module, args: tuple[Tensor], found: Tensor) -> Tensor:
            return torch.where(places[:, None], words.to(found.dtype), found)

        handle = self.text.token_embedding.register_forward_hook(replaced)
        try:
            return self.text(tokens)
        finally:
            handle.remove()

    def drop_text(self) -> None:
        """Remove the text tower when it is no longer needed."""
        self.text = None

    def check_size(self, images: Tensor) -> None:
        """Check that images [B, 3, H, W] have the size of the position embeddings.

        Raises:
            WrongInput: They have another size.
        """
        fixed = hasattr(self.visual, "positional_embedding") or hasattr(self.visual, "attnpool")
        size = self.visual.image_size
        size = tuple(size) if isinstance(size, Sequence) else (size, size)
        if fixed and tuple(images.shape[-2:]) != size:
            given = tuple(images.shape[-2:])
            raise WrongInput(f"this CLIP expected images of {size}, got {given}; set input.size={size[0]}")

    def _follow_quick_gelu(self) -> None:
        wanted, other = (QuickGELU, nn.GELU) if self.quick_gelu else (nn.GELU, QuickGELU)
        for tower in (self.visual, self.text):
            if hasattr(tower, "transformer"):  # ResNets and timm's towers have no such choice
                for block in tower.transformer.modules():
                    for name, child in list(block.named_children()):
                        if type(child) is other:
                            setattr(block, name, wanted())


def load_clip(backbone: Backbone, pretrained: str | None = "openai", quick_gelu: bool | None = None) -> Clip:
    """A CLIP model of open_clip in float32.

    Args:
        backbone: See `Backbone`.
        pretrained: "openai" or another tag that open_clip knows for this backbone; a file (OpenAI's .pt, open_clip's
            .bin, .pt or .safetensors, or that of transformers' CLIPModel); None for random weights, drawn from the
            global generator.
        quick_gelu: The activation. None takes it from the tag, from OpenAI's file, from an `open_clip_config.json`
            (transformers: `config.json`) beside the file, or else from the backbone's layout.

    Raises:
        UserError: The backbone or tag is unknown, open_clip refuses the layout, or weights are missing or do not fit.
    """
    layout = _layout(backbone)
    path, stated = _find_weights(backbone, pretrained)
    state = None if path is None else read_state_dict(path)
    if state is not None and stated is None:
        stated = _activation_of_file(path, state)
        if stated is None and quick_gelu is None and "quick_gelu" not in layout:
            warnings.warn(
                f"{path} does not say which activation it was trained with; using GELU, as {_title(backbone)} does. "
                "For weights made from OpenAI's, set model.quick_gelu=true",
                stacklevel=2,
            )
    chosen = next(v for v in (quick_gelu, stated, layout.get("quick_gelu"), False) if v is not None)
    model = _build({**layout, "quick_gelu": chosen}, backbone)
    if state is not None:
        load_all(model, _as_custom_text(state), f"pretrained file {path}")
    return Clip(model, _tokenizer(backbone, layout), layout["embed_dim"], chosen)


def _title(backbone: Backbone) -> str:
    return f"'{backbone}'" if isinstance(backbone, str) else "the given layout"


def _layout(backbone: Backbone) -> dict[str, Any]:
    if isinstance(backbone, dict):
        layout = deepcopy(backbone)
    elif backbone.endswith(".json"):
        try:
            layout = read_json_object(backbone)
        except UnreadableFile as error:
            raise UserError(f"backbone {error}") from error
        layout = layout.get("model_cfg", layout)
        if not isinstance(layout, dict):
            raise UserError(f"backbone {backbone}: model_cfg: expected a CLIP layout, got {shown(layout)}")
    else:
        known = open_clip.list_models()
        if backbone not in known:
            raise UserError(f"open_clip has no model '{backbone}' among its {len(known)}{nearest(backbone, known)}")
        layout = open_clip.get_model_config(backbone)
    for key, kind in (("embed_dim", int), ("vision_cfg", dict), ("text_cfg", dict)):
        if not isinstance(layout.get(key), kind):
            raise UserError(
                f"backbone: expected a CLIP layout with embed_dim, vision_cfg and text_cfg; {key} is missing or wrong"
            )
    if not isinstance(backbone, str) or backbone.endswith(".json"):
        _refuse_fetching(layout)
    if "multimodal_cfg" in layout:
        raise UserError(f"backbone {_title(backbone)}: expected a CLIP model, got a captioner (CoCa)")
    for key in ("custom_text", "init_logit_bias"):  # of open_clip's factory, of SigLIP's loss
        layout.pop(key, None)
    return layout


def _refuse_fetching(layout: dict[str, Any]) -> None:
    """Refuses a layout of the user's own that open_clip would complete with files of others, some of them code."""
    fetched = sorted(key for key in layout["text_cfg"] if key.startswith("hf_") or key == "tokenizer_kwargs")
    tower = layout["vision_cfg"].get("timm_model_name")
    if fetched:
        raise UserError(f"backbone: text_cfg: {', '.join(fetched)}: only with a model that open_clip names itself")
    if tower is not None and not (isinstance(tower, str) and timm.is_model(tower)):
        raise UserError(f"backbone: vision_cfg.timm_model_name: timm has no model {tower!r}")


def _build(layout: dict[str, Any], backbone: Backbone) -> CustomTextCLIP:
    if layout["vision_cfg"].get("timm_model_name"):
        layout["vision_cfg"]["timm_model_pretrained"] = False  # else open_clip would download ImageNet weights
    if layout["text_cfg"].get("hf_model_name"):
        layout["text_cfg"]["hf_model_pretrained"] = False
    try:
        return CustomTextCLIP(**layout)
    except Exception as error:
        raise UserError(f"backbone {_title(backbone)}: open_clip cannot build it: {error}") from error


def _tokenizer(backbone: Backbone, layout: dict[str, Any]) -> Callable[[list[str]], Tensor]:
    text = layout["text_cfg"]
    if not text.get("hf_tokenizer_name") and not text.get("tokenizer_kwargs"):
        return partial(_token_ids, context_length=text.get("context_length", 77))
    try:
        return open_clip.get_tokenizer(backbone)
    except Exception as error:
        raise UserError(f"backbone {_title(backbone)}: its tokenizer cannot be loaded: {error}") from error


def _token_ids(texts: list[str], context_length: int) -> Tensor:
    return _vocabulary()(texts, context_length)


@lru_cache(maxsize=1)
def _vocabulary() -> open_clip.SimpleTokenizer:
    """The tokenizer shared by all towers, since its two tables have some 49,000 entries each."""
    return open_clip.SimpleTokenizer()


def _find_weights(backbone: Backbone, pretrained: str | None) -> tuple[Path | None, bool | None]:
    """(file, or None for random weights; the activation if a tag states it)."""
    tags = open_clip.list_pretrained_tags_by_model(backbone) if isinstance(backbone, str) else []
    if pretrained in tags:
        source = open_clip.get_pretrained_cfg(backbone, pretrained)
        path = None if pretrained_skipped() else _fetch(backbone, pretrained, source)
        return path, bool(source.get("quick_gelu", False))
    if pretrained is None or pretrained_skipped():
        return None, None
    if Path(pretrained).is_file():
        return Path(pretrained), None
    choices = f"a tag of {_title(backbone)} ({', '.join(tags)})" if tags else f"a tag ({_title(backbone)} has none)"
    raise UserError(
        f"pretrained '{pretrained}' is neither {choices} nor a file{nearest(pretrained, tags)}; "
        "set pretrained: null for random weights"
    )


def _fetch(backbone: str, tag: str, source: dict[str, Any]) -> Path:
    repository, _, name = source.get("hf_hub", "").rpartition("/")
    names = [name] if name else ["open_clip_model.safetensors", "open_clip_pytorch_model.bin"]
    remedy = "set model.pretrained=/path/to/the/file"
    if source.get("quick_gelu"):
        remedy += " (and model.quick_gelu=true, unless it is OpenAI's .pt)"
    return fetch(f"pretrained '{tag}' of {backbone}", repository, names, source.get("url", ""), remedy)


def _activation_of_file(path: Path, state: dict[str, Tensor]) -> bool | None:
    if any(mark in state for mark in OPENAI_MARKS):
        return True
    if "vision_model.embeddings.class_embedding" in state:
        layout = path.with_name("config.json")
        if not layout.is_file():
            return None
        layout = read_json_object(layout)
        vision = layout.get("vision_config") or layout
        return isinstance(vision, dict) and vision.get("hidden_act", "quick_gelu") == "quick_gelu"
    beside = path.with_name("open_clip_config.json")
    if beside.is_file():
        layout = read_json_object(beside)
        layout = layout.get("model_cfg", layout)
        return isinstance(layout, dict) and bool(layout.get("quick_gelu", False))
    return None


def _as_custom_text(state: dict[str, Tensor]) -> dict[str, Tensor]:
    # Masks are constants, stored as attributes in OpenAI's archive; a logit bias belongs to SigLIP's loss.
    dropped = (*OPENAI_MARKS, "logit_bias")
    state = {k: v for k, v in state.items() if k not in dropped and not k.endswith(("attn_mask", "position_ids"))}
    if any(key.startswith("vision_model.") for key in state):
        return transformers_clip(state)
    return convert_to_custom_text_state_dict(state)
