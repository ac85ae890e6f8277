"""Shared fixtures. Threads are capped before torch is imported: two test processes on two cores must not fight."""

import asyncio
import gc
import os
import shutil
from contextlib import suppress
from functools import cache
from pathlib import Path

for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(name, "1")
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest  # noqa: E402
from patience import PATIENCE  # noqa: E402

MEMORY = Path("/dev/shm")
ROOM = 2 << 30
"""Bytes that must be free in memory for each test process."""
SHARED = Path(__file__).resolve().parents[2] / "shared"


if hasattr(os, "register_at_fork"):
    # A forked child must not collect what earlier tests left: a video's scaler would wait for its threads for ever.
    os.register_at_fork(after_in_child=gc.freeze)


def pytest_configure(config):
    """Keeps the default tier's 40,000 small files in memory where there is room; a disk takes a fifth of its time."""
    if not config.option.markexpr and _can_hold(MEMORY, ROOM * max(1, config.getoption("numprocesses", None) or 1)):
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))


def _can_hold(folder: Path, size: int) -> bool:
    """Whether files of so many bytes fit into a folder in memory; tests also run programs that they write there."""
    try:
        place = os.statvfs(folder)
        found = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        free = [place.f_bavail * place.f_frsize, int(found["MemAvailable"].split()[0]) << 10]
    except (OSError, AttributeError, LookupError):  # another system
        return False
    for limit in ("memory.max", "memory/memory.limit_in_bytes"):  # of a container, by either version of cgroups
        with suppress(OSError, ValueError):  # there is none, or it is "max"
            free.append(int(Path("/sys/fs/cgroup", limit).read_text()) // 2)
    usable = os.access(folder, os.W_OK | os.X_OK) and not place.f_flag & (os.ST_NOEXEC | os.ST_RDONLY)
    return usable and min(free) > size


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch):
    """No test cuts the power, and waiting for the disk takes several per cent of the tests' time."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture(autouse=True)
def plain_path(monkeypatch):
    """Commands that ran in this process leave the safe path on; programs that a test starts must not inherit it."""
    monkeypatch.delenv("PYTHONSAFEPATH", raising=False)


@pytest.fixture(autouse=True)
def no_loop_of_the_browser(request):
    """Playwright leaves its event loop running between tests; a test without the browser may run its own."""
    if "browser" in request.fixturenames:
        yield
        return
    running = asyncio._get_running_loop()
    asyncio._set_running_loop(None)
    yield
    asyncio._set_running_loop(running)


@pytest.fixture(scope="session")
def shared():
    """The folder of real faces, peers' files and vectors beside the checkout; its tests are skipped without it."""
    if not SHARED.is_dir():
        if os.environ.get("RESPROTO_REQUIRE_SHARED"):
            pytest.fail("RESPROTO_REQUIRE_SHARED is set, but there is no ../shared beside the checkout")
        pytest.skip("no ../shared beside this checkout")
    return SHARED


@pytest.fixture(scope="session")
def browser():
    """A running Chromium; its tests are skipped without one."""
    api = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        if os.environ.get("RESPROTO_REQUIRE_CHROMIUM"):
            pytest.fail("RESPROTO_REQUIRE_CHROMIUM is set, but there is no chromium")
        pytest.skip("no chromium on this machine")
    with api.sync_playwright() as started:
        running = started.chromium.launch(executable_path=chromium, args=["--no-sandbox"], timeout=1000 * PATIENCE)
        yield running
        running.close()


@pytest.fixture(scope="session")
def made_once(tmp_path_factory):
    """`made_once(name, make)`: a folder that `make(folder)` fills once for all test processes; nobody changes it."""
    from filelock import FileLock

    base = tmp_path_factory.getbasetemp()
    place = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    def get(name, make):
        folder, done = place / name, place / f"{name}.done"
        with FileLock(place / f"{name}.lock"):
            if not done.exists():
                make(folder)
                done.touch()
        return folder

    return get


@pytest.fixture(scope="session")
def demo(made_once):
    """The tiny demo data."""
    from resproto_fd.preprocessing.demo.data import make_demo

    return made_once("tiny_demo", lambda folder: make_demo(folder, size="tiny", workers=2))


@pytest.fixture(scope="session")
def resproto_run(demo, made_once):
    """A run of resproto_fd_tiny that took three steps, with prototypes and features; nobody changes its folder."""
    from resproto_fd.training.cli import main

    steps = ["train.epochs=3", "run.max_steps=3", "train.batch_size=12", "model.start_epoch=0", "protocol.recode=80"]
    words = ["run.workers=0", "run.progress=false", "run.device=cpu", "run.save_features=true", f"data.root={demo}"]

    def make(folder):
        command = ["train", "--detector", "resproto_fd_tiny", "--protocol", "demo_cross", f"run.out={folder}"]
        assert main([*command, *steps, *words]) == 0

    (result,) = made_once("resproto_runs", make).rglob("result.json")
    return result.parent


@pytest.fixture(scope="session")
def parity(shared):
    """The folder of DeepfakeBench's numbers, and the module that makes the weights and pictures they are of."""
    from importlib.util import module_from_spec, spec_from_file_location

    folder = shared / "parity"
    spec = spec_from_file_location("recipe", folder / "recipe.py")
    recipe = module_from_spec(spec)
    spec.loader.exec_module(recipe)
    return folder, recipe


@pytest.fixture(scope="session")
def parity_detector(parity):
    """DeepfakeBench's numbers by detector, and its detectors loaded with the weights they are of."""
    import json

    import numpy as np
    import torch

    from resproto_fd.detectors import create_detector
    from resproto_fd.detectors.weights import without_pretrained

    folder, recipe = parity

    def load(name: str, **keywords):
        keys = json.loads((folder / "keys" / f"{name}.json").read_text())
        state = {key: torch.from_numpy(np.array(value)) for key, value in recipe.fill(keys, 1).items()}
        with without_pretrained():
            detector = create_detector(name, pretrained=None, **keywords).load_deepfakebench(state)
        return detector, json.loads((folder / "golden" / f"{name}_seed1.json").read_text()), recipe

    return load


@cache
def _cuda() -> bool:
    import importlib.util

    return importlib.util.find_spec("torch") is not None and __import__("torch").cuda.is_available()


def pytest_collection_finish(session):
    """Full collections skip the million objects that imported libraries hold; a tenth of the time went there."""
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


def pytest_collection_modifyitems(config, items):
    """Mark by fixture, and leave out the slow and gpu tiers unless they are asked for with -m."""
    for item in items:
        if "shared" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.real)
        if item.get_closest_marker("gpu") and not _cuda():
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
    if "slow" not in (config.option.markexpr or ""):
        slow = [item for item in items if item.get_closest_marker("slow")]
        config.hook.pytest_deselected(items=slow)
        items[:] = [item for item in items if not item.get_closest_marker("slow")]
