"""Camera of the demo data: a lens, colour filters, a noisy sensor and sharpening turn scenes into frames."""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np

from resproto_fd.preprocessing.demo.drawing import to_bytes
from resproto_fd.preprocessing.demo.scenes import draw_scene
from resproto_fd.preprocessing.demo.takes import Take


@dataclass(frozen=True)
class Frame:
    """One recorded frame, not yet compressed, and the place of the face in it."""

    image: np.ndarray  # RGB uint8 [256, 256, 3]
    points: dict[str, np.ndarray]  # contours in frame pixels (x, y), [K, 2]: face, mouth, left_eye, right_eye, ...


@dataclass(frozen=True)
class Camera:
    """How a data set is recorded. Each pair is a range; every take draws its value uniformly from it."""

    blur: tuple[float, float]  # sigma of the lens in pixels
    shot_noise: tuple[float, float]  # variance per signal, of linear intensity in [0, 1]
    read_noise: tuple[float, float]  # standard deviation at black
    sharpening: tuple[float, float]  # weight of the unsharp mask
    gamma: tuple[float, float]  # exponent of the tone curve after the usual 1/2
    saturation: tuple[float, float]
    balance: tuple[float, float, float]  # gain of red, green, blue
    quality: tuple[int, int]  # JPEG quality

    def settings(self, rng: np.random.Generator) -> Camera:
        """Draws a value from every range and returns a camera whose ranges begin and end at it."""
        drawn = {name: (value := float(rng.uniform(*getattr(self, name))), value) for name in _RANGES}
        quality = int(rng.integers(self.quality[0], self.quality[1] + 1))
        balance = tuple(float(gain * rng.uniform(0.96, 1.04)) for gain in self.balance)
        return replace(self, **drawn, quality=(quality, quality), balance=balance)


_RANGES = ("blur", "shot_noise", "read_noise", "sharpening", "gamma", "saturation")


def record(scene: np.ndarray, camera: Camera, rng: np.random.Generator) -> np.ndarray:
    """Records a scene as the camera's chip and processor would.

    Args:
        scene: RGB float32 in [0, 1], [256, 256, 3].
        camera: Drawn settings (`Camera.settings`).
        rng: Source of the sensor's noise.

    Returns:
        RGB uint8 [256, 256, 3], not compressed.
    """
    light = cv2.GaussianBlur(scene * np.array(camera.balance, np.float32), (0, 0), camera.blur[0])
    light = np.clip(light, 0, 1) ** 2  # from display to linear intensity
    mosaic = np.empty(light.shape[:2], np.float32)
    for row, column, channel in ((0, 0, 0), (0, 1, 1), (1, 0, 1), (1, 1, 2)):
        mosaic[row::2, column::2] = light[row::2, column::2, channel]
    deviation = np.sqrt(camera.shot_noise[0] * mosaic + camera.read_noise[0] ** 2)
    mosaic += deviation * rng.standard_normal(mosaic.shape, np.float32)
    raw = np.clip(mosaic * 60000 + 2000, 0, 65535).astype(np.uint16)
    image = (cv2.demosaicing(raw, cv2.COLOR_BayerRGGB2RGB).astype(np.float32) - 2000) / 60000
    image = np.clip(image, 0, 1) ** (0.5 * camera.gamma[0])
    grey = image.mean(-1, keepdims=True)
    image = grey + camera.saturation[0] * (image - grey)
    if camera.sharpening[0] > 0:
        image += camera.sharpening[0] * (image - cv2.GaussianBlur(image, (0, 0), 1.0))
    return to_bytes(image)


def film(take: Take, camera: Camera, count: int, rng: np.random.Generator) -> list[Frame]:
    """Records `count` frames of a take; they are not compressed yet."""
    frames = []
    for time in range(count):
        scene, points = draw_scene(take, 2.0 * time)
        frames.append(Frame(record(scene, camera, rng), points))
    return frames
