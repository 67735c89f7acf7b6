"""Progress: one live display on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from pathlib import Path

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn
from rich.text import Text

from raf_ray.evaluation.scores import Scores
from raf_ray.federation.events import ClientsFinished, Event, Noted, RoundFinished, RoundStarted, Scored
from raf_ray.files import Json
from raf_ray.request.prepared import Prepared
from raf_ray.resolution import tier_label
from raf_ray.terminal import warn


class ProgressDisplay:
    """Shows a run's rounds: a bar for the rounds, one for the clients of each tier, scores as they come."""

    def __init__(self, console: Console, title: str = "") -> None:
        self._console = console
        self._title = title
        self._live: Live | None = None
        self._rounds: Progress | None = None
        self._tiers: Progress | None = None
        self._bars: dict[str, TaskID] = {}
        self._line = Text("starting the clients ...", style="dim")
        self._scores = Text("")
        self._seconds: list[float] = []
        self._began = time.monotonic()

    def begin(self, prepared: Prepared, folder: Path) -> None:
        title = self._title or folder.name
        plans = prepared.plans
        counts = plans.counts()
        who = ", ".join(f"{counts[tier.name]} x {tier_label(tier.name, tier.size)}" for tier in plans.tiers)
        config = prepared.config
        self._console.print(
            Text.assemble(
                (title, "bold"),
                f"  {config.objective.name}, {who}; {prepared.data.counts.sum()} people, "
                f"{config.federation.rounds} rounds, seed {config.seed}",
            ),
            highlight=False,
        )
        for note in prepared.notes:
            self._console.print(note, style="dim", highlight=False, soft_wrap=True)
        if not self._console.is_terminal:
            return
        self._rounds = Progress(
            TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), console=self._console
        )
        self._rounds.add_task("rounds", total=config.federation.rounds)
        self._tiers = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            console=self._console,
        )
        self._live = Live(self._view(), console=self._console, refresh_per_second=8, transient=True)
        self._live.start()

    def see(self, event: Event) -> None:
        if isinstance(event, RoundStarted):
            self._start_round(event)
        elif isinstance(event, ClientsFinished) and self._tiers is not None and event.tier in self._bars:
            self._tiers.advance(self._bars[event.tier], len(event.seconds))
        elif isinstance(event, RoundFinished):
            self._finish_round(event)
        elif isinstance(event, Scored):
            self._show_scores(event.round, event.scores)
        elif isinstance(event, Noted):
            warn(self._console, event.message)
        if self._live is not None:
            self._live.update(self._view())

    def end(self, folder: Path, results: Json | None) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None
        if results is not None and results.get("totals"):
            totals = results["totals"]
            self._console.print(
                f"  trained {totals['seconds']:.0f} s, {time.monotonic() - self._began:.0f} s in all",
                style="dim",
            )

    def _view(self) -> Group:
        parts = [part for part in (self._rounds, self._tiers, self._line, self._scores) if part is not None]
        return Group(*parts)

    def _start_round(self, event: RoundStarted) -> None:
        if self._rounds is None or self._tiers is None:
            return
        self._rounds.update(self._rounds.task_ids[0], completed=event.round - 1)
        for bar in self._bars.values():
            self._tiers.remove_task(bar)
        self._bars = {tier: self._tiers.add_task(f"  {tier}", total=n) for tier, n in event.cohort.items()}

    def _finish_round(self, event: RoundFinished) -> None:
        row = event.row
        self._seconds.append(row["seconds"])
        recent = self._seconds[-5:]
        left = (event.rounds - event.round) * sum(recent) / len(recent)
        loss = f"loss {row['loss']:.5f}" if "loss" in row else "nobody answered"
        text = (
            f"  round {event.round}/{event.rounds}  {loss}  {row['people_per_s']:.0f} people/s  "
            f"{row['seconds']:.1f} s  about {left:.0f} s left"
        )
        if "virtual_s" in row:
            text += f"  ({row['answered']:.0f} of {row['asked']:.0f} devices in {row['virtual_s']:.4g} virtual s)"
        if self._rounds is not None:
            self._rounds.update(self._rounds.task_ids[0], completed=event.round)
            self._line = Text(text)
        else:
            self._console.print(text, highlight=False)

    def _show_scores(self, done: int, scores: Scores) -> None:
        told = "  ".join(f"{size} {100 * value:.1f}" for size, value in scores.by_resolution.items())
        text = f"  round {done} on {scores.split}: {told}"
        if self._live is not None:
            self._scores = Text(text)
        else:
            self._console.print(text, highlight=False)
