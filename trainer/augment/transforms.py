"""The named augmentations: from a stored face crop to the square that the detector is fed.

Random parts are a function of one seed per sample.
"""

import math

from resproto_fd.configs.errors import UserError
from resproto_fd.configs.schema import InputConfig
from resproto_fd.trainer.augment.deepfakebench_recipe import DeepfakeBenchRecipe
from resproto_fd.trainer.augment.device_transforms import OnDevice
from resproto_fd.trainer.augment.views import Transform, View, Viewing, uniforms

RESIZED = 300 / 224
"""ResProto-FD: side of the resized face by side of the crop."""
CROP_SCALE = (0.8, 1.0)
CROP_RATIO = (3 / 4, 4 / 3)
CROP_ATTEMPTS = 10
BLUR_SIGMA = (0.1, 1.5)
BLUR_PROBABILITY = 0.3
ERASED_SCALE = (0.02, 0.2)
ERASED_RATIO = (0.3, 3.3)
ERASING_PROBABILITY = 0.3


def plain_transform(config: InputConfig) -> Viewing:
    """The transform without randomness: resizes the whole face (bicubic, as in DeepfakeBench) or crops its centre."""
    return Viewing(config)


def train_transform(name: str, config: InputConfig, on: str = "host") -> Transform | OnDevice:
    """The augmentation of a name.

    Args:
        name: `none` (as in testing), `flip`, `crop` (a random crop of the input's size, and a flip), `resproto_fd` (the
            paper's) or `deepfakebench` (its default recipe, see `deepfakebench_recipe`).
        config: The detector's input; its size is the size of the result.
        on: `host` augments picture by picture; `device` augments in batches, with the same draws and the same pictures
            up to rounding.

    Raises:
        UserError: `deepfakebench` on the device.
    """
    if name == "deepfakebench":
        if on == "device":
            raise UserError(
                "train.augment=deepfakebench ends in OpenCV's JPEG, which runs on the host; set run.augment_on=host"
            )
        return DeepfakeBenchRecipe(config)
    viewing = {"none": Viewing, "flip": Flip, "crop": Crop, "resproto_fd": ResProtoFD}[name](config)
    return viewing if on == "host" else OnDevice(viewing)


class Flip(Viewing):
    """The plain view, flipped half the time."""

    def draw(self, seed: int, height: int, width: int) -> View:
        return super().draw(seed, height, width)._replace(flipped=uniforms(seed, 1)[0] < 0.5)


class Crop(Viewing):
    """A random crop of the input's size, flipped half the time; a frame smaller than that is resized to it."""

    def draw(self, seed: int, height: int, width: int) -> View:
        u, size = uniforms(seed, 3), self.config.size
        if min(height, width) < size:
            return View(0, 0, 0, height, width, u[0] < 0.5)
        return View(0, _below(u[1], height - size + 1), _below(u[2], width - size + 1), size, size, u[0] < 0.5)


class ResProtoFD(Viewing):
    """ResProto-FD's recipe: the face resized to 300 (for an input of 224), then a random crop of 224 or, as often, a
    random part of 0.8 to 1 of the area resized to 224; blurred and erased each with probability 0.3.
    """

    @property
    def resized(self) -> int:
        return round(self.config.size * RESIZED)

    def draw(self, seed: int, height: int, width: int) -> View:
        u, size = iter(uniforms(seed, 9 + 4 * CROP_ATTEMPTS)), self.config.size
        resized = self.resized
        sigma = _between(next(u), BLUR_SIGMA) if next(u) < BLUR_PROBABILITY else 0.0
        erased = (0, 0, 0, 0)
        if next(u) < ERASING_PROBABILITY:
            erased = _part(size, next(u), next(u), ERASED_SCALE, ERASED_RATIO, next(u), next(u))
        if next(u) < 0.5:
            top, left = _below(next(u), resized - size + 1), _below(next(u), resized - size + 1)
            return View(resized, top, left, size, size, False, sigma, *erased)
        for _ in range(CROP_ATTEMPTS):
            part = _part(resized, next(u), next(u), CROP_SCALE, CROP_RATIO, next(u), next(u))
            if max(part[2:]) <= resized:
                return View(resized, *part, False, sigma, *erased)
        return View(resized, 0, 0, resized, resized, False, sigma, *erased)


def _between(u: float, limits: tuple[float, float]) -> float:
    return limits[0] + u * (limits[1] - limits[0])


def _below(u: float, count: int) -> int:
    return min(int(u * count), count - 1)


def _part(
    side: int, scale: float, ratio: float, scales: tuple, ratios: tuple, down: float, right: float
) -> tuple[int, int, int, int]:
    """(top, left, height, width) of a part of a square: its share of the area uniform, its width by height uniform in
    the logarithm, its place uniform. It may be too large; its place is then nought."""
    area = side * side * _between(scale, scales)
    aspect = math.exp(_between(ratio, (math.log(ratios[0]), math.log(ratios[1]))))
    height, width = max(1, round(math.sqrt(area / aspect))), max(1, round(math.sqrt(area * aspect)))
    return _below(down, max(side - height, 0) + 1), _below(right, max(side - width, 0) + 1), height, width
