"""Where clients and the evaluator live: here in this process, one after the other, or as Ray actors.

Both train by the same `Host` and score by the same scorer, so they give the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from raf_ray.algorithms.interface import PRIVATE, Memory
from raf_ray.errors import RunError
from raf_ray.evaluation.own import OwnModel, OwnSizes
from raf_ray.evaluation.scores import Scores
from raf_ray.federation.aggregation import Weigher
from raf_ray.federation.host import Host, Trained, Turn
from raf_ray.federation.spec import ClientInfo, FederationSpec
from raf_ray.resolution import Size
from raf_ray.training.exchange import Down

Recall = Callable[[str], tuple[int, Memory] | None]
"""Client -> (round, what it kept after it) as it is on disk; None: nothing is."""


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


@dataclass(frozen=True)
class Lost:
    """An actor's process is gone; what it was at is begun again elsewhere."""

    actor: str
    tier: str
    """The client's, where it holds one; else empty"""
    message: str


def own_models(sizes: OwnSizes, memories: Sequence[Memory | None]) -> list[OwnModel]:
    """The clients' own models, from what each keeps; None: it has not trained yet."""
    pairs = zip(sizes.items(), memories, strict=True)
    return [OwnModel(client, at, memory[PRIVATE] if memory else None) for (client, at), memory in pairs]


@dataclass(frozen=True)
class Group:
    """Clients of a round that train from one state."""

    down: object
    """As it was published"""
    start: int
    """Rounds that made it, which their draws come from"""
    clients: Sequence[ClientInfo]
    weigher: Weigher
    """Gives each its part of the mean"""


class Backend(Protocol):
    """What the driver asks of a place where clients live."""

    def publish(self, down: Down) -> object:
        """Make a state readable by all; what it returns is passed to `train` and `submit_score`."""

    def train(self, groups: Sequence[Group]) -> Iterator[Trained | Lost]:
        """Train clients, none of them in two groups; answers, each of clients of one, come as they are ready.

        Raises RunError where a client cannot be trained.
        """

    def submit_score(self, down: object, split: str, sizes: Sequence[Size], sample_sizes: Sequence[Size]) -> object:
        """Begin to score a state, or clients' own models of it as they are now, for `collect_score`."""

    def collect_score(self, pending: object, wait: bool) -> Scores | None:
        """The scores, or None where they are not ready and `wait` is false."""

    def memory(self, client: str) -> Memory:
        """What a client that has trained keeps, for a checkpoint."""

    def restore(self, client: str, memory: Memory, done: int) -> None:
        """Give a client back what `memory` returned after round `done`."""

    def close(self) -> None: ...


class InProcessBackend:
    """The clients one after the other in this process: for a debugger, and as the reference for Ray."""

    def __init__(self, spec: FederationSpec) -> None:
        self._go_on = spec.rounds.drops_failed
        self._host = Host(spec.clients.open, spec.hosts.cache_mb)
        self._memories: dict[str, Memory] = {}
        self._score = spec.make_scorer(True)
        self._own_sizes = spec.rounds.own_sizes

    def publish(self, down: Down) -> Down:
        state = down.state.copy()
        state.setflags(write=False)
        return replace(down, state=state)

    def train(self, groups: Sequence[Group]) -> Iterator[Trained]:
        for group in groups:
            assert isinstance(group.down, Down)
            for client in group.clients:
                memory = self._memories.get(client.name)
                turn = Turn(client.name, client.number, client.people)
                trained, (kept,) = self._host.train(
                    group.down, group.start, [turn], [memory], group.weigher, self._go_on
                )
                if trained.receipts:
                    self._memories[client.name] = kept
                yield trained

    def submit_score(self, down: object, split: str, sizes: Sequence[Size], sample_sizes: Sequence[Size]) -> Scores:
        assert isinstance(down, Down)
        own = own_models(self._own_sizes, [self._memories.get(client) for client in self._own_sizes])
        return self._score(down.state, split, sizes, sample_sizes, own)

    def collect_score(self, pending: object, wait: bool) -> Scores:
        assert isinstance(pending, Scores)
        return pending

    def memory(self, client: str) -> Memory:
        return self._memories[client]

    def restore(self, client: str, memory: Memory, done: int) -> None:
        self._memories[client] = memory

    def close(self) -> None: ...
