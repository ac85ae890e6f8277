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

from resproto_fd.detectors.base import Output, Step, onto
from resproto_fd.detectors.parts.clip_detector import ClipDetector
from resproto_fd.detectors.parts.domain_tower import Experts, condition_on_domain, run_tower
from resproto_fd.detectors.parts.masked_modelling import MaskedModelling
from resproto_fd.detectors.parts.meta_sets import meta_sets
from resproto_fd.detectors.registry import register
from resproto_fd.losses.domains import alignment_loss, classification_loss, consistency_loss
from resproto_fd.losses.global_batch import average_over_processes, gather_rows
from resproto_fd.losses.precision import at_least_float32, without_autocast

PROMPTS = {
    "learnt": ("a x x face showing forgery clues", "a x x face showing forgery clues"),
    "P1": ("x a photo of real face", "x a photo of fake face"),
    "P2": ("x this is a photo of real", "x this is a photo of fake"),
    "P4": ("x real", "x fake"),
    "P5": ("x this is how a real face looks like", "x this is how a fake face looks like"),
    "P6": ("x this photo contains real face", "x this photo contains fake face"),
    "P7": ("x real face is in this photo", "x fake face is in this photo"),
}
"""Texts of a real and of a fake face: equation 9 and Table 6. The first x is the place of a domain's word, the second
that of a class's. P3 needs descriptions by BLIP."""
WILDCARD = 0
CLASSES = ("real", "fake")
SMALLEST_TEMPERATURE = 0.01


