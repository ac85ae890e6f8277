"""MTCNN: finds faces and five points of each, by a cascade of three small networks.

Zhang, Zhang, Li, Qiao: Joint Face Detection and Alignment Using Multitask Cascaded Convolutional Networks, IEEE Signal
Processing Letters 2016. The networks and the cascade are written from the paper. The trained weights come from the
package `mtcnn` (MIT).
"""

import hashlib
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from resproto_fd.configs.errors import UserError

PYRAMID_FACTOR = 0.709  # 1/sqrt(2): each level halves the area
PROPOSAL_SCORE, REFINE_SCORE = 0.6, 0.7
CELL, STRIDE = 12, 2  # P-Net looks at 12 px every 2 px

# joblib files are pickles, and a pickle can run code. So only these files, of mtcnn 1.0.0, are opened.
WEIGHT_HASHES = {
    "pnet": "ea6b0c3e685ebee3165326ad6484acc95f2ef78f1c94fbf40a55704fa989f7b5",
    "rnet": "cb00e6460f3c98b0bfafaba3c0a0ded4bdf6e62cee7174d969e8670d7e757fee",
    "onet": "94f6ea2f4cf985275ee958cdd762d17b6009348a4fb9d8c6be39ba73ffd22ca3",
}


@dataclass(frozen=True, slots=True)
class Faces:
    """The N faces of one picture, the most certain first, in pixel coordinates of the picture.

    Attributes:
        boxes: left, top, right, bottom, [N, 4].
        scores: P(face) in [0, 1], [N].
        points: (x, y) of the eye on the picture's left, the eye on its right, the nose tip and the two mouth corners
            (left, right), [N, 5, 2].
    """

    boxes: np.ndarray
    scores: np.ndarray
    points: np.ndarray

    def __len__(self) -> int:
        return len(self.scores)


class ProposalNet(nn.Module):
    """P-Net, fully convolutional: [B, 3, H, W] -> P(face) [B, h, w], offsets [B, 4, h, w], one per cell of 12 px."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *_conv(3, 10, 3), nn.MaxPool2d(2, 2, ceil_mode=True), *_conv(10, 16, 3), *_conv(16, 32, 3)
        )
        self.offsets = nn.Conv2d(32, 4, 1)
        self.face = nn.Conv2d(32, 2, 1)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        x = self.body(images)
        return self.face(x).softmax(1)[:, 1], self.offsets(x)


class RefineNet(nn.Module):
    """R-Net: [B, 3, 24, 24] -> P(face) [B] and box offsets [B, 4]."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *_conv(3, 28, 3),
            nn.MaxPool2d(3, 2, ceil_mode=True),
            *_conv(28, 48, 3),
            nn.MaxPool2d(3, 2, ceil_mode=True),
            *_conv(48, 64, 2),
        )
        self.dense = nn.Sequential(nn.Linear(576, 128), nn.PReLU(128))
        self.offsets = nn.Linear(128, 4)
        self.face = nn.Linear(128, 2)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        x = self.dense(_flatten(self.body(images)))
        return self.face(x).softmax(1)[:, 1], self.offsets(x)


