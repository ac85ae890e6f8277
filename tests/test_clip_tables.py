"""Scores of clips: a table with a row for each clip, metrics of videos alone, and a board with both kinds of rows."""

import csv
import io
import json
import zipfile

import numpy as np
import pytest
import torch
from made import TinyDetector, made_config, made_dataset
from test_leaderboard import Page

from resproto_fd.configs.errors import UnreadableFile, UserError
from resproto_fd.configs.readers.npz_reader import read_npz
from resproto_fd.trainer.distributed import World
from resproto_fd.trainer.trainer import Trainer
from resproto_fd.training.answers.calibrating import fitted_levels
from resproto_fd.training.board.building import build
from resproto_fd.training.board.collecting import collect
from resproto_fd.training.board.exports import to_csv, to_markdown
from resproto_fd.training.board.index_page import render
from resproto_fd.training.board.latex import to_latex
from resproto_fd.training.board.notes import notes
from resproto_fd.training.board.row_page import render_row
from resproto_fd.training.board.score_facts import ScoreReader
from resproto_fd.training.board.table import sections
from resproto_fd.training.board.ties import MEAN
from resproto_fd.training.cli import main
from resproto_fd.training.measures import shift
from resproto_fd.training.measures.comparisons import compare_aucs, compare_tables
from resproto_fd.training.measures.deepfakebench import explained
from resproto_fd.training.measures.groups import group_metrics
from resproto_fd.training.measures.intervals import table_intervals
from resproto_fd.training.measures.metrics import method_metrics, table_metrics
from resproto_fd.training.results import BY_CLIPS, RunResult, Selection, TestResult, test_result
from resproto_fd.training.scores import MEMBERS, ScoreTable

CLIPS = [[0, 1, 2], [1, 2, 3], [5, 5, 6], [0, 2, 4], [2, 4, 6], [4, 6, 8], [0, 1, 2], [0, 1, 3]]
GOLDEN = {
    "dataset": "D",
    "video": ["D/r1", "D/r1", "D/r2", "D/f1", "D/f1", "D/f1", "D/f2", "D/f2"],
    "frame": [clip[0] for clip in CLIPS],
    "label": [0, 0, 0, 1, 1, 1, 1, 1],
    "method": ["real"] * 3 + ["swap"] * 3 + ["warp"] * 2,
    "score": np.array([0.25, 0.5, 0.625, 1.0, 0.75, 0.125, 0.75, 1.0]),
}
"""Videos have the scores .375 and .625 (real), .625 and .875 (fake)."""


def golden(**changed) -> ScoreTable:
    return ScoreTable(**GOLDEN | {"clips": np.array(CLIPS), "short_videos": 1} | changed)


def made_table(detector: str, length: int = 0, videos: int = 40, left_out: int = 0) -> ScoreTable:
    """Frames, or clips of `length` with overlaps, of videos whose hardness all detectors share."""
    rng = np.random.default_rng(3)
    label = np.arange(videos) % 2
    hard = rng.normal(size=videos)
    own = np.random.default_rng(list(detector.encode()))
    rows = 4
    video = np.repeat(np.arange(left_out, videos), rows)
    score = 2.0 * label[video] + hard[video] + 0.3 * own.normal(size=videos)[video] + 0.3 * own.normal(size=len(video))
    starts = np.tile(np.arange(rows), videos - left_out)
    return ScoreTable(
        "D",
        [f"D/v{i:02d}" for i in video],
        starts,
        label[video],
        np.where(label == 1, "swap", "real")[video],
        1 / (1 + np.exp(-score)),
        clips=starts[:, None] + np.arange(length) if length else None,
        short_videos=left_out,
        detector=detector,
    )


