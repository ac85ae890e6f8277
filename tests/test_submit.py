"""Scores made elsewhere: exactly the protocol's frames, or refused by name."""

import csv
import json
import math
import shutil
import subprocess
import sys

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from resproto_fd.configs import loading
from resproto_fd.configs.locks import held
from resproto_fd.configs.schema import DataConfig
from resproto_fd.preprocessing.side_file import SideRecord, write_side
from resproto_fd.training import cli, protocols
from resproto_fd.training.board.building import build
from resproto_fd.training.board.collecting import collect
from resproto_fd.training.cli import main
from resproto_fd.training.commands.submit import Place, save_result
from resproto_fd.training.results import RunResult, Selection
from resproto_fd.training.scores import ScoreTable


@pytest.fixture(scope="module")
def data(demo):
    return demo


@pytest.fixture
def template(data, tmp_path, capsys):
    assert main(["submit", "--protocol", "demo_cross", "--template", str(tmp_path / "t.csv"), f"data.root={data}"]) == 0
    assert "fill the column 'score'" in capsys.readouterr().out
    with open(tmp_path / "t.csv", newline="") as file:
        return list(csv.DictReader(file))


def filled(path, rows, **changed):
    """The template with a score for each row, as a file; `changed` scores go by row number, "r3"."""
    rng = np.random.default_rng(0)
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, ["test_set", "frame", "score"])
        writer.writeheader()
        for i, row in enumerate(rows):
            writer.writerow({**row, "score": changed.get(f"r{i}", f"{rng.uniform():.6f}")})
    return str(path)


def submit(data, path, out, *words):
    return main(
        ["submit", path, "--protocol", "demo_cross", "--name", "theirs", "--out", str(out), *words, f"data.root={data}"]
    )


@pytest.mark.slow
def test_scores_of_exactly_the_protocols_frames_become_a_result_that_stands_on_the_board(data, template, tmp_path):
    path = filled(tmp_path / "s.csv", template)
    stated = ["--trained-on", "protocol", "--selected", "best/frame_auc/Demo-A/val"]
    assert submit(data, path, tmp_path / "runs", "--title", "Their method", "--parameters", "123", *stated) == 0
    folder = tmp_path / "runs" / "demo_cross" / "theirs" / "seed0"
    result = RunResult.load(folder / "result.json")
    assert (result.source, result.title, result.parameters) == ("submitted", "Their method", 123)
    assert result.selected_on.text() == "best frame_auc on Demo-A val"
    assert result.trained_on == ["Demo-A"]
    assert result.tests["Demo-A"].in_domain
    assert not result.tests["Demo-B"].in_domain
    with open(path, newline="") as file:
        given = {(row["test_set"], row["frame"]): float(row["score"]) for row in csv.DictReader(file)}
    table = ScoreTable.load(folder / "scores" / "Demo-B.npz")
    expected = [score for (name, _), score in given.items() if name == "Demo-B"]
    assert table.score.tolist() == expected
    build([tmp_path / "runs"], tmp_path / "board")
    page = (tmp_path / "board" / "index.html").read_text()
    assert "Their method" in page
    assert "submitted" in page


@pytest.mark.slow
def test_a_submission_that_states_nothing_is_ranked_apart(data, template, tmp_path):
    assert submit(data, filled(tmp_path / "s.csv", template), tmp_path / "runs") == 0
    result = RunResult.load(tmp_path / "runs" / "demo_cross" / "theirs" / "seed0" / "result.json")
    assert (result.selected_on.rule, result.trained_on) == ("given", None)
    assert {test.in_domain for test in result.tests.values()} == {None}
    build([tmp_path / "runs"], tmp_path / "board")
    assert '<tbody class="unstated">' in (tmp_path / "board" / "index.html").read_text()


def test_a_choice_made_on_test_frames_is_an_oracle_and_another_form_is_refused(data, template, tmp_path, capsys):
    path = filled(tmp_path / "s.csv", template)
    assert submit(data, path, tmp_path / "runs", "--trained-on", "X,Demo-B", "--selected", "best/auc/Demo-B/test") == 0
    result = RunResult.load(tmp_path / "runs" / "demo_cross" / "theirs" / "seed0" / "result.json")
    assert result.selected_on.oracle
    assert (result.trained_on, result.tests["Demo-B"].in_domain) == (["X", "Demo-B"], True)
    assert submit(data, path, tmp_path / "other", "--selected", "best/auc") == 2
    assert "expected last or best/METRIC/SET/SPLIT" in capsys.readouterr().err


