"""Who gets which share of a cluster, and whether it fits: the actors of one federation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import ceil, floor, inf
from typing import Literal

from raf_ray.cluster.packing import SLACK, Bundle, Free, largest_share
from raf_ray.cluster.shares import (
    DRIVER_CPUS,
    EVALUATOR_CPUS,
    NODE_ID,
    ActorShares,
    HostShare,
    PerActor,
    TierNeed,
    are_alike,
    are_comfortable,
    counts_by_tier,
    hosts_by_tier,
    marked,
    placed,
)
from raf_ray.errors import InputError

HERE = "here"
"""Marks the node of this process among `free_nodes`: a federation's driver runs there."""


def free_nodes() -> list[Bundle]:
    """What the connected cluster's nodes have free, and the marks of their labels."""
    import ray
    from ray._private.state import available_resources_per_node

    here = ray.get_runtime_context().get_node_id()
    labels = {node["NodeID"]: node.get("Labels") or {} for node in ray.nodes()}
    return [
        {
            **{name: free.get(name, 0.0) for name in ("CPU", "GPU", "memory")},
            **({HERE: 1.0} if node == here else {}),
            NODE_ID + node: inf,
            **marked(labels.get(node, {}), inf),
        }
        for node, free in available_resources_per_node().items()
    ]


def all_nodes() -> list[Bundle]:
    """What the connected cluster's living nodes have, free or not, and the marks of their labels."""
    import ray

    return [{**node["Resources"], **marked(node.get("Labels") or {}, inf)} for node in ray.nodes() if node["Alive"]]


def plan_federation(nodes: Sequence[Bundle], needs: Sequence[TierNeed], clients_per_actor: PerActor) -> ActorShares:
    """Shares with which driver, evaluator and all clients find room.

    Where all clients ask for the same, that holds in whatever order Ray places them; else each actor is meant for a
    node. Every node that can hold clients keeps room for the evaluator, since which one it will be on is Ray's choice.

    Args:
        nodes: `free_nodes` of the cluster.
        needs: of each tier; its clients are numbered after those of the tiers before it.
        clients_per_actor: clients that share an actor; `auto`: one each while so many fit comfortably.

    Raises:
        InputError: the clients do not fit, with the arithmetic.
    """
    check_needs(needs, nodes)
    rooms = [Free.of(node) for node in nodes]
    if not any(room.take({"CPU": DRIVER_CPUS, HERE: 1.0}) for room in rooms):
        raise InputError(
            "this node has no CPU free, and a federation's driver runs where its command runs: free one, or give "
            "the node CPUs when it starts (ray start --num-cpus)"
        )
    for room in rooms:
        room.plain["CPU"] = max(0.0, room.plain["CPU"] - EVALUATOR_CPUS)
    if are_alike(needs) and not needs[0].labels:
        return _alike(nodes, rooms, needs, clients_per_actor)
    return _by_tier(nodes, rooms, needs, clients_per_actor)


def check_needs(needs: Sequence[TierNeed], nodes: Sequence[Bundle]) -> None:
    """Raise InputError where Ray could not give a tier what it asks for on any cluster of such nodes."""
    for need in needs:
        if need.gpus > 1 and need.gpus != int(need.gpus):
            raise InputError(f"resources.gpus_per_client={need.gpus:g}: above 1 Ray takes whole GPUs only")
        marks = marked(need.labels, 1.0)
        if not any(all(mark in node for mark in marks) for node in nodes):
            told = ", ".join(f"{key}={value}" for key, value in need.labels.items())
            raise InputError(
                f"resources.labels: no node of the cluster has {told}, which tier {need.tier} asks for; start one with "
                f"ray start --labels {told.replace(', ', ',')}, or correct the labels"
            )


# --- all clients alike --------------------------------------------------------------------------------


