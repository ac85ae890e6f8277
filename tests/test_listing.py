"""`resproto list`: tables that fit a terminal, and all that is known of one name."""

import pytest

from resproto_fd.configs import loading
from resproto_fd.configs.settings_reference import describe_settings
from resproto_fd.preprocessing.taxonomy import load_taxonomy
from resproto_fd.training.cli import main


@pytest.mark.parametrize(
    "words", [["list"], ["list", "detectors"], ["list", "datasets"], ["list", "protocols"], ["list", "sweeps"]]
)
def test_every_line_of_a_table_fits_100_columns_and_every_name_is_whole(words, capsys):
    assert main(words) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 100
    first = {line.split()[0] for line in lines if line.strip()}
    for kind in words[1:] or ["detectors", "datasets", "protocols"]:
        assert {*loading.names(kind)} <= first


def test_details_of_a_detector_hold_its_source_note_and_deviations(capsys):
    assert main(["list", "detectors", "ucf"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    config = loading.load("detectors", "ucf")
    assert config.deviations
    for text in [config.paper, config.source, config.note, *config.deviations]:
        assert " ".join(text.split()) in shown


@pytest.mark.parametrize("kind", ["methods", "settings"])
def test_methods_and_settings_are_listed_in_lines_that_fit(kind, capsys):
    assert main(["list", kind]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 100
    shown = {line.split("  ")[0] for line in lines}
    names = load_taxonomy().types if kind == "methods" else {row["name"] for row in describe_settings()}
    assert {*names} <= shown and len(names) > 50


def test_every_setting_has_a_meaning_and_is_taken_by_the_schema(capsys):
    rows = {row["name"]: row for row in describe_settings()}
    assert {"train.grad_clip", "train.ema", "train.schedule.name", "protocol.share", "seed"} <= {*rows}
    assert not [name for name, row in rows.items() if not row["meaning"]]
    config = loading.resolve("clip_tiny", "demo_cross").model_dump()
    for name in {*rows} - {"model.KEYWORD"}:
        node = config["detector"] if name.startswith(("input.", "train.")) else config
        for part in name.split("."):
            node = node[part]
    assert main(["list", "settings", "train.grad_clip"]) == 0
    assert "Largest norm of the gradient" in capsys.readouterr().out


def test_settings_are_listed_by_the_start_of_their_names(capsys):
    for start, number in (("train.optimizer", 7), ("train.opt", 7), ("protocol.frames.", 3)):
        assert main(["list", "settings", start]) == 0
        head, _, *lines = capsys.readouterr().out.strip().splitlines()
        assert head == f"settings ({number})" and all(line.startswith(start) for line in lines)
    assert main(["list", "settings", "trian"]) == 2
    assert "no setting is called 'trian'" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["detectors", "datasets", "protocols"])
def test_all_names_have_details_that_fit(kind, capsys):
    for name in loading.names(kind)[::5]:
        assert main(["list", kind, name]) == 0
        assert f"name: {name}" in capsys.readouterr().out


def test_an_unknown_name_is_an_error_with_the_nearest(capsys):
    assert main(["list", "detectors", "resproto-fd"]) == 2
    assert "no detector is called 'resproto-fd'; the nearest is 'resproto_fd'" in capsys.readouterr().err
