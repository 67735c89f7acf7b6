"""A round on the virtual clock, planned before anything trains: who is there, who is lost, who answers, and when.

After Bonawitz et al. 2019 ("Towards federated learning at scale", section 2.2): the server asks more devices than it
wants, takes the first that answer, and closes the round when it has as many as it wants, when nobody is left to wait
for, or at its deadline, whichever comes first. Who has not answered by then stops, and what it did is lost.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np

from raf_ray.devices.profiles import Fleet

TRIPS = 2**31 + 8
"""Stream of the seed that a round's availability and losses are drawn from."""


@dataclass(frozen=True)
class Trips:
    """What would come of each client, were it asked in a round."""

    there: np.ndarray
    """(N,) bool"""
    seconds: np.ndarray
    """(N,) float64 from being asked to its answer"""
    lost_s: np.ndarray
    """(N,) float64 until it is lost; infinite where it is not"""


@dataclass(frozen=True)
class RoundPlan:
    """One round on the virtual clock. Columns are of those asked, in order."""

    asked: np.ndarray
    """(n,) int64 clients"""
    answered: np.ndarray
    """(m,) int64 clients whose updates are taken, in the order of their arrival"""
    seconds: float
    """Of the round"""
    dropped: int
    """Clients that were lost before the round closed"""
    late: int
    """Clients that were not waited for"""
    busy_s: np.ndarray
    """(n,) float64 that each worked: to its answer, its loss, or the round's close"""
    macs: np.ndarray
    """(n,) float64 forward MACs of that time"""
    mb_down: np.ndarray
    mb_up: np.ndarray
    staleness: np.ndarray | None = None
    """(m,) int64 rounds between the state that each answer came from and the newest; None: the server waits for whole
    rounds"""


def draw_trips(fleet: Fleet, seed: int, round_index: int) -> Trips:
    """Of all clients, from (seed, round) alone: a client's draw is the same whoever else is asked.

    A client that is lost is lost at a moment drawn uniformly from its trip: a choice.
    """
    there, lost, when = np.random.default_rng([seed, 1 + round_index, TRIPS]).random((3, len(fleet.availability)))
    seconds = fleet.seconds
    return Trips(there < fleet.availability, seconds, np.where(lost < fleet.dropout, when * seconds, np.inf))


def plan_round(fleet: Fleet, trips: Trips, goal: int, select: Callable[[np.ndarray, int], Sequence[int]]) -> RoundPlan:
    """A round that wants `goal` answers.

    Args:
        select: (clients that are there, how many) -> who of them is asked.
    """
    there = np.flatnonzero(trips.there)
    wanted = min(len(there), ceil(round(fleet.rules.over_select * goal, 9)))
    asked = np.asarray(select(there, wanted) if wanted else [], np.int64)
    if not len(asked):
        return RoundPlan(asked, asked, fleet.rules.retry_s, 0, 0, *(np.zeros(0),) * 4)
    ends, lost = trips.seconds[asked], trips.lost_s[asked]
    answered = _arrivals(asked, ends, lost, fleet.rules.deadline_s)[:goal]
    if len(answered) == goal:
        close = float(trips.seconds[answered[-1]])
    else:  # all have answered or are lost, or time is up
        close = float(np.minimum(ends, lost).max())
        close = close if fleet.rules.deadline_s is None else min(close, fleet.rules.deadline_s)
    dropped = int((lost <= close).sum())
    busy = np.minimum(np.minimum(ends, lost), close)
    return RoundPlan(
        asked=asked,
        answered=answered,
        seconds=close,
        dropped=dropped,
        late=len(asked) - len(answered) - dropped,
        busy_s=busy,
        **moved(fleet, asked, busy, np.isin(asked, answered)),
    )


def moved(fleet: Fleet, asked: np.ndarray, busy_s: np.ndarray, has_answered: np.ndarray) -> dict[str, np.ndarray]:
    """`macs`, `mb_down` and `mb_up` (n,) of clients' trips that took so long."""
    down, compute, up = fleet.down_s[asked], fleet.compute_s[asked], fleet.up_s[asked]
    work = fleet.work
    return {
        "macs": work.macs[asked] * _part(busy_s - down, compute),
        "mb_down": work.bytes_down / 1e6 * _part(busy_s, down),
        # Who answered sent all of it, whatever the sum of the phases rounds to.
        "mb_up": work.bytes_up / 1e6 * np.where(has_answered, 1.0, _part(busy_s - down - compute, up)),
    }


def _arrivals(asked: np.ndarray, ends: np.ndarray, lost: np.ndarray, deadline_s: float | None) -> np.ndarray:
    """Those that answer in time, the first first; of equals the lower number."""
    arrives = np.isinf(lost) & (ends <= (np.inf if deadline_s is None else deadline_s))
    return asked[arrives][np.lexsort((asked[arrives], ends[arrives]))]


def _part(spent: np.ndarray, length: np.ndarray) -> np.ndarray:
    """The share of a phase that is over after `spent` seconds of it."""
    return np.where(length > 0, np.clip(spent / np.where(length > 0, length, 1.0), 0.0, 1.0), 1.0 * (spent >= 0))
