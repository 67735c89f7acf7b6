"""Who trains whom next: longest first, each client where it trained last, and whoever is free helps the busiest.

No result depends on it: a client's round is the same wherever it is trained.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence

PART = 4
"""A free host is given this part of an even share of what is left, at least one client: large enough that calls cost
little, small enough that the last ones are short. A choice (guided self-scheduling, Polychronopoulos and Kuck 1987)."""

OVERLOAD = 1.1
"""A client moves away from where it trained last if that would be busier than the mean by more than this: a choice."""


class Dispatch:
    """The clients of one round that wait, by host. Hosts are numbers."""

    def __init__(self, costs: Mapping[str, float], hosts: Sequence[int], homes: Mapping[str, int]) -> None:
        """
        Args:
            costs: client -> expected cost, in any unit.
            homes: client -> the host where it trained last.
        """
        self._costs = dict(costs)
        self._alone: set[str] = set()
        self._waiting: dict[int, deque[str]] = {host: deque() for host in hosts}
        load = dict.fromkeys(hosts, 0.0)
        even = sum(costs.values()) / len(hosts)
        for client in sorted(costs, key=lambda name: (-costs[name], name)):
            home = homes.get(client)
            if home not in load or (load[home] and load[home] + costs[client] > OVERLOAD * even):
                home = min(load, key=lambda host: (load[host], host))
            self._waiting[home].append(client)
            load[home] += costs[client]

    def __len__(self) -> int:
        """Clients that wait."""
        return sum(map(len, self._waiting.values()))

    def next(self, host: int) -> list[str]:
        """The clients that a free host trains now; none where none waits."""
        own = self._waiting.setdefault(host, deque())
        if not own:
            busiest = max(self._waiting.values(), key=self._cost, default=own)
            if not busiest:
                return []
            return [busiest.pop()]  # its shortest
        if own[0] in self._alone:
            return [own.popleft()]
        left = sum(map(self._cost, self._waiting.values()))
        most = left / len(self._waiting) / PART
        chunk = [own.popleft()]
        cost = self._costs[chunk[0]]
        while own and own[0] not in self._alone and cost + self._costs[own[0]] <= most:
            cost += self._costs[own[0]]
            chunk.append(own.popleft())
        return chunk

    def put_back(self, host: int, clients: Sequence[str]) -> None:
        """They wait again, each to be trained alone, so that the one that ends a process is known."""
        self._alone.update(clients)
        self._waiting[host].extendleft(reversed(clients))

    def _cost(self, clients: deque[str]) -> float:
        return sum(self._costs[client] for client in clients)
