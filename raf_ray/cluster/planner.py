"""Who gets which share of a cluster, and whether it fits: of one federation, or of a search's trials."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil, floor
from typing import Literal

from raf_ray.cluster.packing import SLACK, Bundle, Free, fits, largest_share
from raf_ray.errors import InputError

DRIVER_CPUS = 0.1
EVALUATOR_CPUS = 0.3
ACTORS_A_CORE = 2
"""More actors than so many a core only wait for each other: a choice."""
ACTOR_BYTES = 0.5e9
"""Resident memory of an actor with torch and a client's pixels, as measured on a CPU: 0.17 to 0.5 GB."""
LEAST_CPUS = 0.01
"""Of a trial's client"""

HERE = "here"
"""Marks the node of this process among `free_nodes`: a federation's driver runs there."""


@dataclass(frozen=True)
class ActorShares:
    """What each actor asks the cluster for."""

    client_cpus: float
    client_gpus: float
    evaluator_cpus: float
    evaluator_gpus: float
    hosts: int | None = None
    """Actors that hold the clients; None: one for each"""


# --- one federation -----------------------------------------------------------------------------------


def free_nodes() -> list[Bundle]:
    """What the connected cluster's nodes have free."""
    import ray
    from ray._private.state import available_resources_per_node

    here = ray.get_runtime_context().get_node_id()
    return [
        {
            **{name: free.get(name, 0.0) for name in ("CPU", "GPU", "memory")},
            **({HERE: 1.0} if node == here else {}),
        }
        for node, free in available_resources_per_node().items()
    ]


def plan_federation(
    nodes: Sequence[Bundle],
    clients: int,
    cpus_per_client: float | Literal["auto"],
    gpus_per_client: float,
    clients_per_actor: int | Literal["auto"] = 1,
) -> ActorShares:
    """Shares with which driver, evaluator and all clients find room, in whatever order Ray places them.

    Every node that can hold clients keeps room for the evaluator, since which one it will be on is Ray's choice.

    Args:
        nodes: `free_nodes` of the cluster.
        clients_per_actor: clients that share an actor; `auto`: one each while so many fit comfortably.

    Raises:
        InputError: the clients do not fit, with the arithmetic.
    """
    if gpus_per_client > 1 and gpus_per_client != int(gpus_per_client):
        raise InputError(f"resources.gpus_per_client={gpus_per_client:g}: above 1 Ray takes whole GPUs only")
    rooms = [Free.of(node) for node in nodes]
    if not any(room.take({"CPU": DRIVER_CPUS, HERE: 1.0}) for room in rooms):
        raise InputError(
            "this node has no CPU free, and a federation's driver runs where its command runs: free one, or give "
            "the node CPUs when it starts (ray start --num-cpus)"
        )
    for room in rooms:
        room.plain["CPU"] = max(0.0, room.plain["CPU"] - EVALUATOR_CPUS)
    hosts = _count_hosts(nodes, rooms, clients, cpus_per_client, gpus_per_client, clients_per_actor)
    if gpus_per_client:
        _check_gpus(rooms, hosts, gpus_per_client, sum(node.get("GPU", 0.0) for node in nodes))

    def slots(cpus: float) -> int:
        return sum(room.slots({"CPU": cpus, "GPU": gpus_per_client}) for room in rooms)

    free = sum(node.get("CPU", 0.0) for node in nodes)
    share = _checked_share(hosts, cpus_per_client, free, slots)
    evaluator_gpus = gpus_per_client * (slots(share) > hosts and gpus_per_client <= 1)
    return ActorShares(share, gpus_per_client, EVALUATOR_CPUS, evaluator_gpus, hosts)


def _count_hosts(
    nodes: Sequence[Bundle],
    rooms: Sequence[Free],
    clients: int,
    cpus: float | Literal["auto"],
    gpus: float,
    clients_per_actor: int | Literal["auto"],
) -> int:
    """Actors that hold the clients."""
    if clients_per_actor != "auto":
        return ceil(clients / clients_per_actor)
    cores, memory = (sum(node.get(name, 0.0) for node in nodes) for name in ("CPU", "memory"))
    room = sum(free.slots({"CPU": 0.0 if cpus == "auto" else cpus, "GPU": gpus}) for free in rooms) if gpus else clients
    if cpus != "auto":
        room = min(room, sum(free.slots({"CPU": cpus}) for free in rooms))
    is_comfortable = clients <= ACTORS_A_CORE * cores and (not memory or clients * ACTOR_BYTES <= memory / 2)
    if not room or (room >= clients and is_comfortable):  # none: refused with the arithmetic of an actor each
        return clients
    return min(clients, room, max(1, int(cores)))


def _check_gpus(rooms: Sequence[Free], clients: int, share: float, total: float) -> None:
    held = sum(room.slots({"GPU": share}) for room in rooms)
    if held < clients:
        each = (
            f"floor(1 / {share:g}) = {floor(1 / share + SLACK)} clients a GPU"
            if share <= 1
            else f"{share:g} GPUs a client"
        )
        raise InputError(
            f"{clients} clients of {share:g} GPU do not fit: {each}, {total:g} GPUs free in the cluster hold {held}; "
            "lower resources.gpus_per_client or federation.clients"
        )


