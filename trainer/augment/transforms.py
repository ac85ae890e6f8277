"""Named augmentations: they turn a stored face crop into the square that the detector gets.

The random parts are a function of one seed per sample.
"""

import math
from collections.abc import Mapping

from resproto_fd.configs.errors import UserError, cut
from resproto_fd.configs.schema import DeepfakeBenchAugment, InputConfig
from resproto_fd.trainer.augment.deepfakebench_recipe import DeepfakeBenchRecipe
from resproto_fd.trainer.augment.device_transforms import OnDevice
from resproto_fd.trainer.augment.library import LibraryTransform, files_named
from resproto_fd.trainer.augment.views import Transform, View, Viewing, uniforms

RESIZED = 300 / 224
"""ResProto-FD: side of the resized face, divided by the side of the crop."""
CROP_SCALE = (0.8, 1.0)
CROP_RATIO = (3 / 4, 4 / 3)
CROP_ATTEMPTS = 10
BLUR_SIGMA = (0.1, 1.5)
BLUR_PROBABILITY = 0.3
ERASED_SCALE = (0.02, 0.2)
ERASED_RATIO = (0.3, 3.3)
ERASING_PROBABILITY = 0.3


def check_augment(name: str | Mapping, config: InputConfig, on: str = "host", trusted: bool = True) -> None:
    """Checks an augmentation before anything is computed.

    Args:
        name, config, on: See `train_transform`.
        trusted: Whether it may name files to open: the user typed it, or trusts the file that has it.

    Raises:
        UserError: As `train_transform` and `LibraryTransform.check`; or it names files, and is not trusted.
    """
    if not trusted and (named := files_named(name)):
        raise UserError(
            f"train.augment: a file names other files to open here, {cut(named[0])}; if you want that, type the whole "
            "train.augment={albumentations: [...]}, or set --trust-code for all that your files name"
        )
    made = train_transform(name, config, on)
    if isinstance(made, LibraryTransform):
        made.check()


def plain_transform(config: InputConfig) -> Viewing:
    """Makes the transform without randomness. It resizes the whole face (bicubic) or crops its centre."""
    return Viewing(config)


def train_transform(
    name: str | Mapping, config: InputConfig, on: str = "host"
) -> Transform | LibraryTransform | OnDevice:
    """Makes the augmentation of a name, or of a list of Albumentations transforms.

    Args:
        name: `none` (as in testing), `flip`, `crop` (a random crop of the input's size, and a flip), `resproto_fd` (the
            paper's) or `deepfakebench` (its default recipe, see `deepfakebench_recipe`), the last also with
            settings, {"deepfakebench": {...}}; or {"albumentations": [...]}, see `library`.
        config: The detector's input; its size is the size of the result.
        on: `host` augments picture by picture; `device` augments in batches, with the same draws and the same pictures
            up to rounding.

    Raises:
        UserError: `deepfakebench` or Albumentations on the device.
    """
    settings = DeepfakeBenchAugment()
    if isinstance(name, Mapping) and "deepfakebench" in name:
        name, settings = "deepfakebench", DeepfakeBenchAugment.model_validate(name["deepfakebench"])
    if isinstance(name, Mapping):
        if on == "device":
            raise UserError("train.augment.albumentations runs on the host; set run.augment_on=host")
        return LibraryTransform(config, name["albumentations"])
    if name == "deepfakebench":
        if on == "device":
            raise UserError(
                "train.augment=deepfakebench ends in OpenCV's JPEG, which runs on the host; set run.augment_on=host"
            )
        return DeepfakeBenchRecipe(config, settings)
    viewing = {"none": Viewing, "flip": Flip, "crop": Crop, "resproto_fd": ResProtoFD}[name](config)
    return viewing if on == "host" else OnDevice(viewing)


class Flip(Viewing):
    """Plain view, flipped with probability 1/2."""

    def draw(self, seed: int, height: int, width: int) -> View:
        return super().draw(seed, height, width)._replace(flipped=uniforms(seed, 1)[0] < 0.5)


class Crop(Viewing):
    """Random crop of the input's size, flipped with probability 1/2. A smaller frame is resized to that size."""

    def draw(self, seed: int, height: int, width: int) -> View:
        u, size = uniforms(seed, 3), self.config.size
        if min(height, width) < size:
            return View(0, 0, 0, height, width, u[0] < 0.5)
        return View(0, _below(u[1], height - size + 1), _below(u[2], width - size + 1), size, size, u[0] < 0.5)


class ResProtoFD(Viewing):
    """ResProto-FD's recipe, for an input of 224.

    The face is resized to 300. Then comes a random crop of 224 or, with equal probability, a random part of 0.8 to 1 of
    the area, resized to 224. Blur and erasing follow, each with probability 0.3.
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
    """Turns uniform numbers into a part of a square: (top, left, height, width).

    Its share of the area and its place are uniform; its width by height is uniform in the logarithm. A part may be too
    large for the square; its place is then 0.
    """
    area = side * side * _between(scale, scales)
    aspect = math.exp(_between(ratio, (math.log(ratios[0]), math.log(ratios[1]))))
    height, width = max(1, round(math.sqrt(area / aspect))), max(1, round(math.sqrt(area * aspect)))
    return _below(down, max(side - height, 0) + 1), _below(right, max(side - width, 0) + 1), height, width
