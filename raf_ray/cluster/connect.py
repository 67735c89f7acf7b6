"""Which Ray cluster a run joins.

Ray's own rule: an address (``--address`` or RAY_ADDRESS); else a cluster that runs on this machine; else a
private local one, which ``local`` forces.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import signal
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from raf_ray.addresses import host_and_port, knock
from raf_ray.cluster.manners import mask_command_line, print_errors
from raf_ray.cluster.places import check_places, is_same_place
from raf_ray.errors import InputError
from raf_ray.terminal import printable

LEAST_STORE_BYTES, MOST_STORE_BYTES = 512 * 2**20, 4 * 2**30
"""Object store of a private local cluster: an eighth of the memory within these bounds; it takes memory as it fills.
A round of three clients of ViTPose-S holds 0.6 GB there, and what does not fit goes through the disk."""

MISMATCH = re.compile(r"Version mismatch.*?Ray: (\S+)\s+Python: (\S+).*?Ray: (\S+)\s+Python: (\S+)", re.DOTALL)
"""In Ray's words about a cluster of other versions: theirs, then ours."""

TOKEN_ADVICE = (
    "set RAY_AUTH_MODE=token, with the cluster's token in RAY_AUTH_TOKEN or in ~/.ray/auth_token (`ray get-auth-token` "
    "on one of its nodes shows it)"
)


@dataclass(frozen=True)
class Cluster:
    description: str
    """One line: which cluster, and the dashboard's URL."""
    private: bool
    """Started by this process and for it alone, so that no node joins it"""


def find_address(address: str | None) -> str | None:
    """The address to join, or RAY_ADDRESS's; InputError where no driver can join it. Nothing is started."""
    what = "--address" if address else "RAY_ADDRESS"
    address = address or os.environ.get("RAY_ADDRESS") or None
    if address in (None, "local", "auto"):
        return address
    assert address is not None
    if "://" in address:
        raise InputError(
            f"{what} {printable(address)}: a federation's driver must run inside the cluster; run the command on one "
            "of its nodes with --address HOST:PORT, or submit it as a job with --address http://HOST:8265 (the "
            "dashboard)"
        )
    try:
        knock(*host_and_port(address, what))
    except OSError as error:
        raise InputError(f"no Ray cluster answers at {address} ({error}); start one or leave --address out") from error
    return address


def connect(address: str | None, dashboard: bool) -> Cluster:
    """Join or start a cluster; quiet. Raises InputError where it cannot be reached."""
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_DEDUP_LOGS", "0")
    warnings.filterwarnings("ignore", category=FutureWarning, module="ray")
    import ray

    mask_command_line()
    common: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False, "namespace": "raf-ray"}
    target = find_address(address)
    running = _started_here() if target in (None, "auto") else target
    if running not in (None, "local") and os.environ.get("RAY_AUTH_MODE") != "token":
        _refuse_token(running)
    if running in (None, "local") and target != "auto":
        check_places()
    print_errors(False)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        if target in (None, "auto") and running:
            context = ray.init(address="auto", **common)
            private = False
        elif target in (None, "local"):
            context = ray.init(
                address="local", include_dashboard=dashboard, object_store_memory=_store_bytes(), **common
            )
            private = True
        else:
            if target == "auto":
                raise ConnectionError("no cluster that `ray start` or `ray up` made runs on this machine")
            context = ray.init(address=target, **common)
            private = False
    except ray.exceptions.AuthenticationError as error:
        raise InputError(f"no token for the Ray cluster was found: {TOKEN_ADVICE}") from error
    except UnicodeEncodeError as error:
        raise InputError(
            "Ray takes no name that is not UTF-8, neither on the command line nor in the working directory's path; "
            "rename the folder, or run in this process alone with federation.engine=in_process"
        ) from error
    except (ConnectionError, RuntimeError, ValueError) as error:
        _refuse_versions(running, str(error))
        if running not in (None, "local"):
            _refuse_token(running)
        raise InputError(f"cannot reach the Ray cluster at {target}: {str(error).splitlines()[0]}") from error
    except OSError as error:
        where = f" in {error.filename}" if error.filename else ""
        raise InputError(
            f"Ray cannot keep its files{where}: {error.strerror or error}; set HOME (for its ~/.ray) and RAY_TMPDIR "
            "(for the rest) to folders that can be written"
        ) from error
    _restore_handlers(handlers)
    url = getattr(context, "dashboard_url", None)
    resources = ray.cluster_resources()
    size = f"{resources.get('CPU', 0):g} CPUs, {resources.get('GPU', 0):g} GPUs"
    where = "private local cluster" if private else f"cluster at {context.address_info['gcs_address']}"
    watch = f", dashboard http://{url}" if url else ""
    return Cluster(f"Ray: {where} ({size}){watch}", private)


