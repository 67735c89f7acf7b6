"""Which Ray cluster a run joins, and whether its actors fit there.

Ray's own rule: an address (``--address`` or RAY_ADDRESS); else a cluster that runs on this machine; else a
private local one, which ``local`` forces.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
import time
import warnings
from dataclasses import dataclass
from math import floor
from typing import Any, Literal

from raf_ray.errors import InputError
from raf_ray.federation.actors import ActorShares

DRIVER_CPUS = 0.1
EVALUATOR_CPUS = 0.3
LOCAL_STORE_BYTES = 512 * 2**20
"""Object store of a private local cluster: several states of the largest built-in model that a laptop trains."""


@dataclass(frozen=True)
class Cluster:
    description: str
    """One line: which cluster, and the dashboard's URL."""


def find_address(address: str | None) -> str | None:
    """The address to join, or RAY_ADDRESS's; InputError where no driver can join it. Nothing is started."""
    address = address or os.environ.get("RAY_ADDRESS") or None
    if address in (None, "local", "auto"):
        return address
    assert address is not None
    if address.startswith(("ray://", "http://", "https://")):
        raise InputError(
            f"--address {address}: a federation's driver must run inside the cluster; run the command on one of "
            "its nodes (ray attach) with --address HOST:PORT"
        )
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdigit() or not host:
        raise InputError(f"--address {address} is not HOST:PORT, auto or local")
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except OSError as error:
        raise InputError(f"no Ray cluster answers at {address} ({error}); start one or leave --address out") from error
    return address


def connect(address: str | None, dashboard: bool) -> Cluster:
    """Join or start a cluster; quiet. Raises InputError where it cannot be reached."""
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_DEDUP_LOGS", "0")
    warnings.filterwarnings("ignore", category=FutureWarning, module="ray")
    import ray

    common: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False, "namespace": "raf-ray"}
    target = find_address(address)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        if target in (None, "auto") and _started_here():
            context = ray.init(address="auto", **common)
            private = False
        elif target in (None, "local"):
            context = ray.init(
                address="local", include_dashboard=dashboard, object_store_memory=LOCAL_STORE_BYTES, **common
            )
            private = True
        else:
            if target == "auto":
                raise ConnectionError("no cluster that `ray start` or `ray up` made runs on this machine")
            context = ray.init(address=target, **common)
            private = False
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise InputError(f"cannot reach the Ray cluster at {target}: {str(error).splitlines()[0]}") from error
    _restore_handlers(handlers)
    url = getattr(context, "dashboard_url", None)
    resources = ray.cluster_resources()
    size = f"{resources.get('CPU', 0):g} CPUs, {resources.get('GPU', 0):g} GPUs"
    where = "private local cluster" if private else f"cluster at {context.address_info['gcs_address']}"
    watch = f", dashboard http://{url}" if url else ""
    return Cluster(f"Ray: {where} ({size}){watch}")


def _restore_handlers(handlers: dict[signal.Signals, Any]) -> None:
    """`ray.init` takes SIGTERM over below Python, where it would end the process at once: take it back."""
    if threading.current_thread() is threading.main_thread():
        for number, handler in handlers.items():
            if callable(handler):
                signal.signal(number, handler)


def disconnect() -> None:
    import ray

    ray.shutdown()


def wait_until_free(cpus: float, seconds: float = 5.0) -> None:
    """Wait until that many CPUs are free again: killed actors give theirs back a moment later.

    Without it the next federation of a comparison would find fewer. On a cluster that others use too they may
    stay taken, so the wait is bounded.
    """
    import ray

    deadline = time.monotonic() + seconds
    while ray.available_resources().get("CPU", 0.0) < cpus - 1e-6 and time.monotonic() < deadline:
        time.sleep(0.05)


def _started_here() -> bool:
    """Whether `ray start` or `ray up` runs a cluster on this machine; another command's private one is not it."""
    from ray._private.services import find_bootstrap_address, find_gcs_addresses

    started = find_bootstrap_address(None)
    return started is not None and started in find_gcs_addresses()


def plan_shares(clients: int, cpus_per_client: float | Literal["auto"], gpus_per_client: float) -> ActorShares:
    """What actors ask for on the connected cluster.

    Raises:
        InputError: the clients do not fit, with the arithmetic.
    """
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if gpus_per_client > 1 and gpus_per_client != int(gpus_per_client):
        raise InputError(f"resources.gpus_per_client={gpus_per_client:g}: above 1 Ray takes whole GPUs only")
    share = _cpu_share(clients, cpus_per_client, [node.get("CPU", 0.0) for node in nodes])
    if gpus_per_client == 0:
        return ActorShares(share, 0.0, EVALUATOR_CPUS, 0.0)
    slots = sum(_gpu_slots(node.get("GPU", 0.0), gpus_per_client) for node in nodes)
    if slots < clients:
        each = (
            f"floor(1 / {gpus_per_client:g}) = {floor(1 / gpus_per_client + 1e-9)} clients a GPU"
            if gpus_per_client <= 1
            else f"{gpus_per_client:g} GPUs a client"
        )
        total = sum(node.get("GPU", 0.0) for node in nodes)
        raise InputError(
            f"{clients} clients of {gpus_per_client:g} GPU do not fit: {each}, {total:g} GPUs in the cluster hold "
            f"{slots}; lower resources.gpus_per_client or federation.clients"
        )
    evaluator_gpus = gpus_per_client if slots > clients and gpus_per_client <= 1 else 0.0
    return ActorShares(share, gpus_per_client, EVALUATOR_CPUS, evaluator_gpus)


def _cpu_share(clients: int, asked: float | Literal["auto"], node_cpus: list[float]) -> float:
    """A client's CPUs, such that all fit on the nodes beside the driver and the evaluator."""
    import ray

    apart = DRIVER_CPUS + EVALUATOR_CPUS
    free = ray.available_resources().get("CPU", 0.0)
    # Room for driver and evaluator on every node: which one they will be on is Ray's choice.
    rooms = [cpus - apart for cpus in node_cpus if cpus > apart]

    def slots(share: float) -> int:
        return sum(floor(room / share + 1e-9) for room in rooms)

    if asked == "auto":
        share = min(1.0, max(free - apart, 0.0) / clients, sum(rooms) / clients)
        while share >= 0.001 and slots(floor(share * 1000) / 1000) < clients:
            share *= 0.97
        share = floor(share * 1000) / 1000
        if share <= 0:
            raise InputError(
                f"no room for {clients} clients: {free:g} CPUs are free and the driver and evaluator need "
                f"{apart:g}; free some or run on a larger cluster"
            )
        return share
    needed = asked * clients + apart
    if needed > free + 1e-9:
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


def _gpu_slots(gpus: float, share: float) -> int:
    if share > 1:
        return floor(gpus / share)
    return int(gpus) * floor(1 / share + 1e-9)
