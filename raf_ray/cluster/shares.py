"""What a federation's actors ask a cluster for: by tier what is wanted, and by actor what was decided."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import ceil
from typing import Literal

from raf_ray.cluster.packing import FINEST, Bundle, Free

DRIVER_CPUS = 0.1
EVALUATOR_CPUS = 0.3
ACTORS_A_CORE = 2
"""More actors than so many a core only wait for each other: a choice."""
ACTOR_BYTES = 0.5e9
"""Resident memory of an actor with torch and a client's pixels, as measured on a CPU: 0.17 to 0.5 GB."""

LABEL, NODE_ID = "label:", "node_id:"
"""Marks among a node's resources: a label that it has, as key=value, and who it is. They are never used up."""


def marked(labels: Mapping[str, str], amount: float) -> Bundle:
    """Labels as marks among resources."""
    return {f"{LABEL}{key}={value}": amount for key, value in labels.items()}


PerActor = int | Literal["auto"]


@dataclass(frozen=True)
class TierNeed:
    """What is wanted for the clients of a tier."""

    tier: str
    clients: int
    cost: float
    """Of one client's round, in any unit"""
    cpus: float | Literal["auto"] = "auto"
    gpus: float = 0.0
    labels: Mapping[str, str] = field(default_factory=dict)
    """Of the nodes where they may live"""


@dataclass(frozen=True)
class HostShare:
    """What one actor that holds clients asks for."""

    cpus: float
    gpus: float = 0.0
    tier: str | None = None
    """Whose clients alone it trains; None: any."""
    labels: Mapping[str, str] = field(default_factory=dict)
    node: str | None = None
    """Id of the node that it is meant for; None: any"""

    def bundle(self) -> Bundle:
        return {"CPU": self.cpus, **({"GPU": self.gpus} if self.gpus else {}), **marked(self.labels, 1.0)}


@dataclass(frozen=True)
class ActorShares:
    """What each actor of a federation asks the cluster for."""

    hosts: tuple[HostShare, ...]
    """Of the actors that hold clients; those that hold a tier's clients alone stand together"""
    evaluator_cpus: float = EVALUATOR_CPUS
    evaluator_gpus: float = 0.0


def are_alike(needs: Sequence[TierNeed]) -> bool:
    """Whether any actor can hold any client."""
    return len({(need.cpus, need.gpus, tuple(sorted(need.labels.items()))) for need in needs}) == 1


def are_comfortable(actors: int, nodes: Sequence[Bundle]) -> bool:
    """Whether so many actors fit the cores and the memory without waiting for each other."""
    cores, memory = (sum(node.get(name, 0.0) for node in nodes) for name in ("CPU", "memory"))
    return actors <= ACTORS_A_CORE * cores and (not memory or actors * ACTOR_BYTES <= memory / 2)


def hosts_by_tier(needs: Sequence[TierNeed], counts: Sequence[int], scale: float) -> list[HostShare]:
    """`counts` actors for each tier. `scale`: CPUs of the costliest client, where they are `auto`; others in
    proportion to their cost."""
    most = max(need.cost for need in needs)
    hosts: list[HostShare] = []
    for need, count in zip(needs, counts, strict=True):
        cpus = max(1, int(scale * FINEST * need.cost / most + 1e-9)) / FINEST if need.cpus == "auto" else need.cpus
        hosts += [HostShare(cpus, need.gpus, need.tier, need.labels)] * count
    return hosts


def placed(hosts: Sequence[HostShare], rooms: Sequence[Free]) -> list[HostShare] | None:
    """The same with the node that each is meant for, in the same order: the largest first, where most is free.

    None: there is no room for all of them.
    """
    free = [Free(dict(room.plain), list(room.cards)) for room in rooms]
    found: list[HostShare] = list(hosts)
    for i in sorted(range(len(hosts)), key=lambda i: (not hosts[i].labels, -hosts[i].gpus, -hosts[i].cpus)):
        bundle = hosts[i].bundle()
        for room in sorted(free, key=lambda room: -room.plain.get("CPU", 0.0)):
            if room.take(bundle):
                node = next((name.removeprefix(NODE_ID) for name in room.plain if name.startswith(NODE_ID)), None)
                found[i] = replace(hosts[i], node=node)
                break
        else:
            return None
    return found


def counts_by_tier(
    needs: Sequence[TierNeed], clients_per_actor: PerActor, comfortable: bool, fit: Callable[[Sequence[int]], bool],
    most: int,
) -> list[int]:  # fmt: skip
    """Actors for each tier: one a client where that is `comfortable` and fits, else a part of at `most` so many.

    One is added after the other to the tier whose actors have most to do, while all of them fit.
    """
    if clients_per_actor != "auto":
        return [ceil(need.clients / clients_per_actor) for need in needs]
    each = [need.clients for need in needs]
    if comfortable and fit(each):
        return each
    counts = [1] * len(needs)
    while sum(counts) < most:
        order = sorted(range(len(needs)), key=lambda i: -needs[i].clients * needs[i].cost / counts[i])
        for i in order:
            more = [count + (i == j) for j, count in enumerate(counts)]
            if counts[i] < needs[i].clients and fit(more):
                counts = more
                break
        else:
            break
    return counts
