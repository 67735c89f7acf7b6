"""Figures beside their goals: what is met, what is missed, and RESULTS.md."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from rich.table import Table
from scipy.stats import t

Verdict = Literal["met", "missed", "undecided", ""]
Better = Literal["at least", "at most"]


@dataclass(frozen=True)
class Figure:
    name: str
    value: str
    goal: str = ""
    verdict: Verdict = ""
    """Empty where there is no goal"""


@dataclass
class Section:
    """One table: what was measured, how, and what came of it."""

    name: str
    about: str
    """Settings, in a sentence"""
    figures: list[Figure] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, name: str, value: str) -> None:
        self.figures.append(Figure(name, value))

    def goal(self, name: str, value: float, unit: str, better: Better, bound: float) -> None:
        """A figure measured once, beside its goal."""
        met = value >= bound if better == "at least" else value <= bound
        self.figures.append(Figure(name, f"{value:.3g}{unit}", f"{better} {bound:g}{unit}", "met" if met else "missed"))

    def ratio(self, name: str, pairs: Sequence[float], better: Better, bound: float) -> None:
        """The ratio of two things that were measured side by side, several times.

        Missed where the 95 % interval of the pairs lies wholly on the wrong side, met where the median of several is on
        the right one, else undecided.
        """
        middle, (low, high) = statistics.median(pairs), interval(pairs)
        met = len(pairs) > 1 and (middle >= bound if better == "at least" else middle <= bound)
        missed = high < bound if better == "at least" else low > bound
        verdict: Verdict = "met" if met else "missed" if missed else "undecided"
        shown = f"{middle:.2f}" + (f" ({low:.2f} to {high:.2f})" if math.isfinite(high) else " (one pair)")
        self.figures.append(Figure(name, shown, f"{better} {bound:g}", verdict))

    def undecided(self, name: str, why: str, goal: str) -> None:
        self.figures.append(Figure(name, why, goal, "undecided"))

    @property
    def is_missed(self) -> bool:
        return any(figure.verdict == "missed" for figure in self.figures)

    def table(self) -> Table:
        table = Table(title=f"{self.name}: {self.about}", title_justify="left", caption="\n".join(self.notes) or None,
                      caption_justify="left")  # fmt: skip
        for column in ("", "figure", "goal", ""):
            table.add_column(column, justify="left" if not column else "right")
        colours = {"met": "green", "missed": "red", "undecided": "yellow", "": ""}
        for figure in self.figures:
            table.add_row(figure.name, figure.value, figure.goal, figure.verdict, style=colours[figure.verdict])
        return table

    def markdown(self, heading: str) -> str:
        """`heading`: date, machine and versions."""
        rows = [f"| {f.name} | {f.value} | {f.goal} | {f.verdict} |" for f in self.figures]
        head = [
            f"## {self.name}",
            "",
            self.about,
            "",
            heading,
            "",
            "| | figure | goal | |",
            "| --- | --- | --- | --- |",
        ]
        lines = [*head, *rows]
        lines += ["", *self.notes] if self.notes else []
        return "\n".join(lines) + "\n"


def interval(pairs: Sequence[float]) -> tuple[float, float]:
    """95 % interval of the mean of paired ratios, by Student's t on their logarithms; one pair says nothing."""
    if len(pairs) < 2:
        return 0.0, math.inf
    logs = [math.log(value) for value in pairs]
    reach = float(t.ppf(0.975, len(logs) - 1)) * statistics.stdev(logs) / math.sqrt(len(logs))
    middle = statistics.fmean(logs)
    return math.exp(middle - reach), math.exp(middle + reach)


def with_section(text: str, name: str, section: str) -> str:
    """RESULTS.md with one section replaced, or added at its end."""
    parts = re.split(r"(?m)^(?=## )", text)
    kept = [part for part in parts[1:] if part.splitlines()[0] != f"## {name}"]
    order = [part.splitlines()[0] for part in parts[1:]]
    place = order.index(f"## {name}") if f"## {name}" in order else len(kept)
    kept.insert(place, section)
    return parts[0] + "\n".join(part.rstrip() + "\n" for part in kept)