def _checked_share(clients: int, asked: float | Literal["auto"], free: float, slots: Callable[[float], int]) -> float:
    """A client's CPUs, such that all of them fit."""
    apart = DRIVER_CPUS + EVALUATOR_CPUS
    if asked == "auto":
        share = largest_share(min(1.0, max(free - apart, 0.0) / clients), lambda cpus: slots(cpus) >= clients)
        if share <= 0:
            raise InputError(
                f"no room for {clients} clients: {free:g} CPUs are free and the driver and evaluator need "
                f"{apart:g}; free some or run on a larger cluster"
            )
        return share
    needed = asked * clients + apart
    if needed > free + SLACK:
        raise InputError(
            f"{clients} clients x {asked:g} CPUs + {apart:g} for driver and evaluator = "
            f"{needed:g} CPUs, but the cluster has {free:g} free; lower resources.cpus_per_client (or auto)"
        )
    if slots(asked) < clients:
        raise InputError(
            f"{clients} clients of {asked:g} CPUs do not fit: beside the driver and evaluator the nodes hold "
            f"{slots(asked)} such shares; lower resources.cpus_per_client (or auto)"
        )
    return asked


# --- a search's trials --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Placement:
    """What a trial reserves: a bundle for the driver, one for the evaluator, one for each client."""

    shares: ActorShares
    driver: Bundle
    in_process: bool
    threads: int
    strategy: str

    def bundles(self, clients: int) -> list[Bundle]:
        """Bundle 0 is the trial's own process, 1 the evaluator's, then a bundle a client."""
        shares = self.shares
        if self.in_process:
            return [{**self.driver, "CPU": float(self.threads), **_gpu(shares.client_gpus)}]
        evaluator = {"CPU": shares.evaluator_cpus, **_gpu(shares.evaluator_gpus)}
        client = {"CPU": shares.client_cpus, **_gpu(shares.client_gpus)}
        return [self.driver, evaluator, *(dict(client) for _ in range(clients))]


@dataclass(frozen=True)
class TrialRequest:
    """What is asked of a search's largest trial."""

    clients: int
    client_gpus: float
    in_process: bool
    threads: int
    driver_cpus: float
    evaluator_cpus: float
    evaluator_gpus: float
    client_cpus: float | Literal["auto"]
    strategy: str
    at_once: int | None
    """Trials that shall run together; None: as many as fit with a CPU a client"""

    def placement(self, client_cpus: float, here: str) -> Placement:
        shares = ActorShares(client_cpus, self.client_gpus, self.evaluator_cpus, self.evaluator_gpus)
        return Placement(shares, {"CPU": self.driver_cpus, here: 0.001}, self.in_process, self.threads, self.strategy)


def plan_trials(asked: TrialRequest, nodes: Sequence[Bundle], here: str) -> Placement:
    """Shares and bundles of a search's trials.

    Args:
        nodes: resources of each node of the cluster.
        here: resource name of the node where run folders lie: drivers stay there.

    Raises:
        InputError: the largest trial fits no time, with the arithmetic.
    """
    share: float
    if asked.client_cpus != "auto":
        share = asked.client_cpus
    elif asked.in_process:
        share = 1.0
    else:
        share = _trial_share(asked, nodes, here)
    chosen = asked.placement(share, here)
    bundles = chosen.bundles(asked.clients)
    if not fits(bundles, nodes) or not _fits_strategy(bundles, nodes, asked.strategy):
        shown = " + ".join(_shown(bundle, here) for bundle in bundles[:2])
        rest = f" + {asked.clients} x {_shown(bundles[2], here)}" if len(bundles) > 2 else ""
        raise InputError(
            f"a trial does not fit: {shown}{rest} (driver, evaluator, clients), but the cluster is "
            f"{_counted(nodes)}; lower resources.client_cpus, base.resources.gpus_per_client or "
            "base.federation.clients, or loosen resources.strategy"
        )
    return chosen


def _trial_share(asked: TrialRequest, nodes: Sequence[Bundle], here: str) -> float:
    """CPUs of a client, with which as many trials as asked for run at once; where GPUs bound how many, those."""

    def trials(share: float, count: int) -> list[Bundle]:
        return asked.placement(share, here).bundles(asked.clients) * count

    total = sum(node.get("CPU", 0.0) for node in nodes)
    apart = asked.driver_cpus + asked.evaluator_cpus
    wanted = asked.at_once or max(1, floor(total / (asked.clients + apart)))
    while asked.at_once is None and wanted > 1 and not fits(trials(LEAST_CPUS, wanted), nodes):
        wanted -= 1
    share = largest_share(
        min(1.0, (total / wanted - apart) / asked.clients),
        lambda cpus: fits([{n: a for n, a in b.items() if n != "GPU"} for b in trials(cpus, wanted)], nodes),
    )
    if share < LEAST_CPUS:
        raise InputError(
            f"{wanted} trials at once x ({asked.clients} clients + {apart:g} CPUs for driver and evaluator) leave no "
            f"CPU for clients on {_counted(nodes)}; lower max_concurrent_trials"
        )
    return share


def _fits_strategy(bundles: Sequence[Bundle], nodes: Sequence[Bundle], strategy: str) -> bool:
    """Whether the strict strategies can hold: all bundles on one node, or each on a node of its own."""
    if strategy == "STRICT_PACK":
        return any(fits(bundles, [node]) for node in nodes)
    return strategy != "STRICT_SPREAD" or len(nodes) >= len(bundles)


def _gpu(share: float) -> Bundle:
    return {"GPU": share} if share else {}


def _shown(bundle: Bundle, here: str) -> str:
    return " and ".join(f"{amount:g} {name}" for name, amount in bundle.items() if name != here)


def _counted(nodes: Sequence[Bundle]) -> str:
    each = [f"{node.get('CPU', 0):g} CPUs and {node.get('GPU', 0):g} GPUs" for node in nodes]
    return f"{len(nodes)} node{'s' * (len(nodes) > 1)} ({'; '.join(each[:4])}{' ...' * (len(each) > 4)})"
