"""Groups of videos: their metrics, the largest gap, where the facts come from, and both commands."""

import json

import numpy as np
import pytest

from resproto_fd.configs.errors import UserError
from resproto_fd.preprocessing.side_file import SideRecord, read_side, write_side
from resproto_fd.training.cli import main
from resproto_fd.training.grouping import read_groups
from resproto_fd.training.measures.groups import FEWEST, group_metrics
from resproto_fd.training.measures.intervals import auc_interval
from resproto_fd.training.measures.metrics import binary_metrics
from resproto_fd.training.results import RunResult, Selection, test_result
from resproto_fd.training.scores import ScoreTable


def made(signals, videos=40, frames=5, seed=0):
    """A table with `videos` of each group, half of them real, and each video's group; a signal for each group."""
    rng = np.random.default_rng(seed)
    count = videos * len(signals)
    group, label = np.arange(count) % len(signals), np.arange(count) // len(signals) % 2
    video = np.repeat(np.arange(count), frames)
    latent = np.array(signals)[group] * label + rng.standard_normal(count)
    score = 1 / (1 + np.exp(-(latent[video] + 0.7 * rng.standard_normal(len(video)))))
    ids = [f"D/{'fake' if label[i] else 'real'}/v{i}" for i in range(count)]
    table = ScoreTable(
        "D",
        [ids[i] for i in video],
        np.tile(np.arange(frames), count),
        label[video],
        np.where(label == 1, "swap", "real")[video],
        score,
    )
    return table, {ids[i]: f"g{group[i]}" for i in range(count)}


@pytest.mark.parametrize("level", ["frame", "video"])
def test_a_groups_numbers_are_those_of_its_own_videos(level):
    table, facts = made([1.0, 2.5])
    found = group_metrics(table, facts, level)
    assert [group.name for group in found.groups] == ["g0", "g1"] and not found.all_reals and found.unknown == 0
    for group in found.groups:
        frames = np.array([facts[video] == group.name for video in table.video.tolist()])
        labels, scores, video = table.label[frames], table.score[frames], table.video_index[frames]
        if level == "video":
            _, first, index = np.unique(video, return_index=True, return_inverse=True)
            labels, scores, video = labels[first], np.bincount(index, scores) / np.bincount(index), None
        expected = binary_metrics(labels, scores)
        assert group.estimates["auc"].value == pytest.approx(expected["auc"])
        assert group.estimates["eer"].value == pytest.approx(expected["eer"])
        alone = auc_interval(labels, scores, None if video is None else np.unique(video, return_inverse=True)[1])
        assert group.estimates["auc"].low == pytest.approx(alone.low, abs=0.01)
        assert group.estimates["auc"].high == pytest.approx(alone.high, abs=0.01)
        assert (group.real_videos, group.fake_videos) == (20, 20)
    gap = found.gaps["auc"]
    values = {group.name: group.estimates["auc"].value for group in found.groups}
    assert (gap.highest, gap.lowest) == ("g1", "g0") and gap.value == pytest.approx(values["g1"] - values["g0"])
    assert gap.low < gap.value < gap.high


def test_a_group_with_too_few_of_a_class_is_not_estimable_and_in_no_gap():
    table, facts = made([1.0, 2.5, 0.0])
    few = [video for video, group in facts.items() if group == "g2" and "fake" in video][FEWEST - 1 :]
    found = group_metrics(table, {video: group for video, group in facts.items() if video not in few})
    assert found.groups[2].estimates == {} and found.groups[2].fake_videos == FEWEST - 1
    assert found.unknown == len(few)
    assert "g2" not in (found.gaps["auc"].highest, found.gaps["auc"].lowest)
    one = group_metrics(table, dict.fromkeys(facts, "one"))
    assert one.gaps == {} and len(one.groups) == 1


def test_a_fact_of_fakes_alone_sets_each_group_against_all_reals():
    table, facts = made([1.0, 2.0])
    found = group_metrics(table, {video: group for video, group in facts.items() if "fake" in video})
    assert found.all_reals and {group.real_videos for group in found.groups} == {40} and found.unknown == 0


def test_a_real_gap_between_many_groups_is_found_and_its_limits_are_wider_than_those_of_two():
    table, facts = made([0.3, 2.5, 2.4, 2.5, 2.3], videos=60)
    found = group_metrics(table, facts).gaps["auc"]
    assert found.lowest == "g0" and found.low > 0.1 and found.p < 0.01
    best = {video: group for video, group in facts.items() if group in (found.highest, "g0")}
    alone = group_metrics(table, best).gaps["auc"]
    assert alone.value == pytest.approx(found.value) and alone.high - alone.low < found.high - found.low


def test_groups_without_an_error_have_a_gap_whose_limits_know_it():
    table, facts = made([40.0, 40.0], videos=20)
    gap = group_metrics(table, facts).gaps["auc"]
    assert gap.value == 0 and gap.low == 0 and 0.02 < gap.high < 0.4 and gap.p > 0.9


