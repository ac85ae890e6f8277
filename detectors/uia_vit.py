"""UIA-ViT: a ViT that learns from labels alone which patches of a fake are forged.

Legend: B batch, G patches a side, N = G^2 patches, W width of the transformer.
"""

from functools import partial
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from resproto_fd.detectors.base import Output
from resproto_fd.detectors.parts.shrunk_gaussian import ShrunkGaussian
from resproto_fd.detectors.parts.timm_classifier import TimmClassifier
from resproto_fd.detectors.registry import register
from resproto_fd.losses.global_batch import gather_rows
from resproto_fd.losses.precision import at_least_float32

IMAGES_OF_A_KIND = 4
"""Number of images of each class and batch whose patches the Gaussians use."""
REAL, FAKE, CROSS = 0, 1, 2


@register("uia_vit")
class UIAViT(TimmClassifier):
    """Teach a ViT's attention which patches belong together, without masks (Zhuang et al., ECCV 2022).

    Two Gaussians decide which patches of a fake count as forged: one of the patch features of real images, one of the
    middle of fakes. The loss pulls the attention between patches to a learnt level for each kind of pair (real, forged,
    mixed). The classifier reads the class token and a weighted mean of the patches. The weights follow the attention
    more and more as training goes on; testing uses the weights of the end of training.

    Progress is the number of training images seen, divided by the number in all epochs. It is part of the state, as are
    the Gaussians and their collected sums. Without `start_training` it stays 0.

    DeepfakeBench fits the Gaussians in float32, where the pseudo-inverse drops the shrunk directions, so that it marks
    other patches as forged. Here the fit is in float64 and keeps them.

    Args:
        backbone: A ViT of timm with a class token.
        epochs: Number of epochs of the whole training; the weights of the patches depend on it.
        warm_up: Epochs of cross-entropy alone.
        fits: Number of fits of the Gaussians in an epoch.
        consistency_weight: Weight of the attention's distance from the levels.
        middle: Number of layers before the patch features.
        last: Number of last layers whose attention is taught and read.
        timm: `pretrained`, `dropout` and `options`, see `TimmClassifier`.
    """

    keywords_from_data = {"epochs": "epochs"}

    def __init__(
        self,
        backbone: str = "vit_base_patch16_224.orig_in21k_ft_in1k",
        epochs: Annotated[int, Field(gt=0)] = 10,
        warm_up: Annotated[float, Field(ge=0)] = 1.0,
        fits: Annotated[int, Field(gt=0)] = 2,
        consistency_weight: Annotated[float, Field(ge=0)] = 0.06,
        middle: Annotated[int, Field(gt=0)] = 6,
        last: Annotated[int, Field(gt=0)] = 5,
        **timm,
    ):
        super().__init__(backbone, **timm)
        width = self.backbone.embed_dim
        self.epochs, self.warm_up, self.fits, self.consistency_weight = epochs, warm_up, fits, consistency_weight
        self.middle, self.last = middle, last
        self.classifier[1] = nn.Linear(2 * width, 2)
        self.levels = nn.Parameter(torch.tensor([0.6, 0.6, 0.2]))
        # Used for the patch features alone, through which no gradient flows.
        self.norm_middle = nn.LayerNorm(width, eps=1e-6).requires_grad_(False)
        self.gaussians = nn.ModuleList([ShrunkGaussian(width), ShrunkGaussian(width)])
        # Counted on the host too, so that no step waits for the device.
        self._frames, self._seen = 0, 0
        self.register_buffer("frames", torch.tensor(0))
        self.register_buffer("seen", torch.tensor(0))
        self.register_load_state_dict_post_hook(lambda detector, _: detector._recall())

    def from_deepfakebench(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """See `Detector.from_deepfakebench`; checkpoints do not contain the progress, so it starts at 0."""
        own = {k: v for k, v in self.state_dict().items() if k.partition(".")[0] in ("gaussians", "frames", "seen")}
        state = {key.removeprefix("model."): value for key, value in state.items()}
        levels = [state.pop(name, None) for name in ("c_real", "c_fake", "c_cross")]
        if all(level is not None for level in levels):
            own["levels"] = torch.stack(levels)
        for key, value in state.items():
            outside = key.startswith(("head.", "norm_middle."))
            own[key.replace("head.", "classifier.1.") if outside else f"backbone.{key}"] = value
        return own

    def start_training(self, class_counts: Tensor) -> None:
        self._frames = int(class_counts.sum())
        self.frames.fill_(self._frames)

    def encode(self, images: Tensor) -> Tensor:
        """[B, 2 W]: the class token and the weighted mean of the patches."""
        return self._read(images)[0]

    def head(self, features: Tensor, labels: Tensor | None = None, **fields: Tensor) -> Output:
        output = super().head(features, labels)
        if labels is not None:
            # Multiplied by 0 during warm-up: data parallelism needs a gradient of every parameter in every step.
            real, fake, cross = self.levels
            levels = 0.05 * (1 / real.abs() + 1 / fake.abs()) + 0.5 * cross.abs()
            output.add_loss("levels", levels, float(self._teaches()))
        return output

    def forward(self, images: Tensor, labels: Tensor | None = None, **fields: Tensor) -> Output:
        features, patches, attention = self._read(images)
        teaches = self._teaches()
        output = self.head(features, labels, **fields)
        if self.training and labels is not None:
            if teaches:
                output.add_loss("consistency", self.consistency(attention, patches, labels), self.consistency_weight)
            self._collect(patches, labels)
        return output

    @torch.no_grad()
    def forged_patches(self, patches: Tensor, labels: Tensor) -> Tensor:
        """Patches that count as forged: those of fakes nearer to the fakes' Gaussian; all before the first fit.

        Args:
            patches: [B, N, W].
            labels: 0 real, 1 fake, [B].

        Returns:
            bool [B, N]
        """
        real, fake = self.gaussians
        nearer = real.distance(patches) > fake.distance(patches)
        return (labels == 1)[:, None] & (nearer | ~(real.fitted & fake.fitted))

    def consistency(self, attention: Tensor, patches: Tensor, labels: Tensor) -> Tensor:
        """Mean absolute distance of the attention between patches from the levels of their kinds, a scalar.

        It is the mean over real images plus the mean over fakes. The target of a patch with itself is 1 in a real
        image, and the level of its kind in a fake.

        Args:
            attention: Sigmoid of the mean logits, [B, N, N].
            patches: [B, N, W].
            labels: 0 real, 1 fake, [B].
        """
        forged = self.forged_patches(patches, labels)
        kinds = forged[:, :, None].long() + forged[:, None, :].long()
        wanted = torch.stack([self.levels[kind] for kind in (REAL, CROSS, FAKE)]).to(attention)[kinds]
        count = attention.shape[1]
        self_pairs = torch.eye(count, device=attention.device, dtype=torch.bool) & (labels == 0)[:, None, None]
        wanted = wanted.masked_fill(self_pairs, 1.0)
        apart = (attention - wanted).abs().sum(dim=(1, 2)) / (count**2 - count)
        return apart @ (1 / torch.stack([labels == 0, labels == 1]).sum(dim=1).clamp(min=1)).to(apart)[labels]

    @property
    def progress(self) -> float:
        """Completed share of the whole training, in [0, 1]; 1 in testing."""
        return min(self._epochs_done() / self.epochs, 1.0) if self.training else 1.0

    def _epochs_done(self) -> float:
        return self._seen / self._frames if self._frames else 0.0

    def _recall(self) -> None:
        self._frames, self._seen = int(self.frames), int(self.seen)

    def _teaches(self) -> bool:
        return self._epochs_done() >= self.warm_up

    def _collect(self, patches: Tensor, labels: Tensor) -> None:
        """Add patches of a few images to the Gaussians (of fakes only the middle), and fit them when due."""
        side = round(patches.shape[1] ** 0.5)
        middle = slice(round(side * 3 / 14), round(side * 11 / 14))
        grid = patches.detach().unflatten(1, (side, side))
        for kind, part in ((REAL, grid), (FAKE, grid[:, middle, middle])):
            counts = labels == kind
            counts = counts & (counts.cumsum(0) <= IMAGES_OF_A_KIND)
            chosen = counts.float().topk(min(IMAGES_OF_A_KIND, len(counts))).indices
            samples = part[chosen].flatten(1, 2)
            self.gaussians[kind].add(samples.flatten(0, 1), counts[chosen].repeat_interleave(samples.shape[1]))
        fits = int(self._epochs_done() * self.fits)
        new = len(gather_rows(labels))
        self.seen += new
        self._seen += new
        if int(self._epochs_done() * self.fits) > fits:
            for gaussian in self.gaussians:
                gaussian.fit()

    def _read(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Features [B, 2 W], patch features [B, N, W], attention between patches in (0, 1), [B, N, N]."""
        net = self.backbone
        x = net.norm_pre(net.patch_drop(net._pos_embed(net.patch_embed(images))))
        total, patches = 0.0, None
        run = partial(checkpoint, use_reentrant=False) if net.grad_checkpointing else lambda part, *args: part(*args)
        for place, block in enumerate(net.blocks):
            if len(net.blocks) - place > self.last:
                x = run(block, x)
            else:
                x, logits = run(_block, block, x)
                total = total + logits
            if place + 1 == self.middle:
                patches = self.norm_middle(x.detach())[:, 1:]
        attention = torch.sigmoid(total / self.last)
        x = net.norm(x)
        located, count, progress = attention[:, 0, 1:], x.shape[1] - 1, self.progress
        even = 1.0 if progress < 1 / 8 else torch.sigmoid(torch.tensor(-12 * (progress - 0.7))).item()
        weights = (even + (1 - even) * located) / count
        mean = (weights[:, :, None].to(x.dtype) * x[:, 1:]).sum(dim=1)
        return torch.cat([x[:, 0], mean], dim=1), patches, attention[:, 1:, 1:]


def _block(block: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """timm's block, [B, 1 + N, W] -> the same, and its attention's logits, mean over heads, [B, 1 + N, 1 + N]."""
    attention = block.attn
    qkv = attention.qkv(block.norm1(x)).unflatten(-1, (3, attention.num_heads, -1))
    q, k, v = qkv.permute(2, 0, 3, 1, 4)
    logits = (q * attention.scale) @ k.transpose(-2, -1)
    mixed = (F.softmax(logits, dim=-1) @ v).transpose(1, 2).flatten(2)
    x = x + block.drop_path1(block.ls1(attention.proj(mixed)))
    return x + block.drop_path2(block.ls2(block.mlp(block.norm2(x)))), at_least_float32(logits).mean(dim=1)
