"""The package's import graph, computed from the files: no circle, no import of a higher room."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).resolve().parents[1] / "benchmarks" / "house.py"
SPEC = importlib.util.spec_from_file_location("house", PROGRAM)
house = importlib.util.module_from_spec(SPEC)
sys.modules["house"] = house  # its data class looks its module up
SPEC.loader.exec_module(house)


@pytest.fixture(scope="module")
def graph():
    return house.read_imports()


def graph_of(tmp_path, **sources):
    """Imports of a made package whose modules are given as folder__name=source."""
    for name, source in sources.items():
        path = tmp_path.joinpath(*name.split("__")).with_suffix(".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
    return house.read_imports(tmp_path)


def test_the_graph_holds_the_whole_package(graph):
    assert len(graph.files) > 150
    assert sum(map(len, graph.edges.values())) > 500
    assert "trainer.trainer" in graph.edges
    assert {"configs.errors", "trainer.data"} <= graph.edges["trainer.trainer"]


def test_no_modules_import_each_other_in_a_circle(graph):
    assert graph.circles() == []


def test_no_module_imports_one_of_a_higher_room(graph):
    assert graph.backward() == []


def test_every_folder_has_its_place_in_the_order(graph):
    rooms = {room for row in house.ORDER for room in row}
    folders = {".".join(path.parent.relative_to(house.ROOT).parts) for path in graph.files.values()}
    assert folders <= rooms
    assert all(room in folders or room in graph.files for room in rooms)


def test_imports_in_functions_relative_ones_and_ones_for_the_type_checker_count(tmp_path):
    graph = graph_of(
        tmp_path,
        trainer__a="from . import b\n",
        trainer__b="def f():\n    from resproto_fd.trainer.c import x\n",
        trainer__c="from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import resproto_fd.trainer.a\n",
        trainer__d="from .c import x\nfrom resproto_fd.trainer import a\nimport json\n",
    )
    assert graph.edges["trainer.d"] == {"trainer.a", "trainer.c"}
    assert graph.circles() == [["trainer.a", "trainer.b", "trainer.c"]]


def test_an_import_of_a_higher_room_is_found(tmp_path):
    graph = graph_of(
        tmp_path,
        losses__a="",
        detectors__b="from resproto_fd.losses import a\nimport resproto_fd.training.scores\n",
        training__scores="",
        training__run="import resproto_fd.training.scores\n",
        training__bench="import resproto_fd.training.run\n",
    )
    assert graph.backward() == [("detectors.b", "training.scores"), ("training.bench", "training.run")]
    assert graph.circles() == []


def test_the_steps_of_a_frames_way_are_functions_of_their_files(graph):
    assert house.unknown_steps(house.STORE_TO_LOSS, graph) == []
    assert house.unknown_steps(house.STORE_TO_PAGE, graph) == []
    assert house.unknown_steps(("trainer.trainer:nothing", "nowhere:at_all"), graph) == [
        "trainer.trainer:nothing",
        "nowhere:at_all",
    ]


def test_a_way_counts_files_moves_and_returns():
    steps = ("a:f", "a:g", "b:h", "a:i", "c:j")
    assert house.way(steps) == {"files": 3, "moves": 3, "returns": 1}


@pytest.mark.slow
def test_the_program_prints_the_figures():
    run = subprocess.run([sys.executable, str(PROGRAM)], capture_output=True, text=True, check=True)
    figures = json.loads(run.stdout.splitlines()[-1])
    assert figures["modules"] == sum(figures["modules_a_folder"].values()) > 150
    assert "trainer/augment" in run.stdout
