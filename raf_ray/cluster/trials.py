"""Who gets which share of a cluster, and whether it fits: the trials of a search."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, floor
from typing import Literal

from raf_ray.cluster.packing import Bundle, fits, largest_share
from raf_ray.cluster.planner import check_needs, counted
from raf_ray.cluster.shares import LABEL, ActorShares, HostShare, PerActor, TierNeed, are_alike, are_comfortable
from raf_ray.errors import InputError

LEAST_CPUS = 0.01
"""Of a trial's client"""


@dataclass(frozen=True)
class Placement:
    """What a trial reserves: a bundle for the driver, one for the evaluator, one for each actor that holds clients."""

    driver: Bundle
    evaluator_cpus: float
    evaluator_gpus: float
    client_cpus: float
    """Where a tier's are `auto`"""
    comfortable: bool
    """Whether a client an actor is"""
    actors: int
    """At most, where clients share actors because it is not"""
    in_process: bool
    threads: int
    strategy: str

    def shares(self, needs: Sequence[TierNeed], clients_per_actor: PerActor) -> ActorShares:
        """Of a trial's own actors."""
        alike, most = are_alike(needs), self.actors

        def share(need: TierNeed) -> HostShare:
            cpus = self.client_cpus if need.cpus == "auto" else need.cpus
            return HostShare(cpus, need.gpus, None if alike else need.tier, need.labels)

        def count(clients: int) -> int:
            if clients_per_actor != "auto":
                return ceil(clients / clients_per_actor)
            return clients if self.comfortable else min(clients, most)

        if alike:
            hosts = [share(needs[0])] * count(sum(need.clients for need in needs))
        else:
            hosts = [share(need) for need in needs for _ in range(count(need.clients))]
        return ActorShares(tuple(hosts), self.evaluator_cpus, self.evaluator_gpus)

    def bundles(self, shares: ActorShares) -> list[Bundle]:
        """Bundle 0 is the trial's own process, 1 the evaluator's, then one for each actor that holds clients."""
        if self.in_process:
            return [{**self.driver, "CPU": float(self.threads), **_gpu(max(host.gpus for host in shares.hosts))}]
        evaluator = {"CPU": shares.evaluator_cpus, **_gpu(shares.evaluator_gpus)}
        return [self.driver, evaluator, *(_plain(host.bundle()) for host in shares.hosts)]

    def labels(self, shares: ActorShares) -> list[Mapping[str, str]]:
        """Of the node that each bundle may lie on; empty where no bundle asks for any."""
        if self.in_process or not any(host.labels for host in shares.hosts):
            return []
        return [{}, {}, *(dict(host.labels) for host in shares.hosts)]


@dataclass(frozen=True)
class TrialRequest:
    """What is asked of a search's largest trial."""

    needs: tuple[TierNeed, ...]
    clients_per_actor: PerActor
    in_process: bool
    threads: int
    driver_cpus: float
    evaluator_cpus: float
    evaluator_gpus: float
    client_cpus: float | Literal["auto"]
    strategy: str
    at_once: int | None
    """Trials that shall run together; None: as many as fit with a CPU a client"""

    @property
    def clients(self) -> int:
        return sum(need.clients for need in self.needs)

    def placement(self, client_cpus: float, here: str, nodes: Sequence[Bundle]) -> Placement:
        trials = self.at_once or 1
        return Placement(
            driver={"CPU": self.driver_cpus, here: 0.001},
            evaluator_cpus=self.evaluator_cpus,
            evaluator_gpus=self.evaluator_gpus,
            client_cpus=client_cpus,
            comfortable=are_comfortable(self.clients * trials, nodes),
            actors=max(1, int(_cpus(nodes) / trials)),
            in_process=self.in_process,
            threads=self.threads,
            strategy=self.strategy,
        )


def plan_trials(asked: TrialRequest, nodes: Sequence[Bundle], here: str) -> Placement:
    """Shares and bundles of a search's trials.

    Args:
        nodes: resources of each node of the cluster, with the marks of its labels.
        here: resource name of the node where run folders lie: drivers stay there.

    Raises:
        InputError: the largest trial fits no time, with the arithmetic.
    """
    check_needs(asked.needs, nodes)
    share: float
    if asked.client_cpus != "auto":
        share = asked.client_cpus
    elif asked.in_process:
        share = 1.0
    else:
        share = _trial_share(asked, nodes, here)
    chosen = asked.placement(share, here, nodes)
    bundles = _marked(asked, chosen)
    if not fits(bundles, nodes) or not _fits_strategy(bundles, nodes, asked.strategy):
        raise InputError(
            f"a trial does not fit: {_sum(bundles, here)} (driver, evaluator, clients), but the cluster is "
            f"{counted(nodes)}; lower resources.client_cpus, base.resources.gpus_per_client or "
            "base.federation.clients, or loosen resources.strategy"
        )
    return chosen


def _marked(asked: TrialRequest, placement: Placement) -> list[Bundle]:
    """The largest trial's bundles, with the marks of the labels that they ask for."""
    shares = placement.shares(asked.needs, asked.clients_per_actor)
    bundles = placement.bundles(shares)
    return bundles if asked.in_process else [*bundles[:2], *(host.bundle() for host in shares.hosts)]


def _trial_share(asked: TrialRequest, nodes: Sequence[Bundle], here: str) -> float:
    """CPUs of a client, with which as many trials as asked for run at once; where GPUs bound how many, those."""

    def trials(share: float, count: int) -> list[Bundle]:
        return _marked(asked, asked.placement(share, here, nodes)) * count

    total = _cpus(nodes)
    apart = asked.driver_cpus + asked.evaluator_cpus
    wanted = asked.at_once or max(1, floor(total / (asked.clients + apart)))
    while asked.at_once is None and wanted > 1 and not fits(trials(LEAST_CPUS, wanted), nodes):
        wanted -= 1
    actors = len(trials(LEAST_CPUS, 1)) - 2
    share = largest_share(
        min(1.0, (total / wanted - apart) / actors),
        lambda cpus: fits([{n: a for n, a in b.items() if n != "GPU"} for b in trials(cpus, wanted)], nodes),
    )
    if share < LEAST_CPUS:
        raise InputError(
            f"{wanted} trials at once x ({asked.clients} clients + {apart:g} CPUs for driver and evaluator) leave no "
            f"CPU for clients on {counted(nodes)}; lower max_concurrent_trials"
        )
    return share


def _fits_strategy(bundles: Sequence[Bundle], nodes: Sequence[Bundle], strategy: str) -> bool:
    """Whether the strict strategies can hold: all bundles on one node, or each on a node of its own."""
    if strategy == "STRICT_PACK":
        return any(fits(bundles, [node]) for node in nodes)
    return strategy != "STRICT_SPREAD" or len(nodes) >= len(bundles)


def _cpus(nodes: Sequence[Bundle]) -> float:
    return sum(node.get("CPU", 0.0) for node in nodes)


def _gpu(share: float) -> Bundle:
    return {"GPU": share} if share else {}


def _plain(bundle: Bundle) -> Bundle:
    return {name: amount for name, amount in bundle.items() if not name.startswith(LABEL)}


def _sum(bundles: Sequence[Bundle], here: str) -> str:
    """0.1 CPU + 0.3 CPU + 3 x 1 CPU and 0.4 GPU"""
    shown = [
        " and ".join(f"{amount:g} {name}" for name, amount in bundle.items() if name != here and name[:6] != LABEL)
        for bundle in bundles
    ]
    rest = [f"{shown[2:].count(one)} x {one}" for one in dict.fromkeys(shown[2:])]
    return " + ".join([*shown[:2], *rest])
