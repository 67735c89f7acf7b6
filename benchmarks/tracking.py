"""What MLflow tracking costs a run: the call that a round waits for, and rounds with and without it side by side."""

from __future__ import annotations

import statistics
import tempfile
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from rich.table import Table

from raf_ray import run_federation
from raf_ray.config import Config, load_config
from raf_ray.federation.events import Event, RoundFinished
from raf_ray.request.plans import plan_clients
from raf_ray.tracking.mlflow import MlflowTracker
from raf_ray.tracking.store import prepare_store

DEAD = "http://127.0.0.1:9"
"""Nobody listens on the discard port."""
CALLS, ROUNDS, REPEATS = 2000, 15, 4


class Clock:
    """When each round was done, and the CPU seconds that the sender's thread had used by then."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.sender: list[float] = []

    def begin(self, prepared: Any, folder: Path) -> None: ...

    def see(self, event: Event) -> None:
        if isinstance(event, RoundFinished):
            self.times.append(time.perf_counter())
            threads = [thread.ident for thread in threading.enumerate() if thread.name == "mlflow" and thread.ident]
            clocks = [time.pthread_getcpuclockid(thread) for thread in threads]
            self.sender.append(sum(time.clock_gettime(clock) for clock in clocks))

    def end(self, folder: Path, results: dict[str, Any] | None) -> None: ...


def tracking() -> Table:
    """A round of a small federation in one process, without tracking, with SQLite, and with a server that is away."""
    with tempfile.TemporaryDirectory(prefix="raf-ray-benchmark-") as place:
        root = Path(place)
        uris = {"none": None, "SQLite": prepare_store(None, root), "a dead server": DEAD}
        rounds: dict[str, list[float]] = {name: [] for name in uris}
        sender: dict[str, list[float]] = {name: [] for name in uris}
        for repeat in range(REPEATS):
            for name, uri in uris.items():
                clock = _run(root / f"{name}-{repeat}", uri)
                # Not the first two rounds, in which MLflow is imported and caches fill.
                rounds[name] += [b - a for a, b in zip(clock.times[1:], clock.times[2:], strict=False)]
                sender[name].append((clock.sender[-1] - clock.sender[1]) / (ROUNDS - 2))
        call = _call_seconds(root / "calls")
    plain = statistics.median(rounds["none"])
    table = Table(title="tracking: a round of 3 clients x 60 people in one process", title_justify="left")
    for column in ("step", "ms", "of a round"):
        table.add_column(column, justify="left" if column == "step" else "right")
    table.add_row("what a round waits for: one call, a dead server", f"{1e3 * call:.3f}", f"{100 * call / plain:.3f} %")
    for name in ("SQLite", "a dead server"):
        cpu = statistics.median(sender[name])
        table.add_row(f"CPU of the sender's thread, {name}", f"{1e3 * cpu:.3f}", f"{100 * cpu / plain:.3f} %")
    for name, seconds in rounds.items():
        median = statistics.median(seconds)
        table.add_row(f"a round, tracking to {name}", f"{1e3 * median:.1f}", f"{100 * (median / plain - 1):+.1f} %")
    return table


def _config(uri: str | None) -> Config:
    return load_config(overrides=[
        "federation.engine=in_process", f"federation.rounds={ROUNDS}", "data.people_per_client=60",
        "data.val_people=10", "data.test_people=10", f"evaluation.every={ROUNDS}", "evaluation.resolutions=[64x48]",
        "tracking.log_model=false", f"tracking.uri={uri or 'null'}",
    ])  # fmt: skip


def _run(folder: Path, uri: str | None) -> Clock:
    config, clock = _config(uri), Clock()
    trackers = [MlflowTracker(config, lambda line: None)] if uri else []
    run_federation(config, folder, watchers=[*trackers, clock])
    return clock


def _call_seconds(folder: Path) -> float:
    """Median of the tracker's call for a round of 15 metrics."""
    config = _config(DEAD)
    tracker = MlflowTracker(config, lambda line: None)
    folder.mkdir()
    tracker.begin(SimpleNamespace(plans=plan_clients(config)), folder)
    found = []
    for done in range(1, CALLS + 1):
        event = RoundFinished(done, CALLS, {"round": done, **{f"metric_{i}": done / 7 for i in range(15)}})
        begin = time.perf_counter()
        tracker.see(event)
        found.append(time.perf_counter() - begin)
    tracker.end(folder, None)
    return statistics.median(found)
