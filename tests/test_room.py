"""A run waits for nodes that still join, and a cluster of other versions is told of in a sentence."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from raf_ray.cluster import room
from raf_ray.cluster.observe import _coming
from raf_ray.cluster.room import nodes_to_come, settled
from raf_ray.errors import InputError
from tests.tiny import WORDS


class Cluster:
    """One that grows: what it still starts, at each look, and how many clients it then holds."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, coming: list[list[str]], fits_after: int) -> None:
        self.looks, self._coming, self._fits_after = 0, coming, fits_after
        monkeypatch.setattr(room, "nodes_to_come", self.nodes_to_come)
        monkeypatch.setattr(room, "LOOK_SECONDS", 0.01)

    def nodes_to_come(self) -> list[str]:
        self.looks += 1
        return self._coming[min(self.looks, len(self._coming)) - 1]

    def plan(self) -> int:
        if self.looks < self._fits_after:
            raise InputError("no room for 6 clients")
        return self.looks


def test_a_run_waits_for_the_nodes_that_the_cluster_starts(monkeypatch):
    said: list[str] = []
    cluster = Cluster(monkeypatch, [["10.0.0.2 setting-up", "worker"], ["10.0.0.2 setting-up"], []], fits_after=0)
    assert settled(cluster.plan, 60.0, said.append) == 3
    begin = "waiting up to 60 s (resources.wait_for_room_s) for "
    assert said == [
        f"{begin}2 nodes that the cluster starts (10.0.0.2 setting-up, worker)",
        f"{begin}1 node that the cluster starts (10.0.0.2 setting-up)",
    ]


def test_a_run_waits_for_room_and_says_what_is_missing_once(monkeypatch):
    said: list[str] = []
    cluster = Cluster(monkeypatch, [[]], fits_after=5)
    assert settled(cluster.plan, 60.0, said.append) == 5
    assert said == ["waiting up to 60 s (resources.wait_for_room_s) for room: no room for 6 clients"]


@pytest.mark.parametrize("seconds", [0.0, 0.2])
def test_without_room_in_time_a_run_is_refused_as_before(seconds, monkeypatch):
    said: list[str] = []
    cluster = Cluster(monkeypatch, [[]], fits_after=10**6)
    with pytest.raises(InputError, match=r"^no room for 6 clients$"):
        settled(cluster.plan, seconds, said.append)
    assert len(said) == (seconds > 0)


def test_nodes_that_never_come_are_not_waited_for_longer(monkeypatch):
    cluster = Cluster(monkeypatch, [["10.0.0.2 waiting-for-ssh"]], fits_after=0)
    assert settled(cluster.plan, 0.1, lambda line: None) > 1


def test_a_cluster_without_an_autoscaler_starts_no_nodes(ray_cluster):
    assert nodes_to_come() == []


def test_the_nodes_of_an_autoscalers_report_are_found():
    report = (
        "======== Autoscaler status: 2026-01-02 ========\nNode status\n---------\nActive:\n 1 head\nIdle:\n"
        " (no idle nodes)\n"
        "Pending:\n 10.0.0.2: worker, setting-up\n worker, 2 launching\nRecent failures:\n (no failures)\n\nResources\n"
    )
    assert _coming(report) == ("10.0.0.2: worker, setting-up", "worker, 2 launching")
    assert _coming(report.replace(" 10.0.0.2: worker, setting-up\n worker, 2 launching", " (no pending nodes)")) == ()
    assert _coming("") == ()


def test_a_cluster_of_another_version_is_told_of_in_a_sentence(ray_cluster, tmp_path):
    import ray

    address = ray.get_runtime_context().gcs_address
    code = (
        "import sys, ray; ray.__version__ = '2.50.1'\n"
        "from raf_ray.run import main; from raf_ray.cli import run_command; sys.exit(run_command(main))"
    )
    words = ["--address", address, "--output", str(tmp_path / "run"), *WORDS]
    done = subprocess.run([sys.executable, "-c", code, *words], text=True, capture_output=True,
                          env={**os.environ, "RAY_AUTH_MODE": "token"})  # fmt: skip
    assert done.returncode == 2, done.stdout + done.stderr
    version = f"{sys.version_info.major}.{sys.version_info.minor}.{sys.version_info.micro}"
    assert f"runs Ray {ray.__version__} on Python {version}, and this is Ray 2.50.1 on Python {version}" in done.stderr
    assert len(done.stderr.splitlines()) == 1 and not (tmp_path / "run").exists()
