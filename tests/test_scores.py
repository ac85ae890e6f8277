"""Score tables: what they hold, what they refuse, and that a file is the table again."""

import numpy as np
import pytest

from resproto_fd.configs.errors import UserError
from resproto_fd.training.scores import ScoreTable, factorize


def columns(**changed):
    """Two real and two fake videos of three frames each."""
    kept = {
        "dataset": "Demo-B",
        "video": np.repeat(["D/real/1", "D/real/2", "D/swap/1", "D/warp/1"], 3),
        "frame": np.tile([0, 5, 9], 4),
        "label": np.repeat([0, 0, 1, 1], 3),
        "method": np.repeat(["real", "real", "swap", "warp"], 3),
        "score": np.linspace(0, 1, 12, dtype=np.float32),
    }
    return kept | changed


def at(name, position, value):
    """The columns with one value of one column replaced."""
    column = columns()[name].copy()
    column[position] = value
    return columns(**{name: column})


def test_per_frame_columns_come_back_as_they_went_in():
    types = np.repeat(["real", "real", "face swap", "reenactment"], 3)
    table = ScoreTable(**columns(), forgery_type=types)
    for name in ("video", "frame", "label", "method", "score"):
        assert getattr(table, name).tolist() == columns()[name].tolist()
    assert table.forgery_type.tolist() == types.tolist()
    assert table.label.dtype == np.int8
    assert (len(table), len(table.videos)) == (12, 4)


def test_the_hash_of_the_pixels_is_that_of_each_rows_pixels_in_any_order():
    checksums, order = np.arange(12, dtype=np.uint32), np.random.default_rng(0).permutation(12)
    table = ScoreTable(**columns(), checksums=checksums)
    moved = {name: column if name == "dataset" else column[order] for name, column in columns().items()}
    assert ScoreTable(**moved, checksums=checksums[order]).pixels_hash() == table.pixels_hash()
    assert ScoreTable(**columns(), checksums=checksums[order]).pixels_hash() != table.pixels_hash()
    assert ScoreTable(**columns()).pixels_hash() is None


def test_a_saved_table_is_the_table_again(tmp_path):
    scores = np.random.default_rng(0).random(12)
    table = ScoreTable(
        **columns(score=scores),
        forgery_type=["t"] * 12,
        variants={"clip": scores / 2, "grp": (scores / 3).astype(np.float32)},
        detector="resproto_fd",
        checkpoint="a" * 64,
        skipped=3,
    )
    table.save(tmp_path / "runs" / "Demo-B.npz")
    again = ScoreTable.load(tmp_path / "runs" / "Demo-B.npz")
    for name in ("dataset", "detector", "checkpoint", "skipped"):
        assert getattr(again, name) == getattr(table, name)
    for name in ("video", "frame", "label", "method", "forgery_type", "score"):
        np.testing.assert_array_equal(getattr(again, name), getattr(table, name), strict=True)
    assert sorted(again.variants) == ["clip", "grp"]
    np.testing.assert_array_equal(again.variants["clip"], scores / 2, strict=True)
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["Demo-B.npz"]


def test_the_same_table_is_saved_to_the_same_bytes(tmp_path):
    for name in ("a.npz", "b.npz"):
        ScoreTable(**columns()).save(tmp_path / name)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, -0.01, 1.01])
def test_a_score_that_is_no_probability_is_refused_and_its_frame_named(value):
    with pytest.raises(UserError, match=r"Demo-B: score refused.*D/real/2 frame 5"):
        ScoreTable(**at("score", 4, value))


def test_only_the_first_bad_frames_are_named_and_the_rest_counted():
    with pytest.raises(UserError, match=r"D/real/1 frame 0.*frame 5.*frame 9.*and 9 more") as caught:
        ScoreTable(**columns(score=np.full(12, np.nan)))
    assert "D/real/2" not in str(caught.value)


def test_a_variant_is_checked_like_the_score_and_named():
    with pytest.raises(UserError, match="variant 'grp'"):
        ScoreTable(**columns(), variants={"grp": np.full(12, 2.0)})
    with pytest.raises(UserError, match=r"variant 'grp' has shape \(3,\)"):
        ScoreTable(**columns(), variants={"grp": np.zeros(3)})


def test_rounding_just_outside_the_unit_interval_is_put_back():
    table = ScoreTable(**at("score", 11, np.float32(1) + np.finfo(np.float32).eps))
    assert table.score.max() == 1.0


def test_a_frame_listed_twice_is_refused_and_named():
    with pytest.raises(UserError, match="frame refused, expected each frame once: D/swap/1 frame 9"):
        ScoreTable(**at("frame", 7, 9))


def test_the_same_frame_number_in_two_videos_is_no_repetition():
    assert len(ScoreTable(**columns())) == 12


def test_a_video_with_two_labels_is_refused_and_named():
    with pytest.raises(UserError, match=r"D/real/2 has more than one label: \[0, 1\]"):
        ScoreTable(**at("label", 4, 1))


