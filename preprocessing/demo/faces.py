"""The people of the demo data: drawn faces, filmed by a modelled camera.

A face is painted once a take (albedo, height map, opacity) on a canvas larger than the frame. Each frame then draws
eyes and mouth with their expression, lights the height map, turns the head and lets a camera (lens, colour filters,
sensor noise, sharpening) record the scene. Colours are RGB in [0, 1]. Face coordinates have the bridge of the nose near
(0, 0), x to the right and y downwards; one unit is about half the width of the face.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

import cv2
import numpy as np

FRAME = 256  # height and width of a frame
CANVAS = 384  # height and width a face is painted at
UNIT = 112.0  # canvas pixels of one face unit
CENTRE = (192.0, 182.0)  # canvas position of the face's origin

SKIN = np.array([(0.95, 0.79, 0.69), (0.89, 0.70, 0.57), (0.78, 0.57, 0.43), (0.58, 0.39, 0.28), (0.38, 0.25, 0.19)])
HAIR = np.array([(0.09, 0.07, 0.06), (0.23, 0.15, 0.10), (0.42, 0.27, 0.15), (0.72, 0.56, 0.33), (0.55, 0.53, 0.52)])
IRIS = np.array([(0.25, 0.15, 0.08), (0.38, 0.25, 0.12), (0.30, 0.40, 0.25), (0.30, 0.45, 0.60), (0.40, 0.45, 0.48)])


@dataclass(frozen=True)
class Identity:
    """What stays the same whenever a person is filmed; lengths in face units."""

    skin: np.ndarray
    hair: np.ndarray
    iris: np.ndarray
    lips: np.ndarray
    width: float
    jaw: float
    chin: float
    eye_distance: float
    eye_size: float
    eye_tilt: float
    brow_height: float
    brow_weight: float
    nose_length: float
    nose_width: float
    mouth_width: float
    mouth_height: float
    lip_weight: float
    hairline: float
    hair_volume: float
    parting: float
    long_hair: bool
    beard: float
    glasses: bool
    freckles: float
    roughness: float
    gloss: float


def draw_identity(rng: np.random.Generator) -> Identity:
    """A person at random."""
    tone = rng.uniform(0, len(SKIN) - 1)
    skin = np.array([np.interp(tone, np.arange(len(SKIN)), SKIN[:, c]) for c in range(3)])
    skin = np.clip(skin * rng.uniform(0.94, 1.06, 3), 0, 1)
    shade = rng.integers(len(HAIR)) if tone < 2 else rng.integers(2)
    beard = rng.uniform(0.25, 0.9) if rng.random() < 0.25 else 0.0
    return Identity(
        skin=skin,
        hair=np.clip(HAIR[shade] * rng.uniform(0.75, 1.25) * rng.uniform(0.95, 1.05, 3), 0, 1),
        iris=IRIS[rng.integers(len(IRIS)) if tone < 2.2 else rng.integers(2)] * rng.uniform(0.85, 1.15),
        lips=np.clip(skin * (0.92, 0.62, 0.64) + rng.uniform(-0.05, 0.05, 3), 0, 1),
        width=rng.uniform(0.90, 1.08),
        jaw=rng.uniform(0.66, 0.86),
        chin=rng.uniform(1.34, 1.54),
        eye_distance=rng.uniform(0.38, 0.46),
        eye_size=rng.uniform(0.19, 0.25),
        eye_tilt=rng.uniform(-0.02, 0.05),
        brow_height=rng.uniform(0.24, 0.33),
        brow_weight=rng.uniform(0.035, 0.075),
        nose_length=rng.uniform(0.54, 0.66),
        nose_width=rng.uniform(0.13, 0.21),
        mouth_width=rng.uniform(0.30, 0.42),
        mouth_height=rng.uniform(0.88, 0.97),
        lip_weight=rng.uniform(0.055, 0.11),
        hairline=rng.uniform(0.78, 1.05),
        hair_volume=rng.uniform(0.08, 0.3),
        parting=rng.uniform(-0.6, 0.6),
        long_hair=bool(beard == 0 and rng.random() < 0.5),
        beard=beard,
        glasses=bool(rng.random() < 0.1),
        freckles=rng.uniform(0.3, 1.0) if rng.random() < 0.2 else 0.0,
        roughness=rng.uniform(0.6, 1.5),
        gloss=rng.uniform(0.05, 0.3),
    )


@dataclass(frozen=True)
class Frame:
    """One recorded frame, not yet compressed, and where the face is in it."""

    image: np.ndarray  # RGB uint8 [256, 256, 3]
    points: dict[str, np.ndarray]  # contours in frame pixels (x, y), [K, 2]: face, mouth, left_eye, right_eye, ...


def smooth(points, rounds: int = 3) -> np.ndarray:
    """A closed polygon [K, 2] with its corners cut off, [2**rounds * K, 2]."""
    points = np.asarray(points, np.float64)
    for _ in range(rounds):
        following = np.roll(points, -1, axis=0)
        points = np.stack([0.75 * points + 0.25 * following, 0.25 * points + 0.75 * following], 1).reshape(-1, 2)
    return points


def polygon_mask(points: np.ndarray, size: int, blur: float = 0.0) -> np.ndarray:
    """The inside of a polygon [K, 2] in pixels, float32 in [0, 1], [size, size]; `blur` is a sigma in pixels."""
    mask = np.zeros((size, size), np.uint8)
    cv2.fillPoly(mask, [np.round(points * 16).astype(np.int32)], 255, cv2.LINE_AA, 4)
    if blur > 0:
        mask = cv2.GaussianBlur(mask, (0, 0), blur)
    return mask.astype(np.float32) / 255


def field(rng: np.random.Generator, size: int, period: float) -> np.ndarray:
    """Smooth noise of unit variance, float32 [size, size]; `period` is about the size of its blobs in pixels."""
    cells = max(2, int(np.ceil(size / period)) + 2)
    coarse = rng.standard_normal((cells, cells), np.float32)
    noise = cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC)
    return (noise - noise.mean()) / (noise.std() + 1e-6)


def to_canvas(points) -> np.ndarray:
    """Face coordinates [K, 2] as canvas pixels [K, 2]."""
    return np.asarray(points, np.float64) * UNIT + CENTRE


def _paint(canvas: np.ndarray, mask: np.ndarray, colour, strength: float = 1.0) -> None:
    canvas += (np.asarray(colour, np.float32) - canvas) * (mask * np.float32(strength))[..., None]


def _mirrored(points) -> np.ndarray:
    """A contour given from the top to the bottom of its right half, closed by its mirror image."""
    points = np.asarray(points, np.float64)
    return np.concatenate([points, points[::-1] * (-1, 1)])


# ---------------------------------------------------------------- contours in face coordinates


def face_contour(who: Identity) -> np.ndarray:
    """Outline of the face in face units, closed, [N, 2]."""
    w, jaw, chin = who.width, who.jaw, who.chin
    half = [(0.25, -1.42), (0.72, -1.2), (0.97 * w, -0.6), (w, 0.05), (0.97 * w, 0.5)]
    half += [(jaw, 1.02), (0.6 * jaw, chin - 0.1), (0.2, chin)]
    return smooth(_mirrored(half))


def eye_contour(who: Identity, side: int, openness: float) -> np.ndarray:
    """side: -1 left in the image, 1 right; openness: 0 closed, 1 wide."""
    s, upper, lower = who.eye_size, 0.62 * openness, 0.34 * openness
    shape = [(-1, 0.06), (-0.55, -0.7 * upper), (0.1, -upper), (0.65, -0.72 * upper), (1.02, -0.05)]
    shape += [(0.6, 0.75 * lower), (0.0, lower), (-0.6, 0.7 * lower)]
    points = np.add(smooth(np.array(shape) * s), (who.eye_distance, 0))
    points[:, 1] -= who.eye_tilt * (points[:, 0] - who.eye_distance) / s
    return points * (side, 1)


def brow_contour(who: Identity, side: int, lift: float) -> np.ndarray:
    """Outline of one brow in face units, closed, [N, 2]; `lift` raises it."""
    d, s, t = who.eye_distance, who.eye_size, who.brow_weight
    y = -who.brow_height - lift
    shape = [(d - 1.3 * s, y + 0.02), (d, y - 0.04), (d + 0.9 * s, y - 0.02), (d + 1.5 * s, y + 0.1)]
    shape += [(d + 0.9 * s, y + t), (d, y + t), (d - 1.25 * s, y + 0.02 + 1.4 * t)]
    return smooth(shape) * (side, 1)


def lip_contours(who: Identity, opening: float, smile: float) -> dict[str, np.ndarray]:
    """The outer edge of the lips ("mouth") and the gap between them ("gap")."""
    w, y, t = who.mouth_width * (1 + 0.18 * smile), who.mouth_height, who.lip_weight
    corner = y - 0.07 * smile
    gap = 0.16 * opening
    outer = [(-w, corner), (-0.5 * w, y - 0.8 * t), (-0.16 * w, y - t), (0, y - 0.8 * t), (0.16 * w, y - t)]
    outer += [(0.5 * w, y - 0.8 * t), (w, corner), (0.55 * w, y + gap + 0.9 * t), (0, y + gap + 1.35 * t)]
    outer += [(-0.55 * w, y + gap + 0.9 * t)]
    inner = [
        (-0.9 * w, corner + 0.005),
        (-0.3 * w, y - 0.1 * t),
        (0, y),
        (0.3 * w, y - 0.1 * t),
        (0.9 * w, corner + 0.005),
    ]
    inner += [(0.5 * w, y + 0.7 * gap + 0.012), (0, y + gap + 0.014), (-0.5 * w, y + 0.7 * gap + 0.012)]
    return {"mouth": smooth(outer), "gap": smooth(inner)}


# ---------------------------------------------------------------- what is painted once a take


@cache
def _grid(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Face coordinates (x, y) of a canvas sampled at size x size, each float32 [size, size]."""
    pixels = (np.arange(size, dtype=np.float32) + 0.5) * (CANVAS / size)
    return np.meshgrid((pixels - CENTRE[0]) / UNIT, (pixels - CENTRE[1]) / UNIT)


