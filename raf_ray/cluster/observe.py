"""What a Ray cluster does, seen from outside through its dashboard: nodes, raf-ray's actors, jobs."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import requests

from raf_ray.cluster.names import plain_name, run_of
from raf_ray.errors import InputError
from raf_ray.files import Json
from raf_ray.masking import masked_in

ANSWER_SECONDS = 20.0
MOST_ACTORS = 10_000
"""The state API's own bound."""


@dataclass(frozen=True)
class Node:
    id: str
    address: str
    host: str
    head: bool
    resources: dict[str, tuple[float, float]]
    """`CPU`, `GPU` -> what actors and tasks hold, and what there is."""
    cpu_percent: float
    memory_percent: float


@dataclass(frozen=True)
class Actor:
    run: str
    name: str
    class_name: str
    state: str
    node_id: str
    pid: int | None


@dataclass(frozen=True)
class Job:
    id: str
    status: str
    entrypoint: str


@dataclass(frozen=True)
class ClusterState:
    nodes: tuple[Node, ...]
    coming: tuple[str, ...]
    """Nodes that the cluster's autoscaler starts, in Ray's words"""
    actors: tuple[Actor, ...]
    """raf-ray's that live; in order of run and name."""
    jobs: tuple[Job, ...]
    """Those that have not ended."""


def observe(address: str) -> ClusterState:
    """Ask a dashboard, ``http://HOST:8265``.

    Raises:
        InputError: it does not answer, is no Ray dashboard, or asks for another token.
    """
    address = address.rstrip("/")
    nodes = _get(address, "/nodes?view=summary")["data"]
    actors = _get(address, f"/api/v0/actors?limit={MOST_ACTORS}")["data"]["result"]["result"]
    jobs = _get(address, "/api/jobs/")
    autoscaler = _get(address, "/api/cluster_status?format=1")["data"]["clusterStatus"]
    return ClusterState(
        nodes=tuple(
            _node(entry, nodes["nodeLogicalResources"]) for entry in nodes["summary"]
            if entry.get("raylet", {}).get("state") == "ALIVE"
        ),
        coming=_coming(autoscaler or ""),
        actors=tuple(sorted(filter(None, map(_actor, actors)), key=lambda a: (a.run, a.name))),
        jobs=tuple(
            Job(
                job.get("submission_id") or job["job_id"], job["status"],
                masked_in(" ".join(job["entrypoint"].split())),
            )
            for job in jobs if job["status"] in ("PENDING", "RUNNING")
        ),
    )  # fmt: skip


def _get(address: str, path: str) -> Any:
    # Ray's own rule for the token: RAY_AUTH_MODE=token, then RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH, ~/.ray/auth_token.
    from ray._private.authentication.http_token_authentication import get_auth_headers_if_auth_enabled

    try:
        answer = requests.get(address + path, headers=get_auth_headers_if_auth_enabled({}), timeout=ANSWER_SECONDS)
    except requests.RequestException as error:
        raise InputError(f"no Ray dashboard answers at {address} ({type(error).__name__}); see the line that "
                         "`python -m raf_ray.run` begins with for its address") from error  # fmt: skip
    if answer.status_code in (401, 403):
        raise InputError(
            f"{address} {'asks for a token' if answer.status_code == 401 else 'refuses this token'}: set "
            "RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN to the cluster's token unless that lies in ~/.ray/auth_token"
        )
    try:
        answer.raise_for_status()
        return answer.json()
    except requests.RequestException as error:
        raise InputError(f"{address} is no Ray dashboard: {path} gives status {answer.status_code}") from error


def _coming(report: str) -> tuple[str, ...]:
    """The lines of an autoscaler's report, as of ``ray status``, about nodes that it starts."""
    part = report.partition("\nPending:\n")[2].partition("\nRecent failures")[0]
    return tuple(line.strip(" ,") for line in part.splitlines() if line.startswith(" ") and "no pending" not in line)


def _node(entry: Json, logical: dict[str, str]) -> Node:
    raylet = entry["raylet"]
    held = re.findall(r"([\d.]+)/([\d.]+) (CPU|GPU)$", logical.get(raylet["nodeId"], ""), re.MULTILINE)
    return Node(
        id=raylet["nodeId"],
        address=entry["ip"],
        host=entry["hostname"],
        head=raylet["isHeadNode"],
        resources={name: (float(used), float(total)) for used, total, name in held},
        cpu_percent=float(entry["cpu"]),
        memory_percent=float(entry["mem"][2]),
    )


def _actor(entry: Json) -> Actor | None:
    run = run_of(entry["ray_namespace"] or "")
    if run is None or entry["state"] == "DEAD":
        return None
    return Actor(
        run,
        plain_name(entry["name"]),
        entry["class_name"],
        entry["state"],
        entry["node_id"] or "",
        entry["pid"] or None,
    )
