"""Buffered asynchronous rounds on the virtual clock, planned before anything trains (FedBuff, Nguyen et al. 2022,
algorithm 1).

The server keeps so many clients at work. Each starts from the newest state; when it answers or is lost, another takes
its place, drawn in proportion to availability from those who are not at work. When the buffer is full the server steps
and makes the next state: that is a round here. What a client sends may so come from a state some rounds old: its
staleness.

A client starts but once from a state, for its people would be drawn in the same order again; who was lost may.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from raf_ray.devices.clock import RoundPlan, moved
from raf_ray.devices.profiles import Fleet

STARTS = 2**31 + 10
"""Stream of the seed that starts, losses and their moments are drawn from."""


@dataclass(frozen=True)
class Flush:
    """What one server step takes, and what it leaves at work."""

    waves: tuple[Mapping[int, list[int]], ...]
    """State -> clients that started from it, in order. No client is in a wave twice; it trains in them in order"""
    plan: RoundPlan
    still: frozenset[int]
    """States that clients who will answer are at, when the step is done"""


@dataclass(frozen=True, order=True)
class Trip:
    """A client at work. They end in order of time, those of one moment in the order in which they began."""

    end_s: float
    number: int
    client: int
    state: int
    begin_s: float
    is_lost: bool


class Bag:
    """Clients to draw from: each operation in constant time, whatever their number."""

    def __init__(self, clients: int) -> None:
        self._clients = list(range(clients))
        self._place = {client: client for client in self._clients}

    def __len__(self) -> int:
        return len(self._clients)

    def __getitem__(self, place: int) -> int:
        return self._clients[place]

    def add(self, client: int) -> None:
        self._place[client] = len(self._clients)
        self._clients.append(client)

    def remove(self, client: int) -> None:
        place, last = self._place.pop(client), self._clients.pop()
        if last != client:
            self._clients[place], self._place[last] = last, place


class Schedule:
    """All server steps of a federation, one after the other: a pure function of its arguments."""

    def __init__(self, fleet: Fleet, concurrency: int, buffer: int, seed: int) -> None:
        """
        Args:
            concurrency: clients at work at a time, at most all.
            buffer: answers of a server step, at most as many as there are clients.
        """
        self._fleet, self._concurrency, self._buffer = fleet, concurrency, buffer
        self._seconds = fleet.seconds
        self._accept = fleet.availability / fleet.availability.max()
        self._rng = np.random.default_rng([seed, STARTS])
        self._free = Bag(len(self._seconds))
        """Who may start from the newest state"""
        self._done: list[int] = []
        """Who has answered from it"""
        self._trips: list[Trip] = []
        """A heap"""
        self._begun = 0
        self._now_s = 0.0
        self._flushes: list[Flush] = []

    def __getitem__(self, index: int) -> Flush:
        """Server step `index`, from 0."""
        while len(self._flushes) <= index:
            self._flushes.append(self._next())
        return self._flushes[index]

    def _next(self) -> Flush:
        state, begin_s = len(self._flushes), self._now_s
        ended: list[Trip] = []
        answered: list[Trip] = []
        while len(answered) < self._buffer:
            self._fill(state)
            trip = heapq.heappop(self._trips)
            self._now_s = trip.end_s
            ended.append(trip)
            if not trip.is_lost:
                answered.append(trip)
            if trip.is_lost or trip.state < state:
                self._free.add(trip.client)
            else:
                self._done.append(trip.client)
        for client in self._done:
            self._free.add(client)
        self._done.clear()
        plan = _plan(self._fleet, ended, answered, state, self._now_s - begin_s)
        return Flush(_waves(answered), plan, frozenset(trip.state for trip in self._trips if not trip.is_lost))

    def _fill(self, state: int) -> None:
        """Begin work until enough are at it, or nobody is left to begin."""
        while len(self._trips) < self._concurrency and len(self._free):
            client = self._free[int(self._rng.integers(len(self._free)))]
            accept, lost, when = self._rng.random(3).tolist()
            if accept >= self._accept[client]:
                continue
            self._free.remove(client)
            is_lost, seconds = lost < self._fleet.dropout[client], float(self._seconds[client])
            end_s = self._now_s + (when * seconds if is_lost else seconds)
            heapq.heappush(self._trips, Trip(end_s, self._begun, client, state, self._now_s, is_lost))
            self._begun += 1


def _waves(answered: Sequence[Trip]) -> tuple[Mapping[int, list[int]], ...]:
    """A client's first answer of a step is in the first wave, its second, of a later state, in the next."""
    waves: list[dict[int, list[int]]] = []
    seen: dict[int, int] = {}
    for trip in sorted(answered, key=lambda trip: (trip.state, trip.client)):
        place = seen.get(trip.client, 0)
        seen[trip.client] = place + 1
        if place == len(waves):
            waves.append({})
        waves[place].setdefault(trip.state, []).append(trip.client)
    return tuple(waves)


def _plan(fleet: Fleet, ended: Sequence[Trip], answered: Sequence[Trip], state: int, seconds: float) -> RoundPlan:
    """A step on the virtual clock: work counts in the step in which it ends."""
    asked = np.array([trip.client for trip in ended], np.int64)
    has_answered = np.array([not trip.is_lost for trip in ended])
    busy = np.array([trip.end_s - trip.begin_s for trip in ended])
    busy[has_answered] = fleet.seconds[asked[has_answered]]  # not what the clock's sums round it to
    return RoundPlan(
        asked=asked,
        answered=np.array([trip.client for trip in answered], np.int64),
        seconds=seconds,
        dropped=len(ended) - len(answered),
        late=0,
        busy_s=busy,
        **moved(fleet, asked, busy, has_answered),
        staleness=np.array([state - trip.state for trip in answered], np.int64),
    )