def _bump(x, y, x0: float, y0: float, sx: float, sy: float) -> np.ndarray:
    return np.exp(-0.5 * (((x - x0) / sx) ** 2 + ((y - y0) / sy) ** 2))


def _relief(who: Identity) -> np.ndarray:
    """Height of the head above the background in face units, float32 [CANVAS, CANVAS]."""
    x, y = _grid(CANVAS // 2)
    side = np.abs(x)
    height = 0.95 * np.sqrt(np.clip(1.02 - (x / 1.22) ** 2 - ((y - 0.05) / 1.65) ** 2, 0, None))
    tip = who.nose_length
    along = np.clip((y + 0.15) / (tip + 0.1), 0, 1)
    below = np.exp(-0.5 * (np.clip(y - tip + 0.04, 0, None) / 0.06) ** 2)
    height += 0.30 * along**1.2 * below * np.exp(-0.5 * (x / (0.07 + 0.07 * along)) ** 2)
    height += 0.10 * _bump(side, y, 0.8 * who.nose_width, tip - 0.03, 0.06, 0.07)
    height -= 0.16 * _bump(side, y, who.eye_distance - 0.04, -0.03, 0.23, 0.13)
    height += 0.05 * _bump(side, y, who.eye_distance, -who.brow_height + 0.02, 0.28, 0.07)
    height += 0.09 * _bump(side, y, 0.58, 0.28, 0.2, 0.22)
    height += 0.07 * _bump(x, y, 0, who.mouth_height, 0.24, 0.1) - 0.05 * _bump(
        x, y, 0, who.mouth_height + 0.2, 0.2, 0.05
    )
    height -= 0.03 * _bump(x, y, 0, 0.5 * (tip + who.mouth_height), 0.03, 0.07)
    height += 0.10 * _bump(x, y, 0, who.chin - 0.18, 0.2, 0.14)
    height -= 0.05 * _bump(
        side, y, 0.9 * who.nose_width + 0.15 * (y - tip), tip + 0.16, 0.05, 0.15
    )  # the fold beside the nose
    return cv2.resize(height.astype(np.float32), (CANVAS, CANVAS), interpolation=cv2.INTER_LINEAR)


def _strands(rng: np.random.Generator, who: Identity, count: int) -> np.ndarray:
    """Hair as strokes from the parting outwards, RGB float32 [CANVAS, CANVAS, 3]."""
    image = np.full((CANVAS, CANVAS), 110, np.uint8)
    start = np.stack([who.parting + rng.normal(0, 0.12, count), rng.normal(-1.42, 0.05, count)], 1)
    angle = rng.uniform(-np.pi, np.pi, count)
    end = np.stack([1.5 * np.sin(angle), -0.2 - 1.3 * np.cos(angle)], 1)
    end[:, 1] += np.where(np.abs(end[:, 0]) > 0.8, 1.0, 0.0)
    middle = 0.5 * (start + end) + (0.35 * np.sign(end - start)) * (1, 0) + rng.normal(0, 0.05, (count, 2)) - (0, 0.15)
    t = np.linspace(0, 1, 9)[:, None, None]
    curves = (1 - t) ** 2 * start + 2 * t * (1 - t) * middle + t**2 * end
    curves = np.ascontiguousarray(np.round(to_canvas(curves) * 16).astype(np.int32).transpose(1, 0, 2))
    for k, brightness in enumerate(rng.integers(60, 190, count)):
        cv2.polylines(image, [curves[k]], False, int(brightness), int(k % 3) + 1, cv2.LINE_AA, 4)
    return who.hair.astype(np.float32) * (image[..., None].astype(np.float32) / 110)


def _hair_masks(rng: np.random.Generator, who: Identity) -> tuple[np.ndarray, np.ndarray]:
    """The hair behind the head and the hair in front of it."""
    v, w, line = who.hair_volume, who.width, -who.hairline
    crown = np.array(
        [(0.3, -1.46 - v), (0.8 + 0.3 * v, -1.28 - v), (w + 0.1 + 0.4 * v, -0.7), (w + 0.05 + 0.2 * v, -0.1)]
    )
    length = rng.uniform(1.2, 2.2) if who.long_hair else -0.05
    spread = (w + 0.12 + 0.6 * v) if who.long_hair else w + 0.02
    back = np.concatenate([crown, [(spread, 0.5 * length), (0.95 * spread, length)]])
    behind = polygon_mask(to_canvas(smooth(_mirrored(back))), CANVAS, 0.7)
    arch = np.concatenate([crown[::-1] * (-1, 1), crown])  # from the left ear over the head to the right ear
    hairline = [
        (0.93 * w, -0.15),
        (0.88 * w, -0.5),
        (0.6, line + 0.05),
        (who.parting, line - 0.12),
        (-0.6, line + 0.05),
    ]
    hairline += [(-0.88 * w, -0.5), (-0.93 * w, -0.15)]
    front = polygon_mask(to_canvas(smooth(np.concatenate([arch, hairline]), 2)), CANVAS, 1.2)
    return np.maximum(behind, front), front


@dataclass(frozen=True)
class Take:
    """One recording of a person: the painted head and how scene, light, pose and expression run."""

    who: Identity
    albedo: np.ndarray  # uint8 [CANVAS, CANVAS, 3]
    opacity: np.ndarray  # uint8 [CANVAS, CANVAS]
    relief: np.ndarray  # float32 [CANVAS, CANVAS]
    normals: np.ndarray  # float32 [CANVAS, CANVAS, 3]
    background: np.ndarray  # float32 [FRAME, FRAME, 3]
    light: np.ndarray  # direction of the key light [3]
    key: np.ndarray  # its colour [3]
    ambient: np.ndarray  # colour of the light from everywhere [3]
    waves: np.ndarray  # slow motions: amplitude, frequency, phase, offset of each, [9, 4]


def draw_take(who: Identity, rng: np.random.Generator) -> Take:
    """A recording at random of one person."""
    contour = to_canvas(face_contour(who))
    face = polygon_mask(contour, CANVAS, 0.6)
    texture = sum(a * field(rng, CANVAS, p) for a, p in ((0.012, 1.6), (0.016, 3.5), (0.014, 9), (0.03, 60)))
    texture = who.roughness * texture
    skin = who.skin.astype(np.float32) * (1 + texture[..., None] * np.array((0.8, 1.0, 1.1), np.float32))
    hair = _strands(rng, who, 260)
    behind, front = _hair_masks(rng, who)

    albedo = np.empty((CANVAS, CANVAS, 3), np.float32)
    albedo[:] = who.hair
    _paint(albedo, behind, 0.72 * hair)
    neck = polygon_mask(to_canvas(smooth(_mirrored([(0.55, 0.6), (0.58, 1.4), (0.8, 1.85), (0.85, 2.4)]))), CANVAS, 1.0)
    _paint(albedo, neck, 0.9 * skin)
    ear_mask = _ear_mask(who)
    _paint(albedo, ear_mask * (1 - behind * float(who.long_hair)), 0.92 * skin * (1.05, 0.92, 0.92))
    clothes, cloth = _clothes(rng)
    _paint(albedo, clothes, cloth)
    under_chin = polygon_mask(np.add(contour, (0, 16)), CANVAS, 7.0)
    albedo *= (1 - 0.45 * under_chin * np.maximum(neck, clothes))[..., None]

    _paint(albedo, face, skin)
    _paint_skin(albedo, face, who, rng)
    if who.beard:
        _paint_beard(albedo, face, who, rng)
    full = who.long_hair or who.hair_volume > 0.1
    if full:
        albedo *= (1 - 0.3 * cv2.GaussianBlur(front, (0, 0), 5.0) * (1 - front))[..., None]  # the shadow hair casts
        _paint(albedo, front, hair)
    else:
        _paint(albedo, front, hair, 0.55)  # shorn

    opacity = np.maximum.reduce([face, behind, front if full else face, neck, clothes, ear_mask])
    relief = _relief(who)
    bumpy = relief + 0.0013 * who.roughness * field(rng, CANVAS, 5) * face
    normals = _normals(bumpy, cv2.GaussianBlur(np.maximum(face, 0.6 * behind), (0, 0), 2.0))

    azimuth, elevation = rng.uniform(-1.1, 1.1), rng.uniform(0.0, 0.9)
    light = np.array([np.sin(azimuth) * np.cos(elevation), -np.sin(elevation), np.cos(azimuth) * np.cos(elevation)])
    warmth = rng.normal(0, 0.05)
    strength = rng.uniform(0.55, 0.95)
    amplitude = np.array([0.16, 0.06, 0.05, 6.0, 5.0, 0.5, 0.4, 0.25, 0.12]) * rng.uniform(0.3, 1, 9)
    offset = np.array([0.14, 0.03, 0.04, 4.0, 4.0, 0.25, 0.4, 0.3, 0.0]) * rng.normal(0, 1, 9)
    offset[6] += 0.3  # most people smile a little
    return Take(
        who=who,
        albedo=_to_bytes(albedo),
        opacity=_to_bytes(opacity),
        relief=relief,
        normals=normals.astype(np.float32),
        background=draw_background(rng),
        light=light,
        key=strength * np.array([1 + warmth, 1, 1 - warmth]),
        ambient=rng.uniform(0.36, 0.56) * np.array([1 - 0.6 * warmth, 1, 1 + 0.6 * warmth]),
        waves=np.stack([amplitude, rng.uniform(0.15, 0.9, 9), rng.uniform(0, 2 * np.pi, 9), offset], 1),
    )


def _ear_mask(who: Identity) -> np.ndarray:
    ears = [
        smooth(np.add([(0, -0.26), (0.15, -0.22), (0.13, 0.12), (0, 0.26)], (0.97 * who.width, 0))) * (s, 1)
        for s in (-1, 1)
    ]
    return np.maximum(*(polygon_mask(to_canvas(ear), CANVAS, 0.8) for ear in ears))


def _clothes(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Where clothes are, [CANVAS, CANVAS], and their colour, [CANVAS, CANVAS, 3]."""
    collar = smooth(_mirrored([(0.25, 1.85), (0.65, 1.6 + 0.1 * rng.random()), (1.4, 1.72), (2.2, 1.9), (2.2, 2.6)]))
    cloth = (
        rng.uniform(0.05, 0.85, 3).astype(np.float32)
        * (1 + 0.05 * field(rng, CANVAS, 3) + 0.08 * field(rng, CANVAS, 40))[..., None]
    )
    return polygon_mask(to_canvas(collar), CANVAS, 0.8), cloth


def _paint_beard(albedo: np.ndarray, face: np.ndarray, who: Identity, rng: np.random.Generator) -> None:
    """Hair below the nose and along the jaw, but for the mouth."""
    x, y = _grid(CANVAS)
    mouth = _bump(x, y, 0, who.mouth_height + 0.03, 0.3, 0.09)
    edge = y - np.where(np.abs(x) < 0.5, who.nose_length + 0.14, who.nose_length + 0.14 - 1.2 * (np.abs(x) - 0.5))
    lower = 1 / (1 + np.exp(-edge / 0.05))
    grain = np.clip(0.75 + 0.35 * field(rng, CANVAS, 2.0), 0, 1)
    _paint(albedo, face * lower * np.clip(1 - 1.1 * mouth, 0, 1) * grain, who.hair, who.beard)


def _normals(height: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Unit normals of a relief, [CANVAS, CANVAS, 3]; flat where `inside` is 0."""
    slope_x = cv2.Sobel(height, cv2.CV_32F, 1, 0, scale=UNIT / 8) * inside
    slope_y = cv2.Sobel(height, cv2.CV_32F, 0, 1, scale=UNIT / 8) * inside
    normals = np.stack([-slope_x, -slope_y, np.ones_like(slope_x)], -1)
    return normals / np.linalg.norm(normals, axis=-1, keepdims=True)


def _paint_skin(albedo: np.ndarray, face: np.ndarray, who: Identity, rng: np.random.Generator) -> None:
    """Blush, rings under the eyes, nostrils, freckles and brows."""
    x, y = _grid(CANVAS)
    side = np.abs(x)
    blush = 0.7 * _bump(side, y, 0.56, 0.42, 0.22, 0.2) + 0.6 * _bump(x, y, 0, who.nose_length, 0.15, 0.12)
    _paint(albedo, face * blush, albedo * (1.02, 0.84, 0.84), 0.8)
    hollow = _bump(side, y, who.eye_distance, 0.02, 0.26, 0.14) + 0.5 * _bump(
        side, y, who.eye_distance - 0.1, 0.16, 0.12, 0.05
    )
    _paint(albedo, face * np.clip(hollow, 0, 1), albedo * (0.80, 0.74, 0.76), 0.75)
    nostril = _bump(side, y, 0.5 * who.nose_width, who.nose_length + 0.045, 0.036, 0.017)
    nostril += 0.35 * _bump(side, y, 1.15 * who.nose_width, who.nose_length, 0.02, 0.06)
    nostril += 0.2 * _bump(x, y, 0, who.nose_length + 0.085, 0.09, 0.02)
    _paint(albedo, face * np.clip(nostril, 0, 1), 0.3 * who.skin * (1.1, 0.8, 0.8), 0.85)
    if who.freckles:
        spots = np.clip(field(rng, CANVAS, 4.5) - 1.2, 0, 1) * _bump(side, y, 0.35, 0.25, 0.35, 0.22)
        _paint(albedo, face * spots, albedo * (0.75, 0.6, 0.5), who.freckles)
    brow_colour = 0.8 * who.hair + 0.1 * who.skin
    hairs = np.clip(0.72 + 0.3 * field(rng, CANVAS, 2.2), 0, 1)
    for s in (-1, 1):
        _paint(albedo, polygon_mask(to_canvas(brow_contour(who, s, 0.0)), CANVAS, 1.3) * hairs, brow_colour)


@cache
def _photographs() -> list[np.ndarray]:
    """Photographs scikit-image carries in its package, of which backgrounds show blurred corners."""
    from skimage import data

    return [data.astronaut(), data.coffee(), data.chelsea()]


def draw_background(rng: np.random.Generator) -> np.ndarray:
    """A wall, or a photograph out of focus, in a colour of its own, float32 [256, 256, 3]."""
    photographs = _photographs()
    photograph = photographs[rng.integers(len(photographs))]
    size = int(rng.integers(90, 280))
    top, left = (int(rng.integers(0, extent - size + 1)) for extent in photograph.shape[:2])
    view = cv2.resize(photograph[top : top + size, left : left + size], (FRAME, FRAME)).astype(np.float32) / 255
    view = cv2.GaussianBlur(view, (0, 0), float(rng.uniform(1.5, 9)))
    colour = (rng.uniform(0.2, 0.8) + rng.uniform(-0.2, 0.2, 3)).astype(np.float32)
    wall = colour * (1 + 0.12 * field(rng, FRAME, 150) + 0.02 * field(rng, FRAME, 6))[..., None]
    weight = np.float32(rng.uniform(0, 0.9))
    return np.clip(weight * view * (0.6 + 0.8 * colour) + (1 - weight) * wall, 0, 1).astype(np.float32)


def _to_bytes(values: np.ndarray) -> np.ndarray:
    return np.clip(values * 255 + 0.5, 0, 255).astype(np.uint8)


# ---------------------------------------------------------------- what is drawn each frame


def _fill(image: np.ndarray, points: np.ndarray, colour) -> None:
    cv2.fillPoly(
        image, [np.round(points * 16).astype(np.int32)], [float(255 * c) for c in np.clip(colour, 0, 1)], cv2.LINE_AA, 4
    )


def _stroke(image: np.ndarray, points: np.ndarray, colour, thickness: int, closed: bool = False) -> None:
    colour = [float(255 * c) for c in np.clip(colour, 0, 1)]
    cv2.polylines(image, [np.round(points * 16).astype(np.int32)], closed, colour, thickness, cv2.LINE_AA, 4)


def _draw_eye(image: np.ndarray, who: Identity, side: int, openness: float, gaze: tuple[float, float]) -> np.ndarray:
    contour = to_canvas(eye_contour(who, side, openness))
    left, top = np.floor(contour.min(0)).astype(int) - 3
    right, bottom = np.ceil(contour.max(0)).astype(int) + 4
    patch = image[top:bottom, left:right]
    eye = np.empty_like(patch)
    eye[:] = (228, 222, 216)
    centre = to_canvas([(side * who.eye_distance + 0.05 * gaze[0], -0.04 + 0.03 * gaze[1])])[0] - (left, top)
    at = tuple(int(v) for v in np.round(centre * 16))
    radius = 0.5 * who.eye_size * UNIT
    for part, colour in ((1.0, 0.55 * who.iris), (0.86, who.iris), (0.6, 1.35 * who.iris), (0.42, (0.03, 0.03, 0.03))):
        cv2.circle(
            eye, at, int(radius * part * 16), [float(255 * c) for c in np.clip(colour, 0, 1)], -1, cv2.LINE_AA, 4
        )
    glint = tuple(int(v) for v in np.round((centre - radius * np.array([0.35, 0.4])) * 16))
    cv2.circle(eye, glint, int(0.17 * radius * 16), (245, 245, 245), -1, cv2.LINE_AA, 4)
    lid = np.linspace(0.55, 1.0, max(2, eye.shape[0] // 3))  # the shadow of the upper lid
    eye[: len(lid)] = (eye[: len(lid)] * lid[:, None, None]).astype(np.uint8)
    mask = np.zeros(patch.shape[:2], np.uint8)
    cv2.fillPoly(mask, [np.round((contour - (left, top)) * 16).astype(np.int32)], 255, cv2.LINE_AA, 4)
    weight = mask[..., None].astype(np.float32) / 255
    patch[:] = (patch * (1 - weight) + eye * weight).astype(np.uint8)
    count = len(contour)
    _stroke(image, contour[: count // 2 + 1], 0.25 * who.skin * (1, 0.8, 0.8), 2)  # lashes
    _stroke(image, contour[count // 2 :], 0.6 * who.skin, 1)
    _stroke(
        image, contour[2 : count // 2 - 1] - (0, 0.055 * UNIT), 0.62 * who.skin * (1, 0.9, 0.9), 1
    )  # the lid's crease
    return contour


def _draw_mouth(image: np.ndarray, who: Identity, opening: float, smile: float) -> np.ndarray:
    lips = {name: to_canvas(points) for name, points in lip_contours(who, opening, smile).items()}
    _fill(image, lips["mouth"], who.lips)
    middle = lips["mouth"][:, 1] < to_canvas([(0, who.mouth_height)])[0, 1]
    _fill(image, lips["mouth"][middle], 0.86 * who.lips)  # the upper lip lies in shadow
    _fill(image, lips["gap"], (0.18, 0.06, 0.06))
    if opening > 0.25:
        teeth = lips["gap"].copy()
        top = teeth[:, 1].min()
        teeth[:, 1] = np.minimum(teeth[:, 1], top + 0.045 * UNIT)
        teeth[:, 0] = CENTRE[0] + 0.82 * (teeth[:, 0] - CENTRE[0])
        _fill(image, np.add(teeth, (0, 1)), (0.86, 0.84, 0.80))
    _stroke(image, lips["gap"], 0.45 * who.lips, 1, closed=True)
    return lips["mouth"]


def _draw_glasses(image: np.ndarray, who: Identity) -> None:
    for s in (-1, 1):
        rim = np.add(smooth([(-0.3, -0.2), (0.3, -0.22), (0.28, 0.2), (-0.24, 0.24)]), (who.eye_distance, 0.02))
        _stroke(image, to_canvas(rim * (s, 1)), (0.12, 0.1, 0.1), 3, closed=True)
    bridge = to_canvas([(-0.14, -0.06), (0, -0.1), (0.14, -0.06)])
    _stroke(image, bridge, (0.12, 0.1, 0.1), 3)


def draw_scene(take: Take, time: float) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The scene a camera sees at a time (in frames).

    Returns:
        (RGB float32 in [0, 1], [256, 256, 3]; contours in frame pixels by name, each [K, 2]).
    """
    who = take.who
    amplitude, frequency, phase, offset = take.waves.T
    yaw, pitch, roll, dx, dy, opening, smile, gaze, sway = offset + amplitude * np.sin(frequency * time + phase)
    opening, smile = float(np.clip(opening, 0, 1)), float(np.clip(smile, -0.6, 1))
    blink = np.clip(3.0 * np.sin(0.7 * time + phase[8]) - 2.4, 0, 1)

    face = take.albedo.copy()
    points = {"face": to_canvas(face_contour(who)), "mouth": _draw_mouth(face, who, opening, smile)}
    for name, side in (("left_eye", -1), ("right_eye", 1)):
        points[name] = _draw_eye(face, who, side, 0.95 - 0.85 * float(blink), (gaze * 2, 0.2 * gaze))
        points[name.replace("eye", "brow")] = to_canvas(brow_contour(who, side, 0.0))
    tip, width = who.nose_length, who.nose_width
    points["nose"] = to_canvas([(0, -0.1), (1.3 * width, tip), (0, tip + 0.12), (-1.3 * width, tip)])
    if who.glasses:
        _draw_glasses(face, who)

    turn = np.array([[np.cos(sway), 0, np.sin(sway)], [0, 1, 0], [-np.sin(sway), 0, np.cos(sway)]])
    light = (turn @ take.light).astype(np.float32)
    facing = cv2.transform(take.normals, light[None])
    lambert = np.clip(0.85 * facing + 0.15, 0, None)
    half = np.add(light, (0, 0, 1))
    shine = np.clip(cv2.transform(take.normals, (half / np.linalg.norm(half)).astype(np.float32)[None]), 0, 1) ** 24
    lit = face.astype(np.float32) * (take.ambient.astype(np.float32) + take.key.astype(np.float32) * lambert[..., None])
    lit += (255 * who.gloss * shine * take.opacity / 255)[..., None] * take.key.astype(np.float32)
    layer = cv2.merge([np.clip(lit, 0, 255).astype(np.uint8), take.opacity])

    zoom = CANVAS / FRAME
    c, s = np.cos(roll) * zoom * (1 + 0.1 * pitch), np.sin(roll) * zoom
    linear = np.array([[c, s + 0.05 * yaw], [-s, c]])
    shift = np.array([CANVAS / 2, CANVAS / 2]) - linear @ (FRAME / 2 + dx, FRAME / 2 + dy)
    pixels = np.arange(FRAME, dtype=np.float32)
    gx, gy = np.meshgrid(pixels, pixels)
    map_x = (linear[0, 0] * gx + linear[0, 1] * gy + shift[0]).astype(np.float32)
    map_y = (linear[1, 0] * gx + linear[1, 1] * gy + shift[1]).astype(np.float32)
    depth = UNIT * (cv2.remap(take.relief, map_x, map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE) - 0.55)
    layer = cv2.remap(
        layer,
        map_x + np.float32(yaw) * depth,
        map_y + np.float32(pitch) * depth,
        cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REPLICATE,
    )
    opacity = layer[..., 3:].astype(np.float32) / 255
    scene = take.background * (1 - opacity) + layer[..., :3].astype(np.float32) * (opacity / 255)

    inverse = np.linalg.inv(linear)
    for name, contour in points.items():
        column, row = np.clip(np.round(contour).astype(int), 0, CANVAS - 1).T
        height = UNIT * (take.relief[row, column] - 0.55)
        points[name] = (contour - height[:, None] * (yaw, pitch) - shift) @ inverse.T
    return scene, points


# ---------------------------------------------------------------- the camera


@dataclass(frozen=True)
class Camera:
    """How a data set is recorded: each pair is a range from which every take draws uniformly."""

    blur: tuple[float, float]  # sigma of the lens in pixels
    shot_noise: tuple[float, float]  # variance per signal, of linear intensity in [0, 1]
    read_noise: tuple[float, float]  # standard deviation at black
    sharpening: tuple[float, float]  # weight of the unsharp mask
    gamma: tuple[float, float]  # exponent of the tone curve after the usual 1/2
    saturation: tuple[float, float]
    balance: tuple[float, float, float]  # gain of red, green, blue
    quality: tuple[int, int]  # JPEG quality

    def settings(self, rng: np.random.Generator) -> Camera:
        """This camera with every range drawn: both ends of each range are the drawn value."""
        drawn = {name: (value := float(rng.uniform(*getattr(self, name))), value) for name in _RANGES}
        quality = int(rng.integers(self.quality[0], self.quality[1] + 1))
        balance = tuple(float(gain * rng.uniform(0.96, 1.04)) for gain in self.balance)
        return replace(self, **drawn, quality=(quality, quality), balance=balance)


_RANGES = ("blur", "shot_noise", "read_noise", "sharpening", "gamma", "saturation")


def record(scene: np.ndarray, camera: Camera, rng: np.random.Generator) -> np.ndarray:
    """What the camera's chip and processor make of a scene.

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
    return _to_bytes(image)


def film(take: Take, camera: Camera, count: int, rng: np.random.Generator) -> list[Frame]:
    """`count` frames of a take, not yet compressed."""
    frames = []
    for time in range(count):
        scene, points = draw_scene(take, 2.0 * time)
        frames.append(Frame(record(scene, camera, rng), points))
    return frames
