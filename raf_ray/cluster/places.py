"""Where a cluster is, and where a private one keeps its files."""

from __future__ import annotations

import os
import socket
import sys
import tempfile
from typing import Any

from raf_ray.addresses import host_and_port
from raf_ray.errors import InputError

LONGEST_SOCKET = 103 if sys.platform == "darwin" else 107
"""Bytes of a local socket's path."""


def is_same_place(address: str, other: str) -> bool:
    """Whether two HOST:PORT, which both answer, are one place."""
    (host, port), (other_host, other_port) = host_and_port(address, "--address"), host_and_port(other, "--address")
    hosts, others = ({info[4][0] for info in socket.getaddrinfo(name, port)} for name in (host, other_host))
    return port == other_port and bool(hosts & others or all(any(map(_is_own, names)) for names in (hosts, others)))


def _is_own(host: Any) -> bool:
    """Whether an IP address is one of this machine's."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        try:
            probe.bind((host, 0))
        except OSError:
            return False
    return True


def check_places() -> None:
    """Raise InputError where Ray could not keep the files and sockets of a private cluster."""
    from ray._common.utils import get_default_ray_temp_dir

    named = next((name for name in ("RAY_TMPDIR", "TMPDIR") if name in os.environ), "TMPDIR")
    folder = get_default_ray_temp_dir()
    remedy = "set RAY_TMPDIR to a short path of a folder that can be written, such as /tmp"
    own = f"/session_2026-01-01_00-00-00_000000_{os.getpid()}/sockets/plasma_store"
    spare = LONGEST_SOCKET - len(os.fsencode(folder + own))
    if not os.path.isabs(folder):
        raise InputError(f"{named}={os.environ[named]} is no absolute path, which Ray needs for its sockets; {remedy}")
    if spare < 0:
        raise InputError(f"{named}={os.environ.get(named)} is {-spare} characters too long for Ray's sockets; {remedy}")
    try:
        os.makedirs(folder, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(b"room")
    except OSError as error:
        raise InputError(f"{named}: Ray cannot keep its files in {folder} ({error.strerror}); {remedy}") from error
