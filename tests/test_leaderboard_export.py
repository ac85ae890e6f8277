"""Exports: JSON that holds every number, LaTeX that compiles whatever the names are."""

import json
import shutil
import subprocess

import pytest
from test_evaluate import made_run

from resproto_fd.training.board.building import build
from resproto_fd.training.board.exports import latex
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


def test_latex_marks_the_best_and_what_cannot_be_told_from_it(board):
    text = (board / "leaderboard.tex").read_text()
    table = text[text.index("Frame AUC") : text.index(r"\end{table}")]
    lines = {line.split(" & ")[0]: line for line in table.splitlines() if line.endswith(r"\\")}
    marked = [name for name in ("good", r"also\_good") if r"\textbf" in lines[name] or r"\approx" in lines[name]]
    assert marked == ["good", r"also\_good"]
    assert r"\textbf" not in lines["poor"]
    assert r"\approx" not in lines["poor"]
    assert text.count(r"\toprule") == text.count(r"\bottomrule") == 5


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


@pytest.mark.skipif(not shutil.which("pdflatex"), reason="no pdflatex here")
def test_the_tables_compile(board, tmp_path):
    packages = r"\usepackage[T1]{fontenc}\usepackage{textcomp}\usepackage{booktabs}"
    document = rf"\documentclass{{article}}{packages}\begin{{document}}\input{{leaderboard.tex}}\end{{document}}"
    (board / "all.tex").write_text(document + "\n")
    ran = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "all.tex"], cwd=board, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stdout[-2000:]