def _alike(
    nodes: Sequence[Bundle], rooms: Sequence[Free], needs: Sequence[TierNeed], clients_per_actor: PerActor
) -> ActorShares:
    clients, cpus, gpus = sum(need.clients for need in needs), needs[0].cpus, needs[0].gpus
    hosts = _count_hosts(nodes, rooms, clients, cpus, gpus, clients_per_actor)
    if gpus:
        _check_gpus(rooms, hosts, gpus, sum(node.get("GPU", 0.0) for node in nodes))

    def slots(share: float) -> int:
        return sum(room.slots({"CPU": share, "GPU": gpus}) for room in rooms)

    share = _checked_share(hosts, cpus, sum(node.get("CPU", 0.0) for node in nodes), slots)
    evaluator_gpus = gpus * (slots(share) > hosts and gpus <= 1)
    return ActorShares((HostShare(share, gpus),) * hosts, EVALUATOR_CPUS, evaluator_gpus)


def _count_hosts(
    nodes: Sequence[Bundle],
    rooms: Sequence[Free],
    clients: int,
    cpus: float | Literal["auto"],
    gpus: float,
    clients_per_actor: PerActor,
) -> int:
    """Actors that hold the clients."""
    if clients_per_actor != "auto":
        return ceil(clients / clients_per_actor)
    room = sum(free.slots({"CPU": 0.0 if cpus == "auto" else cpus, "GPU": gpus}) for free in rooms) if gpus else clients
    if cpus != "auto":
        room = min(room, sum(free.slots({"CPU": cpus}) for free in rooms))
    if not room or (room >= clients and are_comfortable(clients, nodes)):  # none: refused with an actor each's sum
        return clients
    return min(clients, room, max(1, int(sum(node.get("CPU", 0.0) for node in nodes))))


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


# --- shares by tier -----------------------------------------------------------------------------------


def _by_tier(
    nodes: Sequence[Bundle], rooms: Sequence[Free], needs: Sequence[TierNeed], clients_per_actor: PerActor
) -> ActorShares:
    def find(counts: Sequence[int], scale: float) -> list[HostShare] | None:
        return placed(hosts_by_tier(needs, counts, scale), rooms)

    cores = max(1, int(sum(node.get("CPU", 0.0) for node in nodes)))
    comfortable = are_comfortable(sum(need.clients for need in needs), nodes)
    counts = counts_by_tier(
        needs, clients_per_actor, comfortable, lambda tried: find(tried, 0.0) is not None, max(cores, len(needs))
    )
    hosts = find(counts, largest_share(1.0, lambda scale: find(counts, scale) is not None))
    if hosts is None:
        asked = " + ".join(_shown(need, count) for need, count in zip(needs, counts, strict=True))
        raise InputError(
            f"the tiers' shares do not fit: {asked}, beside {DRIVER_CPUS + EVALUATOR_CPUS:g} CPUs for driver and "
            f"evaluator, but the cluster has {counted(nodes)} free; lower resources.gpus_per_client, "
            "resources.cpus_per_client or federation.clients, or loosen resources.labels"
        )
    return ActorShares(tuple(hosts), EVALUATOR_CPUS, 0.0)


def _shown(need: TierNeed, count: int) -> str:
    cpus = "" if need.cpus == "auto" else f"{need.cpus:g} CPU"
    gpus = f"{need.gpus:g} GPU" if need.gpus else ""
    labels = ", ".join(f"{key}={value}" for key, value in need.labels.items())
    share = " and ".join(part for part in (cpus, gpus) if part) or "a share of a CPU"
    return f"{count} {need.tier} x {share}" + (f" on {labels}" if labels else "")


def counted(nodes: Sequence[Bundle]) -> str:
    """So many nodes, and what each has."""
    each = [f"{node.get('CPU', 0):g} CPUs and {node.get('GPU', 0):g} GPUs" for node in nodes]
    return f"{len(nodes)} node{'s' * (len(nodes) > 1)} ({'; '.join(each[:4])}{' ...' * (len(each) > 4)})"
