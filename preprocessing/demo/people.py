"""The people of the demo data: what stays the same whenever one is filmed, and the contours of a face."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from resproto_fd.preprocessing.demo.drawing import mirrored, smooth

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
    """Draws a random person."""
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


def face_contour(who: Identity) -> np.ndarray:
    """Outline of the face in face units, closed, [N, 2]."""
    w, jaw, chin = who.width, who.jaw, who.chin
    half = [(0.25, -1.42), (0.72, -1.2), (0.97 * w, -0.6), (w, 0.05), (0.97 * w, 0.5)]
    half += [(jaw, 1.02), (0.6 * jaw, chin - 0.1), (0.2, chin)]
    return smooth(mirrored(half))


def eye_contour(who: Identity, side: int, openness: float) -> np.ndarray:
    """Outline of one eye in face units, closed, [N, 2].

    Args:
        who: The person.
        side: -1 is left in the image, 1 is right.
        openness: 0 is closed, 1 is wide open.
    """
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
    """Outer edge of the lips ("mouth") and the gap between them ("gap"), each in face units, closed, [N, 2]."""
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
