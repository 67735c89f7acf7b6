"""Where clients and the evaluator live: here in this process, one after the other, or as Ray actors.

Both run the same `Client` and scorer, so they give the same bits.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Protocol

from raf_ray.algorithms.interface import Memory
from raf_ray.errors import RunError, described
from raf_ray.evaluation.scores import Scores
from raf_ray.federation.spec import FederationSpec
from raf_ray.resolution import Size
from raf_ray.training.exchange import Down, Receipt, Up


class ClientError(RunError):
    """A client could not finish its round; the message names it, its tier, the round and the cause."""

    def __init__(self, client: str, tier: str, round_index: int, cause: str, details: str = "") -> None:
        super().__init__(f"client {client} (tier {tier}) failed in round {round_index + 1}: {cause}")
        self.details = details


class NodeError(RunError):
    """A node of the cluster was lost; the message names it and who lived there."""

    def __init__(self, message: str, details: str) -> None:
        super().__init__(message)
        self.details = details


class Backend(Protocol):
    """What the driver asks of a place where clients live."""

    def publish(self, down: Down) -> object:
        """Make a state readable by all; what it returns is passed to `train` and `submit_score`."""

    def train(self, down: object, round_index: int, clients: Sequence[str]) -> Iterator[tuple[Up, Receipt]]:
        """Train the named clients; updates come as they are ready. Raises ClientError."""

    def submit_score(self, down: object, split: str, sizes: Sequence[Size], sample_sizes: Sequence[Size]) -> object:
        """Begin to score a state; `collect_score` takes what this returns."""

    def collect_score(self, pending: object, wait: bool) -> Scores | None:
        """The scores, or None where they are not ready and `wait` is false."""

    def memory(self, client: str) -> Memory:
        """What a client that has trained keeps, for a checkpoint."""

    def restore(self, client: str, memory: Memory) -> None:
        """Give a client back what `memory` returned."""

    def close(self) -> None: ...


class InProcessBackend:
    """The clients one after the other in this process: for a debugger, and as the reference for Ray."""

    def __init__(self, spec: FederationSpec) -> None:
        self._tiers = spec.tiers
        self._clients = {client.name: client.make() for client in spec.clients}
        self._memories: dict[str, Memory] = {}
        self._score = spec.make_scorer(True)

    def publish(self, down: Down) -> Down:
        state = down.state.copy()
        state.setflags(write=False)
        return replace(down, state=state)

    def train(self, down: object, round_index: int, clients: Sequence[str]) -> Iterator[tuple[Up, Receipt]]:
        assert isinstance(down, Down)
        for name in clients:
            try:
                client = self._clients[name]
                up, receipt, self._memories[name] = client.train(down, round_index, self._memories.get(name))
                yield up, receipt
            except Exception as error:  # whatever a client's own code raises
                details = traceback.format_exc()
                raise ClientError(name, self._tiers[name], round_index, described(error), details) from error

    def submit_score(self, down: object, split: str, sizes: Sequence[Size], sample_sizes: Sequence[Size]) -> Scores:
        assert isinstance(down, Down)
        return self._score(down.state, split, sizes, sample_sizes)

    def collect_score(self, pending: object, wait: bool) -> Scores:
        assert isinstance(pending, Scores)
        return pending

    def memory(self, client: str) -> Memory:
        return self._memories[client]

    def restore(self, client: str, memory: Memory) -> None:
        self._memories[client] = memory

    def close(self) -> None:
        self._clients.clear()