def made_run(folder, detector: str, length: int = 0, table: ScoreTable | None = None, **changed) -> RunResult:
    table = table or made_table(detector, length)
    place = folder / detector
    table.save(place / "scores" / "D.npz")
    given = {"size": 112, "frames": length, "stride": 2, "clips": 4, "short": "mirror"} if length else {"size": 224}
    selection = {"rule": "best", "dataset": "T", "split": "val", "metric": "frame_auc"}
    fields = {
        "detector": detector,
        "title": detector.upper(),
        "protocol": "made",
        "fingerprint": "0123456789abcdef",
        "seed": 0,
        "config": {"protocol": {"train": ["T"], "test": ["D"], "selection": selection}, "detector": {"input": given}},
        "selected_on": Selection(**selection | ({"metric": "video_auc"} if length else {})),
        "tests": {"D": test_result(table, in_domain=False)},
        "trained_on": ["T"],
    } | changed
    result = RunResult(**fields)
    result.save(place / "result.json")
    return result


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two detectors of frames and two of clips; `far` is none that may be the best."""
    folder = tmp_path_factory.mktemp("runs")
    for name, length in {"frames_a": 0, "frames_b": 0, "clips_a": 16}.items():
        made_run(folder, name, length)
    table = made_table("clips_far", 8)
    turned = ScoreTable(
        "D", table.video, table.frame, table.label, table.method, 1 - table.score, clips=table.clips, short_videos=3
    )
    made_run(folder, "clips_far", 8, turned)
    return folder


@pytest.fixture(scope="module")
def board(runs):
    reader = ScoreReader()
    results, problems = collect([runs], reader)
    assert problems == []
    (section,) = sections(results, reader)
    return section


def test_a_table_of_clips_has_metrics_of_videos_and_none_of_frames():
    found = table_metrics(golden())
    assert {name: value for name, value in found.items() if name.startswith("frame_")} == {
        f"frame_{name}": None for name in ("auc", "ap", "eer", "acc", "balanced_acc")
    }
    expected = {"auc": 3.5 / 4, "ap": 0.5 + 0.5 * 2 / 3, "eer": 0.25, "acc": 0.75, "balanced_acc": 0.75}
    assert {name: found[f"video_{name}"] for name in expected} == pytest.approx(expected, abs=1e-15)
    counts = {"frames": 15, "real_frames": 6, "videos": 4, "real_videos": 2, "clips": 8, "clip_frames": 3}
    assert {name: found[name] for name in counts} == counts
    by_method = method_metrics(golden())
    assert (by_method["swap"]["video_auc"], by_method["warp"]["video_auc"]) == (0.75, 1.0)
    assert {by_method["swap"][name] for name in ("frame_auc", "frame_eer")} == {None}
    assert [by_method["swap"][name] for name in ("frames", "clips", "videos")] == [11, 6, 3]


def test_metrics_of_clips_are_those_of_loops_over_videos():
    table = made_table("loops", 16)
    of_video = {}
    for video, score in zip(table.video.tolist(), table.score.tolist()):
        of_video.setdefault(video, []).append(score)
    means = {video: sum(sorted(scores)) / len(scores) for video, scores in of_video.items()}
    reals, fakes = ([means[v] for v, y in zip(table.videos.tolist(), table.video_label) if y == c] for c in (0, 1))
    auc = sum((f > r) + (f == r) / 2 for f in fakes for r in reals) / len(fakes) / len(reals)
    brier = (sum(r**2 for r in reals) + sum((1 - f) ** 2 for f in fakes)) / len(means)
    found = table_intervals(table)
    for value in (found["video_auc"].value, table_metrics(table)["video_auc"]):
        assert value == pytest.approx(auc, abs=1e-12)
    assert found["video_brier"].value == pytest.approx(brier, abs=1e-12)
    assert found["video_auc"].low < auc < found["video_auc"].high
    assert not [name for name in found if name.startswith("frame_")]


def test_a_saved_table_of_clips_is_the_table_again(tmp_path):
    table = golden(variants={"head": GOLDEN["score"] / 2}, checksums=np.arange(8, dtype=np.uint32), skipped=2)
    table.save(tmp_path / "D.npz")
    again = ScoreTable.load(tmp_path / "D.npz")
    np.testing.assert_array_equal(again.clips, np.array(CLIPS, dtype=np.int64), strict=True)
    assert (again.frame.tolist(), again.short_videos, again.skipped) == (GOLDEN["frame"], 1, 2)
    assert table_metrics(again) == table_metrics(table) and again.frames_hash() == table.frames_hash()
    assert repr(again) == "ScoreTable('D', 8 clips of 4 videos, by '')"


def test_a_table_of_frames_is_stored_as_ever(tmp_path):
    table = made_table("frames")
    table.save(tmp_path / "D.npz")
    text = {"dataset": "D", "detector": "frames", "checkpoint": ""}
    columns = ("videos", "video_label", "video_method", "video_type", "video_index", "frame", "score")
    arrays = {"format": np.array(1)} | {name: np.array(value) for name, value in text.items()}
    arrays |= {"skipped": np.array(0)} | {name: getattr(table, name) for name in columns}
    np.savez_compressed(tmp_path / "by_hand.npz", **arrays)
    assert (tmp_path / "D.npz").read_bytes() == (tmp_path / "by_hand.npz").read_bytes()


def test_versions_that_know_frames_alone_refuse_a_table_of_clips(tmp_path):
    golden().save(tmp_path / "D.npz")
    known = {name: kind for name, kind in MEMBERS.items() if name not in ("clips", "short_videos")}
    with pytest.raises(UnreadableFile, match="unknown array 'clips'"):
        read_npz(tmp_path / "D.npz", known)
    assert int(read_npz(tmp_path / "D.npz", MEMBERS)["format"]) == 2  # they read up to 1


@pytest.mark.parametrize(
    "clips, message",
    [
        (np.array(CLIPS)[:, :1], r"clips: expected whole numbers \[8, 2 to 1024\], got int64 \[8, 1\]"),
        (np.zeros((8, 1025), int), r"got int64 \[8, 1025\]"),
        (np.array(CLIPS)[:7], r"got int64 \[7, 3\]"),
        (np.array(CLIPS) / 1.0, "got float64"),
        (np.array(CLIPS)[:, 0], r"got int64 \[8\]"),
        (np.array(CLIPS) - np.array([0, 2, 0]), r"frames of a clip refused.*D/r1 frame 0: -1"),
        (np.array(CLIPS)[:, ::-1], r"first frame of a clip refused, expected the frame of its row: D/r1 frame 0: 2"),
        (np.array([*CLIPS[:7], CLIPS[6]]), r"clip refused, expected each clip once: D/f2 frame 0"),
    ],
)
def test_what_is_no_list_of_clips_is_refused_and_the_clip_named(clips, message):
    with pytest.raises(UserError, match=message):
        golden(clips=clips)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"format": np.array(1)}, "format 1 with clips and short_videos"),
        ({"clips": None}, "format 2 with short_videos; expected clips and short_videos in format 2"),
        ({"short_videos": None}, "format 2 with clips;"),
        ({"clips": None, "short_videos": None}, "format 2 with no clips or short_videos"),
        ({"short_videos": np.array(-1)}, "do not fit 64 bits"),
        ({"clips": np.full((8, 3), 2**63, np.uint64)}, "do not fit 64 bits"),
        ({"clips": np.array(CLIPS, dtype=float)}, "'clips': expected integers"),
    ],
)
def test_a_damaged_file_of_clips_is_refused(tmp_path, changes, message):
    golden().save(tmp_path / "whole.npz")
    with np.load(tmp_path / "whole.npz") as file:
        arrays = {name: value for name, value in (dict(file) | changes).items() if value is not None}
    np.savez_compressed(tmp_path / "D.npz", **arrays)
    with pytest.raises(UnreadableFile, match=message):
        ScoreTable.load(tmp_path / "D.npz")


def test_the_hash_of_frames_tells_clips_apart_and_that_of_videos_does_not():
    order = np.random.default_rng(0).permutation(8)
    shuffled = {name: np.asarray(value)[order] if name != "dataset" else value for name, value in GOLDEN.items()}
    table, again = golden(), ScoreTable(**shuffled, clips=np.array(CLIPS)[order])
    other = golden(clips=np.array(CLIPS) + np.array([0, 0, 9]))
    frames = ScoreTable("D", *(np.asarray(GOLDEN[name])[[0, 2, 3, 6]] for name in list(GOLDEN)[1:]))
    assert table.frames_hash() == again.frames_hash()
    assert len({each.frames_hash() for each in (table, other, frames)}) == 3
    assert len({each.videos_hash() for each in (table, again, other, frames)}) == 1
    assert made_table("a").videos_hash() != made_table("a", left_out=1).videos_hash()


def test_clips_without_an_answer_count_as_one_half_and_the_others_have_metrics_of_their_own():
    answered, score = np.array([True] * 7 + [False]), GOLDEN["score"].copy()
    score[7] = 0.5
    found = test_result(golden(answered=answered, score=score))
    alone = {name: value[:7] if name != "dataset" else value for name, value in GOLDEN.items()}
    assert found.answered == 7 / 8
    assert found.over_answered.model_dump() == table_metrics(ScoreTable(**alone, clips=np.array(CLIPS[:7])))
    with pytest.raises(UserError, match="score of a clip without an answer"):
        golden(answered=answered)


def test_what_is_of_scores_of_frames_has_no_value_for_clips():
    table = golden()
    assert shift.thresholds(table) == {} and shift.cross_aucs({"D": table}) == {}
    assert shift.pooled_auc({"D": table, "E": made_table("frames")}) is None
    old, rows = explained(table)
    by_name = {row.metric: row for row in rows}
    assert by_name["auc"].corrected is None and "takes each clip for a frame" in by_name["auc"].cause
    # DeepfakeBench's video AUC of clips is the AUC of the clips: 12 of 15 pairs, one of them a tie.
    assert old.video_auc == old.auc == pytest.approx(12 / 15)
    assert by_name["video_auc"].corrected == 0.875 and "takes each clip for a video" in by_name["video_auc"].cause


def test_groups_of_clips_are_those_of_videos():
    table = made_table("clips", 16)
    facts = {video: "ab"[i % 4 // 2] for i, video in enumerate(table.videos.tolist())}
    assert group_metrics(table, facts) == group_metrics(table, facts, level="video")


@pytest.mark.slow
def test_a_calibration_of_clips_is_that_of_videos():
    table = made_table("clips", 16)
    levels = fitted_levels(table, {"D": table})
    assert list(levels) == ["video"] and levels["video"].count == 40


def test_a_result_of_clips_says_so_and_one_of_frames_has_the_keys_that_it_had():
    of_clips, of_frames = (test_result(table).model_dump(mode="json") for table in (golden(), made_table("frames")))
    assert [of_clips[name] for name in ("clips", "clip_frames", "short_videos")] == [8, 3, 1]
    assert not {"clips", "clip_frames", "short_videos"} & {*of_frames, *of_frames["per_method"]["swap"]}
    assert TestResult.model_validate(of_clips).why_none("frame_auc") == BY_CLIPS
    for changed in ({"frame_auc": 0.5}, {"clip_frames": None}, {"intervals": of_frames["intervals"]}):
        with pytest.raises(ValueError, match="clip"):
            TestResult.model_validate(of_clips | changed)


def test_a_result_is_of_frames_or_of_clips_of_one_length(tmp_path):
    run = made_run(tmp_path, "clips", 16)
    for changed in (
        {"tests": {**run.tests, "E": test_result(golden())}},
        {"tests": {**run.tests, "E": test_result(made_table("frames"))}},
        {"pooled_auc": 0.5},
        {"cross_auc": {"D": {"D": 0.5}}},
    ):
        with pytest.raises(ValueError, match="clips"):
            RunResult.model_validate(run.model_dump() | changed)


@pytest.mark.parametrize("changed", [{"clips": 161}, {"short_videos": 1}, {"video_auc": 0.5}])
def test_a_result_file_that_its_table_of_clips_denies_is_left_out(tmp_path, changed):
    run = made_run(tmp_path, "clips", 16)
    run.tests["D"] = run.tests["D"].model_copy(update=changed)
    run.save(tmp_path / "clips" / "result.json")
    results, (problem,) = collect([tmp_path])
    assert results == [] and "test again" in problem.reason


def test_frames_and_clips_are_paired_by_the_videos_that_both_scored():
    frames, clips, fewer = made_table("frames"), made_table("clips", 16), made_table("clips", 16, left_out=3)
    found = compare_tables({"frames": frames, "clips": clips}, level="video", clusters="video")
    means = {name: each.score.reshape(40, 4).mean(1) for name, each in {"frames": frames, "clips": clips}.items()}
    expected = compare_aucs(np.arange(40) % 2, means)
    assert found.aucs == pytest.approx(expected.aucs)
    assert found.differences[0][2:] == pytest.approx(expected.differences[0][2:])
    part = compare_tables({"fewer": fewer, "frames": frames}, level="video", clusters="video")
    again = compare_aucs(fewer.video_label, {"fewer": fewer.score.reshape(37, 4).mean(1), "b": means["frames"][3:]})
    assert part.unpaired == 3 and found.unpaired == 0
    assert part.differences[0][2:] == pytest.approx(again.differences[0][2:])


def test_scores_of_frames_are_not_compared_with_those_of_clips():
    with pytest.raises(UserError, match="b scored clips of D, so it has no frame AUC; set --level video"):
        compare_tables({"a": made_table("a"), "b": made_table("b", 16)})
    with pytest.raises(UserError, match="no video of D was scored by all of a, b"):
        compare_tables({"a": golden(), "b": made_table("b", 16)}, level="video")


def test_a_detector_of_clips_is_selected_by_the_metric_of_videos(tmp_path):
    config = made_config()
    assert (config.selection_metric, config.metric_of("frame_eer")) == ("frame_auc", "frame_eer")
    given = config.detector.input.model_copy(update={"frames": 8})
    config = config.model_copy(update={"detector": config.detector.model_copy(update={"input": given})})
    assert config.selection_metric == "video_auc"
    trainer = Trainer(TinyDetector(), made_dataset(config), config, World(0, 1, torch.device("cpu")), tmp_path)
    assert trainer.metric == "video_auc"
    assert [config.metric_of(name) for name in ("frame_eer", "video_acc")] == ["video_eer", "video_acc"]


def test_clips_have_no_place_in_the_table_of_frames_and_one_in_that_of_videos(board):
    frames, videos = board.table("frame_auc"), board.table("video_auc")
    assert {line.row.name: line.rank for line in frames} in (
        {"frames_a": 1, "frames_b": 2, "clips_a": None, "clips_far": None},
        {"frames_a": 2, "frames_b": 1, "clips_a": None, "clips_far": None},
    )
    assert {line.row.by_clips for line in frames[:2]} == {""}
    for line in frames[2:]:
        assert [cell.reason for cell in line.cells] == [BY_CLIPS] * 2 and line.limits == [None, None]
    assert sorted(line.rank for line in videos) == [1, 2, 3, 4]
    assert all(line.limits[0] is not None for line in videos)


def test_ties_of_videos_are_tested_across_frames_and_clips(board):
    keys = {row.name: row.key for row in board.rows}
    of_frames, of_videos = board.marks["frame_auc"], board.marks["video_auc"]
    assert of_frames.tied["D"] == {keys["frames_a"], keys["frames_b"]}
    assert of_frames.untested["D"] == {keys["clips_a"]: BY_CLIPS, keys["clips_far"]: BY_CLIPS}
    assert of_videos.untested == {"D": {}, MEAN: {}}
    assert of_videos.tied["D"] == {keys["frames_a"], keys["frames_b"], keys["clips_a"]}
    assert set(of_videos.mean_limits) == set(keys.values())


def test_marks_of_frames_do_not_change_where_clips_join(board, runs):
    results, _ = collect([runs / "frames_a", runs / "frames_b"])
    (alone,) = sections(results)
    assert alone.marks["frame_auc"].tied == board.marks["frame_auc"].tied
    for row in alone.rows:
        (same,) = (each for each in board.rows if each.name == row.name)
        assert same.limits("D", "frame_auc") == row.limits("D", "frame_auc")
        assert alone.marks["frame_auc"].limits_of_mean(row.key) == board.marks["frame_auc"].limits_of_mean(row.key)


def test_the_board_says_what_is_scored_by_clips(board):
    said = notes(board)
    assert (
        "clips_a: scored by clips of 16, stride 2, 4 a video. It has no metric of frames; compare it by videos." in said
    )
    assert "clips_a: its checkpoint was chosen by video_auc, in place of the protocol's frame_auc." in said
    assert "clips_far, D: 3 of its videos shorter than a clip (their frames are mirrored)." in said
    assert any(text.startswith("D: the video AUC and its whole interval are below .5: clips_far") for text in said)
    assert not [text for text in said if "same frames as the rest" in text or "same videos as the rest" in text]


def test_pages_and_files_hold_both_kinds_of_rows(board, runs):
    page = Page(render([board], []))
    text = " ".join(page.text)
    assert "clips of 16, stride 2, 4 a video" in text and "16 x 112" in text
    assert {attributes.get("title") for tag, attributes in page.tags if tag == "td"} >= {BY_CLIPS}
    results, _ = collect([runs])
    lines = {line["detector"]: line for line in csv.DictReader(io.StringIO(to_csv(results)))}
    clips, frames = lines["clips_a"], lines["frames_a"]
    assert (clips["frame_auc"], clips["frame_auc_low"], clips["undefined"]) == ("", "", BY_CLIPS)
    assert [clips[name] for name in ("clips", "clip_frames", "short_videos")] == ["160", "16", "0"]
    assert float(clips["video_auc"]) == table_metrics(made_table("clips_a", 16))["video_auc"]
    assert (frames["scored_by"], frames["clips"], frames["undefined"]) == ("frames", "", "")
    assert "CLIPS\\_A (clips of 16)$^{b}$ & 1 & -- & --" in to_latex([board])
    assert "CLIPS\\_A: clips of 16, stride 2, 4 a video" in to_latex([board])
    assert "CLIPS\\_A (clips\\_a), clips of 16, stride 2, 4 a video | – | – |" in to_markdown([board], [])


def test_the_page_of_a_row_of_clips_is_of_videos(board):
    (row,) = (row for row in board.rows if row.name == "clips_far")
    groups = {"sex": {video: "ab"[i % 4 // 2] for i, video in enumerate(made_table("a").videos.tolist())}}
    text = " ".join(Page(render_row(board, row, groups)).text)
    for wanted in (
        "clips of 8, stride 2, 4 a video",
        "D: 3 of its videos shorter than a clip (their frames are mirrored)",
        "Scores of real and fake videos",
        "Video AUC by forgery method on D",
        "By sex",
        "it takes each clip for a frame",
    ):
        assert wanted in text
    assert "Score shift" not in text and "Frame AUC, mean" not in text


def test_a_row_of_other_videos_is_named_and_not_tested(tmp_path):
    for name in ("frames_a", "frames_b"):
        made_run(tmp_path, name)
    made_run(tmp_path, "clips", 16, made_table("clips", 16, left_out=3))
    skipping = made_table("clips", 8)
    skipping.skipped = 2
    made_run(tmp_path, "skipping", 8, skipping)
    results, problems = collect([tmp_path])
    (section,) = sections(results)
    assert problems == []
    assert "D: clips, seed 0 was not scored on the same videos as the rest, so the row is not tested." in notes(section)
    left_out = "2 clips with frames that could not be read, or videos too short for a clip, are left out."
    assert f"D: skipping, seed 0: {left_out}" in notes(section)
    (key,) = (row.key for row in section.rows if row.name == "clips")
    assert section.marks["video_auc"].untested["D"] == {key: "seed 0 was scored on other videos"}


def test_a_row_of_other_frames_of_the_same_videos_is_tested_by_videos_alone(tmp_path):
    for name in ("frames_a", "frames_b"):
        made_run(tmp_path, name)
    whole = made_table("fewer")
    kept = np.arange(len(whole)) > 0  # the first video has three frames of four
    columns = (getattr(whole, name)[kept] for name in ("video", "frame", "label", "method", "score"))
    made_run(tmp_path, "fewer", table=ScoreTable("D", *columns))
    (section,) = sections(collect([tmp_path])[0])
    said = "D: fewer, seed 0 was not scored on the same frames as the rest, so only its metrics of videos are tested."
    (key,) = (row.key for row in section.rows if row.name == "fewer")
    assert said in notes(section)
    assert section.marks["frame_auc"].untested["D"] == {key: "seed 0 was scored on other frames"}
    assert key in section.marks["video_auc"].tied["D"]
    (row,) = (row for row in section.rows if row.name == "fewer")
    assert row.limits("D", "video_auc") is not None


def test_copies_and_labels_among_scores_of_clips_are_named(tmp_path):
    made_run(tmp_path, "clips", 16)
    made_run(tmp_path, "copy", 16, made_table("clips", 16))
    labels = made_table("clips", 16)
    table = ScoreTable(
        "D", labels.video, labels.frame, labels.label, labels.method, labels.label.astype(float), clips=labels.clips
    )
    made_run(tmp_path, "labels", 16, table)
    (section,) = sections(collect([tmp_path])[0])
    assert "D: labels, seed 0: its scores are the labels." in section.oddities
    alike = "D: clips (measured), copy (measured) rank all clips alike: one may be a copy of the other."
    assert alike in section.oddities


def test_a_board_of_clips_alone_leads_by_video_auc(tmp_path):
    made_run(tmp_path / "runs", "clips", 16)
    made_run(tmp_path / "runs", "others", 16, protocol="other", fingerprint="f" * 16)
    build([tmp_path / "runs"], tmp_path / "out")
    assert "CLIPS (video AUC)" in " ".join(Page((tmp_path / "out" / "index.html").read_text()).text)
    tables = json.loads((tmp_path / "out" / "leaderboard.json").read_text())["tables"]
    (line,) = tables[0]["metrics"]["frame_auc"]
    assert (line["rank"], line["mean"], line["scored_by"]) == (None, None, "clips of 16, stride 2, 4 a video")


def test_evaluate_compares_frames_and_clips_by_videos(runs, capsys):
    assert main(["evaluate", str(runs / "frames_a"), str(runs / "clips_a"), "--metrics", "deepfakebench"]) == 0
    printed = capsys.readouterr().out
    assert "D: 160 clips of 40 videos" in printed and f"frame_auc  -  {BY_CLIPS}" in printed
    assert "Differences of video AUC, paired on the same videos" in printed
    assert "(by videos, as " in printed and "clips_a scored clips)" in printed


def test_ablate_tries_scores_of_videos_on_clips(runs, capsys):
    assert main(["ablate", str(runs / "clips_a")]) == 0
    lines = (runs / "clips_a" / "ablation.csv").read_text().splitlines()
    assert "frame_auc" not in lines[0] and "video_auc" in lines[0]
    assert len([line for line in lines if "video score median" in line]) == 1


def test_every_member_of_a_stored_table_of_clips_is_known(tmp_path):
    golden().save(tmp_path / "D.npz")
    with zipfile.ZipFile(tmp_path / "D.npz") as archive:
        names = {name.removesuffix(".npy") for name in archive.namelist()}
    assert names - set(MEMBERS) == set() and {"clips", "short_videos"} <= names
