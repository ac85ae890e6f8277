"""Takes of the demo data: a take is one recording of a person.

The head (albedo, height map, opacity) and the background are painted once a take. `scenes` draws its frames, and
`camera` records them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np

from resproto_fd.preprocessing.demo.drawing import (
    CANVAS,
    FRAME,
    UNIT,
    bump,
    field,
    grid,
    mirrored,
    paint,
    polygon_mask,
    smooth,
    to_bytes,
    to_canvas,
)
from resproto_fd.preprocessing.demo.people import Identity, brow_contour, face_contour


@dataclass(frozen=True)
class Take:
    """One recording of a person: the painted head, the background, the light, and how pose and expression change."""

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
    """Draws a random recording of one person."""
    contour = to_canvas(face_contour(who))
    face = polygon_mask(contour, CANVAS, 0.6)
    texture = sum(a * field(rng, CANVAS, p) for a, p in ((0.012, 1.6), (0.016, 3.5), (0.014, 9), (0.03, 60)))
    texture = who.roughness * texture
    skin = who.skin.astype(np.float32) * (1 + texture[..., None] * np.array((0.8, 1.0, 1.1), np.float32))
    hair = _strands(rng, who, 260)
    behind, front = _hair_masks(rng, who)

    albedo = np.empty((CANVAS, CANVAS, 3), np.float32)
    albedo[:] = who.hair
    paint(albedo, behind, 0.72 * hair)
    neck = polygon_mask(to_canvas(smooth(mirrored([(0.55, 0.6), (0.58, 1.4), (0.8, 1.85), (0.85, 2.4)]))), CANVAS, 1.0)
    paint(albedo, neck, 0.9 * skin)
    ear_mask = _ear_mask(who)
    paint(albedo, ear_mask * (1 - behind * float(who.long_hair)), 0.92 * skin * (1.05, 0.92, 0.92))
    clothes, cloth = _clothes(rng)
    paint(albedo, clothes, cloth)
    under_chin = polygon_mask(np.add(contour, (0, 16)), CANVAS, 7.0)
    albedo *= (1 - 0.45 * under_chin * np.maximum(neck, clothes))[..., None]

    paint(albedo, face, skin)
    _paint_skin(albedo, face, who, rng)
    if who.beard:
        _paint_beard(albedo, face, who, rng)
    full = who.long_hair or who.hair_volume > 0.1
    if full:
        albedo *= (1 - 0.3 * cv2.GaussianBlur(front, (0, 0), 5.0) * (1 - front))[..., None]  # the hair's shadow
        paint(albedo, front, hair)
    else:
        paint(albedo, front, hair, 0.55)  # shorn

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
        albedo=to_bytes(albedo),
        opacity=to_bytes(opacity),
        relief=relief,
        normals=normals.astype(np.float32),
        background=draw_background(rng),
        light=light,
        key=strength * np.array([1 + warmth, 1, 1 - warmth]),
        ambient=rng.uniform(0.36, 0.56) * np.array([1 - 0.6 * warmth, 1, 1 + 0.6 * warmth]),
        waves=np.stack([amplitude, rng.uniform(0.15, 0.9, 9), rng.uniform(0, 2 * np.pi, 9), offset], 1),
    )


def _strands(rng: np.random.Generator, who: Identity, count: int) -> np.ndarray:
    """Draws hair as strokes from the parting outwards: RGB float32 [CANVAS, CANVAS, 3]."""
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
    """Masks of the hair behind the head and of the hair in front of it."""
    v, w, line = who.hair_volume, who.width, -who.hairline
    crown = np.array(
        [(0.3, -1.46 - v), (0.8 + 0.3 * v, -1.28 - v), (w + 0.1 + 0.4 * v, -0.7), (w + 0.05 + 0.2 * v, -0.1)]
    )
    length = rng.uniform(1.2, 2.2) if who.long_hair else -0.05
    spread = (w + 0.12 + 0.6 * v) if who.long_hair else w + 0.02
    back = np.concatenate([crown, [(spread, 0.5 * length), (0.95 * spread, length)]])
    behind = polygon_mask(to_canvas(smooth(mirrored(back))), CANVAS, 0.7)
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


def _ear_mask(who: Identity) -> np.ndarray:
    ears = [
        smooth(np.add([(0, -0.26), (0.15, -0.22), (0.13, 0.12), (0, 0.26)], (0.97 * who.width, 0))) * (s, 1)
        for s in (-1, 1)
    ]
    return np.maximum(*(polygon_mask(to_canvas(ear), CANVAS, 0.8) for ear in ears))


def _clothes(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draws clothes: (their mask [CANVAS, CANVAS], their colour [CANVAS, CANVAS, 3])."""
    collar = smooth(mirrored([(0.25, 1.85), (0.65, 1.6 + 0.1 * rng.random()), (1.4, 1.72), (2.2, 1.9), (2.2, 2.6)]))
    cloth = (
        rng.uniform(0.05, 0.85, 3).astype(np.float32)
        * (1 + 0.05 * field(rng, CANVAS, 3) + 0.08 * field(rng, CANVAS, 40))[..., None]
    )
    return polygon_mask(to_canvas(collar), CANVAS, 0.8), cloth


