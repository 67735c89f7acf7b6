"""What crosses between the driver and its watcher and evaluator: small frozen records."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from raf_ray.evaluation.scores import Sample, Scores
from raf_ray.files import Json


@dataclass(frozen=True)
class RoundStarted:
    round: int
    """From 1."""
    rounds: int
    cohort: Mapping[str, int]
    """Tier -> clients that train."""


@dataclass(frozen=True)
class ClientsFinished:
    """Clients of a tier whose updates came in together."""

    round: int
    tier: str
    seconds: tuple[float, ...]
    """That each took"""
    people: int
    peak_memory_mb: float
    """Of the one with most"""
    device: str
    """`cpu` or `cuda`: whose memory that is."""


@dataclass(frozen=True)
class RoundFinished:
    round: int
    rounds: int
    row: dict[str, float]
    """The row of rounds.csv."""


@dataclass(frozen=True)
class Scored:
    """An evaluation came in; it may be of an earlier round than the one that trains."""

    round: int
    scores: Scores
    drift_spread: float
    """Best minus mean of these scores over the trained tiers."""


@dataclass(frozen=True)
class ActorLost:
    """An actor's process is gone."""

    actor: str
    """A client's name, or `evaluator`."""
    tier: str
    """The client's; empty for the evaluator."""


@dataclass(frozen=True)
class Finished:
    results: Json
    """What results.json holds."""
    samples: tuple[Sample, ...]


@dataclass(frozen=True)
class Failed:
    message: str
    """What, where, what to do."""
    status: str
    """`failed` or `interrupted`"""


@dataclass(frozen=True)
class Noted:
    """Something beside the training failed, which the user should know; the run goes on."""

    message: str


Event = RoundStarted | ClientsFinished | RoundFinished | Scored | ActorLost | Noted | Finished | Failed
