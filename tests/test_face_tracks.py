"""Which face is followed, on boxes made by hand."""

import numpy as np

from resproto_fd.preprocessing.faces.tracks import largest_faces, link_boxes, overlaps, persistent_faces


def box(x, side=100, y=0):
    return [x, y, x + side, y + side]


def frames(*rows):
    """Boxes of each frame; a box of five numbers is unsure."""
    boxes = [np.array([b[:4] for b in row], float).reshape(-1, 4) for row in rows]
    return boxes, [np.array([len(b) == 4 for b in row], bool) for row in rows]


def test_a_large_find_in_one_frame_does_not_take_the_place_of_the_lasting_face():
    given = frames([box(0)], [box(2)], [box(300, 180), box(4)], [box(6)])
    assert persistent_faces(*given) == [0, 0, 1, 0]
    assert largest_faces(*given) == [0, 0, 0, 0]


def test_a_false_find_does_not_fill_a_frame_in_which_the_face_is_missed():
    given = frames([box(0)], [box(2)], [box(300)], [box(4)], [box(5)])
    assert persistent_faces(*given) == [0, 0, None, 0, 0]


def test_after_a_cut_the_new_shots_face_is_followed():
    given = frames([box(0)], [box(2)], [box(400)], [box(402)], [box(404)])
    assert persistent_faces(*given) == [0, 0, 0, 0, 0]


def test_of_two_people_the_larger_is_followed_and_never_swapped_for_the_other():
    given = frames([box(0), box(400, 60)], [box(400, 60), box(3)], [box(400, 60)], [box(400, 60), box(5)])
    assert persistent_faces(*given) == [0, 1, None, 1]


def test_a_lasting_face_wins_over_a_larger_one_that_passes_by():
    given = frames([box(0, 80)], [box(0, 80), box(300, 120)], [box(0, 80), box(300, 120)], [box(0, 80)], [box(1, 80)])
    assert persistent_faces(*given) == [0, 0, 0, 0, 0]


def test_an_unsure_find_counts_where_it_continues_a_sure_face_and_nowhere_else():
    assert persistent_faces(*frames([box(0)], [[*box(3), 0]], [box(6)])) == [0, 0, 0]
    assert persistent_faces(*frames([[*box(0), 0]], [[*box(3), 0]])) == [None, None]
    assert largest_faces(*frames([box(0, 50), [*box(200, 90), 0]], [[*box(3), 0]])) == [0, None]


def test_a_single_frame_gives_its_largest_face():
    assert persistent_faces(*frames([box(0, 50), box(200, 90)])) == [1]


def test_frames_without_faces_give_none():
    assert persistent_faces(*frames([], [], [])) == [None, None, None]
    assert persistent_faces([], []) == []


def test_a_track_ends_when_the_face_is_unseen_for_long():
    boxes, _ = frames([box(0)], [], [], [], [], [box(0)])
    assert link_boxes(boxes) == [[(0, 0)], [(5, 0)]]


def test_the_nearest_boxes_are_linked_first():
    boxes, _ = frames([box(0), box(60)], [box(45), box(65)])
    assert sorted(link_boxes(boxes)) == [[(0, 0), (1, 0)], [(0, 1), (1, 1)]]


def test_overlap_is_intersection_over_union():
    a, b = np.array([box(0)], float), np.array([box(50), box(0), box(500), [3, 3, 3, 3]], float)
    assert np.allclose(overlaps(a, b), [[1 / 3, 1, 0, 0]])
