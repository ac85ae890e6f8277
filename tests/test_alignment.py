"""The crop's geometry, against scikit-image and against the crop written out step by step."""

import cv2
import numpy as np
import pytest

from resproto_fd.preprocessing.faces.alignment import crop_template, move_points, similarity_transform, warp, warp_mask


@pytest.fixture
def points():
    random = np.random.default_rng(0)
    return crop_template() * 0.8 + [60, 90] + random.normal(0, 6, (5, 2))


def umeyama(points, target):
    transforms = pytest.importorskip("skimage.transform")
    if hasattr(transforms.SimilarityTransform, "from_estimate"):
        return transforms.SimilarityTransform.from_estimate(points, target).params[:2]
    transform = transforms.SimilarityTransform()  # scikit-image before 0.26
    assert transform.estimate(points, target)
    return transform.params[:2]


def test_the_template_is_arcface_in_a_crop_of_its_own_size():
    assert np.allclose(crop_template(112, 1.0)[0], [38.2946, 51.6963])


def test_scale_draws_the_template_towards_the_crops_centre():
    tight, wide = crop_template(256, 1.0), crop_template(256, 1.3)
    assert np.allclose(wide - 128, (tight - 128) / 1.3)


def test_a_known_similarity_is_found_again():
    angle, zoom, shift = 0.4, 1.7, np.array([12.0, -30.0])
    rotation = zoom * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    before = crop_template()
    matrix = similarity_transform(before, before @ rotation.T + shift)
    assert np.allclose(matrix, np.column_stack([rotation, shift]))


def test_the_transform_is_umeyamas(points):
    assert np.allclose(similarity_transform(points, crop_template()), umeyama(points, crop_template()))


def test_points_that_mirror_the_template_are_not_mirrored_back(points):
    matrix = similarity_transform(points * [-1, 1], crop_template())
    assert np.linalg.det(matrix[:, :2]) > 0


def test_points_in_one_place_are_refused():
    with pytest.raises(ValueError, match="coincide"):
        similarity_transform(np.full((5, 2), 7.0), crop_template())


def test_the_crop_equals_the_steps_of_deepfakebench(points):
    # 96 x 112 template, + 8 px, times size / 112, margins of (scale - 1) / 2 on each side, back to the size.
    random = np.random.default_rng(1)
    image = cv2.GaussianBlur(random.integers(0, 256, (400, 420, 3), dtype=np.uint8), (9, 9), 0)
    template = np.array(
        [[30.2946, 51.6963], [65.5318, 51.5014], [48.0252, 71.7366], [33.5493, 92.3655], [62.7299, 92.2041]]
    )
    template = (template + np.array([8, 0])) * 256 / 112
    margin = 256 * (1.3 - 1) / 2
    template = (template + margin) * 256 / (256 + 2 * margin)
    theirs = umeyama(points, template)
    matrix = similarity_transform(points, crop_template(256, 1.3))
    assert np.allclose(matrix, theirs)
    assert np.array_equal(warp(image, matrix), cv2.warpAffine(image, theirs, (256, 256)))


def test_a_moved_point_lies_where_the_warped_picture_shows_it(points):
    image = np.zeros((400, 420, 3), np.uint8)
    x, y = points[0].round().astype(int)
    cv2.circle(image, (int(x), int(y)), 6, (255, 255, 255), -1)
    matrix = similarity_transform(points, crop_template())
    rows, columns = np.nonzero(warp(image, matrix)[..., 0] > 128)
    assert np.allclose([columns.mean(), rows.mean()], move_points(matrix, np.array([[x, y]]))[0], atol=0.5)


def test_a_mask_follows_its_crop_and_is_black_or_white(points):
    mask = np.zeros((400, 420, 3), np.uint8)
    mask[100:300, 120:280] = 200
    mask[:20] = 9  # ringing of a lossy video
    matrix = similarity_transform(points, crop_template())
    crop = warp_mask(mask, matrix)
    assert crop.shape == (256, 256) and crop.dtype == np.uint8
    assert set(np.unique(crop)) == {0, 255}
    shown = warp(mask, matrix)[..., 0]
    assert np.all(crop[shown == 200] == 255) and np.all(crop[shown < 16] == 0)
