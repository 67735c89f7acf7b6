"""Ray metrics of a run, which Ray exports to Prometheus under these names with `ray_` before them.

The process that runs the `Federation` sees every event, so it alone emits them all: with clients that come and go, or
many to a process, no series is lost or doubled. See docs/watching.md and cluster/grafana/raf_ray.json.
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from ray.util.metrics import Counter, Gauge, Histogram

from raf_ray.cluster.names import ray_name
from raf_ray.errors import described
from raf_ray.federation.events import ActorLost, ClientsFinished, Event, Noted, RoundFinished, RoundStarted, Scored

log = logging.getLogger(__name__)

GAUGES: dict[str, tuple[str, tuple[str, ...]]] = {
    "raf_ray_round": ("Round in training, from 1", ()),
    "raf_ray_rounds_planned": ("Rounds of the run", ()),
    "raf_ray_round_seconds": ("Training time of the last round", ()),
    "raf_ray_people_per_second": ("Training people a second in the last round", ()),
    "raf_ray_loss": ("Training loss of the last round", ()),
    "raf_ray_loss_term": ("Loss terms of the last round by level: gt (target), kd (teacher)", ("term", "resolution")),
    "raf_ray_score_ratio": ("Score of the global model, in [0, 1]", ("split", "metric", "resolution")),
    "raf_ray_drift_spread_ratio": ("Best minus mean score over the trained tiers", ("split",)),
    "raf_ray_straggler_wait_seconds": ("Mean time that clients waited for the last one in the last round", ()),
    "raf_ray_update_norm": (
        "L2 norm of a client's change of the weights in the last round, mean over the tier's people",
        ("tier",),
    ),
    "raf_ray_client_memory_peak_bytes": (
        "Largest peak memory of the tier's clients: allocated on the GPU (cuda) or resident (cpu)",
        ("tier", "device"),
    ),
}
"""Name -> (meaning, tag keys beside `run`)."""

COUNTERS: dict[str, tuple[str, tuple[str, ...]]] = {
    "raf_ray_rounds_total": ("Rounds finished", ()),
    "raf_ray_people_total": ("People that clients trained on, epochs counted", ("tier",)),
    "raf_ray_transfer_bytes_total": ("Model states sent to clients (down) and updates sent back (up)", ("direction",)),
    "raf_ray_actors_lost_total": ("Actors whose process died", ("tier",)),
}

HISTOGRAMS: dict[str, tuple[str, tuple[str, ...]]] = {
    "raf_ray_client_seconds": ("Time of a client's round", ("tier",)),
}
SECONDS = [round(0.1 * 2 ** (i / 2), 3) for i in range(31)]
"""Bucket bounds, 0.1 s to an hour, each 1.4 times the one before: a quantile is right to within that."""

REFRESH_SECONDS = 5.0
"""Ray forgets a gauge that was not set for two report intervals (20 s), and a round may take longer."""


class Meters:
    """The metrics of one run; `see` takes its events. Needs a process that is connected to Ray."""

    def __init__(self, run: str) -> None:
        """`run`: the tag that tells this run's series from others', such as its folder's name."""
        self._run = run
        self._gauges = {name: Gauge(name, text, ("run", *keys)) for name, (text, keys) in GAUGES.items()}
        self._counters = {name: Counter(name, text, ("run", *keys)) for name, (text, keys) in COUNTERS.items()}
        self._histograms = {
            name: Histogram(name, text, SECONDS, ("run", *keys)) for name, (text, keys) in HISTOGRAMS.items()
        }
        self._values: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}
        self._lock = threading.Lock()

    def see(self, event: Event) -> None:
        if isinstance(event, RoundStarted):
            self._set("raf_ray_round", event.round)
            self._set("raf_ray_rounds_planned", event.rounds)
        elif isinstance(event, ClientsFinished):
            for seconds in event.seconds:
                self._histograms["raf_ray_client_seconds"].observe(seconds, self._tags(tier=event.tier))
            self._count("raf_ray_people_total", event.people, tier=event.tier)
            memory = {"tier": event.tier, "device": event.device}
            self._set_largest("raf_ray_client_memory_peak_bytes", event.peak_memory_mb * 1e6, **memory)
        elif isinstance(event, RoundFinished):
            self._count("raf_ray_rounds_total", 1)
            self._see_row(event.row)
        elif isinstance(event, Scored):
            scores = event.scores
            for size, value in scores.by_resolution.items():
                self._set("raf_ray_score_ratio", value, split=scores.split, metric=scores.metric, resolution=size)
            self._set("raf_ray_drift_spread_ratio", event.drift_spread, split=scores.split)
        elif isinstance(event, ActorLost):
            self._count("raf_ray_actors_lost_total", 1, tier=event.tier)

    def refresh(self) -> None:
        """Set every gauge again, so that Ray does not forget it."""
        with self._lock:
            for (name, tags), value in self._values.items():
                self._gauges[name].set(value, dict(tags))

    def _see_row(self, row: dict[str, float]) -> None:
        if math.isfinite(row["loss"]):  # else nobody was drawn
            self._set("raf_ray_loss", row["loss"])
        self._set("raf_ray_round_seconds", row["seconds"])
        self._set("raf_ray_people_per_second", row["people_per_s"])
        self._set("raf_ray_straggler_wait_seconds", row["wait_seconds"])
        self._count("raf_ray_transfer_bytes_total", row["mb_down"] * 1e6, direction="down")
        self._count("raf_ray_transfer_bytes_total", row["mb_up"] * 1e6, direction="up")
        for column, value in row.items():
            term, _, size = column.partition("_")
            if term in ("gt", "kd"):
                self._set("raf_ray_loss_term", value, term=term, resolution=size)
            elif column.startswith("update_norm_"):
                self._set("raf_ray_update_norm", value, tier=column.removeprefix("update_norm_"))

    def _tags(self, **tags: str) -> dict[str, str]:
        return {key: ray_name(value) for key, value in {"run": self._run, **tags}.items()}

    def _set(self, name: str, value: float, **tags: str) -> None:
        with self._lock:
            self._values[name, tuple(self._tags(**tags).items())] = value
            self._gauges[name].set(value, self._tags(**tags))

    def _set_largest(self, name: str, value: float, **tags: str) -> None:
        before = self._values.get((name, tuple(self._tags(**tags).items())), 0.0)
        self._set(name, max(before, value), **tags)

    def _count(self, name: str, value: float, **tags: str) -> None:
        if value > 0:  # Ray's counters refuse 0
            self._counters[name].inc(value, self._tags(**tags))


