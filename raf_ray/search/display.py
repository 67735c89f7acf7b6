"""A search on the terminal while it runs: one live table, or plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from rich.console import Console
from rich.live import Live
from rich.table import Table

from raf_ray.report.search import TrialRow, points, short, short_key

SHOWN = 12
"""Trials in the live table: those that run, then the best."""


class SearchDisplay:
    """Shows trials as they come. `view` gives them all, the finished ones first, best first."""

    def __init__(
        self, console: Console, total: int, metrics: Sequence[str], view: Callable[[], list[TrialRow]]
    ) -> None:
        self._console, self._total, self._metrics, self._view = console, total, metrics, view
        self._began = time.monotonic()
        self._ended_before = 0
        self._live: Live | None = None

    def begin(self) -> None:
        self._ended_before = _ended(self._view())
        if self._console.is_terminal:
            self._live = Live(console=self._console, get_renderable=self.table, refresh_per_second=2, transient=True)
            self._live.start()

    def see(self, row: TrialRow) -> None:
        """A trial changed: a line, where there is no live table."""
        if self._live is not None:
            return
        where = f"round {row.round}/{row.rounds}" if row.round else ""
        scores = (
            "  ".join(f"{name} {points(name, row.metrics.get(name))}" for name in self._metrics) if row.metrics else ""
        )
        text = "  ".join(
            filter(None, (f"trial {row.number:<3}", f"{row.status:<8}", where, scores, _values(row), row.note))
        )
        self._console.print(f"  {text}", highlight=False, soft_wrap=True)

    def end(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def table(self) -> Table:
        """The running trials, then the best; how many have ended, and about how long the rest takes."""
        rows = self._view()
        table = Table(box=None, padding=(0, 2, 0, 0), caption=self._caption(_ended(rows)), caption_justify="left")
        for name in ("trial", "status", "round", *self._metrics):
            table.add_column(name, justify="left" if name == "status" else "right", no_wrap=True)
        table.add_column("values", overflow="ellipsis", no_wrap=True)
        running = [row for row in rows if row.status == "running"]
        ended = [row for row in rows if row.status not in ("running", "pending")]
        for row in [*running, *ended][:SHOWN]:
            table.add_row(
                str(row.number), row.status, f"{row.round}/{row.rounds}" if row.round else "-",
                *(points(name, row.metrics.get(name)) for name in self._metrics), _values(row),
            )  # fmt: skip
        return table

    def _caption(self, ended: int) -> str:
        seconds = time.monotonic() - self._began
        fresh = ended - self._ended_before
        left = f", about {seconds / fresh * (self._total - ended):.0f} s left" if fresh and ended < self._total else ""
        return f"{ended} of {self._total} trials have ended, {seconds:.0f} s{left}"


def _ended(rows: Sequence[TrialRow]) -> int:
    return sum(row.status not in ("running", "pending") for row in rows)


def _values(row: TrialRow) -> str:
    return "  ".join(f"{short_key(key, list(row.params))}={short(value)}" for key, value in row.params.items())
