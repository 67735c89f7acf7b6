"""However clients are spread over hosts, whatever the method and the cohort, the bits are the same."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from raf_ray import algorithms
from raf_ray.config import Config
from raf_ray.federation.aggregation import Weigher
from raf_ray.federation.backend import InProcessBackend
from raf_ray.federation.driver import Federation
from raf_ray.federation.host import Host, Trained, Turn
from raf_ray.federation.spec import ClientInfo, FederationSpec
from raf_ray.request.assembly import federation_spec, prepare
from raf_ray.runs.folder import RunFolder
from tests.tiny import tiny

WORDS = ("federation.engine=in_process", "federation.clients={high: 2, mid: 2, low: 1}", "federation.rounds=3",
         "evaluation.every=3", "data.people_per_client=8", "optimizer.reset_each_round=false",
         "federation.participation=0.8")  # fmt: skip


class Spread(InProcessBackend):
    """Hosts that each train a part of the cohort, in an order that changes, and answer with one sum."""

    def __init__(self, spec: FederationSpec, hosts: int) -> None:
        super().__init__(spec)
        self._hosts = [Host(spec.clients.open, spec.hosts.cache_mb) for _ in range(hosts)]

    def train(
        self, down: object, round_index: int, cohort: Sequence[ClientInfo], weigher: Weigher
    ) -> Iterator[Trained]:
        order = np.random.default_rng(round_index).permutation(len(cohort))
        for number, part in enumerate(np.array_split(order, len(self._hosts))):
            turns = [Turn(cohort[i].name, cohort[i].number, cohort[i].people) for i in part]
            host = self._hosts[(number + round_index) % len(self._hosts)]
            kept = [self._memories.get(turn.client) for turn in turns]
            trained, memories = host.train(down, round_index, turns, kept, weigher, False)  # type: ignore[arg-type]
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
    config = tiny(*WORDS, f"algorithm.name={method}")
    reference = weights(config, tmp_path / "alone", None)
    for hosts in (1, 2, 5):
        found = weights(config, tmp_path / str(hosts), hosts)
        assert all(torch.equal(found[name], reference[name]) for name in reference)
