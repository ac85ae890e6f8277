"""`resproto list`: tables that fit a terminal, and all that is known of one name."""

import pytest

from resproto_fd.configs import loading
from resproto_fd.training.cli import main


@pytest.mark.parametrize("words", [["list"], ["list", "detectors"], ["list", "datasets"], ["list", "protocols"]])
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


@pytest.mark.parametrize("kind", ["detectors", "datasets", "protocols"])
def test_all_names_have_details_that_fit(kind, capsys):
    for name in loading.names(kind)[::5]:
        assert main(["list", kind, name]) == 0
        assert f"name: {name}" in capsys.readouterr().out


def test_an_unknown_name_is_an_error_with_the_nearest(capsys):
    assert main(["list", "detectors", "resproto-fd"]) == 2
    assert "no detector is called 'resproto-fd'; the nearest is 'resproto_fd'" in capsys.readouterr().err
