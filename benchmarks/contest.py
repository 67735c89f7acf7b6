"""Who trains how many people a second: this engine, a loop by hand, Flower's simulation and pfl-research.

The same people, batches, seeds, rounds and first state; contestants take turns, so that a slow minute hits all.
"""

from __future__ import annotations

import json
import math
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.figures import Section
from benchmarks.peers.environments import PeerMissing, run_peer
from benchmarks.people import command, mixed, write_people
from raf_ray.runs.folder import RunFolder

ENGINE, BARE, FLOWER, PFL = "raf-ray", "bare", "flower", "pfl_research"
SETTINGS = ((3, 600, 3, 2), (100, 16, 4, 2), (1000, 16, 3, 1))
"""Clients, people of each, rounds (the first is not counted), turns"""
QUICK = ((3, 24, 2, 1),)
WHY = "Ray's own processes and the driver take a tenth of two cores, which it has for its clients (docs/scale.md)"
"""Where a peer wins"""
SAME = 1e-3
"""Relative difference of final losses: sums are made in another order"""


@dataclass
class Run:
    """One contestant's turns at one setting."""

    speeds: list[float] = field(default_factory=list)
    """People a second, of each turn's rounds after the first"""
    losses: list[float] = field(default_factory=list)
    startup: list[float] = field(default_factory=list)
    settings: str = ""


def engine(clients: int, people: int, rounds: int, levels: int) -> dict[str, object]:
    """The command of this project, a whole process of its own."""
    with tempfile.TemporaryDirectory(prefix="raf-ray-benchmark-") as place:
        folder = Path(place) / "run"
        done = subprocess.run(command(folder, mixed(clients), people, rounds, levels), capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(done.stdout[-2000:] + done.stderr[-2000:])
        rows = RunFolder(folder).read_rows("rounds.csv")
        total = json.loads((folder / "results.json").read_text())["totals"]["seconds"]
    return {
        "seconds": [float(row["seconds"]) for row in rows],
        "loss": [float(row["loss"]) for row in rows],
        "startup_s": math.nan,
        "settings": {"trained_s": total},
    }


HELD: dict[tuple[int, ...], dict[str, Run]] = {}
"""Contests of this process: a table may need what another has measured"""


def contest(clients: int, people: int, rounds: int, turns: int, levels: int, peers: bool) -> dict[str, Run]:
    """Contestant -> its turns; one that cannot be had is missing."""
    key, names = (clients, people, rounds, turns, levels), [ENGINE, BARE, *([FLOWER, PFL] if peers else [])]
    if key not in HELD or (peers and len(HELD[key]) < len(names)):
        HELD[key] = _held(clients, people, rounds, turns, levels, names)
    return HELD[key]


def _held(clients: int, people: int, rounds: int, turns: int, levels: int, names: list[str]) -> dict[str, Run]:
    runs = {name: Run() for name in names}
    with tempfile.TemporaryDirectory(prefix="raf-ray-benchmark-") as place:
        path = Path(place) / "people.npz"
        write_people(path, mixed(clients), people, levels)
        for turn in range(turns):
            for name in [*names[turn % len(names) :], *names[: turn % len(names)]]:
                if name not in runs:
                    continue
                try:
                    if name == ENGINE:
                        found = engine(clients, people, rounds, levels)
                    else:
                        found = run_peer(name, path, levels, rounds)
                except PeerMissing as error:
                    print(error, file=sys.stderr)
                    del runs[name]
                    continue
                _count(runs[name], found, clients * people)
    reference = runs[BARE].losses[0]
    for name, run in runs.items():
        if any(abs(loss / reference - 1) > SAME for loss in run.losses):
            raise RuntimeError(f"{name} trained something else: final losses {run.losses}, by hand {reference}")
    return runs


def _count(run: Run, found: dict[str, object], people: int) -> None:
    seconds, losses = found["seconds"], found["loss"]
    assert isinstance(seconds, list) and isinstance(losses, list)
    run.speeds += [people / value for value in seconds[1:]]
    run.losses.append(losses[-1])
    run.startup.append(float(str(found["startup_s"])))
    run.settings = json.dumps(found["settings"])


def efficiency(quick: bool = False) -> Section:
    section = Section(
        "efficiency",
        "people/s of the engine over those of a plain PyTorch loop in two processes "
        "(`benchmarks/bare.py`) on the same cores, by turns; pairs of rounds but the first",
    )
    for levels in (1, 3):
        for clients, people, rounds, turns in QUICK if quick else SETTINGS:
            runs = contest(clients, people, rounds, turns, levels, peers=False)
            ours, bare = runs[ENGINE].speeds, runs[BARE].speeds
            name = f"{clients:,} x {people}, {'one level' if levels == 1 else 'three levels'}"
            ratio = [a / b for a, b in zip(ours, bare, strict=True)]
            section.ratio(f"{name}: engine / bare", ratio, "at least", 0.95 if clients == 3 else 1.0)
            section.add(f"{name}: people/s, bare", f"{statistics.median(ours):.0f}, {statistics.median(bare):.0f}")
    return section


def peers(quick: bool = False) -> Section:
    about = (
        "people/s of the engine over those of other simulators, each in an environment of its own, "
        "one level, taking turns; pairs of rounds but the first; equal final losses"
    )
    section = Section("peers", about)
    goals = {(FLOWER, 100): 2.0, (FLOWER, 1000): 3.0, (PFL, 3): 1.0, (PFL, 100): 1.0, (PFL, 1000): 1.0}
    for clients, people, rounds, turns in QUICK if quick else SETTINGS:
        runs = contest(clients, people, rounds, turns, 1, peers=True)
        for name in (FLOWER, PFL):
            label = f"{clients:,} x {people}: engine / {name}"
            goal = goals.get((name, clients), 1.0)
            if name not in runs:
                section.undecided(label, "no environment", f"at least {goal:g}")
                continue
            ratio = [a / b for a, b in zip(runs[ENGINE].speeds, runs[name].speeds, strict=True)]
            section.ratio(label, ratio, "at least", goal)
            if statistics.median(ratio) < 1:
                section.notes.append(f"{name} is ahead at {clients:,} x {people}: {WHY}")
            against = [b / a for a, b in zip(runs[BARE].speeds, runs[name].speeds, strict=True)]
            section.add(f"{clients:,} x {people}: {name} / bare; its start-up",
                        f"{statistics.median(against):.2f}; {statistics.median(runs[name].startup):.1f} s")  # fmt: skip
    section.notes += [f"{name}: {runs[name].settings}" for name in (FLOWER, PFL) if name in runs]
    return section
