"""Forgeries of the demo data: each changes a recorded frame before its only compression, as a forger's tool would.

A method is a function of a random generator. It draws what stays the same over a video (strength, place, kernel) and
returns the forger of the frames: (target, donor, rng) -> RGB uint8 [256, 256, 3]. The donor is the same moment of
another person's recording. A method changes nothing outside the mask with which it blends.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from resproto_fd.preprocessing.demo.camera import Frame
from resproto_fd.preprocessing.demo.drawing import FRAME, field, polygon_mask

Forger = Callable[[Frame, Frame, np.random.Generator], np.ndarray]


def blend(image: np.ndarray, patch: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Lays `patch` over `image` (both RGB, [H, W, 3]) where `mask` [H, W] is 1; uint8."""
    image = image.astype(np.float32)
    mixed = image + (patch.astype(np.float32) - image) * mask[..., None]
    return np.clip(mixed + 0.5, 0, 255).astype(np.uint8)


def face_mask(frame: Frame, scale: float, forehead: float, feather: float) -> np.ndarray:
    """Mask of the inside of the face, float32 in [0, 1], [256, 256].

    Args:
        frame: Has the contours of the face.
        scale: Size about the middle of the face; 1 is its full contour.
        forehead: Share of the height above the brows that belongs to the mask, 0 to 1.
        feather: Sigma of the soft edge in pixels.
    """
    contour = frame.points["face"]
    brow = min(frame.points["left_brow"][:, 1].min(), frame.points["right_brow"][:, 1].min())
    lowest = (1 - forehead) * brow + forehead * contour[:, 1].min()
    contour = np.stack([contour[:, 0], np.maximum(contour[:, 1], lowest)], 1)
    middle = 0.5 * (contour.min(0) + contour.max(0))
    return polygon_mask(middle + scale * (contour - middle), FRAME, feather)


def spot_mask(centre: np.ndarray, radius: np.ndarray, angle: float, feather: float) -> np.ndarray:
    """Mask of a soft ellipse, float32 in [0, 1], [256, 256]; centre and radii in pixels, angle in radians."""
    turn = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    ring = np.stack([radius[0] * np.cos(turn), radius[1] * np.sin(turn)], 1)
    rotation = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    return polygon_mask(centre + ring @ rotation, FRAME, feather)


def _anchors(frame: Frame) -> np.ndarray:
    return np.float32([frame.points[name].mean(0) for name in ("left_eye", "right_eye", "mouth")])


def _onto(donor: Frame, target: Frame, interpolation: int = cv2.INTER_LINEAR) -> np.ndarray:
    """Moves the donor's image so that its eyes and mouth lie on the target's."""
    matrix = cv2.getAffineTransform(_anchors(donor), _anchors(target))
    return cv2.warpAffine(donor.image, matrix, (FRAME, FRAME), flags=interpolation, borderMode=cv2.BORDER_REFLECT_101)


def _with_statistics(patch: np.ndarray, image: np.ndarray, mask: np.ndarray, share: float) -> np.ndarray:
    """Moves the patch's mean and spread of colour inside the mask towards the image's by `share`; float32."""
    inside = (mask > 0.5).astype(np.uint8)
    mean, spread = (v.ravel() for v in cv2.meanStdDev(patch, mask=inside))
    wanted_mean, wanted_spread = (v.ravel() for v in cv2.meanStdDev(image, mask=inside))
    gain = 1 + share * (np.clip(wanted_spread / np.maximum(spread, 1), 0.7, 1.4) - 1)
    return ((patch - mean) * gain + mean + share * (wanted_mean - mean)).astype(np.float32)


def _grained(patch: np.ndarray, image: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """Adds white noise to the patch, `share` times as strong as the finest detail of the image; float32."""
    detail = image.astype(np.float32) - cv2.GaussianBlur(image, (0, 0), 0.8)
    noise = cv2.GaussianBlur(rng.standard_normal(patch.shape, np.float32), (0, 0), 0.5)
    return patch + np.float32(share * detail.std() / noise.std()) * noise


def _resampled(image: np.ndarray, scale: float) -> np.ndarray:
    """Resizes to `scale` times the resolution and back: the trace of a generator whose output is smaller."""
    size = max(8, round(FRAME * scale))
    small = cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA)
    return cv2.resize(small, (FRAME, FRAME), interpolation=cv2.INTER_LINEAR)


# ---------------------------------------------------------------- the methods of Demo-A


def swap(rng: np.random.Generator) -> Forger:
    """Blends in the donor's inner face at a lower resolution, with partly matched colours, under a soft mask."""
    share, scale = rng.uniform(0.55, 0.9), rng.uniform(0.35, 0.75)
    size, forehead, feather = rng.uniform(0.78, 0.95), rng.uniform(0.05, 0.5), rng.uniform(1.0, 5.0)

    def forge(target: Frame, donor: Frame, rng: np.random.Generator) -> np.ndarray:
        mask = face_mask(target, size, forehead, feather)
        patch = _resampled(_onto(donor, target), scale)
        return blend(target.image, _with_statistics(patch, target.image, mask, share), mask)

    return forge


