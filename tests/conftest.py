"""Fixtures that several test files use."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

SHARED_DATA = "RAF_RAY_SHARED_DATA"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of the real sample data, which is not part of the repository; tests skip where it is absent."""
    beside = Path(__file__).resolve().parents[1] / ".." / "shared" / "data"
    folder = Path(os.environ.get(SHARED_DATA) or beside)
    if not folder.is_dir():
        pytest.skip(f"the sample data is absent: set {SHARED_DATA} to its folder, or put it into ../shared/data")
    return folder


@pytest.fixture(scope="module", autouse=True)
def no_pictures(request: pytest.FixtureRequest) -> Iterator[None]:
    """Runs of a file that names no picture draw none, which is half of a tiny run's time."""
    with pytest.MonkeyPatch.context() as patch:
        if ".png" not in request.path.read_text(encoding="utf-8"):
            patch.setattr("raf_ray.experiment.run.draw_missing", lambda *args: iter(()))
        yield


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """One private Ray cluster for all tests of a worker that need one."""
    from raf_ray.cluster.connect import connect, disconnect

    connect("local", dashboard=False)
    yield
    disconnect()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that start processes come first: they are the longest, and one that comes last is waited for by all."""
    starts = {item.path for item in items if "ray_cluster" in getattr(item, "fixturenames", ())}
    items.sort(key=lambda item: item.path not in starts)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """The seed of the tests' order, which ``-q`` leaves out."""
    seed = config.getoption("randomly_seed", None)
    if seed is not None:
        terminalreporter.write_line(f"in random order; the same again: --randomly-seed={seed}")
