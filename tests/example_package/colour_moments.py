"""An example of a detector in a package of its own: a small network on the moments of an image's colours."""

from torch import Tensor, cat, nn

from resproto_fd.detectors.base import Detector, two_class_output


class ColourMoments(Detector):
    """Mean and standard deviation of each colour of each tile, then two linear layers.

    Args:
        hidden: Width of the first layer.
        tiles: How many a side.
    """

    def __init__(self, hidden: int = 32, tiles: int = 4):  # the schema of `model:` in a YAML
        super().__init__()
        self.tiles = nn.AdaptiveAvgPool2d(tiles)
        self.body = nn.Sequential(nn.Linear(6 * tiles**2, hidden), nn.ReLU())
        self.classifier = nn.Linear(hidden, 2)

    def encode(self, images: Tensor) -> Tensor:
        """[B, 3, H, W] -> [B, hidden]"""
        mean = self.tiles(images)
        deviation = (self.tiles(images.square()) - mean.square()).clamp_min(1e-6).sqrt()
        return self.body(cat([mean, deviation], dim=1).flatten(1))

    def head(self, features: Tensor, labels: Tensor | None = None, **fields: Tensor):
        """Scores, logits, features, and the cross-entropy where labels [B] are given."""
        return two_class_output(self.classifier(features), features, labels)
