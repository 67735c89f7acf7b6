"""A backend whose clients are spread over several hosts in this process: all that Ray does but its actors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from raf_ray.federation.backend import Group, InProcessBackend
from raf_ray.federation.driver import Federation
from raf_ray.federation.host import Host, Trained, Turn
from raf_ray.federation.spec import FederationSpec
from raf_ray.runs.folder import RunFolder


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
                answer, memories = host.train(group.down, group.start, turns, kept, group.weigher, False)  # type: ignore[arg-type]
                self._memories |= {turn.client: memory for turn, memory in zip(turns, memories, strict=True)}
                yield answer


def trained(spec: FederationSpec, folder: Path, hosts: int | None) -> dict[str, torch.Tensor]:
    """A federation's model by so many hosts, or by one client at a time."""
    run = RunFolder(folder)
    run.create("", False)
    made = Federation(spec, lambda recall: InProcessBackend(spec) if hosts is None else Spread(spec, hosts), run)
    for _ in made.run():
        pass
    return torch.load(folder / "model.pt", weights_only=True)["model"]
