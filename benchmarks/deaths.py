"""What the death of a host costs: one killed in each of ten rounds, against the same run undisturbed."""

from __future__ import annotations

import signal
import statistics
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import torch

from benchmarks.figures import Section
from benchmarks.people import mixed, words
from raf_ray import load_config, run_federation
from raf_ray.cluster.connect import connect, disconnect
from raf_ray.federation.events import ClientsFinished, RoundFinished, RoundStarted

WORDS = ("federation.checkpoint_every=1", "resources.retries=3")


class Kills:
    """Kills a host when the first client of a round has answered, in rounds 2 to `last`; keeps each round's seconds."""

    def __init__(self, last: int) -> None:
        self._last, self._due = last, False
        self.killed = 0
        self.seconds: list[float] = []
        self.client_s: list[float] = []

    def begin(self, prepared: Any, folder: Path) -> None: ...

    def end(self, folder: Path, results: Any) -> None: ...

    def see(self, event: Any) -> None:
        if isinstance(event, RoundStarted):
            self._due = 2 <= event.round <= self._last
        elif isinstance(event, RoundFinished):
            self.seconds.append(event.row["seconds"])
        elif isinstance(event, ClientsFinished):
            self.client_s += event.seconds
            if self._due:
                self._due = False
                self._kill()

    def _kill(self) -> None:
        """A host that trains: its process's title says so."""
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if "".join(process.cmdline()).startswith("ray::train "):
                    process.send_signal(signal.SIGKILL)
                    self.killed += 1
                    return


def deaths(quick: bool = False) -> Section:
    rounds = 4 if quick else 11
    config = load_config(overrides=[*words(mixed(6), 200, rounds, 1), *WORDS, "resources.clients_per_actor=3"])
    section = Section("deaths", f"6 clients of 200 people on two hosts, one killed in each of {rounds - 1} rounds, "
                      "against the same run undisturbed")  # fmt: skip
    connect("local", dashboard=False)
    try:
        with tempfile.TemporaryDirectory(prefix="raf-ray-benchmark-") as place:
            calm, killed = Kills(0), Kills(rounds)
            states = []
            for name, watcher in (("calm", calm), ("killed", killed)):
                folder = run_federation(config, Path(place) / name, watchers=[watcher]).folder
                states.append(torch.load(folder / "model.pt", weights_only=True)["model"])
    finally:
        disconnect()
    if not all(torch.equal(states[0][name], states[1][name]) for name in states[0]):
        raise RuntimeError("the killed run's model is another one")
    if killed.killed < rounds - 1:
        raise RuntimeError(f"only {killed.killed} of {rounds - 1} hosts were killed")
    lost = (sum(killed.seconds[1:]) - sum(calm.seconds[1:])) / killed.killed
    client = statistics.median(calm.client_s)
    section.goal("seconds lost a death, beyond one client's round", lost - client, " s", "at most", 5.0)
    section.add("hosts killed; seconds lost a death; a client's round", f"{killed.killed}; {lost:.2f}; {client:.2f}")
    section.add("the model", "the same bits")
    return section
