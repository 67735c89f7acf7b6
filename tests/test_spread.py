"""However clients are spread over hosts, whatever the method and the cohort, the bits are the same."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from raf_ray import algorithms
from raf_ray.config import Config
from raf_ray.federation.backend import Group, InProcessBackend
from raf_ray.federation.driver import Federation
from raf_ray.federation.host import Host, Trained, Turn
from raf_ray.federation.spec import FederationSpec
from raf_ray.request.assembly import federation_spec, prepare
from raf_ray.runs.folder import RunFolder
from tests.tiny import SMALL, tiny

WORDS = ("federation.engine=in_process", "federation.clients={high: 2, mid: 2, low: 1}", "federation.rounds=3",
         "evaluation.every=3", "data.people_per_client=8", "optimizer.reset_each_round=false", *SMALL)  # fmt: skip
SOME = ("federation.participation=0.8",)
BUFFERED = ("devices.profiles={high: phone, mid: camera, low: phone}", "federation.rounds=5",
            "algorithm.fedbuff.concurrency=4")  # fmt: skip


class Spread(InProcessBackend):
    """Hosts that each train a part of the cohort, in an order that changes, and answer with one sum."""

    def __init__(self, spec: FederationSpec, hosts: int) -> None:
        super().__init__(spec)
        self._hosts = [Host(spec.clients.open, spec.hosts.cache_mb) for _ in range(hosts)]

    def train(self, groups: Sequence[Group]) -> Iterator[Trained]:
        for group in groups:
            order = np.random.default_rng(group.start).permutation(len(group.clients))
            for number, part in enumerate(np.array_split(order, len(self._hosts))):
                clients = [group.clients[i] for i in part]
                turns = [Turn(client.name, client.number, client.people) for client in clients]
                host = self._hosts[(number + group.start) % len(self._hosts)]
                kept = [self._memories.get(turn.client) for turn in turns]
                trained, memories = host.train(group.down, group.start, turns, kept, group.weigher, False)  # type: ignore[arg-type]
                self._memories |= {turn.client: memory for turn, memory in zip(turns, memories, strict=True)}
                yield trained


def weights(config: Config, folder: Path, hosts: int | None) -> dict[str, torch.Tensor]:
    spec = federation_spec(prepare(config), "run")
    run = RunFolder(folder)
    run.create("", False)
    made = Federation(spec, lambda recall: InProcessBackend(spec) if hosts is None else Spread(spec, hosts), run)
    for _ in made.run():
        pass
    return torch.load(folder / "model.pt", weights_only=True)["model"]


@pytest.mark.parametrize("method", algorithms.built_in())
def test_one_two_and_five_hosts_give_the_bits_of_one_client_at_a_time(method, tmp_path):
    waits = algorithms.built_in()[method]().pace(5) is None
    config = tiny(*WORDS, *(SOME if waits else BUFFERED), f"algorithm.name={method}")
    reference = weights(config, tmp_path / "alone", None)
    for hosts in (1, 2, 5):
        found = weights(config, tmp_path / str(hosts), hosts)
        assert all(torch.equal(found[name], reference[name]) for name in reference)