def warp(rng: np.random.Generator) -> Forger:
    """Pushes the mouth or the eyes to another expression, in several steps of interpolation."""
    parts = (["mouth"], ["left_eye", "right_eye"])[int(rng.random() < 0.4)]
    bulge, sweep = rng.uniform(0.18, 0.4) * rng.choice([-1, 1]), rng.normal(0, 3, 2)
    passes, feather = int(rng.integers(4, 11)), rng.uniform(1.5, 4)

    def forge(target: Frame, donor: Frame, rng: np.random.Generator) -> np.ndarray:
        x, y = np.meshgrid(np.arange(FRAME, dtype=np.float32), np.arange(FRAME, dtype=np.float32))
        shift_x, shift_y, mask = np.zeros_like(x), np.zeros_like(x), np.zeros_like(x)
        for part in parts:
            contour = target.points[part]
            centre, radius = contour.mean(0), 0.5 * np.ptp(contour, axis=0) + (12, 17)
            weight = np.exp(-1.2 * (((x - centre[0]) / radius[0]) ** 2 + ((y - centre[1]) / radius[1]) ** 2))
            sway = sweep + rng.normal(0, 0.7, 2)
            shift_x += weight * np.float32(sway[0]) - bulge * weight * (x - centre[0])
            shift_y += weight * np.float32(sway[1]) + bulge * weight * (y - centre[1])
            mask = np.maximum(mask, spot_mask(centre, 1.15 * radius, 0.0, feather))
        patch = target.image
        for _ in range(passes):
            patch = cv2.remap(patch, x + shift_x / passes, y + shift_y / passes, cv2.INTER_LINEAR)
        return blend(target.image, patch, mask)

    return forge


