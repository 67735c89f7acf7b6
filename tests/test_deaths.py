"""Killed processes change the time and not the bits: hosts and the evaluator."""

from __future__ import annotations

import json
import os
import signal
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch

from raf_ray import run_federation
from raf_ray.federation.events import ActorLost, Noted
from tests.tiny import tiny

WORDS = ("federation.clients={high: 2, mid: 2, low: 1}", "federation.rounds=3", "evaluation.every=1",
         "optimizer.reset_each_round=false", "algorithm.name=scaffold", "transforms.apply=[clip, noise]",
         "transforms.clip.norm=0.05", "transforms.noise.std=0.01")  # fmt: skip


def state(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "model.pt", weights_only=True)["model"]


def assert_same(one: Path, other: Path) -> None:
    a, b = state(one), state(other)
    assert all(torch.equal(a[name], b[name]) for name in a)
    scores = [json.loads((folder / "results.json").read_text())["by_resolution"] for folder in (one, other)]
    assert scores[0] == scores[1]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("undisturbed") / "run"
    return run_federation(tiny("federation.engine=in_process", *WORDS), path).folder


class Kills:
    """Kills actors' processes: number of an event -> name."""

    def __init__(self, at: dict[int, str]) -> None:
        self.at = at
        self.killed: list[str] = []
        self.events: list[object] = []

    def begin(self, prepared, folder): ...

    def end(self, folder, results): ...

    def see(self, event):
        import ray

        self.events.append(event)
        wanted = self.at.get(len(self.events) - 1)
        for actor in ray.util.list_named_actors(all_namespaces=True) if wanted else ():
            if actor["name"] == wanted and "/run/" in actor["namespace"]:
                handle = ray.get_actor(actor["name"], actor["namespace"])
                with suppress(ray.exceptions.RayError):  # it is being built, or dying
                    os.kill(ray.get(handle.__ray_call__.remote(lambda _: os.getpid()), timeout=5), signal.SIGKILL)
                    self.killed.append(wanted)


def test_however_clients_are_spread_and_whoever_is_killed_the_bits_are_the_same(undisturbed, ray_cluster, tmp_path):
    kills = Kills({9: "host-000", 16: "evaluator"})
    run_federation(tiny(*WORDS, "resources.clients_per_actor=3"), tmp_path / "run", watchers=[kills])
    assert kills.killed == ["host-000", "evaluator"]
    assert_same(tmp_path / "run", undisturbed)
    kept = [sorted(path.name for path in (folder / "clients").iterdir()) for folder in (undisturbed, tmp_path / "run")]
    assert kept[0] == kept[1]
    (lost,) = [event for event in kills.events if isinstance(event, ActorLost)]
    (noted,) = [event for event in kills.events if isinstance(event, Noted)]
    assert lost.actor == "host-000" and noted.message.endswith("trained again")


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
def test_killed_at_any_moment_the_bits_are_the_same(seed, undisturbed, ray_cluster, tmp_path):
    rng = np.random.default_rng(seed)
    moments = sorted(rng.choice(22, 3, replace=False).tolist())
    names = rng.permutation(["host-000", "host-001", "evaluator"]).tolist()
    kills = Kills(dict(zip(moments, names, strict=True)))
    run_federation(tiny(*WORDS, "resources.clients_per_actor=3"), tmp_path / "run", watchers=[kills])
    assert kills.killed
    assert_same(tmp_path / "run", undisturbed)