def metered(events: Iterable[Event], meters: Meters) -> Iterator[Event]:
    """The same events, each shown to `meters` first, whose gauges stay alive until they end.

    Where `meters` fails, that is noted once, and the events go on without it.
    """
    ended = threading.Event()
    failures: list[Exception] = []

    one_at_a_time = threading.Lock()

    def emit(show: Callable[..., None], *what: Event) -> None:
        with one_at_a_time:  # else both threads might fail before either has noted it
            if failures:
                return
            try:
                show(*what)
            except Exception as error:  # whatever Ray's exporter refuses
                log.warning("Ray's metrics failed", exc_info=error)
                failures.append(error)

    def keep_alive() -> None:
        while not ended.wait(REFRESH_SECONDS):
            emit(meters.refresh)

    thread = threading.Thread(target=keep_alive, name="meters", daemon=True)
    thread.start()
    is_noted = False
    try:
        for event in events:
            emit(meters.see, event)
            if failures and not is_noted:
                is_noted = True
                yield Noted(f"Ray's metrics of this run end here ({described(failures[0])}); see run.log")
            yield event
    finally:
        ended.set()
        thread.join()


def exported_names() -> set[str]:
    """Every series name that Prometheus sees of these."""
    histograms: Any = (f"ray_{name}_{part}" for name in HISTOGRAMS for part in ("bucket", "sum", "count"))
    return {*(f"ray_{name}" for name in (*GAUGES, *COUNTERS)), *histograms}
