"""Forgery mask and facial landmarks of a frame, which DeepfakeBench stores beside it."""

from pathlib import PurePosixPath

import numpy as np

from resproto_fd.configs.errors import UnreadableFile
from resproto_fd.configs.readers.npz_reader import Kind, parse_npy
from resproto_fd.preprocessing.store.image_codec import UnreadableFrame

NPY_START = b"\x93NUMPY"
LANDMARKS = (81, 2)


def mask_path(path: str) -> str:
    """Path at which DeepfakeBench stores the mask of a frame.

    >>> mask_path("D/frames/a/000.png")
    'D/masks/a/000.png'
    """
    return path.replace("frames", "masks")


def landmark_path(path: str) -> str:
    """Path at which DeepfakeBench stores the landmarks of a frame.

    >>> landmark_path("D/frames/a/000.png")
    'D/landmarks/a/000.npy'
    """
    return str(PurePosixPath(path.replace("frames", "landmarks")).with_suffix(".npy"))


def decode_landmarks(data: bytes, where: str) -> np.ndarray:
    """Decodes landmarks, [K, 2]: a .npy file, or bare int32 or int64 [81, 2].

    Args:
        data: The stored bytes.
        where: Store and path, for messages.

    Raises:
        UnreadableFrame: They have another length or form.
    """
    if data.startswith(NPY_START):
        try:
            points = parse_npy(data, where, "landmarks", Kind("iuf", 2), "store it again")
        except UnreadableFile as error:
            raise UnreadableFrame(str(error)) from error
    else:
        kinds = {np.dtype(kind).itemsize * LANDMARKS[0] * LANDMARKS[1]: kind for kind in ("<i4", "<i8")}
        if len(data) not in kinds:
            raise UnreadableFrame(
                f"{where}: expected {' or '.join(map(str, kinds))} bytes ({LANDMARKS} int32 or int64), got {len(data)}"
            )
        points = np.frombuffer(data, kinds[len(data)]).reshape(LANDMARKS)
    if points.ndim != 2 or points.shape[1] != 2 or points.dtype.kind not in "iuf":
        raise UnreadableFrame(f"{where}: expected numbers [K, 2], got {points.dtype} {list(points.shape)}")
    return points


def bare_landmarks(data: bytes, where: str) -> bytes:
    """Encodes landmarks as DeepfakeBench's released LMDBs do, bare int32 [81, 2]. Other shapes stay as they are.

    Raises:
        UnreadableFrame: They have no known length or form.
    """
    points = decode_landmarks(data, where)
    if points.shape == LANDMARKS and points.dtype.kind in "iu":
        return points.astype("<i4").tobytes()
    return data