@pytest.mark.slow
def test_of_equal_groups_a_gap_is_claimed_in_5_percent_and_true_gaps_are_held():
    """200 test sets of 5 equal groups, and of 5 with a true largest gap: 5 % is sure to 1.5 points."""
    claimed = held = 0
    truth = []
    for signal in (1.0, 2.5):
        labels = np.repeat([0, 1], 100_000)
        rng = np.random.default_rng(1)
        latent = signal * labels + rng.standard_normal(200_000) * np.sqrt(1 + 0.49)
        truth.append(auc_interval(labels, latent).value)
    for seed in range(200):
        table, facts = made([1.0] * 5, 30, seed=seed)
        claimed += group_metrics(table, facts).gaps["auc"].low > 0
        table, facts = made([1.0, 2.5, 2.0, 1.5, 1.8], 30, seed=1000 + seed)
        gap = group_metrics(table, facts).gaps["auc"]
        held += gap.low <= truth[1] - truth[0] <= gap.high
    assert claimed <= 17 and held >= 183


# --- where facts come from, and the commands -------------------------------------------------------------------------


def side_of(folder, table, facts):
    """A side file with a further fact, and the same as a CSV."""
    records = [
        SideRecord(
            id=video,
            splits=("test",),
            label=int("fake" in video),
            label_name="x",
            method="swap",
            forgery_type="face swap",
            compression="c23" if number % 2 else "c40",
            facts={"gender": facts[video]},
        )
        for number, video in enumerate(table.videos.tolist())
    ]
    write_side(folder / "D.side.jsonl", {"dataset": "D"}, records)
    text = "video,skin tone\n" + "".join(f"{video},{value}\n" for video, value in facts.items())
    (folder / "facts.csv").write_text(text)
    return records


def test_columns_are_read_from_side_files_and_tables(tmp_path):
    table, facts = made([1.0, 2.0], videos=10)
    records = side_of(tmp_path, table, facts)
    assert read_side(tmp_path / "D.side.jsonl").records[records[0].id] == records[0]
    found = read_groups(["gender", "compression"], [tmp_path])
    assert found["gender"] == facts and set(found["compression"].values()) == {"c23", "c40"}
    assert read_groups(["skin tone"], [tmp_path / "facts.csv"])["skin tone"] == facts
    with pytest.raises(UserError, match="--groups age: no video has a value of it; columns with values: compression"):
        read_groups(["age"], [tmp_path])
    with pytest.raises(UserError, match=r"expected a NAME\.side\.jsonl"):
        read_groups(["gender"], [tmp_path / "nothing.txt"])
    (tmp_path / "bad.csv").write_text("id,gender\n1,f\n")
    with pytest.raises(UserError, match="expected a column 'video', got id, gender"):
        read_groups(["gender"], [tmp_path / "bad.csv"])


@pytest.mark.slow
def test_both_commands_show_groups_and_refuse_what_they_do_not_know(tmp_path, capsys):
    table, facts = made([1.0, 2.5])
    data, place = tmp_path / "data" / "dataset_json", tmp_path / "runs" / "p" / "d" / "seed0"
    data.mkdir(parents=True)
    side_of(data, table, facts)
    table.save(place / "scores" / "D.npz")
    RunResult(
        detector="d",
        title="d",
        protocol="p",
        fingerprint="0123456789abcdef",
        seed=0,
        config={"data": {"root": str(tmp_path / "data")}},
        selected_on=Selection(rule="last"),
        tests={"D": test_result(table, in_domain=False)},
    ).save(place / "result.json")
    found = group_metrics(table, facts)
    assert main(["evaluate", str(tmp_path / "runs"), "--groups", "gender,compression"]) == 0
    text = capsys.readouterr().out
    for group in found.groups:
        assert f"{group.name}: AUC {group.estimates['auc'].value:.4f}" in text
    assert f"largest gap of AUC: {found.gaps['auc'].value:.4f}" in text and "groups by compression" in text
    csv = str(data / "facts.csv")
    assert (
        main(
            [
                "leaderboard",
                str(tmp_path / "runs"),
                "--out",
                str(tmp_path / "b"),
                "--groups",
                "skin tone",
                "--side",
                csv,
            ]
        )
        == 0
    )
    (page,) = (tmp_path / "b" / "rows").glob("*.html")
    text = page.read_text()
    assert "Groups of videos" in text and "By skin tone" in text and "largest gap (AUC: g1 above g0" in text
    assert f"{found.gaps['auc'].low:.3f}–{found.gaps['auc'].high:.3f}" in text
    capsys.readouterr()
    assert main(["evaluate", str(tmp_path / "runs"), "--groups", "age"]) == 2
    assert "columns with values: compression, forgery_type, gender" in capsys.readouterr().err
    assert main(["evaluate", str(tmp_path / "runs"), "--side", csv]) == 2
    assert "expected --groups too" in capsys.readouterr().err
    json.loads((tmp_path / "b" / "leaderboard.json").read_text())
