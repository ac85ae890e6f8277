"""Sweeps made for tests, and run folders as training leaves them."""

import argparse
from functools import cache
from pathlib import Path

from resproto_fd.configs import loading
from resproto_fd.configs.sweep_schema import SweepConfig
from resproto_fd.training import train
from resproto_fd.training.commands.arguments import run_config
from resproto_fd.training.results import RunResult, Selection, TestResult
from resproto_fd.training.settings import with_keywords
from resproto_fd.training.sweeps.cells import cells_of


@cache
def shipped(name: str) -> tuple:
    """The cells of a shipped sweep."""
    return tuple(cells_of(loading.load("sweeps", name)))


def sweep(*groups, **settings) -> SweepConfig:
    groups = groups or ({},)
    base = {"detectors": ["clip_tiny"], "protocols": ["demo_cross"]}
    values = {"name": "made", "cells": [base | group for group in groups]} | settings
    return loading.validated(SweepConfig, values, "made.yaml")


def configuration_of(cell, runs):
    """The configuration that `resproto train` makes of a cell's words."""
    parser = argparse.ArgumentParser()
    train.add_arguments(parser)
    args, rest = parser.parse_known_args(cell.words(runs)[1:])
    args.settings += rest
    assert all("=" in word for word in rest)
    return run_config(args)


def put_result(cell, runs, **changes) -> Path:
    """A result as the cell's finished training leaves it."""
    config = with_keywords(configuration_of(cell, runs))
    counts = {"frames": 2, "real_frames": 1, "videos": 2, "real_videos": 1}
    names = {name for name in TestResult.model_fields if name.startswith(("frame_", "video_"))}
    test = TestResult(**counts, **dict.fromkeys(names, 0.5), frames_hash="0" * 64)
    selection = Selection(rule="best", dataset="Demo-A", split="val", metric="frame_auc", epoch=1, value=0.5)
    fields = {
        "detector": config.detector.name,
        "title": "made",
        "protocol": config.protocol.name,
        "fingerprint": "0" * 16,
        "seed": config.seed,
        "config": config.model_dump(mode="json", by_alias=True),
        "selected_on": selection,
        "tests": dict.fromkeys(config.protocol.test, test),
        "train_images": 10,
    } | changes
    path = Path(runs, cell.folder, "result.json")
    RunResult(**fields).save(path)
    return path


def put_checkpoint(cell, runs) -> None:
    folder = Path(runs, cell.folder, "checkpoints")
    folder.mkdir(parents=True)
    (folder / "step_00000001.pt").write_bytes(b"")