def test_a_stated_split_whose_videos_are_tested_is_an_oracle(data, tmp_path, capsys):
    lists = tmp_path / "data" / "dataset_json"
    shutil.copytree(data / "dataset_json", lists)
    content = json.loads((lists / "Demo-B.json").read_text())
    for by_split in content["Demo-B"].values():
        by_split["val"] = by_split["test"]
    (lists / "Demo-B.json").write_text(json.dumps(content))
    words = ["--protocol", "demo_cross", f"data.root={tmp_path / 'data'}"]
    assert main(["submit", *words, "--template", str(tmp_path / "t.csv")]) == 0
    with open(tmp_path / "t.csv", newline="") as file:
        path = filled(tmp_path / "s.csv", csv.DictReader(file))
    for name, oracle in (("Demo-B", True), ("Demo-A", False)):
        stated = ["--trained-on", "protocol", "--selected", f"best/auc/{name}/val"]
        assert main(["submit", path, *words, "--name", name, "--out", str(tmp_path / "runs"), *stated]) == 0
        result = RunResult.load(tmp_path / "runs" / "demo_cross" / name / "seed0" / "result.json")
        assert result.selected_on.oracle == oracle
        assert ("frames of videos that Demo-B tests: its row is an oracle" in capsys.readouterr().err) == oracle


@pytest.mark.slow
def test_a_submission_has_the_fingerprint_of_a_run_under_the_same_protocol(data, template, tmp_path):
    assert submit(data, filled(tmp_path / "s.csv", template), tmp_path / "runs") == 0
    words = ["--detector", "clip_zero_shot_tiny", "--protocol", "demo_cross", "--out", str(tmp_path / "runs")]
    assert main(["test", *words, f"data.root={data}", "run.workers=0", "run.progress=false", "run.device=cpu"]) == 0
    results = [RunResult.load(path) for path in (tmp_path / "runs").rglob("result.json")]
    assert len({result.fingerprint for result in results}) == 1
    assert len({result.tests["Demo-C"].frames_hash for result in results}) == 1


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda rows: rows[1:], "1 missing: Demo-A, Demo-A/"),
        (lambda rows: [*rows, {**rows[0], "frame": "Demo-A/other.png"}], "1 of no frame of the protocol: line"),
        (lambda rows: [*rows, {**rows[0], "test_set": "Demo-Z"}], "1 of no frame of the protocol: line"),
        (lambda rows: [*rows, rows[5]], "1 repeated: line"),
    ],
)
def test_missing_extra_and_repeated_rows_are_counted_and_named(data, template, tmp_path, capsys, spoil, message):
    assert submit(data, filled(tmp_path / "s.csv", spoil(template)), tmp_path / "runs") == 2
    error = capsys.readouterr().err
    assert message in error
    assert "nothing was written" in error
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("text", ["inf", "-0.1", "1.5", "", "high"])
def test_a_score_that_is_no_number_from_0_to_1_is_named_with_its_line(data, template, tmp_path, capsys, text):
    assert submit(data, filled(tmp_path / "s.csv", template, r2=text), tmp_path / "runs") == 2
    assert (
        f"1 no number in [0, 1], nor nan for no answer: line 4: Demo-A, {template[2]['frame']}: {text!r}"
        in capsys.readouterr().err
    )


def test_many_faults_are_counted_and_the_first_named(data, template, tmp_path, capsys):
    assert submit(data, filled(tmp_path / "s.csv", template[7:]), tmp_path / "runs") == 2
    assert "7 missing: " in (error := capsys.readouterr().err)
    assert "; and 4 more" in error


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("frame,score\n", "lacks the column test_set"),
        ("", "lacks the column test_set, frame, score"),
        ("test_set,frame,score\nDemo-A,x\n", "line 2 has more or fewer fields"),
    ],
)
def test_another_form_of_file_is_an_error(data, tmp_path, capsys, content, message):
    (tmp_path / "s.csv").write_text(content)
    assert submit(data, str(tmp_path / "s.csv"), tmp_path / "runs") == 2
    assert message in capsys.readouterr().err


