"""Corruptions of stored frames at five severities, to test how robust scores are.

The first seven are those of DeeperForensics-1.0 (Jiang et al., CVPR 2020; parameters and definitions from its public
perturbation code, which MFCLIP and GM-DF use); JPEG quality and resizing are added here. A frame's noise and blocks are
drawn from its name, so that every detector is tested on the same pictures.
"""

import hashlib
import io
from collections.abc import Callable

import cv2
import numpy as np

from resproto_fd.configs.errors import UserError
from resproto_fd.configs.suggestions import nearest

SEVERITIES = (1, 2, 3, 4, 5)
PARAMETERS: dict[str, tuple[float, ...]] = {
    "saturation": (0.4, 0.3, 0.2, 0.1, 0.0),
    "contrast": (0.85, 0.725, 0.6, 0.475, 0.35),
    "block": (16, 32, 48, 64, 80),
    "noise": (0.001, 0.002, 0.005, 0.01, 0.05),
    "blur": (7, 9, 13, 17, 21),
    "pixelation": (2, 3, 4, 5, 6),
    "video": (30, 32, 35, 38, 40),
    "jpeg": (90, 70, 50, 30, 10),
    "resize": (0.8, 0.6, 0.4, 0.3, 0.2),
}
"""Parameter at severities 1 to 5. In the order above: factor of the chroma; factor of the pixels; number of grey 8 x 8
blocks for each 256 pixels of the shorter side; variance of Gaussian noise in YCbCr; side of the Gaussian kernel, whose
deviation is a sixth of it; factor of down- and upsampling; constant rate factor of H.264; JPEG quality; factor of
down- and upsampling, area and cubic."""

DEEPER_FORENSICS = ("saturation", "contrast", "block", "noise", "blur", "pixelation", "video")
BLOCK = 8
GREY = 128
NOISE_GAIN = (255 * 255 / 219, 255 * 255 / 224, 255 * 255 / 224)
"""Size of a deviation of 1 in full-range Y, Cr and Cb. The noise is defined in limited-range YCbCr in [0, 1]."""


def check_corruption(name: str, severity: int) -> None:
    """Checks a corruption's name and severity.

    Raises:
        UserError: There is no such corruption or severity, or its library is not installed.
    """
    if name not in PARAMETERS:
        raise UserError(f"no corruption is called '{name}'{nearest(name, PARAMETERS)}; known: {', '.join(PARAMETERS)}")
    if severity not in SEVERITIES:
        raise UserError(f"corruption '{name}': expected a severity from 1 to 5, got {severity}")
    if name == "video":
        _av()


def corrupted(image: np.ndarray, name: str, severity: int, frame: str) -> np.ndarray:
    """Returns a corrupted copy of a stored frame.

    Args:
        image: RGB uint8, [H, W, 3].
        name: See `PARAMETERS`.
        severity: 1 to 5.
        frame: The frame's canonical path, which alone fixes noise and blocks.

    Returns:
        RGB uint8, [H, W, 3].

    Raises:
        UserError: As `check_corruption`.
    """
    check_corruption(name, severity)
    seed = hashlib.sha256(f"{name}-{severity}\n{frame}".encode()).digest()
    rng = np.random.Generator(np.random.PCG64(int.from_bytes(seed[:16], "big")))
    return _CORRUPTIONS[name](image, PARAMETERS[name][severity - 1], rng)


def _saturation(image: np.ndarray, factor: float, rng) -> np.ndarray:
    colours = cv2.cvtColor(image.astype(np.float32), cv2.COLOR_RGB2YCrCb)
    colours[..., 1:] = 0.5 + (colours[..., 1:] - 0.5) * np.float32(factor)
    return _pixels(cv2.cvtColor(colours, cv2.COLOR_YCrCb2RGB))


def _contrast(image: np.ndarray, factor: float, rng) -> np.ndarray:
    return _pixels(image.astype(np.float32) * np.float32(factor))


def _block(image: np.ndarray, count: float, rng: np.random.Generator) -> np.ndarray:
    image = image.copy()
    height, width = image.shape[:2]
    for _ in range(int(min(height, width) // 256 * count)):
        top, left = rng.integers(0, height - BLOCK), rng.integers(0, width - BLOCK)
        image[top : top + BLOCK, left : left + BLOCK] = GREY
    return image


def _noise(image: np.ndarray, variance: float, rng: np.random.Generator) -> np.ndarray:
    colours = cv2.cvtColor(image.astype(np.float32), cv2.COLOR_RGB2YCrCb)
    noise = rng.standard_normal(image.shape, dtype=np.float32) * np.float32(np.sqrt(variance))
    return _pixels(cv2.cvtColor(colours + noise * np.float32(NOISE_GAIN), cv2.COLOR_YCrCb2RGB))


def _blur(image: np.ndarray, side: float, rng) -> np.ndarray:
    return cv2.GaussianBlur(image, (int(side), int(side)), side / 6)


def _pixelation(image: np.ndarray, factor: float, rng) -> np.ndarray:
    height, width = image.shape[:2]
    small = cv2.resize(image, (max(int(width // factor), 1), max(int(height // factor), 1)))
    return cv2.resize(small, (width, height))


def _video(image: np.ndarray, rate_factor: float, rng) -> np.ndarray:
    """Codes one frame by itself as H.264. (Within a video, most frames are predicted from others.)"""
    av = _av()
    height, width = image.shape[:2]
    even = cv2.copyMakeBorder(image, 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE)
    stream = io.BytesIO()
    with av.open(stream, "w", format="matroska") as container:
        video = container.add_stream("libx264", rate=25, options={"crf": str(int(rate_factor)), "threads": "1"})
        video.height, video.width, video.pix_fmt = *even.shape[:2], "yuv420p"
        for packet in video.encode(av.VideoFrame.from_ndarray(even, format="rgb24")):
            container.mux(packet)
        for packet in video.encode():
            container.mux(packet)
    stream.seek(0)
    with av.open(stream, "r") as container:
        decoded = next(container.decode(video=0)).to_ndarray(format="rgb24")
    return np.ascontiguousarray(decoded[:height, :width])


def _jpeg(image: np.ndarray, quality: float, rng) -> np.ndarray:
    return through_jpeg(image, int(quality))


def through_jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    """Codes a picture, RGB uint8 [H, W, 3], as JPEG of a quality, 1 to 100, and decodes it."""
    coded = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return np.ascontiguousarray(cv2.imdecode(coded, cv2.IMREAD_COLOR)[..., ::-1])


def _resize(image: np.ndarray, factor: float, rng) -> np.ndarray:
    height, width = image.shape[:2]
    size = (max(round(width * factor), 1), max(round(height * factor), 1))
    return cv2.resize(
        cv2.resize(image, size, interpolation=cv2.INTER_AREA), (width, height), interpolation=cv2.INTER_CUBIC
    )


def _pixels(values: np.ndarray) -> np.ndarray:
    return np.clip(values, 0, 255).astype(np.uint8)


def _av():
    try:
        import av
    except ImportError as error:
        raise UserError("corruption 'video' needs PyAV: pip install \"resproto-fd[faces]\"") from error
    return av


_CORRUPTIONS: dict[str, Callable] = {
    "saturation": _saturation,
    "contrast": _contrast,
    "block": _block,
    "noise": _noise,
    "blur": _blur,
    "pixelation": _pixelation,
    "video": _video,
    "jpeg": _jpeg,
    "resize": _resize,
}