class OutputNet(nn.Module):
    """O-Net: [B, 3, 48, 48] -> P(face) [B], box offsets [B, 4], points in box widths (x's, then y's) [B, 10]."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *_conv(3, 32, 3),
            nn.MaxPool2d(3, 2, ceil_mode=True),
            *_conv(32, 64, 3),
            nn.MaxPool2d(3, 2, ceil_mode=True),
            *_conv(64, 64, 3),
            nn.MaxPool2d(2, 2, ceil_mode=True),
            *_conv(64, 128, 2),
        )
        self.dense = nn.Sequential(nn.Linear(1152, 256), nn.PReLU(256))
        self.offsets = nn.Linear(256, 4)
        self.points = nn.Linear(256, 10)
        self.face = nn.Linear(256, 2)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = self.dense(_flatten(self.body(images)))
        return self.face(x).softmax(1)[:, 1], self.offsets(x), self.points(x)


def checked_device(name: str) -> torch.device:
    """Returns the device of a name.

    Raises:
        UserError: It is no device's name, or this machine or this PyTorch has no such device.
    """
    cuda = torch.cuda.device_count()
    remedy = f"set one of cpu{''.join(f', cuda:{i}' for i in range(cuda))}"
    try:
        device = torch.device(name)
        if device.type == "cuda":
            if (device.index or 0) >= cuda:
                raise UserError(f"--device {name}: this machine has {cuda} CUDA devices; {remedy}")
        elif device.type == "meta":
            raise UserError(f"--device {name}: this device has no numbers; {remedy}")
        else:
            torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError, ModuleNotFoundError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"--device {name}: no device of this machine ({reason}); {remedy}") from None
    return device


class Mtcnn:
    """The cascade.

    Args:
        min_face: Side in pixels of the smallest face to find, at least 12; the cost falls with its square.
        min_score: P(face) in [0, 1] below which the last network's faces are dropped.
        device: Device of the networks.

    Raises:
        UserError: There is no such device, the package `mtcnn` is missing, or its weight files are not those of version
            1.0.0.
    """

    def __init__(self, min_face: int = 40, min_score: float = 0.95, device: str = "cpu") -> None:
        if min_face < CELL:
            raise UserError(f"min_face: expected {CELL} pixels or more, which MTCNN can see, got {min_face}")
        self.min_face, self.min_score, self.device = min_face, min_score, checked_device(device)
        self.pnet, self.rnet, self.onet = (
            _load(net, name).to(self.device)
            for net, name in ((ProposalNet(), "pnet"), (RefineNet(), "rnet"), (OutputNet(), "onet"))
        )

    @torch.inference_mode()
    def detect(self, images: Sequence[np.ndarray]) -> list[Faces]:
        """Finds the faces of each picture. Pictures of one size go through the networks together.

        Args:
            images: RGB uint8, each [H, W, 3].
        """
        found: list[Faces | None] = [None] * len(images)
        for shape in dict.fromkeys(image.shape for image in images):
            rows = [i for i, image in enumerate(images) if image.shape == shape]
            for row, faces in zip(rows, self._detect_same_size([images[i] for i in rows])):
                found[row] = faces
        return found

    def _detect_same_size(self, images: list[np.ndarray]) -> list[Faces]:
        owners, boxes = self._propose(images)

        scores, offsets = self._classify(self.rnet, images, owners, boxes, 24)
        keep = np.flatnonzero(scores > REFINE_SCORE)
        keep = keep[_suppress(boxes[keep], scores[keep], owners[keep], 0.7)]
        owners, boxes = owners[keep], _squares(_moved(boxes[keep], offsets[keep]))

        scores, offsets, points = self._classify(self.onet, images, owners, boxes, 48)
        keep = np.flatnonzero(scores >= self.min_score)
        owners, scores, boxes = owners[keep], scores[keep], boxes[keep]
        corner, side = boxes[:, None, :2], (boxes[:, 2:] - boxes[:, :2])[:, None]
        points = corner + points[keep].reshape(-1, 2, 5).transpose(0, 2, 1) * side
        boxes = _moved(boxes, offsets[keep])
        keep = _suppress(boxes, scores, owners, 0.7, of_smaller=True)
        return [
            Faces(*(a[keep[owners[keep] == i]].astype(np.float32) for a in (boxes, scores, points)))
            for i in range(len(images))
        ]

    def _propose(self, images: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """P-Net over the image pyramid: (owners [M], square boxes [M, 4]); an owner is the box's row in `images`."""
        height, width = images[0].shape[:2]
        levels = []
        scale = CELL / self.min_face
        small = images
        while min(height, width) * scale >= CELL:
            size = (round(width * scale), round(height * scale))
            small = [cv2.resize(image, size, interpolation=cv2.INTER_AREA) for image in small]
            face, offsets = self.pnet(self._tensor(np.stack(small)))
            owner, row, column = (face > PROPOSAL_SCORE).nonzero(as_tuple=True)
            scores = face[owner, row, column].cpu().numpy()
            offsets = offsets[owner, :, row, column].cpu().numpy().astype(np.float64)
            owner, row, column = owner.cpu().numpy(), row.cpu().numpy(), column.cpu().numpy()
            corner = np.stack([column, row], 1) * STRIDE
            boxes = np.concatenate([corner, corner + CELL], 1) * np.tile([width / size[0], height / size[1]], 2)
            keep = _suppress(boxes, scores, owner, 0.5)
            levels.append((owner[keep], boxes[keep], scores[keep], offsets[keep]))
            scale *= PYRAMID_FACTOR
        if not levels:
            return np.zeros(0, int), np.zeros((0, 4))
        owners, boxes, scores, offsets = (np.concatenate(parts) for parts in zip(*levels))
        keep = _suppress(boxes, scores, owners, 0.7)
        return owners[keep], _squares(_moved(boxes[keep], offsets[keep]))

    def _classify(self, net: nn.Module, images, owners, boxes, side: int) -> list[np.ndarray]:
        """Returns the network's answers for every box, cut out of its picture (black outside it), side x side."""
        patches = np.zeros((len(boxes), side, side, 3), np.uint8)
        for i, (owner, box) in enumerate(zip(owners, boxes)):
            patches[i] = _patch(images[owner], box, side)
        answers = [net(self._tensor(patches[i : i + 512])) for i in range(0, max(len(patches), 1), 512)]
        return [torch.cat(parts).cpu().numpy().astype(np.float64) for parts in zip(*answers)]

    def _tensor(self, images: np.ndarray) -> Tensor:
        return (torch.from_numpy(images).to(self.device).permute(0, 3, 1, 2).float() - 127.5) / 128


