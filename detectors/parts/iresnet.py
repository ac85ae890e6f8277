"""IResNet, the residual network of face recognition (Duta et al., ICPR 2020), as used by ArcFace's authors.

The weights have the names of insightface's files. Legend: B batch, H and W pixels, divisible by 16.
"""

from collections.abc import Sequence

from torch import Tensor, nn

WIDTHS = (64, 128, 256, 512)


class IResNet(nn.Module):
    """Network from faces [B, 3, H, W] to maps [B, 512, H / 16, W / 16].

    Args:
        blocks: Number of blocks of each stage: (3, 4, 14, 3) is IResNet-50, (3, 13, 30, 3) IResNet-100.
        widths: Widths of the stages.
    """

    def __init__(self, blocks: Sequence[int], widths: Sequence[int] = WIDTHS):
        super().__init__()
        stem = widths[0]
        self.conv1, self.bn1 = nn.Conv2d(3, stem, 3, padding=1, bias=False), nn.BatchNorm2d(stem)
        self.prelu = nn.PReLU(stem)
        for stage, (before, after, count) in enumerate(zip((stem, *widths), widths, blocks), start=1):
            parts = [_Block(before, after, 2), *(_Block(after, after, 1) for _ in range(count - 1))]
            setattr(self, f"layer{stage}", nn.Sequential(*parts))
        self.bn2 = nn.BatchNorm2d(widths[-1])

    def forward(self, faces: Tensor) -> Tensor:
        x = self.prelu(self.bn1(self.conv1(faces)))
        return self.bn2(self.layer4(self.layer3(self.layer2(self.layer1(x)))))


class FaceEmbedding(IResNet):
    """Network from faces [B, 3, side, side] to embeddings [B, 512], not normalised.

    Args:
        blocks, widths: See `IResNet`.
        side: Side of the faces, 112 in ArcFace's files.
    """

    def __init__(self, blocks: Sequence[int], widths: Sequence[int] = WIDTHS, side: int = 112):
        super().__init__(blocks, widths)
        self.fc = nn.Linear(widths[-1] * (side // 16) ** 2, 512)
        self.features = nn.BatchNorm1d(512)
        self.features.weight.requires_grad_(False)

    def forward(self, faces: Tensor, normalise: bool = True) -> Tensor:
        """Embed faces; `normalise=False` skips the last batch norm."""
        x = self.fc(super().forward(faces).flatten(1))
        return self.features(x) if normalise else x


class _Block(nn.Module):
    """Two 3 x 3 convolutions, normalised before and after, beside a shortcut; the second has the stride."""

    def __init__(self, before: int, after: int, stride: int):
        super().__init__()
        self.bn1, self.bn2, self.bn3 = nn.BatchNorm2d(before), nn.BatchNorm2d(after), nn.BatchNorm2d(after)
        self.conv1 = nn.Conv2d(before, after, 3, padding=1, bias=False)
        self.prelu = nn.PReLU(after)
        self.conv2 = nn.Conv2d(after, after, 3, stride, padding=1, bias=False)
        self.downsample = None
        if stride != 1:
            self.downsample = nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))

    def forward(self, x: Tensor) -> Tensor:
        found = self.bn3(self.conv2(self.prelu(self.bn2(self.conv1(self.bn1(x))))))
        return found + (x if self.downsample is None else self.downsample(x))