def test_wrong_words_are_errors_before_data_are_read(tmp_path, capsys):
    for words, message in (
        (["--name", "x"], "name the CSV"),
        (["s.csv"], "expected letters"),
        (["s.csv", "--name", "../x"], "expected letters"),
        (["s.csv", "--name", "x", "train.epochs=3"], "submit takes data.* settings alone, not train"),
        (["s.csv", "--name", "x", "--parameters", "-5"], "--parameters -5: expected the model's number"),
        (["s.csv", "--name", "x", "--parameters", "9" * 20], "expected the model's number of parameters, 0 to 9"),
        (["s.csv", "--name", "x", "--selected", "best/bogus/Demo-A/val"], "expected METRIC frame_auc"),
        (["s.csv", "--name", "x", "--selected", "best//Demo-A/val"], "expected METRIC frame_auc"),
        (["s.csv", "--name", "x", "--selected", "best/frame_auc/a:b/val"], "SET: expected a name that a file can have"),
    ):
        assert main(["submit", *words, "--protocol", "demo_cross"]) == 2
        assert message in capsys.readouterr().err


def test_a_file_that_holds_scores_is_never_emptied_for_a_template(data, template, tmp_path, capsys):
    path, words = filled(tmp_path / "s.csv", template), ["submit", "--protocol", "demo_cross", f"data.root={data}"]
    (tmp_path / "other.yaml").write_text("a: b\n")
    (tmp_path / "empty.csv").write_text("")
    kept = {name: (tmp_path / name).read_bytes() for name in ("s.csv", "other.yaml", "t.csv")}
    for given, message in (
        (["--template", path], "s.csv: expected no file or a template without scores, got another file"),
        (["--template", str(tmp_path / "other.yaml")], "other.yaml: expected no file or a template without scores"),
        (["--template", str(tmp_path)], "expected a file, got a folder; set another --template"),
        ([path, "--template", path], "writes a CSV to fill and reads none, got "),
        ([path, "--template", str(tmp_path / "new.csv")], "give one of the two"),
    ):
        assert main([words[0], *given, *words[1:]]) == 2
        assert message in capsys.readouterr().err
    for name in ("t.csv", "empty.csv"):
        assert main([*words, "--template", str(tmp_path / name)]) == 0
        assert (tmp_path / name).read_bytes() == kept["t.csv"]
    assert {name: (tmp_path / name).read_bytes() for name in kept} == kept
    assert not (tmp_path / "new.csv").exists()


def test_a_result_that_is_refused_leaves_no_score_table(data, tmp_path):
    resolved = protocols.resolve(loading.load("protocols", "demo_cross"), DataConfig(root=str(data)), tests_only=True)
    given = {name: [0.5] * len(frames) for name, frames in resolved.tests.items()}
    fields = {"title": "x", "selected_on": Selection(rule="given"), "parameters": -1}
    with pytest.raises(ValueError, match="parameters"):
        save_result(resolved, given, Place(str(tmp_path), "x", 0), **fields)
    assert not list(tmp_path.rglob("*.npz"))


@pytest.mark.parametrize("order", ["pscdo", "pdsco", "dspco", "pdcso", "pocds"])
def test_the_csv_is_found_wherever_it_stands(data, template, tmp_path, order):
    path = filled(tmp_path / "s.csv", template)
    words = {"p": ["--protocol", "demo_cross"], "s": ["--seed", "3"], "c": [path], "d": [f"data.root={data}"]}
    words["o"] = ["--name", "theirs", "--out", str(tmp_path / "runs")]
    assert main(["submit", *(word for letter in order for word in words[letter])]) == 0
    assert (tmp_path / "runs/demo_cross/theirs/seed3/result.json").is_file()


def test_a_second_csv_is_refused(tmp_path, capsys):
    assert main(["submit", "a.csv", "--protocol", "demo_cross", "--name", "x", "b.csv"]) == 2
    assert "'b.csv' is not of the form key=value" in capsys.readouterr().err


def test_a_result_is_not_overwritten(data, template, tmp_path, capsys):
    path = filled(tmp_path / "s.csv", template)
    assert submit(data, path, tmp_path / "runs") == 0
    assert submit(data, path, tmp_path / "runs") == 2
    assert "holds a result already; give another --name or --seed, or remove the folder" in capsys.readouterr().err
    assert submit(data, path, tmp_path / "runs", "--seed", "1") == 0
    assert math.isclose(RunResult.load(tmp_path / "runs/demo_cross/theirs/seed1/result.json").seed, 1)


