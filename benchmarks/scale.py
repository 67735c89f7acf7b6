"""How a run's time and memory grow with its clients, 16 people each: whole commands, all of their processes."""

from __future__ import annotations

import csv
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil
from rich.table import Table

COUNTS = (3, 18, 100, 1000)
ROUNDS = 3
WORDS = (
    "data.people_per_client=16", "data.val_people=50", "data.test_people=50", f"federation.rounds={ROUNDS}",
    "objective.name=heatmap", "evaluation.resolutions=[64x48]", f"evaluation.every={ROUNDS}", "tracking.mlflow=false",
)  # fmt: skip


class Memory(threading.Thread):
    """The largest proportional set size (shared pages counted once) of a process and all below it, twice a second."""

    def __init__(self, process: psutil.Process) -> None:
        super().__init__(daemon=True)
        self._process = process
        self._over = threading.Event()
        self.peak = 0.0

    def run(self) -> None:
        while not self._over.wait(0.5):
            self.peak = max(self.peak, sum(map(_pss, self._tree())))

    def stop(self) -> None:
        self._over.set()
        self.join()

    def _tree(self) -> list[psutil.Process]:
        try:
            return [self._process, *self._process.children(recursive=True)]
        except psutil.Error:
            return []


def _pss(process: psutil.Process) -> float:
    try:
        return float(process.memory_full_info().pss)
    except psutil.Error:
        return 0.0


def scale() -> Table:
    table = Table(title=f"scale: 16 people a client, one level, {ROUNDS} rounds, a private local cluster",
                  title_justify="left")  # fmt: skip
    for column in ("clients", "actors", "command s", "round s", "people/s", "peak GB", "MB a client"):
        table.add_column(column, justify="right")
    for count in COUNTS:
        with tempfile.TemporaryDirectory(prefix="raf-ray-benchmark-") as place:
            row = _run(count, Path(place) / "run")
        table.add_row(str(count), *row)
    return table


def _run(count: int, folder: Path) -> list[str]:
    third = [count - 2 * (count // 3), count // 3, count // 3]
    clients = "{" + ", ".join(f"{tier}: {n}" for tier, n in zip(("high", "mid", "low"), third, strict=True)) + "}"
    command = [sys.executable, "-m", "raf_ray.run", "--address", "local", "--output", str(folder), *WORDS,
               f"federation.clients={clients}"]  # fmt: skip
    begin = time.perf_counter()
    process = psutil.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    memory = Memory(process)
    memory.start()
    said, _ = process.communicate()
    seconds = time.perf_counter() - begin
    memory.stop()
    if process.returncode:
        raise RuntimeError(said)
    shared = [line for line in said.splitlines() if "take turns in" in line]
    actors = shared[0].split("take turns in ")[1].split()[0] if shared else str(count)
    with open(folder / "rounds.csv", encoding="utf-8") as file:
        last = list(csv.DictReader(file))[-1]  # in the first, processes warm up
    return [actors, f"{seconds:.0f}", f"{float(last['seconds']):.2f}", f"{float(last['people_per_s']):.0f}",
            f"{memory.peak / 1e9:.2f}", f"{memory.peak / 1e6 / count:.1f}"]  # fmt: skip
