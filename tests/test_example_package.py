"""The documented example of a detector in a package of its own, found as an installed package's is."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from made import made_config, made_dataset

from resproto_fd.configs.errors import UserError
from resproto_fd.detectors import create_detector, registry
from resproto_fd.trainer.data import Normaliser
from resproto_fd.trainer.distributed import World
from resproto_fd.trainer.scoring import ScoringOptions, score_frames
from resproto_fd.trainer.trainer import Trainer
from resproto_fd.training import cli

PACKAGE = Path(__file__).parent / "example_package"
CPU = World(0, 1, torch.device("cpu"))


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """What `pip install` of the package leaves behind: its module on the path and its entry points beside it."""
    project = (PACKAGE / "pyproject.toml").read_text(encoding="utf-8")
    group, lines = re.search(r'\[project\.entry-points\."(.+?)"\]\n(.*?)\n\n', project, re.DOTALL).groups()
    facts = tmp_path / "site" / "colour_moments-1.0.dist-info"
    facts.mkdir(parents=True)
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: colour-moments\nVersion: 1.0\n")
    (facts / "entry_points.txt").write_text(f"[{group}]\n{lines.replace(chr(34), '')}\n")
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.syspath_prepend(PACKAGE)
    monkeypatch.setattr(registry, "_classes", dict(registry._classes))
    registry._entry_points.cache_clear()
    yield
    registry._entry_points.cache_clear()
    sys.modules.pop("colour_moments", None)


def test_it_is_as_short_as_the_documentation_says():
    lines = [line for path in PACKAGE.iterdir() if path.is_file() for line in path.read_text().splitlines()]
    assert len(lines) <= 50


def test_it_is_listed_and_imported_only_when_it_is_asked_for(installed, capsys):
    assert cli.main(["list", "detectors"]) == 0
    assert "colour_moments" in capsys.readouterr().out
    assert "colour_moments" not in sys.modules
    assert create_detector("colour_moments", tiles=2).body[0].in_features == 24
    with pytest.raises(UserError, match="unknown key 'tile'; the nearest is 'tiles'"):
        create_detector("colour_moments", tile=2)


@pytest.mark.slow
def test_it_is_fitted_and_scores(installed, tmp_path):
    config = made_config(epochs=20)
    detector, data = create_detector("colour_moments"), made_dataset(config)
    Trainer(detector, data, config, CPU, tmp_path / "run").fit()
    normalise = Normaliser([0.5] * 3, [0.5] * 3, CPU.device, torch.float32, False)
    found = score_frames(
        detector, made_dataset(config, split="test"), normalise, CPU, ScoringOptions(5, progress=False)
    )
    labels = np.asarray(data.frames.labels)
    assert found.scores[labels == 1].mean() > found.scores[labels == 0].mean() + 0.2


def test_not_installed_it_is_unknown():
    registry._entry_points.cache_clear()
    with pytest.raises(UserError, match="no detector is called 'colour_moments'"):
        create_detector("colour_moments")
