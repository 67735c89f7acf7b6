"""A search on the terminal: one live table, or plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

SHOWN = 12
"""Trials in the live table: those that run, then the best."""


@dataclass(frozen=True)
class TrialLine:
    """A trial as the table shows it."""

    number: int
    status: str
    round: int
    rounds: int
    values: Mapping[str, float]
    """The search's metrics"""
    params: Mapping[str, Any]
    note: str = ""


class SearchDisplay:
    """Shows trials as they come. `told` says a changed trial, `view` gives all of them, best first."""

    def __init__(
        self, console: Console, total: int, metrics: Sequence[str], view: Callable[[], list[TrialLine]]
    ) -> None:
        self._console, self._total, self._metrics, self._view = console, total, metrics, view
        self._began = time.monotonic()
        self._ended_before = 0
        self._live: Live | None = None

    def begin(self) -> None:
        self._ended_before = self._ended()
        if self._console.is_terminal:
            self._live = Live(console=self._console, get_renderable=self.table, refresh_per_second=2, transient=True)
            self._live.start()

    def told(self, line: TrialLine) -> None:
        """A trial changed."""
        if self._live is not None:
            return
        params = "  ".join(f"{key.rpartition('.')[2]}={short(value)}" for key, value in line.params.items())
        values = "  ".join(f"{name} {short(value)}" for name, value in line.values.items())
        where = f"round {line.round}/{line.rounds}" if line.status in ("running", "stopped") and line.round else ""
        text = "  ".join(
            filter(None, (f"trial {line.number:<3}", f"{line.status:<8}", where, values, params, line.note))
        )
        self._console.print(f"  {text}", highlight=False, soft_wrap=True, markup=False)

    def end(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def table(self) -> Table:
        """The running trials, then the best; how many have ended, and about how long the rest takes."""
        lines = self._view()
        table = Table(box=None, padding=(0, 2, 0, 0), caption=self._caption(), caption_justify="left")
        for name in ("trial", "status", "round", *self._metrics):
            table.add_column(name, justify="right" if name != "status" else "left", no_wrap=True)
        table.add_column("values", overflow="ellipsis", no_wrap=True)
        running = [line for line in lines if line.status == "running"]
        for line in [*running, *(line for line in lines if line.status not in ("running", "pending"))][:SHOWN]:
            params = "  ".join(f"{key.rpartition('.')[2]}={short(value)}" for key, value in line.params.items())
            table.add_row(
                str(line.number), line.status, f"{line.round}/{line.rounds}" if line.round else "-",
                *(short(line.values.get(name)) for name in self._metrics), params,
            )  # fmt: skip
        return table

    def _ended(self) -> int:
        return sum(line.status not in ("running", "pending") for line in self._view())

    def _caption(self) -> str:
        ended = self._ended()
        seconds = time.monotonic() - self._began
        fresh = ended - self._ended_before
        left = f", about {seconds / fresh * (self._total - ended):.0f} s left" if fresh and ended < self._total else ""
        return f"{ended} of {self._total} trials have ended, {seconds:.0f} s{left}"


def short(value: Any) -> str:
    """A value in few characters."""
    if value is None:
        return "-"
    if isinstance(value, bool) or not isinstance(value, float | int):
        return str(value).replace(" ", "").replace("'", "")
    if value == 0 or isinstance(value, int) or float(value).is_integer():
        return f"{value:.4g}" if abs(value) >= 1e5 else f"{value:g}"
    return f"{value:.4g}" if abs(value) >= 1e-3 else f"{value:.2e}"