def _store_bytes() -> int:
    memory, shared = psutil.virtual_memory().total, Path("/dev/shm")
    most = int(0.9 * shutil.disk_usage(shared).free) if shared.is_dir() else MOST_STORE_BYTES
    return max(LEAST_STORE_BYTES, min(memory // 8, most, MOST_STORE_BYTES))


def _restore_handlers(handlers: dict[signal.Signals, Any]) -> None:
    """`ray.init` takes SIGTERM over below Python, where it would end the process at once: take it back."""
    if threading.current_thread() is threading.main_thread():
        for number, handler in handlers.items():
            if callable(handler):
                signal.signal(number, handler)


@contextmanager
def joined(address: str | None, dashboard: bool) -> Iterator[Cluster | None]:
    """A connection for as long as it is needed; yields the cluster, or None where the process was connected already.

    Raises InputError where no cluster is at `address`, or the process is connected to another one.
    """
    import ray

    if ray.is_initialized():
        _check_connected_to(address)
        yield None
        return
    cluster = connect(address, dashboard)
    try:
        yield cluster
    finally:
        disconnect()


def _check_connected_to(address: str | None) -> None:
    """Raise InputError where this process is connected to another cluster than `address` asks for."""
    import ray
    from ray._private.worker import _global_node

    if address is None or find_address(address) == "auto":
        return
    own: str = ray.get_runtime_context().gcs_address
    is_same = bool(_global_node and _global_node.is_head()) if address == "local" else is_same_place(address, own)
    if not is_same:
        raise InputError(
            f"--address {address}: this process is connected to the Ray cluster at {own} already; leave the address "
            "out to run there, or disconnect first (ray.shutdown())"
        )


def disconnect() -> None:
    import ray

    ray.shutdown()
    print_errors(True)


def wait_until_free(cpus: float, seconds: float = 5.0) -> None:
    """Wait until that many CPUs are free again: killed actors give theirs back a moment later.

    Without it the next federation of a comparison would find fewer. On a cluster that others use too they may
    stay taken, so the wait is bounded.
    """
    import ray

    deadline = time.monotonic() + seconds
    while ray.available_resources().get("CPU", 0.0) < cpus - 1e-6 and time.monotonic() < deadline:
        time.sleep(0.05)


def _started_here() -> str | None:
    """The cluster that `ray start` or `ray up` runs on this machine; another command's private one is not it."""
    from ray._private.services import find_bootstrap_address, find_gcs_addresses

    started: str | None = find_bootstrap_address(None)
    return started if started in find_gcs_addresses() else None


def _refuse_versions(address: str | None, said: str) -> None:
    """Raise InputError where Ray says that the cluster is of another version of it or of Python."""
    if found := MISMATCH.search(said):
        theirs, ours = ("Ray {} on Python {}".format(*found.groups()[i : i + 2]) for i in (0, 2))
        raise InputError(
            f"the cluster at {address} runs {theirs}, and this is {ours}; Ray joins only what has both the same: run "
            "the command with those, or submit it as a job (--address http://HOST:8265)"
        )


def _refuse_token(address: str | None) -> None:
    """Raise InputError where the cluster refuses a call for its want of a token.

    Without the right one Ray itself would try for 20 s and then say only that it could not connect.
    """
    import grpc

    with grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        try:
            channel.unary_unary("/ray.rpc.NodeInfoGcsService/CheckAlive")(b"", timeout=5)
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.UNAUTHENTICATED:
                raise InputError(f"the Ray cluster at {address} asks for a token: {TOKEN_ADVICE}") from error
