"""GM-DF: CLIP with experts and prompts for each data set, trained by meta-learning over the data sets.

Source: Lai et al., "GM-DF: Generalized Multi-Scenario Deepfake Detection", ACM MM 2025; equation and
table numbers are the paper's.

Legend: B batch, D training domains, K size of a domain's embedding, W width, E embedding size, T tokens of a prompt.
"""

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from open_clip.transformer import text_global_pool
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from resproto_fd.detectors.base import Detector, Output, Step
from resproto_fd.detectors.parts.clip_tower import Backbone, load_clip
from resproto_fd.detectors.parts.domain_tower import Experts, condition_on_domain, run_tower
from resproto_fd.detectors.parts.masked_modelling import MaskedModelling
from resproto_fd.detectors.registry import register
from resproto_fd.losses.domains import alignment_loss, classification_loss, consistency_loss
from resproto_fd.losses.global_batch import average_over_processes
from resproto_fd.losses.precision import at_least_float32

PROMPT = "a x x face showing forgery clues"
"""Equation 9; the two x are the places of the learnt words."""
PLACES = slice(2, 4)
WILDCARD = 0
CLASSES = ("real", "fake")
SMALLEST_TEMPERATURE = 0.01


@register("gm_df")
class GMDF(Detector):
    """Match images with prompts of data set and class, by experts and meta-learning (Lai et al., ACM MM 2025).

    P(fake) is the softmax over the two prompts of the wildcard domain.

    Decisions where the paper is silent or contradicts itself:

    * f(x) of equation 12 is that softmax, taken under the image's own domain if it is known. The paper names no other
      classifier.
    * Equation 3 normalises after the MLP, which breaks CLIP's pretrained blocks; `norm` chooses the place.
    * Experts work on the last class token, before the projection. In the inner step only the expert of its own domain
      sees an image (equation 1); otherwise attention combines all experts (equations 4, 5).
    * The wildcard is no positive of equation 11 and would not learn: a share `wildcard` of the images is given to it.
    * The inner step is a plain gradient step of theta_E (experts, domain embeddings, prompt words) on the meta-train
      domains; it is kept. The optimiser then moves the other parameters by the gradient of equation 14 on the meta-test
      domain, which is drawn at each step. Equation 15 takes no second derivative. With a single domain, a case that the
      paper does not discuss, every other image is meta-train and all images are meta-test.
    * L_sis is equation 11. Section 3.2 also mentions a distance of means and covariances between domains. It is
      `alignment`, off by default, since equation 14 does not contain it.

    Args:
        backbone: See `clip_tower.Backbone`; a ViT of open_clip.
        pretrained: See `clip_tower.load_clip`.
        quick_gelu: See `clip_tower.load_clip`.
        domains: Names of the training sets, D. If not given, a run takes those of its protocol.
        domain_size: K; the paper gives none.
        expert_size: Width within an expert; the paper gives none.
        experts: Whether there are experts (Table 5, Meta-MoE).
        meta: Whether the inner step is taken (Table 5, Meta-MoE); else all is fitted by one gradient.
        inner_lr: beta of equation 13; the paper gives none.
        sis: Whether L_sis is used (Table 5, DA).
        alignment: Weight of the distance between the domains' features.
        mim: Weight of L_mim and of its autoencoder's loss; 1 in equation 14, and 0 removes both (Table 5, MIM).
        mim_tokens: Visual tokens; the paper gives none.
        mim_share: Share of the patches that are hidden, at random; the paper's best (section 4.4, figure 4).
        second_order: Layers of equation 8, counted from 1.
        wildcard: Share of the training images given to the wildcard domain.
        norm: "pre" or "post", see `domain_tower.run_tower`.
        conv_stem: See `domain_tower.condition_on_domain`.
        tune_text: Whether the text tower trains too.

    Raises:
        UserError: As `load_clip` and `condition_on_domain`.
    """

    keywords_from_data = {"domains": "train_sets"}
    requires = frozenset({"domain"})

    def __init__(
        self,
        backbone: Backbone = "ViT-B-16",
        pretrained: str | None = "openai",
        quick_gelu: bool | None = None,
        domains: Sequence[str] = ("FaceForensics++",),
        domain_size: int = 64,
        expert_size: int = 64,
        experts: bool = True,
        meta: bool = True,
        inner_lr: float = 1e-3,
        sis: bool = True,
        alignment: float = 0.0,
        mim: float = 1.0,
        mim_tokens: int = 1024,
        mim_share: Annotated[float, Field(gt=0, lt=1)] = 0.2,
        second_order: Sequence[int] = (8, 9, 10),
        wildcard: float = 0.5,
        norm: Literal["pre", "post"] = "pre",
        conv_stem: bool = False,
        tune_text: bool = False,
    ):
        super().__init__()
        self.vocabulary = {"domain": list(domains)}
        self.steps_alone = meta
        self.inner_lr, self.sis, self.alignment, self.wildcard, self.norm = inner_lr, sis, alignment, wildcard, norm
        self.clip = load_clip(backbone, pretrained, quick_gelu)
        visual, text = self.clip.visual, self.clip.text
        condition_on_domain(visual, domain_size, conv_stem)
        text.requires_grad_(tune_text)
        layers, width = len(visual.transformer.resblocks), visual.class_embedding.numel()
        self.second_order = [layer for layer in second_order if layer < layers]
        self.shares = nn.ParameterList(nn.Parameter(torch.zeros(())) for _ in self.second_order)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in self.second_order)
        count = len(domains)
        self.domain_embeddings = nn.Parameter(torch.randn(count + 1, domain_size) * 0.02)
        self.experts = Experts(count, width, expert_size) if experts else None
        tokens = self.clip.tokenizer([PROMPT, *CLASSES])
        self.register_buffer("prompt", tokens[0], persistent=False)
        self.domain_words = nn.Parameter(torch.randn(count + 1, text.width) * 0.02)
        self.class_words = nn.Parameter(text.token_embedding(tokens[1:, 1]).detach().clone())
        self.phi = nn.Parameter(torch.tensor(0.01))
        self.mim = mim
        self.masked = MaskedModelling(width, visual.patch_size[0], mim_tokens, mim_share) if mim else None

    # --- features and prompts ------------------------------------------------------------------------------------

    def encode(self, images: Tensor, domain: Tensor | None = None, alone: bool = False) -> Tensor:
        """v(x), equation 8, [B, E].

        Args:
            images: Normalised, [B, 3, H, W].
            domain: Index in the vocabulary, -1 for the wildcard, [B]; None means the wildcard for all images.
            alone: Only the expert of its own domain sees an image of a known domain.
        """
        domain = self._domains(domain, images)
        found = run_tower(self.clip.visual, images, self.domain_embeddings[domain], self.second_order, norm=self.norm)
        z = found.cls
        for share, norm, second in zip(self.shares, self.norms, found.second_order, strict=True):
            z = z + share * norm(second)
        if self.experts is not None:
            view = self.experts(z)
            if alone:
                own = self.experts.views(z)[torch.arange(len(z), device=z.device), (domain - 1).clamp(min=0)]
                view = torch.where((domain == WILDCARD)[:, None], view, own)
            z = z + view
        visual = self.clip.visual
        return visual.ln_post(z) @ visual.proj

    def prompts(self) -> Tensor:
        """u, unit vectors of the prompts of (domain, class), the wildcard first, [D + 1, 2, E] (equation 9)."""
        text, words = self.clip.text, self.domain_words
        learnt = torch.stack(
            [words[:, None].expand(-1, 2, -1), self.class_words[None].expand(len(words), -1, -1)], dim=2
        ).flatten(0, 1)
        tokens = self.prompt.expand(len(learnt), -1)
        x = text.token_embedding(tokens)
        x = torch.cat([x[:, : PLACES.start], learnt.to(x.dtype), x[:, PLACES.stop :]], dim=1)
        x = text.transformer(x + text.positional_embedding, attn_mask=text.attn_mask)
        x = text_global_pool(text.ln_final(x), tokens, text.pool_type) @ text.text_projection
        return F.normalize(at_least_float32(x), dim=-1).unflatten(0, (len(words), 2))

    def temperatures(self) -> Tensor:
        """tau_d, equation 10, the wildcard's first, [D + 1]; at least 0.01, which is CLIP's own limit."""
        base = self.clip.logit_scale.neg().exp()
        return (base + self.phi * self.domain_words.norm(dim=-1)).clamp(min=SMALLEST_TEMPERATURE)

    # --- outputs and losses --------------------------------------------------------------------------------------

    def head(
        self, features: Tensor, labels: Tensor | None = None, domain: Tensor | None = None, **fields: Tensor
    ) -> Output:
        """See `Detector.head`; `domain` as in `encode`."""
        features = at_least_float32(features)
        unit = F.normalize(features, dim=-1)
        similar = torch.einsum("be,dce->bdc", unit, self.prompts())
        temperatures = self.temperatures()
        wild = similar[:, WILDCARD] / temperatures[WILDCARD]
        if labels is None:
            return Output(wild.softmax(dim=-1)[:, 1].float(), wild, features)
        domain = self._domains(domain, features)
        losses = {"cls": classification_loss(similar, domain, labels, temperatures)}
        if self.sis:
            losses["sis"] = consistency_loss(similar, domain, labels, temperatures)
        total = sum(losses.values())
        if self.alignment:
            losses["alignment"] = alignment_loss(unit, domain, len(temperatures))
            total = total + self.alignment * losses["alignment"]
        return Output(wild.softmax(dim=-1)[:, 1].float(), wild, features, {"total": total, **losses})

    def forward(
        self, images: Tensor, labels: Tensor | None = None, domain: Tensor | None = None, **fields: Tensor
    ) -> Output:
        """See `Detector.forward`; with labels in training also the masked modelling's losses."""
        if domain is not None and labels is not None and self.training:
            domain = torch.where(torch.rand(len(domain), device=domain.device) < self.wildcard, -1, domain)
        output = self.head(self.encode(images, domain), labels, domain)
        if self.masked is not None and labels is not None and self.training:
            c = self.domain_embeddings[self._domains(domain, images)]
            found = self.masked(
                images, lambda hidden: run_tower(self.clip.visual, images, c, (), hidden, self.norm).patches
            )
            output.losses |= found
            output.losses["total"] = output.losses["total"] + self.mim * sum(found.values())
        return output

    # --- the meta-learning step ----------------------------------------------------------------------------------

    def inner_parameters(self) -> list[nn.Parameter]:
        """theta_E: experts, domain embeddings, words of domains and classes."""
        own = [self.domain_embeddings, self.domain_words, self.class_words]
        return own + (list(self.experts.parameters()) if self.experts is not None else [])

    def training_step(
        self, model: nn.Module, step: Step, images: Tensor, labels: Tensor, domain: Tensor, **fields: Tensor
    ) -> dict[str, Tensor]:
        """See `Detector.training_step`.

        Equations 13 to 15: theta_E takes a step against L_cls on the meta-train domains. The other parameters get the
        gradient of L_total on the meta-test domain.
        """
        if not self.steps_alone:
            return super().training_step(model, step, images, labels, domain=domain)
        train, test = self._meta_sets(domain)
        with step.autocast():
            features = self.encode(images[train], domain[train], alone=True)
            similar = torch.einsum("be,dce->bdc", F.normalize(at_least_float32(features), dim=-1), self.prompts())
            inner = classification_loss(similar, domain[train] + 1, labels[train], self.temperatures())
        own = self.inner_parameters()
        gradients = average_over_processes(torch.autograd.grad(inner, own, allow_unused=True, materialize_grads=True))
        with torch.no_grad():
            for parameter, gradient in zip(own, gradients, strict=True):
                parameter.sub_(self.inner_lr * gradient)
        with step.autocast():
            losses = model(images[test], labels[test], domain=domain[test]).losses
        step.backward(losses["total"])
        for parameter in own:
            parameter.grad = None
        return {**losses, "inner": inner}

    def _meta_sets(self, domain: Tensor) -> tuple[Tensor, Tensor]:
        """Which images are the meta-train set and which the meta-test set, bool [B] each.

        With several domains, a random one is the meta-test set. With one domain, every other image is meta-train and
        all images are meta-test.
        """
        present = domain.unique()
        if len(present) < 2:
            return torch.arange(len(domain), device=domain.device) % 2 == 0, torch.ones_like(domain, dtype=torch.bool)
        test = domain == present[torch.randint(len(present), (), device=domain.device)]
        return ~test, test

    def _domains(self, domain: Tensor | None, like: Tensor) -> Tensor:
        """Rows of the embeddings, 0 for the wildcard, [B]."""
        return torch.zeros(len(like), dtype=torch.long, device=like.device) if domain is None else domain + 1