def test_a_submission_needs_the_lists_and_no_pictures(data, template, tmp_path):
    lists = tmp_path / "lists"
    shutil.copytree(data / "dataset_json", lists / "dataset_json")
    path = filled(tmp_path / "s.csv", template)
    assert submit(data, path, tmp_path / "a") == submit(lists, path, tmp_path / "b") == 0
    one, other = (RunResult.load(tmp_path / x / "demo_cross" / "theirs" / "seed0" / "result.json") for x in "ab")
    assert one.model_dump() == other.model_dump()


def test_a_missing_training_manifest_is_said_to_change_the_fingerprint(data, tmp_path, capsys):
    lists, protocol = tmp_path / "lists", tmp_path / "cross.yaml"
    shutil.copytree(data / "dataset_json", lists / "dataset_json")
    protocol.write_text("title: Cross\ntrain: [Demo-A]\nselection: {rule: last}\ntest: [Demo-B]\n")
    words = ["submit", "--protocol", str(protocol), "--template", str(tmp_path / "t.csv"), f"data.root={lists}"]
    assert main(words) == 0
    assert "fingerprint" not in capsys.readouterr().err
    (lists / "dataset_json" / "Demo-A.json").unlink()
    assert main(words) == 0
    assert "note: no manifest " in (said := capsys.readouterr().err) and "Demo-A.json. The fingerprint" in said


@pytest.mark.slow
def test_a_frame_without_an_answer_counts_as_a_half_and_the_share_of_answers_is_shown(data, template, tmp_path):
    first = next(i for i, row in enumerate(template) if row["test_set"] == "Demo-B")
    path = filled(tmp_path / "s.csv", template, **{f"r{first + i}": "nan" for i in range(3)})
    stated = ["--trained-on", "protocol", "--selected", "last"]
    assert submit(data, path, tmp_path / "runs", *stated) == 0
    folder = tmp_path / "runs" / "demo_cross" / "theirs" / "seed0"
    table, test = (
        ScoreTable.load(folder / "scores" / "Demo-B.npz"),
        RunResult.load(folder / "result.json").tests["Demo-B"],
    )
    assert (table.score[~table.answered] == 0.5).all() and (~table.answered).sum() == 3
    kept = table.answered
    assert test.answered == pytest.approx(1 - 3 / len(table))
    assert test.over_answered.frame_auc == pytest.approx(roc_auc_score(table.label[kept], table.score[kept]))
    assert test.frame_auc == pytest.approx(roc_auc_score(table.label, table.score))
    assert RunResult.load(folder / "result.json").tests["Demo-A"].answered is None
    build([tmp_path / "runs"], tmp_path / "board")
    page = (tmp_path / "board" / "index.html").read_text()
    assert f"answered {test.answered:.1%}" in page
    exports = [(tmp_path / "board" / f"leaderboard.{kind}").read_text() for kind in ("md", "tex")]
    assert f"answered {test.answered:.1%}" in exports[0]
    assert f"answered {test.answered:.1%}".replace("%", r"\%") in exports[1] and "got a score" in exports[1]
    (row,) = (tmp_path / "board" / "rows").glob("*.html")
    assert "answered frames alone" in row.read_text()


def test_answers_that_a_result_file_invents_are_found(data, template, tmp_path):
    first = next(i for i, row in enumerate(template) if row["test_set"] == "Demo-B")
    path = filled(tmp_path / "s.csv", template, **{f"r{first + i}": "nan" for i in range(3)})
    assert submit(data, path, tmp_path / "runs") == 0
    file = tmp_path / "runs" / "demo_cross" / "theirs" / "seed0" / "result.json"
    result = RunResult.load(file)
    result.tests["Demo-B"].over_answered.frame_auc = 0.999
    result.save(file)
    results, (problem,) = collect([tmp_path / "runs"])
    assert not results and "frame_auc of Demo-B answered frames is 0.999" in problem.reason


@pytest.mark.slow
def test_a_row_says_whether_its_score_tables_are_at_hand(data, template, tmp_path):
    assert submit(data, filled(tmp_path / "s.csv", template), tmp_path / "runs") == 0
    for said in ("all at hand", "at hand, but for Demo-B, seed 0", "none at hand"):
        build([tmp_path / "runs"], tmp_path / "board")
        (row,) = (tmp_path / "board" / "rows").glob("*.html")
        assert said in row.read_text() and "Submitted scores (SHA-256)" in row.read_text()
        scores = tmp_path / "runs" / "demo_cross" / "theirs" / "seed0" / "scores"
        for path in scores.glob("*.npz" if "but for" in said else "Demo-B.npz"):
            path.unlink()


