"""Exports: JSON that holds every number, LaTeX that compiles whatever the names are."""

import json
import shutil
import subprocess

import pytest
from test_evaluate import made_run
from test_leaderboard import run

from resproto_fd.configs.errors import UserError
from resproto_fd.training.board.building import build
from resproto_fd.training.board.latex import latex
from resproto_fd.training.board.paper_table import paper_table
from resproto_fd.training.cli import main
from resproto_fd.training.published import load_sources
from resproto_fd.training.results import RunResult

NASTY = r"<script> 50% of A_1 & {x} $y$ #~^ \input{/etc/passwd} – é 漢"


@pytest.fixture
def board(tmp_path):
    for name in ("good", "also_good", "poor"):
        made_run(tmp_path, name)
    run = made_run(tmp_path, "poor")
    run.title = NASTY
    run.detector = "nasty"
    nasty = tmp_path / "runs" / "made" / "nasty"
    shutil.copytree(tmp_path / "runs" / "made" / "poor" / "seed0", nasty)
    run.save(nasty / "result.json")
    build([tmp_path / "runs"], tmp_path / "board")
    return tmp_path / "board"


@pytest.mark.slow
def test_json_holds_every_number_of_the_result_files(board, tmp_path):
    content = json.loads((board / "leaderboard.json").read_text())
    (table,) = content["tables"]
    rows = {row["detector"]: row for row in table["metrics"]["video_auc"]}
    result = RunResult.load(tmp_path / "runs/made/good/seed0/result.json")
    assert rows["good"]["test_sets"]["EE"]["values"] == [result.tests["EE"].video_auc]
    assert rows["good"]["rank"] in (1, 2)
    assert rows["nasty"]["title"] == NASTY
    assert table["mean_over"] == ["EE"]
    assert content["left_out"] == []


@pytest.mark.slow
def test_latex_marks_the_best_and_what_cannot_be_told_from_it(board):
    text = (board / "leaderboard.tex").read_text()
    table = text[text.index("Frame AUC") : text.index(r"\end{table*}")]
    lines = {line.split(" & ")[0]: line for line in table.splitlines() if line.endswith(r"\\")}
    marked = [name for name in ("good", r"also\_good") if r"\textbf" in lines[name] or r"\approx" in lines[name]]
    assert marked == ["good", r"also\_good"]
    assert r"\textbf" not in lines["poor"]
    assert r"\approx" not in lines["poor"]
    assert text.count(r"\toprule") == text.count(r"\bottomrule") == 5


@pytest.mark.slow
def test_latex_explains_the_mark_where_it_is_tested_alone(board):
    text = (board / "leaderboard.tex").read_text()
    captions = {line.split(",")[0].partition("{")[2]: line for line in text.splitlines() if "caption" in line}
    explained = r"Best bold; $\approx$: may be the best, tested against it.}"
    for title in ("Frame AUC", "Video AUC"):
        assert captions[title].endswith(explained)
    for title in ("Frame AP", "Frame EER", "Frame ACC"):
        assert captions[title].endswith("protocol made. Best bold.}")


def test_text_from_outside_cannot_command_latex():
    escaped = latex(NASTY)
    assert r"\input{" not in escaped
    assert r"\textbackslash{}input\{/etc/passwd\}" in escaped
    assert "漢" not in escaped
    assert "é" in escaped


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("pdflatex"), reason="no pdflatex here")
def test_the_tables_compile(board, tmp_path):
    paper = paper_table("table2", []).write(board)[1].name
    packages = r"\usepackage[T1]{fontenc}\usepackage{textcomp}\usepackage{booktabs}"
    body = rf"\input{{leaderboard.tex}}\input{{{paper}}}"
    document = rf"\documentclass{{article}}{packages}\begin{{document}}{body}\end{{document}}"
    (board / "all.tex").write_text(document + "\n")
    ran = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "all.tex"], cwd=board, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stdout[-2000:]


def in_protocol(folder, name, aucs, seed):
    """A run of a protocol that trains on FF++, as a preset's or another detector's."""
    made = run(name, aucs, seed, title={"resproto_fd": "ResProto-FD"}.get(name, name), protocol="ffpp_cross")
    made.config["protocol"] = {"train": ["FaceForensics++"], "test": list(aucs)}
    for test_set, test in made.tests.items():
        test.in_domain = test_set == "FaceForensics++"
    made.save(folder / name / str(seed) / "result.json")


