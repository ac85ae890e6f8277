"""Low-rank adaptation of CLIP's towers by the peft library (Hu et al., LoRA, ICLR 2022).

Legend: B batch, T tokens, D width.
"""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from resproto_fd.configs.errors import UserError

ATTENTION = ("q_proj", "k_proj", "v_proj", "out_proj")


class ProjectedAttention(nn.Module):
    """`nn.MultiheadAttention` with separate linear layers for query, key, value and output, which can be adapted.

    It computes the same numbers as the given attention, apart from rounding, and has the call of open_clip's blocks.

    Args:
        attention: Self-attention over one width, with biases; its weights are copied.
    """

    def __init__(self, attention: nn.MultiheadAttention):
        super().__init__()
        self.heads, self.batch_first = attention.num_heads, attention.batch_first
        weights, biases = attention.in_proj_weight.chunk(3), attention.in_proj_bias.chunk(3)
        self.q_proj, self.k_proj, self.v_proj = map(_linear, weights, biases)
        self.out_proj = _linear(attention.out_proj.weight, attention.out_proj.bias)

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, need_weights: bool = False, attn_mask: Tensor | None = None
    ) -> tuple[Tensor, None]:
        """[B, T, D] each ([T, B, D] unless `batch_first`) -> the same; no weights are returned."""
        order = (lambda x: x) if self.batch_first else (lambda x: x.transpose(0, 1))
        parts = (self.q_proj(order(query)), self.k_proj(order(key)), self.v_proj(order(value)))
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=attn_mask)
        return order(self.out_proj(mixed.transpose(1, 2).flatten(2))), None


def project_attention(tower: nn.Module) -> None:
    """Replace every `nn.MultiheadAttention` within a tower by an equal `ProjectedAttention`."""
    for module in list(tower.modules()):
        for name, child in list(module.named_children()):
            if type(child) is nn.MultiheadAttention:
                setattr(module, name, ProjectedAttention(child))


def add_lora(tower: nn.Module, rank: int, alpha: float, dropout: float, targets: Sequence[str] = ATTENTION) -> None:
    """Freeze a transformer tower and add trainable low-rank adapters to its linear layers.

    Args:
        tower: Changed in place; adapters start at 0.
        rank: r.
        alpha: The adapters' output is scaled by alpha / r.
        dropout: Dropout of the adapters' input.
        targets: Names of the linear layers; "c_fc" and "c_proj" are those of the MLP.

    Raises:
        UserError: The library is not installed, or the tower has no such layers.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise UserError('LoRA needs the peft library: pip install "resproto-fd[lora]"') from error
    project_attention(tower)
    config = LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=list(targets))
    try:
        inject_adapter_in_model(config, tower)
    except ValueError as error:
        raise UserError(f"LoRA: {type(tower).__name__} has no layers called {', '.join(targets)}: {error}") from error


def _linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], device="meta")
    layer.weight, layer.bias = nn.Parameter(weight.detach().clone()), nn.Parameter(bias.detach().clone())
    return layer