def test_score_tables_hold_the_people_that_side_files_name(data, template, tmp_path):
    lists = tmp_path / "lists"
    shutil.copytree(data / "dataset_json", lists / "dataset_json")
    path = filled(tmp_path / "s.csv", template)
    assert submit(lists, path, tmp_path / "before") == 0
    before = ScoreTable.load(tmp_path / "before" / "demo_cross" / "theirs" / "seed0" / "scores" / "Demo-B.npz")
    assert before.people() == {}
    records = [
        SideRecord(video, ("test",), int(label), "x", "x", "x", target="D/1", source="D/2") if label
        else SideRecord(video, ("test",), 0, "real", "real", "real", identity="D/1")
        for video, label in zip(before.videos.tolist(), before.video_label.tolist())
    ]  # fmt: skip
    write_side(lists / "dataset_json" / "Demo-B.side.jsonl", {"dataset": "Demo-B"}, records)
    assert submit(lists, path, tmp_path / "after") == 0
    table = ScoreTable.load(tmp_path / "after" / "demo_cross" / "theirs" / "seed0" / "scores" / "Demo-B.npz")
    assert set(table.people().values()) == {("D/1", "D/2"), ("D/1", "D/1")}
    assert table.frames_hash() == before.frames_hash()


def test_a_folder_in_which_another_process_works_is_left_to_it(data, template, tmp_path, capsys):
    path, folder = filled(tmp_path / "s.csv", template), tmp_path / "runs" / "demo_cross" / "theirs" / "seed0"
    with held(folder / ".lock", "taken"):
        assert submit(data, path, tmp_path / "runs") == 2
    assert f"{folder}: another process is at work in this run folder" in capsys.readouterr().err
    assert [each.name for each in folder.iterdir()] == [".lock"]
    assert submit(data, path, tmp_path / "runs") == 0


@pytest.mark.slow
def test_of_two_submissions_at_once_one_succeeds_and_the_other_is_told(data, template, tmp_path):
    words = [filled(tmp_path / "s.csv", template), "--protocol", "demo_cross", "--name", "theirs"]
    words += ["--out", str(tmp_path / "runs"), f"data.root={data}"]
    command = [sys.executable, cli.__file__, "submit", *words]
    started = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    errors = [process.communicate()[1] for process in started]
    assert sorted(process.returncode for process in started) == [0, 2]
    assert any("at work in this run folder" in error or "holds a result already" in error for error in errors)


@pytest.mark.parametrize(
    "name", ["../x", "/abs", "a" * 300, ".hidden", "nul", "com1.x", "dot.", "a b", "a\\b", "e\u0301", "\ud800"]
)
def test_a_name_that_no_folder_can_have_is_refused(name, tmp_path, capsys):
    words = ["s.csv", "--name", name, "--protocol", "demo_cross", "--out", str(tmp_path)]
    assert main(["submit", *words]) == 2
    assert "--name" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_name_that_differs_in_case_alone_from_another_run_is_refused(data, template, tmp_path, capsys):
    path = filled(tmp_path / "s.csv", template)
    assert submit(data, path, tmp_path / "runs") == 0
    assert submit(data, path, tmp_path / "runs", "--name", "Theirs") == 2
    assert "whose name differs in case or Unicode form alone" in capsys.readouterr().err


def test_backslash_paths_are_taken_logits_get_a_hint_and_numbers_are_printed(demo, tmp_path, capsys):
    words, data = ["submit", "--protocol", "demo_cross"], f"data.root={demo}"
    template, scores = tmp_path / "t.csv", str(tmp_path / "s.csv")
    assert main([*words, "--template", str(template), data]) == 0
    lines = template.read_text().splitlines()
    given = [lines[0], *(line.replace("/", "\\") + "0.25" for line in lines[1:])]
    (tmp_path / "s.csv").write_text("\n".join(given))
    capsys.readouterr()
    out = ["--out", str(tmp_path / "runs"), data]
    assert main(["submit", scores, *words[1:], "--name", "theirs", *out]) == 0
    printed = capsys.readouterr().out
    assert "frame_auc" in printed and "0.5000" in printed and printed.splitlines()[-1].endswith("result.json")
    (tmp_path / "s.csv").write_text("\n".join([lines[0], *(line + "-3.2" for line in lines[1:])]))
    assert main(["submit", scores, *words[1:], "--name", "logits", *out]) == 2
    assert "look like logits: give 1 / (1 + exp(-logit))" in capsys.readouterr().err
