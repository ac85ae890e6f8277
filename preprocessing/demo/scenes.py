"""Scene before the camera at one moment of a take: expression, light and the turn of the head."""

from __future__ import annotations

import cv2
import numpy as np

from resproto_fd.preprocessing.demo.drawing import CANVAS, CENTRE, FRAME, UNIT, fill, smooth, stroke, to_canvas
from resproto_fd.preprocessing.demo.people import Identity, brow_contour, eye_contour, face_contour, lip_contours
from resproto_fd.preprocessing.demo.takes import Take


def draw_scene(take: Take, time: float) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Draws the scene that a camera sees at a time (in frames).

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
    stroke(image, contour[: count // 2 + 1], 0.25 * who.skin * (1, 0.8, 0.8), 2)  # lashes
    stroke(image, contour[count // 2 :], 0.6 * who.skin, 1)
    stroke(
        image, contour[2 : count // 2 - 1] - (0, 0.055 * UNIT), 0.62 * who.skin * (1, 0.9, 0.9), 1
    )  # the lid's crease
    return contour


def _draw_mouth(image: np.ndarray, who: Identity, opening: float, smile: float) -> np.ndarray:
    lips = {name: to_canvas(points) for name, points in lip_contours(who, opening, smile).items()}
    fill(image, lips["mouth"], who.lips)
    middle = lips["mouth"][:, 1] < to_canvas([(0, who.mouth_height)])[0, 1]
    fill(image, lips["mouth"][middle], 0.86 * who.lips)  # the upper lip lies in shadow
    fill(image, lips["gap"], (0.18, 0.06, 0.06))
    if opening > 0.25:
        teeth = lips["gap"].copy()
        top = teeth[:, 1].min()
        teeth[:, 1] = np.minimum(teeth[:, 1], top + 0.045 * UNIT)
        teeth[:, 0] = CENTRE[0] + 0.82 * (teeth[:, 0] - CENTRE[0])
        fill(image, np.add(teeth, (0, 1)), (0.86, 0.84, 0.80))
    stroke(image, lips["gap"], 0.45 * who.lips, 1, closed=True)
    return lips["mouth"]


def _draw_glasses(image: np.ndarray, who: Identity) -> None:
    for s in (-1, 1):
        rim = np.add(smooth([(-0.3, -0.2), (0.3, -0.22), (0.28, 0.2), (-0.24, 0.24)]), (who.eye_distance, 0.02))
        stroke(image, to_canvas(rim * (s, 1)), (0.12, 0.1, 0.1), 3, closed=True)
    bridge = to_canvas([(-0.14, -0.06), (0, -0.1), (0.14, -0.06)])
    stroke(image, bridge, (0.12, 0.1, 0.1), 3)