@register("gm_df")
class GMDF(ClipDetector):
    """Match images with prompts of data set and class, by experts and meta-learning (Lai et al., ACM MM 2025).

    P(fake) is the softmax over the two prompts of the wildcard domain.

    Decisions where the paper is silent or contradicts itself:

    * f(x) of equation 12 is that softmax, taken under the image's own domain if it is known. The paper names no other
      classifier.
    * Equation 3 normalises after the MLP, which breaks CLIP's pretrained blocks; `norm` chooses the place.
    * Experts work on the last class token, before the projection. In the inner step only the expert of its own domain
      sees an image (equation 1); otherwise attention combines all experts (equations 4, 5).
    * The wildcard is never a positive of equation 11, so it would not learn. It gets a share `wildcard` of the
      images of the outer step. It belongs to no domain: its embedding and word are part of theta_O, not of theta_E.
    * The inner step is a plain gradient step of theta_E (experts, domain embeddings, prompt words) on the meta-train
      domains; it is kept. The optimiser then moves the other parameters by the gradient of equation 14 on the meta-test
      domain, which is drawn at each step, the same for all processes. Equation 15 takes no second derivative. With a
      single domain, a case that the paper does not discuss, every other image is meta-train and all are meta-test.
    * L_sis is equation 11. The DA loss of Table 5 aligns "the distributions of the two feature datasets through
      statistical features of higher order" (section 4.4): it is `alignment`, the distance of means and covariances
      between the domains of a batch (section 3.2), meta-train and meta-test together. It is off by default, since
      equation 14 does not contain it.
    * The prompts of Table 6 are read as texts of the classes, with the domain's learnt word before them.

    Args:
        domains: Names of the training sets, D. If not given, a run takes those of its protocol.
        domain_size: K; the paper gives none.
        dnorm: Whether the norms depend on the domain (equation 2); without, they are CLIP's own.
        expert_size: Width within an expert; the paper gives none.
        experts: Whether there are experts (Table 5, Meta-MoE).
        meta: Whether the inner step is taken (Table 5, Meta-MoE); otherwise one gradient trains all parameters.
        inner_lr: beta of equation 13; the paper gives none.
        sis: Whether L_sis is used.
        alignment: Weight of the distance between the domains' features (Table 5, DA).
        mim: Weight of L_mim and of its autoencoder's loss; 1 in equation 14, and 0 removes both (Table 5, MIM).
        mim_tokens: Visual tokens; the paper gives none.
        mim_share: Share of the patches that are hidden; the paper's best (section 4.4, figure 4).
        mim_strategy: See `MaskedModelling` (figure 4); the paper does not define its minimum strategy.
        second_order: Layers of equation 8, counted from 1.
        wildcard: Share of the training images given to the wildcard domain.
        prompt: Key of `PROMPTS` (Table 7).
        phi: Start of phi (equation 10, figure 4); the paper gives none.
        norm: "pre" or "post", see `domain_tower.run_tower`.
        conv_stem: See `domain_tower.condition_on_domain`.
        tune_text: Whether the text tower trains too.
        clip: `backbone` (a ViT of open_clip), `pretrained` and `quick_gelu`, see `ClipDetector`.

    Raises:
        UserError: As `ClipDetector` and `condition_on_domain`.
    """

    keywords_from_data = {"domains": "train_sets"}
    requires = on_host = frozenset({"domain"})

    def __init__(
        self,
        domains: Sequence[str] = ("FaceForensics++",),
        domain_size: int = 64,
        dnorm: bool = True,
        expert_size: int = 64,
        experts: bool = True,
        meta: bool = True,
        inner_lr: float = 1e-3,
        sis: bool = True,
        alignment: float = 0.0,
        mim: float = 1.0,
        mim_tokens: int = 1024,
        mim_share: Annotated[float, Field(gt=0, lt=1)] = 0.2,
        mim_strategy: Literal["random", "minimum"] = "random",
        second_order: Sequence[int] = (8, 9, 10),
        wildcard: float = 0.5,
        prompt: Literal["learnt", "P1", "P2", "P4", "P5", "P6", "P7"] = "learnt",
        phi: float = 0.01,
        norm: Literal["pre", "post"] = "pre",
        conv_stem: bool = False,
        tune_text: bool = False,
        **clip,
    ):
        super().__init__(**clip)
        self.vocabulary = {"domain": list(domains)}
        self.steps_alone = meta
        self.inner_lr, self.sis, self.alignment, self.wildcard, self.norm = inner_lr, sis, alignment, wildcard, norm
        visual, text = self.clip.visual, self.clip.text
        condition_on_domain(visual, domain_size if dnorm else None, conv_stem)
        text.requires_grad_(tune_text)
        layers, width = len(visual.transformer.resblocks), visual.class_embedding.numel()
        self.second_order = [layer for layer in second_order if layer < layers]
        self.shares = nn.ParameterList(nn.Parameter(torch.zeros(())) for _ in self.second_order)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in self.second_order)
        count = len(domains)
        self.domain_embeddings = nn.Parameter(torch.randn(count + 1, domain_size) * 0.02) if dnorm else None
        self.experts = Experts(count, width, expert_size) if experts else None
        tokens = self.clip.tokenizer([*PROMPTS[prompt], *CLASSES])
        self.register_buffer("prompt", tokens[:2], persistent=False)
        self.place = 2 if prompt == "learnt" else 1
        self.domain_words = nn.Parameter(torch.randn(count + 1, text.width) * 0.02)
        words = text.token_embedding(tokens[2:, 1]).detach().clone()
        self.class_words = nn.Parameter(words) if prompt == "learnt" else None
        self.phi = nn.Parameter(torch.tensor(float(phi)))
        self.mim = mim
        masked = {"tokens": mim_tokens, "share": mim_share, "strategy": mim_strategy}
        self.masked = MaskedModelling(width, visual.patch_size[0], **masked) if mim else None

    # --- features and prompts ------------------------------------------------------------------------------------

    def encode(self, images: Tensor, domain: Tensor | None = None, alone: bool = False) -> Tensor:
        """v(x), equation 8, [B, E].

        Args:
            images: Normalised, [B, 3, H, W].
            domain: Index in the vocabulary, -1 for the wildcard, [B]; None means the wildcard for all images.
            alone: Only the expert of its own domain sees an image of a known domain.
        """
        domain = self._domains(domain, images)
        found = run_tower(self.clip.visual, images, self._conditions(domain), self.second_order, norm=self.norm)
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
        learnt = [words[:, None].expand(-1, 2, -1)]
        if self.class_words is not None:
            learnt.append(self.class_words[None].expand(len(words), -1, -1))
        learnt = torch.stack(learnt, dim=2).flatten(0, 1)
        tokens = self.prompt.repeat(len(words), 1)
        x, after = text.token_embedding(tokens), self.place + learnt.shape[1]
        x = torch.cat([x[:, : self.place], learnt.to(x.dtype), x[:, after:]], dim=1)
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
        similar, temperatures = self._similar(features), self.temperatures()
        wild = similar[:, WILDCARD] / temperatures[WILDCARD]
        output = Output(wild.softmax(dim=-1)[:, 1].float(), wild, at_least_float32(features))
        if labels is not None:
            domain = self._domains(domain, features)
            cls = classification_loss(similar, domain, labels, temperatures)
            output.losses = {"total": cls, "cls": cls}
            if self.sis:
                output.add_loss("sis", consistency_loss(similar, domain, labels, temperatures))
        return output

    def forward(
        self,
        images: Tensor,
        labels: Tensor | None = None,
        domain: Tensor | None = None,
        tested: Tensor | None = None,
        weight: float = 1.0,
        **fields: Tensor,
    ) -> Output:
        """See `Detector.forward`; with labels in training also the losses of masked modelling and alignment.

        Args:
            images, labels, domain: As in `Detector.forward` and `encode`.
            tested: Positions of the images whose output is wanted; the others are aligned alone. None means all.
            weight: Factor of all losses but the alignment.
        """
        learns, known = labels is not None and self.training, domain
        if learns and domain is not None:
            domain = onto(domain, images)
            domain = torch.where(torch.rand(len(domain), device=domain.device) < self.wildcard, -1, domain)
        features = self.encode(images, domain)
        aligned = features
        if tested is not None:
            images, labels, domain, features = (
                given[onto(tested, images)] for given in (images, labels, domain, features)
            )
        output = self.head(features, labels, domain)
        if not learns:
            return output
        if self.masked is not None:
            c = self._conditions(self._domains(domain, images))
            found = self.masked(
                images, lambda hidden: run_tower(self.clip.visual, images, c, (), hidden, self.norm).patches
            )
            output.losses |= found
            output.losses["total"] = output.losses["total"] + self.mim * sum(found.values())
        output.losses = {name: weight * loss for name, loss in output.losses.items()}
        if self.alignment:
            everyone = gather_rows(F.normalize(at_least_float32(aligned), dim=-1))
            owners = gather_rows((self._domains(known, aligned) - 1).clamp(min=0))
            found = alignment_loss(everyone, owners, len(self.vocabulary["domain"]))
            output.add_loss("alignment", found, self.alignment)
        return output

    def _similar(self, features: Tensor) -> Tensor:
        """Cosines of features [B, E] with all prompts, [B, D + 1, 2]."""
        unit, prompts = F.normalize(at_least_float32(features), dim=-1), self.prompts()
        with without_autocast(unit):
            return torch.einsum("be,dce->bdc", unit, prompts)

    # --- the meta-learning step ----------------------------------------------------------------------------------

    def inner_parameters(self) -> list[nn.Parameter]:
        """theta_E: experts, domain embeddings, words of domains and classes; without the wildcard's rows."""
        own = [p for p in (self.domain_embeddings, self.domain_words, self.class_words) if p is not None]
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
        (train, of_train), (test, of_test) = meta_sets(domain, len(self.vocabulary["domain"]))
        rows, here = onto(train, images), domain[train]
        with step.autocast():
            similar = self._similar(self.encode(images[rows], here, alone=True))
            own_rows = self._domains(here, similar)
            inner = of_train * classification_loss(similar, own_rows, labels[rows], self.temperatures())
        own = self.inner_parameters()
        gradients = average_over_processes(torch.autograd.grad(inner, own, allow_unused=True, materialize_grads=True))
        with torch.no_grad():
            for parameter, gradient in zip(own, gradients, strict=True):
                self._of_domains(parameter).sub_(self.inner_lr * self._of_domains(parameter, gradient))
        given = {"weight": of_test, "tested": test} if self.alignment else {"weight": of_test}
        rows = slice(None) if self.alignment else onto(test, images)
        with step.autocast():
            chosen = domain if self.alignment else domain[test]
            losses = model(images[rows], labels[rows], domain=chosen, **given).losses
        step.backward(losses["total"])
        for parameter in own:
            if parameter is self.domain_embeddings or parameter is self.domain_words:
                self._of_domains(parameter, parameter.grad).zero_()
            else:
                parameter.grad = None
        return {**losses, "inner": inner}

    def _of_domains(self, parameter: nn.Parameter, values: Tensor | None = None) -> Tensor:
        """The part of a parameter of theta_E, or of values of its shape, that is not the wildcard's."""
        values = parameter if values is None else values
        return values[1:] if parameter is self.domain_embeddings or parameter is self.domain_words else values

    def _conditions(self, domain: Tensor) -> Tensor | None:
        """c of rows [B], [B, K]."""
        return None if self.domain_embeddings is None else self.domain_embeddings[domain]

    def _domains(self, domain: Tensor | None, like: Tensor) -> Tensor:
        """Rows of the embeddings, 0 for the wildcard, [B]."""
        if domain is None:
            return torch.zeros(len(like), dtype=torch.long, device=like.device)
        return onto(domain, like) + 1
