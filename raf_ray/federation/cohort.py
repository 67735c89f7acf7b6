"""Which clients train in a round, and from which state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from raf_ray.devices.buffered import Schedule
from raf_ray.devices.clock import RoundPlan, draw_trips, plan_round
from raf_ray.devices.profiles import Fleet

Draw = Literal["uniform", "by_tier", "by_people", "poisson"]


@dataclass(frozen=True)
class CohortSpec:
    """How many clients of a federation train in a round, and how they are drawn."""

    share: float
    """Of the clients, at least one; with `poisson` the probability of each"""
    count: int | None = None
    """In place of the share"""
    draw: Draw = "uniform"

    def size(self, clients: int) -> int:
        return min(clients, self.count if self.count is not None else max(1, round(self.share * clients)))

    def expected(self, clients: int) -> float:
        """Clients of a round, in expectation."""
        return self.share * clients if self.draw == "poisson" else float(self.size(clients))


@dataclass(frozen=True)
class RoundWork:
    """What a round trains."""

    index: int
    """The round, from 0"""
    waves: tuple[Mapping[int, list[int]], ...]
    """State, by the rounds that made it -> numbers of the clients that train from it, in order. One wave after the
    other: no client is in one twice"""
    plan: RoundPlan | None = None
    """On the virtual clock, with devices"""
    still: frozenset[int] = frozenset()
    """States that later rounds train from, beside the newest"""

    @property
    def clients(self) -> list[int]:
        """Of every update, wave by wave."""
        return [client for wave in self.waves for clients in wave.values() for client in clients]


def draw_cohort(
    spec: CohortSpec, tiers: Sequence[str] | np.ndarray, people: Sequence[int] | np.ndarray, seed: int, round_index: int
) -> list[int]:
    """Client numbers of a round, in order, without repeats.

    `uniform`: each client alike. `by_tier`: as many of each tier in every round, in proportion to its clients (largest
    remainders), each of a tier alike. `by_people`: one after the other in proportion to the people they own.
    `poisson`: each client by itself with the probability `share`, so that a round may have any number, none too.
    Drawn from (seed, round) alone, so neither a resume nor who arrives first changes it.

    Args:
        tiers: of the clients, in order.
        people: that they own.
    """
    clients = len(tiers)
    if spec.draw == "poisson":
        drawn = np.random.default_rng([seed, 1 + round_index, 2**31]).random(clients) < spec.share
        return [int(i) for i in np.flatnonzero(drawn)]
    count = spec.size(clients)
    if count >= clients:
        return list(range(clients))
    rng = np.random.default_rng([seed, 1 + round_index, 2**31])
    if spec.draw == "by_tier":
        names, of = np.unique(np.asarray(tiers), return_inverse=True)
        counts = shared_out(count, np.bincount(of))
        parts = [rng.choice(np.flatnonzero(of == i), counts[i], replace=False) for i in range(len(names))]
        return sorted(np.concatenate(parts).tolist())
    weights = None
    if spec.draw == "by_people":
        weights = np.asarray(people, np.float64) / np.sum(people)
    return sorted(int(i) for i in rng.choice(clients, size=count, replace=False, p=weights))


def shared_out(count: int, sizes: np.ndarray) -> np.ndarray:
    """(n,) whole numbers that add up to `count`, in proportion to `sizes` by largest remainders; ties to the first."""
    exact = count * sizes / sizes.sum()
    parts = np.floor(exact).astype(np.int64)
    left = np.argsort(-(exact - parts), kind="stable")[: count - parts.sum()]
    parts[left] += 1
    return parts


def plan_cohort(
    spec: CohortSpec, fleet: Fleet | None, tiers: np.ndarray, people: np.ndarray, seed: int, round_index: int
) -> RoundWork:
    """A round that all train from the newest state.

    With devices the cohort is drawn by the same rule from the clients that are there, and those train who answer.
    """
    if fleet is None:
        return RoundWork(round_index, ({round_index: draw_cohort(spec, tiers, people, seed, round_index)},))

    def select(there: np.ndarray, count: int) -> list[int]:
        drawn = draw_cohort(replace(spec, count=count), tiers[there], people[there], seed, round_index)
        return there[drawn].tolist()

    trips = draw_trips(fleet, seed, round_index)
    plan = plan_round(fleet, trips, spec.size(len(tiers)), select)
    return RoundWork(round_index, ({round_index: sorted(plan.answered.tolist())},), plan)


def buffered_round(schedule: Schedule, round_index: int) -> RoundWork:
    """A round of what has come by its server step."""
    flush = schedule[round_index]
    return RoundWork(round_index, flush.waves, flush.plan, flush.still)
