"""Shared fixtures. Threads are capped before torch is imported: two test processes on two cores must not fight."""

import os
from pathlib import Path

for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(name, "1")
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest  # noqa: E402

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared():
    """The folder of real faces, peers' files and vectors beside the checkout; its tests are skipped without it."""
    if not SHARED.is_dir():
        if os.environ.get("RESPROTO_REQUIRE_SHARED"):
            pytest.fail("RESPROTO_REQUIRE_SHARED is set, but there is no ../shared beside the checkout")
        pytest.skip("no ../shared beside this checkout")
    return SHARED


def pytest_collection_modifyitems(config, items):
    """Mark by fixture, and leave out the slow and gpu tiers unless they are asked for with -m."""
    import importlib.util

    cuda = importlib.util.find_spec("torch") is not None and __import__("torch").cuda.is_available()
    for item in items:
        if "shared" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.real)
        if item.get_closest_marker("slow") and "slow" not in (config.option.markexpr or ""):
            item.add_marker(pytest.mark.skip(reason="slow tier: run with -m slow"))
        if item.get_closest_marker("gpu") and not cuda:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