def test_a_video_with_two_methods_is_refused_and_named():
    with pytest.raises(UserError, match=r"D/warp/1 has more than one method: \['swap', 'warp'\]"):
        ScoreTable(**at("method", 11, "swap"))


def test_a_label_other_than_0_and_1_is_refused_and_named():
    with pytest.raises(UserError, match=r"label refused, expected 0 \(real\) or 1 \(fake\): D/warp/1: 4"):
        ScoreTable(**columns(label=np.repeat([0, 0, 1, 4], 3)))


def test_columns_of_different_lengths_are_refused_with_their_lengths():
    with pytest.raises(UserError, match=r"'video': 12.*'score': 11"):
        ScoreTable(**columns(score=np.zeros(11)))


def test_a_table_without_frames_is_refused():
    with pytest.raises(UserError, match="it has no frame"):
        ScoreTable("Demo-B", [], [], [], [], [], skipped=7)


def test_frame_numbers_must_be_whole():
    with pytest.raises(UserError, match="frame: expected whole numbers"):
        ScoreTable(**columns(frame=np.linspace(0, 1, 12)))


def test_the_frames_hash_ignores_order_and_scores_but_not_frames_videos_or_labels():
    table = ScoreTable(**columns())
    order = np.random.default_rng(1).permutation(12)
    shuffled = {name: column[order] for name, column in columns().items() if name != "dataset"}
    same = ScoreTable("other name", **(shuffled | {"score": np.zeros(12)}))
    assert same.frames_hash() == table.frames_hash()
    fewer = {name: column[:-1] for name, column in columns().items() if name != "dataset"}
    others = [at("frame", 0, 1), columns(label=np.repeat([0, 1, 1, 1], 3)), {"dataset": "Demo-B"} | fewer]
    others.append(columns(video=np.repeat(["D/real/1", "D/real/3", "D/swap/1", "D/warp/1"], 3)))
    assert table.frames_hash() not in {ScoreTable(**other).frames_hash() for other in others}


def test_a_missing_file_a_cut_file_and_another_file_are_named(tmp_path):
    path = tmp_path / "scores.npz"
    with pytest.raises(UserError, match=r"scores\.npz: no such score table"):
        ScoreTable.load(path)
    ScoreTable(**columns()).save(path)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(UserError, match=r"scores\.npz: not a readable score table"):
        ScoreTable.load(path)
    np.savez(path, other=np.zeros(3))
    with pytest.raises(UserError, match="lacks"):
        ScoreTable.load(path)
    path.write_text("video,frame,score\n")
    with pytest.raises(UserError, match="not a readable score table"):
        ScoreTable.load(path)
    with open(path, "wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(UserError, match="not a readable score table"):
        ScoreTable.load(path)


def test_a_file_with_pickled_objects_is_not_unpickled(tmp_path):
    ScoreTable(**columns()).save(tmp_path / "scores.npz")
    with np.load(tmp_path / "scores.npz") as file:
        arrays = dict(file)
    np.savez(tmp_path / "scores.npz", **(arrays | {"videos": np.array([{"a": 1}], dtype=object)}))
    with pytest.raises(UserError, match="allow_pickle"):
        ScoreTable.load(tmp_path / "scores.npz")


def test_a_loaded_file_is_checked_like_a_new_table(tmp_path):
    ScoreTable(**columns()).save(tmp_path / "scores.npz")
    with np.load(tmp_path / "scores.npz") as file:
        arrays = dict(file)
    for name, value, message in [
        ("score", np.full(12, np.nan), "score refused"),
        ("video_index", np.full(12, 9), "does not list"),
        ("frame", np.zeros(3, int), "different lengths"),
        ("format", np.array(99), "reads up to"),
    ]:
        np.savez(tmp_path / "bad.npz", **(arrays | {name: value}))
        with pytest.raises(UserError, match=rf"bad\.npz.*{message}"):
            ScoreTable.load(tmp_path / "bad.npz")


def test_factorize_agrees_with_a_loop():
    names = np.random.default_rng(2).choice(["x", "long name", "y", "z"], 50)
    distinct, index = factorize(names)
    assert distinct.tolist() == list(dict.fromkeys(names.tolist()))
    assert distinct[index].tolist() == names.tolist()


def test_the_people_of_videos_are_kept_in_the_table(tmp_path):
    table = ScoreTable("D", ["D/a", "D/a", "D/b"], [0, 1, 0], [0, 0, 1], ["real", "real", "x"], [0.1, 0.2, 0.9],
                       people={"D/b": ("D/a", "P")})  # fmt: skip
    table.save(tmp_path / "t.npz")
    assert ScoreTable.load(tmp_path / "t.npz").people() == {"D/a": ("", ""), "D/b": ("D/a", "P")}
    assert ScoreTable("D", ["D/a"], [0], [0], ["real"], [0.1]).people() == {}
