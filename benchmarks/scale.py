"""How a run's time and memory grow with its clients: whole commands, all of their processes."""

from __future__ import annotations

import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.figures import Section
from benchmarks.people import command, mixed
from raf_ray.runs.folder import RunFolder

PEOPLE = 4
"""Of a client, where each trains in each round"""
SETTINGS = ((18, 3), (100, 6), (1000, 3), (10_000, 2))
"""Clients a round, rounds: the first, in which processes warm up and pixels are drawn, is not counted"""
REGISTERED, COHORT, ROUNDS, FEW = 100_000, 1_000, 50, 2
"""Clients, of which a thousand train a round; people of each"""
QUICK = ((6, 2),)


class Memory(threading.Thread):
    """Proportional set sizes (shared pages counted once) of a process and all below it, every two seconds."""

    def __init__(self, process: psutil.Process) -> None:
        super().__init__(daemon=True)
        self._process = process
        self._over = threading.Event()
        self.all: list[float] = []
        """GB in all"""
        self.driver: list[float] = []
        """MB of the driver's actor"""

    def run(self) -> None:
        while not self._over.wait(2.0):
            sizes = {process: _pss(process) for process in self._tree()}
            self.all.append(sum(sizes.values()) / 1e9)
            self.driver += [size / 1e6 for process, size in sizes.items() if _is_driver(process)][:1]

    def stop(self) -> None:
        self._over.set()
        self.join()

    def _tree(self) -> list[psutil.Process]:
        try:
            return [self._process, *self._process.children(recursive=True)]
        except psutil.Error:
            return []


def _is_driver(process: psutil.Process) -> bool:
    try:
        return "".join(process.cmdline()).startswith("ray::run ")  # what its actor is at, while rounds go on
    except psutil.Error:
        return False


def _pss(process: psutil.Process) -> float:
    try:
        return float(process.memory_full_info().pss)
    except psutil.Error:
        return 0.0


@dataclass(frozen=True)
class Cost:
    """What a command took."""

    seconds: float
    """In all"""
    round_s: float
    """Median of its rounds after the first"""
    memory: Sequence[float]
    driver: Sequence[float]


def measure(clients: int, people: int, rounds: int, *more: str) -> Cost:
    with tempfile.TemporaryDirectory(prefix="raf-ray-benchmark-") as place:
        folder = Path(place) / "run"
        asked = [*command(folder, mixed(clients), people, rounds, 1), *more]
        begin = time.perf_counter()
        process = psutil.Popen(asked, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        memory = Memory(process)
        memory.start()
        said, _ = process.communicate()
        seconds = time.perf_counter() - begin
        memory.stop()
        if process.returncode:
            raise RuntimeError(said[-3000:])
        took = [float(row["seconds"]) for row in RunFolder(folder).read_rows("rounds.csv")][1:]
    return Cost(seconds, statistics.median(took), memory.all, memory.driver)


def quarters(values: Sequence[float]) -> str:
    """At the beginning, after each quarter, at the end."""
    places = [round(i * (len(values) - 1) / 4) for i in range(5)]
    return ", ".join(f"{values[i]:.2f}" for i in places)


def scale(quick: bool = False) -> Section:
    section = Section("scale", f"clients of {PEOPLE} people that all train in each round, one level; then "
                      f"{REGISTERED:,} registered clients of {FEW}, {COHORT:,} a round, {ROUNDS} rounds; memory is the "
                      "proportional set size of all processes of the command")  # fmt: skip
    costs = {}
    for clients, rounds in QUICK if quick else SETTINGS:
        cost = costs[clients] = measure(clients, PEOPLE, rounds, *(() if clients < 1000 else ("data.cache_mb=1000",)))
        name, peak = f"{clients:,} clients", max(cost.memory)
        if clients == 18:
            section.goal(f"{name}: memory", peak, " GB", "at most", 3.0)
            section.goal(f"{name}: the command, {rounds} rounds", cost.seconds, " s", "at most", 25.0)
        else:
            section.goal(f"{name}: memory", peak, " GB", "at most", 8.0)
        each = f"{1e3 * cost.round_s / clients:.1f} ms a client; {1e3 * peak / clients:.2f} MB a client"
        section.add(f"{name}: a round", f"{cost.round_s:.2f} s, {each}")
    last, cost = list(costs.items())[-1]
    section.add(f"{last:,} clients: GB at the start, each quarter, the end", quarters(cost.memory))
    if not quick:
        flat = (costs[10_000].round_s / 10_000) / (costs[100].round_s / 100)
        section.goal("cost a client, 10,000 over 100", flat, "", "at most", 1.1)
    _registered(section, quick)
    return section


def _registered(section: Section, quick: bool) -> None:
    clients, cohort, rounds = (300, 30, 8) if quick else (REGISTERED, COHORT, ROUNDS)
    cost = measure(clients, FEW, rounds, f"federation.cohort.size={cohort}", "data.cache_mb=1000")
    name = f"{clients:,} registered, {cohort:,} a round"
    section.add(f"{name}: the command, a round", f"{cost.seconds:.0f} s, {cost.round_s:.2f} s")
    section.goal(f"{name}: memory", max(cost.memory), " GB", "at most", 8.0)
    section.add(f"{name}: GB at the start, each quarter, the end", quarters(cost.memory))
    early = cost.driver[len(cost.driver) // 10 :]  # when its libraries are there and five of fifty rounds are over
    if not early:
        section.undecided(f"{name}: the driver's growth", "its process was not seen", "at most 20 MB")
        return
    section.goal(f"{name}: the driver's growth", early[-1] - early[0], " MB", "at most", 20.0)
    section.add(f"{name}: MB of the driver from then, each quarter, the end", quarters(early))