def load_weights(name: str) -> list[np.ndarray]:
    """Loads the arrays of "pnet", "rnet" or "onet" from the installed package `mtcnn`, without importing it.

    Raises:
        UserError: The package is missing, or the file's SHA-256 is another one.
    """
    spec = importlib.util.find_spec("mtcnn")
    if spec is None or not spec.submodule_search_locations:
        raise UserError("the face detector's weights are in the package mtcnn: pip install 'resproto-fd[faces]'")
    path = Path(spec.submodule_search_locations[0]) / "assets" / "weights" / f"{name}.lz4"
    try:
        found = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error}); reinstall mtcnn 1.0.0") from error
    if found != WEIGHT_HASHES[name]:
        raise UserError(f"{path}: expected SHA-256 {WEIGHT_HASHES[name]}, got {found}; install mtcnn==1.0.0")
    try:
        import joblib
        import lz4  # noqa: F401  (joblib's own message does not say which package it misses)
    except ImportError as error:
        raise UserError(f"mtcnn's weights need {error.name}: pip install 'resproto-fd[faces]'") from error
    return joblib.load(path)


def _conv(inputs: int, outputs: int, kernel: int) -> tuple[nn.Module, nn.Module]:
    return nn.Conv2d(inputs, outputs, kernel), nn.PReLU(outputs)


def _flatten(x: Tensor) -> Tensor:
    # The weights were trained column by column (Matlab): width, height, channel.
    return x.permute(0, 3, 2, 1).flatten(1)


def _load(net: nn.Module, name: str) -> nn.Module:
    # The file's order is the modules' order; Keras keeps kernels as [h, w, in, out] and matrices as [in, out].
    parameters = list(net.parameters())
    arrays = load_weights(name)
    for parameter, array in zip(parameters, arrays, strict=True):
        if array.ndim == 4:
            array = array.transpose(3, 2, 0, 1)
        elif array.ndim == 2:
            array = array.T
        value = torch.from_numpy(np.ascontiguousarray(array))
        parameter.data.copy_(value.reshape(parameter.shape))
        parameter.requires_grad_(False)
    return net.eval()


def _moved(boxes: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Moves the edges of boxes by offsets, which are fractions of the box's width and height."""
    return boxes + offsets * np.tile(boxes[:, 2:] - boxes[:, :2], 2)


def _squares(boxes: np.ndarray) -> np.ndarray:
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    half = (boxes[:, 2:] - boxes[:, :2]).max(1, keepdims=True, initial=0) / 2
    return np.concatenate([centre - half, centre + half], 1)


def _patch(image: np.ndarray, box: np.ndarray, side: int) -> np.ndarray:
    left, top, right, bottom = np.rint(box).astype(int)
    height, width = image.shape[:2]
    right, bottom = max(right, left + 1), max(bottom, top + 1)
    inside = image[max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)]
    if left < 0 or top < 0 or right > width or bottom > height:
        patch = np.zeros((bottom - top, right - left, 3), np.uint8)
        y, x = max(-top, 0), max(-left, 0)
        patch[y : y + inside.shape[0], x : x + inside.shape[1]] = inside
        inside = patch
    return cv2.resize(inside, (side, side), interpolation=cv2.INTER_AREA)


def _suppress(
    boxes: np.ndarray, scores: np.ndarray, owners: np.ndarray, overlap: float, of_smaller: bool = False
) -> np.ndarray:
    """Non-maximum suppression within each picture.

    Args:
        boxes: [M, 4]. scores: [M]. owners: picture of each box, [M].
        overlap: Largest overlap that two kept boxes may have: intersection over union, or over the smaller box's area.
        of_smaller: Take the smaller box's area.

    Returns:
        Rows kept, the highest score first (of equal scores, the first row).
    """
    order = np.argsort(-scores, kind="stable")
    areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    kept = []
    while len(order):
        best, rest = order[0], order[1:]
        kept.append(best)
        low = np.maximum(boxes[rest, :2], boxes[best, :2])
        high = np.minimum(boxes[rest, 2:], boxes[best, 2:])
        shared = np.prod(np.maximum(high - low, 0), axis=1)
        base = np.minimum(areas[rest], areas[best]) if of_smaller else areas[rest] + areas[best] - shared
        order = rest[(shared <= overlap * base) | (owners[rest] != owners[best])]
    return np.array(kept, int)