@pytest.fixture
def cross(tmp_path):
    for name, lower in (("resproto_fd", 0.0), ("other_detector", 0.05)):
        for seed in range(3):
            aucs = {"FaceForensics++": 0.99, "Celeb-DF-v2": 0.91, "DeepFakeDetection": 0.93, "DFDC": 0.8}
            in_protocol(tmp_path / "runs", name, {k: v - lower - 0.01 * seed for k, v in aucs.items()}, seed)
    return tmp_path / "runs"


def test_latex_says_what_every_number_is(cross, tmp_path):
    build([cross], tmp_path / "board")
    text = (tmp_path / "board" / "leaderboard.tex").read_text()
    table = text[text.index("Frame AUC") : text.index(r"\end{table*}")]
    heads, row = table.split(r"\toprule")[1].split(r"\\")[0], table.split(r"\midrule")[1].split(r"\\")[0]
    assert r"FaceForensics++$^\dagger$" in heads and r"DFDC$^\dagger$" not in heads
    assert "Mean of 3 unseen & Mean of all 4" in heads
    assert row.split(" & ")[:2] == ["\nResProto-FD", "3"]
    assert r"\pm" in row
    for said in ("standard deviation over seeds", "in-domain", "Ranked by the mean of Celeb-DF-v2", "aaaaaaaaaaaaaaaa"):
        assert said in table, said
    assert r"best frame\_auc on Demo-A val" in table


@pytest.mark.slow
def test_latex_and_markdown_hold_intervals(board):
    low = RunResult.load(board.parent / "runs/made/good/seed0/result.json").tests["EE"].intervals["frame_auc"].low
    assert f"[{low:.3f}--" in (board / "leaderboard.tex").read_text()
    assert f"[{low:.3f}–" in (board / "leaderboard.md").read_text()


@pytest.mark.slow
def test_a_papers_table_holds_its_own_columns_with_printed_and_measured_rows(cross, tmp_path, capsys):
    assert main(["leaderboard", str(cross), "--out", str(tmp_path / "board"), "--paper", "table2"]) == 0
    assert "paper_resproto_fd_table_2.tex" in capsys.readouterr().out
    text = (tmp_path / "board" / "paper_resproto_fd_table_2.md").read_text()
    printed, measured = text.split("## Measured here")
    heads = ["Method", "Trained on", "CDF frame AUC", "DFD frame AUC", "DFDC frame AUC", "Avg. frame AUC"]
    assert [each.strip() for each in printed.splitlines()[4].strip("| ").split("|")] == heads
    assert "| Xception | FaceForensics++ | 73.7 | 81.6 | 70.8 | 75.4 |" in printed
    assert "| ResProto-FD | FaceForensics++ | 90.0 ± 1.0 | 92.0 ± 1.0 | 79.0 ± 1.0 | 87.0 ± 1.0 |" in measured
    assert "Xception" not in measured


@pytest.mark.slow
def test_rows_of_another_training_set_are_not_in_a_papers_table(cross, tmp_path):
    for path in cross.rglob("result.json"):
        path.write_text(path.read_text().replace('"train": [\n    "FaceForensics++"', '"train": [\n    "DFDC"'))
    build([cross], tmp_path / "board", "table2")
    measured = (tmp_path / "board" / "paper_resproto_fd_table_2.md").read_text().split("## Measured here")[1]
    assert "ResProto-FD" not in measured and "Nothing is measured yet" in measured


@pytest.mark.parametrize(
    "name, words", [("table9", "Table 2, Table 3"), ("resproto:table2", "resproto_fd"), ("", "expected one of")]
)
def test_a_table_that_no_paper_has_is_refused_before_anything_is_written(cross, tmp_path, name, words, capsys):
    assert main(["leaderboard", str(cross), "--out", str(tmp_path / "board"), "--paper", name]) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "board").exists()


@pytest.mark.parametrize(
    "source, table",
    [
        pytest.param(key, table, marks=[] if table == "Table 2" and key == "resproto_fd" else pytest.mark.slow)
        for key, source in load_sources().items()
        for table in source.tables
    ],
)
def test_every_table_of_every_paper_is_laid_out_or_refused_with_a_reason(source, table):
    try:
        found = paper_table(f"{source}:{table}", [])
    except UserError as error:
        assert "holds no AUC" in str(error)
        return
    assert len(found.printed) == load_sources()[source].tables[table].runs
    assert {len(row) for row in found.printed} == {len(found.heads)}
    assert found.latex().count("&") >= len(found.printed) * (len(found.heads) - 1)
