"""Room for a run on a cluster whose nodes may still join: what is to come, and the wait for it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import TypeVar

from raf_ray.errors import InputError

T = TypeVar("T")

LOOK_SECONDS = 1.0
"""Between two looks at the cluster."""

SHOWN = 4
"""Nodes that a line names."""


def settled(plan: Callable[[], T], seconds: float, say: Callable[[str], None]) -> T:
    """What a plan on the connected cluster comes to, once it fits and no node is still to join, or time is up.

    Args:
        plan: raises InputError where there is no room.
        seconds: to wait at most; 0 plans at once.
        say: told what is waited for, each time that it changes.

    Raises InputError as the last plan did.
    """
    deadline, told = time.monotonic() + seconds, ""
    while True:
        coming = nodes_to_come() if time.monotonic() < deadline else []
        why = ""
        try:
            planned = plan()
            if not coming:
                return planned
        except InputError as error:
            if time.monotonic() >= deadline:
                raise
            why = str(error)
        if coming:
            shown = ", ".join(coming[:SHOWN]) + (f" and {len(coming) - SHOWN} more" if len(coming) > SHOWN else "")
            why = f"{len(coming)} node{'s' * (len(coming) > 1)} that the cluster starts ({shown})"
        if why != told:
            say(f"waiting up to {seconds:g} s (resources.wait_for_room_s) for {'room: ' * (not coming)}{why}")
            told = why
        time.sleep(LOOK_SECONDS)


def nodes_to_come() -> list[str]:
    """What the connected cluster's autoscaler is starting, in a few words a node; nothing where it has none."""
    import ray
    from ray._private.ray_constants import DEBUG_AUTOSCALING_STATUS
    from ray.autoscaler.v2.sdk import get_cluster_status
    from ray.autoscaler.v2.utils import is_autoscaler_v2
    from ray.experimental.internal_kv import _internal_kv_get

    if is_autoscaler_v2(fetch_from_server=True):
        status = get_cluster_status(ray.get_runtime_context().gcs_address)
        pending = [f"{node.ip_address or ''} {node.ray_node_type_name}".strip() for node in status.pending_nodes]
        launches = {launch.ray_node_type_name: launch.count for launch in status.pending_launches}
    else:
        told = _internal_kv_get(DEBUG_AUTOSCALING_STATUS)
        report = json.loads(told).get("autoscaler_report") if told else None
        pending = [f"{address} {state}" for address, _, state in report["pending_nodes"]] if report else []
        launches = report["pending_launches"] if report else {}
    return [*pending, *(kind for kind, count in launches.items() for _ in range(count))]
