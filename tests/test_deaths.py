"""Killed processes change the time and not the bits: hosts and the evaluator."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
import torch

from raf_ray import run_federation
from raf_ray.federation.events import ActorLost, Noted, RoundStarted
from tests.tiny import tiny

WORDS = ("federation.clients={high: 2, mid: 2, low: 1}", "federation.rounds=3", "evaluation.every=1",
         "optimizer.reset_each_round=false")  # fmt: skip


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
    """Kills an actor's process when a round begins: round -> name."""

    def __init__(self, **at: str) -> None:
        self.at = {int(name.removeprefix("round_")): actor for name, actor in at.items()}
        self.killed: list[str] = []
        self.events: list[object] = []

    def begin(self, prepared, folder): ...

    def end(self, folder, results): ...

    def see(self, event):
        import ray

        self.events.append(event)
        wanted = self.at.get(event.round) if isinstance(event, RoundStarted) else None
        for actor in ray.util.list_named_actors(all_namespaces=True) if wanted else ():
            if actor["name"] == wanted and "/run/" in actor["namespace"]:
                handle = ray.get_actor(actor["name"], actor["namespace"])
                os.kill(ray.get(handle.__ray_call__.remote(lambda _: os.getpid())), signal.SIGKILL)
                self.killed.append(wanted)


def test_however_clients_are_spread_and_whoever_is_killed_the_bits_are_the_same(undisturbed, ray_cluster, tmp_path):
    kills = Kills(round_2="host-000", round_3="evaluator")
    run_federation(tiny(*WORDS, "resources.clients_per_actor=3"), tmp_path / "run", watchers=[kills])
    assert kills.killed == ["host-000", "evaluator"]
    assert_same(tmp_path / "run", undisturbed)
    (lost,) = [event for event in kills.events if isinstance(event, ActorLost)]
    (noted,) = [event for event in kills.events if isinstance(event, Noted)]
    assert lost.actor == "host-000" and noted.message.endswith("trained again")