def upsample(rng: np.random.Generator) -> Forger:
    """Makes the whole face as a decoder would: small, then enlarged by a transposed convolution of uneven kernel."""
    factor = int(rng.choice([2, 3, 4], p=[0.3, 0.4, 0.3]))
    taps = np.concatenate([np.arange(1, factor + 1), np.arange(factor - 1, 0, -1)]) / factor
    kernel = np.outer(taps, taps) * (1 + rng.uniform(0.03, 0.1) * rng.standard_normal((len(taps), len(taps))))
    kernel = (kernel * factor**2 / kernel.sum()).astype(np.float32)
    size, feather = rng.uniform(0.88, 1.0), rng.uniform(1.5, 4)

    def forge(target: Frame, donor: Frame, rng: np.random.Generator) -> np.ndarray:
        side = FRAME // factor + 1
        padded = cv2.copyMakeBorder(
            target.image, 0, side * factor - FRAME, 0, side * factor - FRAME, cv2.BORDER_REFLECT
        )
        small = cv2.resize(padded, (side, side), interpolation=cv2.INTER_AREA).astype(np.float32)
        sparse = np.zeros((side * factor, side * factor, 3), np.float32)
        sparse[factor // 2 :: factor, factor // 2 :: factor] = small
        patch = cv2.filter2D(sparse, -1, kernel)[:FRAME, :FRAME]
        return blend(target.image, patch, face_mask(target, size, 0.7, feather))

    return forge


def inpaint(rng: np.random.Generator) -> Forger:
    """Fills in a part of the face from around it, with grain that is not the sensor's."""
    part = str(rng.choice(["cheek", "left_eye", "right_eye", "mouth", "brow"]))
    side = rng.choice([-1.0, 1.0])
    radius, angle, feather = rng.uniform((22, 17), (36, 28)), rng.uniform(-0.5, 0.5), rng.uniform(0.7, 2)
    grain, period = rng.uniform(0.0, 6.0), rng.uniform(2, 5)

    def forge(target: Frame, donor: Frame, rng: np.random.Generator) -> np.ndarray:
        points = target.points
        if part == "cheek":
            eye = points["left_eye" if side < 0 else "right_eye"].mean(0)
            centre = 0.5 * (eye + points["mouth"].mean(0)) + side * np.array([9.0, 0])
        elif part == "brow":
            centre = points["left_brow" if side < 0 else "right_brow"].mean(0)
        else:
            centre = points[part].mean(0)
        hole = spot_mask(centre, radius, angle, 0.0)
        filled = cv2.inpaint(target.image, (hole > 0).astype(np.uint8), 3, cv2.INPAINT_TELEA)
        filled = filled + grain * field(rng, FRAME, period)[..., None]
        return blend(target.image, filled, cv2.GaussianBlur(hole, (0, 0), feather))

    return forge


# ---------------------------------------------------------------- the methods that Demo-A does not have


def clone(rng: np.random.Generator) -> Forger:
    """Joins the donor's inner face in the gradient domain, which leaves the donor's grain but no edge."""
    size, forehead, scale = rng.uniform(0.72, 0.86), rng.uniform(0.0, 0.3), rng.uniform(0.4, 0.9)

    def forge(target: Frame, donor: Frame, rng: np.random.Generator) -> np.ndarray:
        mask = face_mask(target, size, forehead, 0.0)
        patch = _resampled(_onto(donor, target), scale)
        inside = (mask > 0.5).astype(np.uint8)
        inside[:2] = inside[-2:] = inside[:, :2] = inside[:, -2:] = 0
        left, top, width, height = cv2.boundingRect(inside)
        centre = (left + width // 2, top + height // 2)
        return cv2.seamlessClone(patch, target.image, 255 * inside, centre, cv2.NORMAL_CLONE)

    return forge


def selfblend(rng: np.random.Generator) -> Forger:
    """Blends the face with a copy of itself that is moved a little, recoloured, and sharpened or softened."""
    gain, shift, focus = rng.uniform(0.96, 1.04, 3), rng.uniform(-6, 6, 3), rng.uniform(-0.5, 0.5)
    zoom, move = rng.uniform(0.97, 1.03), rng.uniform(-2.5, 2.5, 2)
    size, forehead, feather = rng.uniform(0.7, 0.95), rng.uniform(0, 0.6), rng.uniform(1.0, 4.0)

    def forge(target: Frame, donor: Frame, rng: np.random.Generator) -> np.ndarray:
        matrix = np.float32([[zoom, 0, move[0] + 128 * (1 - zoom)], [0, zoom, move[1] + 128 * (1 - zoom)]])
        moved = cv2.warpAffine(target.image, matrix, (FRAME, FRAME), flags=cv2.INTER_CUBIC).astype(np.float32)
        patch = (moved + focus * (moved - cv2.GaussianBlur(moved, (0, 0), 1.2))) * gain + shift
        return blend(target.image, patch, face_mask(target, size, forehead, feather))

    return forge


def bottleneck(rng: np.random.Generator) -> Forger:
    """Rebuilds the face from few principal components of its patches, as a narrow autoencoder would."""
    components, edge = int(rng.integers(10, 25)), 8
    size, feather, grain = rng.uniform(0.88, 1.0), rng.uniform(1.5, 4), rng.uniform(0.5, 1.1)
    count = FRAME // edge + 1
    space: list[np.ndarray] = []  # mean and basis, learnt from the video's first frame

    def forge(target: Frame, donor: Frame, rng: np.random.Generator) -> np.ndarray:
        image = cv2.copyMakeBorder(target.image, edge, edge, edge, edge, cv2.BORDER_REFLECT).astype(np.float32)
        total = np.zeros_like(image)
        for top, left in ((0, 0), (0, edge // 2), (edge // 2, 0), (edge // 2, edge // 2)):  # tiles that overlap by half
            tiled = image[top : top + count * edge, left : left + count * edge]
            tiles = tiled.reshape(count, edge, count, edge, 3).swapaxes(1, 2).reshape(count**2, -1)
            if not space:
                space.extend(cv2.PCACompute(tiles, mean=None, maxComponents=components))
            tiles = cv2.PCABackProject(cv2.PCAProject(tiles, *space), *space)
            tiles = tiles.reshape(count, count, edge, edge, 3).swapaxes(1, 2).reshape(count * edge, count * edge, 3)
            total[top : top + count * edge, left : left + count * edge] += tiles / 4
        patch = total[edge : edge + FRAME, edge : edge + FRAME]
        patch = _grained(patch, target.image, grain, rng)
        return blend(target.image, patch, face_mask(target, size, 0.7, feather))

    return forge


def retouch(rng: np.random.Generator) -> Forger:
    """Smooths the skin and keeps its edges, as beauty filters do."""
    reach, tolerance, rounds = float(rng.uniform(2.5, 5)), float(rng.uniform(18, 40)), int(rng.integers(1, 3))
    size, feather, grain = rng.uniform(0.85, 0.98), rng.uniform(2, 6), rng.uniform(0.5, 1.1)

    def forge(target: Frame, donor: Frame, rng: np.random.Generator) -> np.ndarray:
        patch = target.image
        for _ in range(rounds):
            patch = cv2.bilateralFilter(patch, 9, tolerance, reach)
        patch = _grained(patch, target.image, grain, rng)
        return blend(target.image, patch, face_mask(target, size, 0.6, feather))

    return forge


METHODS: dict[str, Callable[[np.random.Generator], Forger]] = {
    method.__name__: method for method in (swap, warp, upsample, inpaint, clone, selfblend, bottleneck, retouch)
}
"""Every method by its name; the label in the manifests is `Demo_<name>`."""