def _paint_skin(albedo: np.ndarray, face: np.ndarray, who: Identity, rng: np.random.Generator) -> None:
    """Paints blush, rings under the eyes, nostrils, freckles and brows."""
    x, y = grid(CANVAS)
    side = np.abs(x)
    blush = 0.7 * bump(side, y, 0.56, 0.42, 0.22, 0.2) + 0.6 * bump(x, y, 0, who.nose_length, 0.15, 0.12)
    paint(albedo, face * blush, albedo * (1.02, 0.84, 0.84), 0.8)
    hollow = bump(side, y, who.eye_distance, 0.02, 0.26, 0.14) + 0.5 * bump(
        side, y, who.eye_distance - 0.1, 0.16, 0.12, 0.05
    )
    paint(albedo, face * np.clip(hollow, 0, 1), albedo * (0.80, 0.74, 0.76), 0.75)
    nostril = bump(side, y, 0.5 * who.nose_width, who.nose_length + 0.045, 0.036, 0.017)
    nostril += 0.35 * bump(side, y, 1.15 * who.nose_width, who.nose_length, 0.02, 0.06)
    nostril += 0.2 * bump(x, y, 0, who.nose_length + 0.085, 0.09, 0.02)
    paint(albedo, face * np.clip(nostril, 0, 1), 0.3 * who.skin * (1.1, 0.8, 0.8), 0.85)
    if who.freckles:
        spots = np.clip(field(rng, CANVAS, 4.5) - 1.2, 0, 1) * bump(side, y, 0.35, 0.25, 0.35, 0.22)
        paint(albedo, face * spots, albedo * (0.75, 0.6, 0.5), who.freckles)
    brow_colour = 0.8 * who.hair + 0.1 * who.skin
    hairs = np.clip(0.72 + 0.3 * field(rng, CANVAS, 2.2), 0, 1)
    for s in (-1, 1):
        paint(albedo, polygon_mask(to_canvas(brow_contour(who, s, 0.0)), CANVAS, 1.3) * hairs, brow_colour)


def _paint_beard(albedo: np.ndarray, face: np.ndarray, who: Identity, rng: np.random.Generator) -> None:
    """Paints hair below the nose and along the jaw, but not on the mouth."""
    x, y = grid(CANVAS)
    mouth = bump(x, y, 0, who.mouth_height + 0.03, 0.3, 0.09)
    edge = y - np.where(np.abs(x) < 0.5, who.nose_length + 0.14, who.nose_length + 0.14 - 1.2 * (np.abs(x) - 0.5))
    lower = 1 / (1 + np.exp(-edge / 0.05))
    grain = np.clip(0.75 + 0.35 * field(rng, CANVAS, 2.0), 0, 1)
    paint(albedo, face * lower * np.clip(1 - 1.1 * mouth, 0, 1) * grain, who.hair, who.beard)


def _relief(who: Identity) -> np.ndarray:
    """Height of the head above the background in face units, float32 [CANVAS, CANVAS]."""
    x, y = grid(CANVAS // 2)
    side = np.abs(x)
    height = 0.95 * np.sqrt(np.clip(1.02 - (x / 1.22) ** 2 - ((y - 0.05) / 1.65) ** 2, 0, None))
    tip = who.nose_length
    along = np.clip((y + 0.15) / (tip + 0.1), 0, 1)
    below = np.exp(-0.5 * (np.clip(y - tip + 0.04, 0, None) / 0.06) ** 2)
    height += 0.30 * along**1.2 * below * np.exp(-0.5 * (x / (0.07 + 0.07 * along)) ** 2)
    height += 0.10 * bump(side, y, 0.8 * who.nose_width, tip - 0.03, 0.06, 0.07)
    height -= 0.16 * bump(side, y, who.eye_distance - 0.04, -0.03, 0.23, 0.13)
    height += 0.05 * bump(side, y, who.eye_distance, -who.brow_height + 0.02, 0.28, 0.07)
    height += 0.09 * bump(side, y, 0.58, 0.28, 0.2, 0.22)
    height += 0.07 * bump(x, y, 0, who.mouth_height, 0.24, 0.1) - 0.05 * bump(
        x, y, 0, who.mouth_height + 0.2, 0.2, 0.05
    )
    height -= 0.03 * bump(x, y, 0, 0.5 * (tip + who.mouth_height), 0.03, 0.07)
    height += 0.10 * bump(x, y, 0, who.chin - 0.18, 0.2, 0.14)
    height -= 0.05 * bump(
        side, y, 0.9 * who.nose_width + 0.15 * (y - tip), tip + 0.16, 0.05, 0.15
    )  # the fold beside the nose
    return cv2.resize(height.astype(np.float32), (CANVAS, CANVAS), interpolation=cv2.INTER_LINEAR)


def _normals(height: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Unit normals of a relief, [CANVAS, CANVAS, 3]; flat where `inside` is 0."""
    slope_x = cv2.Sobel(height, cv2.CV_32F, 1, 0, scale=UNIT / 8) * inside
    slope_y = cv2.Sobel(height, cv2.CV_32F, 0, 1, scale=UNIT / 8) * inside
    normals = np.stack([-slope_x, -slope_y, np.ones_like(slope_x)], -1)
    return normals / np.linalg.norm(normals, axis=-1, keepdims=True)


@cache
def _photographs() -> list[np.ndarray]:
    """Loads photographs that the package scikit-image carries. Backgrounds show blurred parts of them."""
    from skimage import data

    return [data.astronaut(), data.coffee(), data.chelsea()]


def draw_background(rng: np.random.Generator) -> np.ndarray:
    """Draws a background, float32 [256, 256, 3]: a coloured wall, mixed with a photograph that is out of focus."""
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
