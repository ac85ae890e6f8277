"""Numbers of the command line are refused outside their bounds, before anything is read or made."""

import argparse

import pytest

from resproto_fd.configs import argument_types
from resproto_fd.training.cli import main

OF_SEEDS = {
    "train": ["--detector", "chance", "--seed"],
    "test": ["--callable", "os:getcwd", "--name", "x", "--seed"],
    "submit": ["s.csv", "--name", "x", "--protocol", "demo_cross", "--seed"],
    "control": ["--protocol", "demo_cross", "--seed"],
    "check": ["m.json", "--sample", "5", "--seed"],
    "manifest": ["Celeb-DF-v2", "ROOT", "--out", "m.json", "--seed"],
    "demo": ["--seeds", "1"],
}


def refused(words, capsys):
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert stop.value.code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize("command", OF_SEEDS)
def test_a_seed_that_is_negative_or_too_large_is_refused(command, capsys):
    for seed in ("-1", "99999999999999999999999", "x"):
        told = refused([command, *OF_SEEDS[command], seed], capsys)
        assert "expected a whole number, 0 " in told and f"got {seed}" in told


def test_a_seed_that_scikit_learn_does_not_take_is_refused(capsys):
    assert "0 to 4294967295, got 4294967296" in refused(["control", *OF_SEEDS["control"], str(2**32)], capsys)


@pytest.mark.parametrize("words", [["check", "m.json", "--jobs"], ["demo", "--jobs"]], ids=lambda words: words[0])
def test_a_number_of_jobs_below_one_is_refused(words, capsys):
    for number in ("0", "-3"):
        assert f"--jobs: expected a whole number, 1 to 4096, got {number}" in refused([*words, number], capsys)


def test_numbers_at_their_bounds_are_taken():
    number = argument_types.whole(-1, 5)
    assert [number("-1"), number("5")] == [-1, 5]
    assert argument_types.seed_type()(str(2**63 - 1)) == 2**63 - 1
    for word in ("-2", "6", "1_0", "1.0", "", "9" * 5000):
        with pytest.raises(argparse.ArgumentTypeError, match="expected a whole number, -1 to 5, got"):
            number(word)
