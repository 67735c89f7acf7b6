"""A process of a federation: where it lives, how Ray is told to place it, and what is said when it is lost."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray
from ray.exceptions import RayTaskError
from ray.util.placement_group import get_current_placement_group
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy, PlacementGroupSchedulingStrategy

from raf_ray.cluster.shares import HostShare
from raf_ray.errors import RunError
from raf_ray.federation.spec import Clients

NODE_ANSWERS_SECONDS = 3.0


@dataclass(frozen=True)
class Raylet:
    """A node of the cluster and its raylet's port."""

    address: str
    port: int

    def answers(self) -> bool:
        """Whether its raylet still listens. Ray itself notices a lost node only after missed health checks."""
        try:
            socket.create_connection((self.address, self.port), timeout=NODE_ANSWERS_SECONDS).close()
        except OSError:
            return False
        return True


@dataclass
class Process:
    """An actor through its deaths."""

    name: str
    share: HostShare
    actor: Any = None
    alive: bool = False
    """Built, and not known to be dead"""
    node: Raylet | None = None
    deaths: int = 0


def no_room(name: str, seconds: float) -> RunError:
    return RunError(
        f"no room on the cluster for {name} in {seconds:g} s: others took what was free or "
        "a node was lost; free some, then --resume"
    )


def raylet_of(node_id: str) -> Raylet:
    node = next(node for node in ray.nodes() if node["NodeID"] == node_id)
    return Raylet(node["NodeManagerAddress"], node["NodeManagerPort"])


def with_lost(failure: RunError, name: str, error: Exception) -> RunError:
    """The same with Ray's own words; saying that the actor is lost where its process is gone."""
    failure.details = str(error)
    if not isinstance(error, RayTaskError):
        failure.lost = (name,)
    return failure


def place_options(index: int, share: HostShare | None = None) -> dict[str, Any]:
    """Options that place an actor: in a bundle of this process's placement group, where it lives in one.

    A trial of a search has one: the driver's bundle, the evaluator's, one for each host. Without the index an
    actor could take a larger actor's bundle, and that one would wait for ever. Elsewhere by the labels that it asks
    for, or on the node that it is meant for while that is there.
    """
    group = get_current_placement_group()
    if group is not None:
        return {"scheduling_strategy": PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=index)}
    if share is not None and share.labels:
        return {"label_selector": dict(share.labels)}
    if share is not None and share.node is not None:
        return {"scheduling_strategy": NodeAffinitySchedulingStrategy(share.node, soft=True)}
    return {}


def first_clients(clients: Clients, shares: Sequence[HostShare]) -> list[int]:
    """The client, by number, that each host opens first: its own, where it has but one."""
    left = {tier: iter(np.flatnonzero(clients.tier == i).tolist()) for i, tier in enumerate(clients.tier_names)}
    anyone = iter(range(len(clients)))
    return [next(anyone if share.tier is None else left[share.tier]) for share in shares]


def host_name(number: int, share: HostShare) -> str:
    return f"host-{number:03d}" if share.tier is None else f"host-{share.tier}-{number:03d}"
