"""Who trains whom next: longest first, each client where it trained last, and whoever is free helps the busiest.

No result depends on it: a client's round is the same wherever it is trained.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Mapping, Sequence

PART = 4
"""A free host is given this part of an even share of what is left, at least one client: large enough that calls cost
little, small enough that the last ones are short. A choice (guided self-scheduling, Polychronopoulos and Kuck 1987)."""

OVERLOAD = 1.1
"""A client moves away from where it trained last if that would be busier than the mean by more than this: a choice."""


class Dispatch:
    """The clients of one round that wait, by host. Hosts and groups are numbers."""

    def __init__(
        self,
        costs: Mapping[str, float],
        hosts: Sequence[int],
        homes: Mapping[str, int],
        groups: Mapping[str, int] | None = None,
    ) -> None:
        """
        Args:
            costs: client -> expected cost, in any unit.
            homes: client -> the host where it trained last.
            groups: client -> its group: those of one alone may be trained by one call. None: all are of one.
        """
        self._costs = dict(costs)
        self._groups = groups or {}
        self._alone: set[str] = set()
        self._waiting: dict[int, deque[str]] = {host: deque() for host in hosts}
        self._load = dict.fromkeys(hosts, 0.0)
        """Cost that waits at each host"""
        even = sum(costs.values()) / len(hosts)
        idlest = [(0.0, host) for host in sorted(hosts)]  # a heap; entries whose load has changed since are passed over
        for client in sorted(costs, key=lambda name: (-costs[name], name)):
            home = homes.get(client)
            if home not in self._load or (self._load[home] and self._load[home] + costs[client] > OVERLOAD * even):
                while idlest[0][0] != self._load[idlest[0][1]]:
                    heapq.heappop(idlest)
                home = idlest[0][1]
            self._waiting[home].append(client)
            self._load[home] += costs[client]
            heapq.heappush(idlest, (self._load[home], home))

    def __len__(self) -> int:
        """Clients that wait."""
        return sum(map(len, self._waiting.values()))

    def next(self, host: int) -> list[str]:
        """The clients that a free host trains now; none where none waits."""
        own = self._waiting.setdefault(host, deque())
        self._load.setdefault(host, 0.0)
        if not own:
            busiest = max((other for other, clients in self._waiting.items() if clients), key=self._load.__getitem__,
                          default=host)  # fmt: skip
            if not self._waiting[busiest]:
                return []
            return self._taken(busiest, [self._waiting[busiest].pop()])  # its shortest
        if own[0] in self._alone:
            return self._taken(host, [own.popleft()])
        most = sum(self._load.values()) / len(self._waiting) / PART
        chunk = [own.popleft()]
        cost = self._costs[chunk[0]]
        while own and self._goes_with(own[0], chunk[0]) and cost + self._costs[own[0]] <= most:
            cost += self._costs[own[0]]
            chunk.append(own.popleft())
        return self._taken(host, chunk)

    def _goes_with(self, client: str, other: str) -> bool:
        return client not in self._alone and self._groups.get(client) == self._groups.get(other)

    def put_back(self, host: int, clients: Sequence[str]) -> None:
        """They wait again, each to be trained alone, so that the one that ends a process is known."""
        self._alone.update(clients)
        self._waiting[host].extendleft(reversed(clients))
        self._load[host] += sum(self._costs[client] for client in clients)

    def _taken(self, host: int, clients: list[str]) -> list[str]:
        self._load[host] -= sum(self._costs[client] for client in clients)
        return clients
