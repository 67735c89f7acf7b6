"""``python -m benchmarks [TABLE ...]``: figures beside goals, into RESULTS.md; exit code 1 where one is missed."""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.attacks import attacks
from benchmarks.contest import efficiency, peers
from benchmarks.deaths import deaths
from benchmarks.figures import Section, with_section
from benchmarks.methods import methods
from benchmarks.overhead import overhead
from benchmarks.parts import batches, exact_sum, transport
from benchmarks.pipeline import pipeline
from benchmarks.scale import scale
from benchmarks.search import shared_data, tune
from benchmarks.tracking import tracking
from benchmarks.wire import wire
from raf_ray.files import write_text

RESULTS = Path(__file__).with_name("RESULTS.md")
HEAD = "# Results of `make bench`\n\nEach figure beside its goal; a ratio with the 95 % interval of its pairs.\n\n"

GOALS: dict[str, Callable[[bool], Section]] = {
    "pipeline": pipeline,
    "deaths": deaths,
    "overhead": overhead,
    "peers": peers,
    "efficiency": efficiency,
    "scale": scale,
    "methods": methods,
}
"""The default"""
BY_HAND: dict[str, Callable[[], Table]] = {
    "batches": batches,
    "sum": exact_sum,
    "wire": wire,
    "transport": transport,
    "tune": tune,
    "shared_data": shared_data,
    "tracking": tracking,
    "attacks": attacks,
}
"""Tables without goals, only when they are named"""


def main() -> None:
    known = [*GOALS, *BY_HAND]
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("tables", nargs="*", metavar="TABLE", help=f"of {', '.join(known)}; default: the first seven")
    parser.add_argument("--quick", action="store_true", help="tiny settings, to see that it works; RESULTS.md stays")
    asked = parser.parse_args()
    unknown = [name for name in asked.tables if name not in known]
    if unknown:
        parser.error(f"no table is called {unknown[0]} (known: {', '.join(known)})")
    console = Console() if sys.stdout.isatty() else Console(width=140)
    console.print(machine(), highlight=False)
    missed = False
    for name in asked.tables or GOALS:
        if name in BY_HAND:
            console.print(BY_HAND[name]())
            continue
        begin = time.monotonic()
        section = GOALS[name](asked.quick)
        missed |= section.is_missed
        console.print(section.table())
        if not asked.quick:
            keep(section, f"`python -m benchmarks {name}`, {time.monotonic() - begin:.0f} s")
    sys.exit(1 if missed and not asked.quick else 0)


def keep(section: Section, command: str) -> None:
    """Write a section into RESULTS.md, in place of its last one."""
    text = RESULTS.read_text(encoding="utf-8") if RESULTS.is_file() else HEAD
    heading = f"{time.strftime('%Y-%m-%d')}, {machine()}; seed 0; {command}."
    write_text(RESULTS, with_section(text, section.name, section.markdown(heading)))


def machine() -> str:
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "numpy", "opencv-python", "ray", "mlflow"))
    return f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, {packages}"


if __name__ == "__main__":
    main()
