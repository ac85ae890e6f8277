"""The face detector: its cascade, its weights' guard, and how near its points are to hand-made ones."""

import csv
import importlib.util
import sys

import numpy as np
import pytest

from resproto_fd.configs.errors import UserError
from resproto_fd.preprocessing.faces import mtcnn

needs_weights = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("mtcnn", "joblib", "lz4")),
    reason="the package mtcnn, which carries the weights, is not installed",
)


@pytest.fixture(scope="module")
def detector():
    return mtcnn.Mtcnn()


@pytest.fixture(scope="module")
def astronaut():
    return pytest.importorskip("skimage.data").astronaut()


@needs_weights
def test_one_face_is_found_with_its_points_in_place(detector, astronaut):
    (faces,) = detector.detect([astronaut])
    assert len(faces) == 1 and faces.scores[0] > 0.99
    by_eye = [[203, 101], [246, 103], [225, 127], [201, 140], [246, 142]]
    assert np.abs(faces.points[0] - by_eye).max() < 5
    left, top, right, bottom = faces.boxes[0]
    assert left < 200 and right > 250 and top < 90 and bottom > 155


@needs_weights
def test_the_first_point_is_the_eye_on_the_pictures_left_in_a_mirror_too(detector, astronaut):
    (faces,) = detector.detect([astronaut[:, ::-1].copy()])
    assert faces.points[0, 0, 0] < faces.points[0, 1, 0] and faces.points[0, 3, 0] < faces.points[0, 4, 0]


@needs_weights
def test_pictures_together_give_the_faces_of_each_alone(detector, astronaut):
    pictures = [astronaut, np.zeros_like(astronaut), astronaut[:, ::-1].copy(), astronaut[:300, :400].copy()]
    for together, picture in zip(detector.detect(pictures), pictures):
        (alone,) = detector.detect([picture])
        assert len(together) == len(alone)
        assert np.allclose(together.points, alone.points, atol=0.01)
        assert np.allclose(together.scores, alone.scores, atol=1e-4)


@needs_weights
def test_noise_and_tiny_pictures_hold_no_face(detector):
    random = np.random.default_rng(0)
    pictures = [random.integers(0, 256, (200, 220, 3), dtype=np.uint8), np.full((9, 30, 3), 120, np.uint8)]
    assert [len(faces) for faces in detector.detect(pictures)] == [0, 0]
    assert detector.detect([]) == []


@needs_weights
def test_faces_below_the_smallest_size_are_not_looked_for(astronaut):
    (faces,) = mtcnn.Mtcnn(min_face=200).detect([astronaut])
    assert len(faces) == 0


@needs_weights
def test_the_weights_come_without_importing_their_package(detector):
    assert "mtcnn" not in sys.modules and "tensorflow" not in sys.modules


@needs_weights
def test_a_weight_file_that_is_not_the_known_one_is_never_opened(monkeypatch):
    import joblib

    monkeypatch.setitem(mtcnn.WEIGHT_HASHES, "rnet", "0" * 64)
    monkeypatch.setattr(joblib, "load", lambda path: pytest.fail("opened"))
    with pytest.raises(UserError, match=r"rnet\.lz4: expected SHA-256"):
        mtcnn.load_weights("rnet")


def test_without_the_package_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'resproto-fd\[faces\]'"):
        mtcnn.Mtcnn()


def test_faces_smaller_than_a_cell_cannot_be_asked_for():
    with pytest.raises(UserError, match=r"min_face: expected 12 pixels or more.*got 5"):
        mtcnn.Mtcnn(min_face=5)


@pytest.mark.parametrize("of_smaller", [False, True])
def test_suppression_equals_a_loop_over_pairs(of_smaller):
    random = np.random.default_rng(0)
    corner = random.uniform(0, 60, (80, 2))
    boxes = np.concatenate([corner, corner + random.uniform(10, 50, (80, 2))], 1)
    scores, owners = random.uniform(size=80).round(1), random.integers(0, 3, 80)

    def overlap(a, b):
        sides = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
        shared = max(sides[0], 0) * max(sides[1], 0)
        area_a, area_b = (np.prod(box[2:] - box[:2]) for box in (a, b))
        return shared / (min(area_a, area_b) if of_smaller else area_a + area_b - shared)

    kept = []
    for i in sorted(range(80), key=lambda i: (-scores[i], i)):
        if all(owners[i] != owners[j] or overlap(boxes[i], boxes[j]) <= 0.5 for j in kept):
            kept.append(i)
    assert 3 < len(kept) < 80
    assert mtcnn._suppress(boxes, scores, owners, 0.5, of_smaller).tolist() == kept


@pytest.mark.slow
@needs_weights
def test_points_on_real_faces_are_near_those_set_by_hand(detector, shared):
    from resproto_fd.preprocessing.faces.video_reader import read_picture

    real = shared / "real"
    with open(real / "LANDMARKS_GT.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if (real / row["path"]).exists()][::14]
    errors = []
    for row in rows:
        (faces,) = detector.detect([read_picture(real / row["path"])])
        names = ("pupil_l", "pupil_r", "mouth_l", "mouth_r")
        truth = np.array([[float(row[f"{name}_x"]), float(row[f"{name}_y"])] for name in names])
        distance = np.linalg.norm(faces.points[0][[0, 1, 3, 4]] - truth, axis=1).mean()
        errors.append(distance / np.linalg.norm(truth[0] - truth[1]))
    assert len(errors) >= 10
    assert np.mean(errors) < 0.045 and max(errors) < 0.10


@needs_weights
def test_real_pictures_without_faces_give_none(detector, shared):
    from resproto_fd.preprocessing.faces.video_reader import read_picture

    pictures = sorted((shared / "real" / "negatives").glob("*.jpg"))[::3]
    assert len(pictures) >= 5
    assert [len(faces) for faces in detector.detect([read_picture(path) for path in pictures])] == [0] * len(pictures)
