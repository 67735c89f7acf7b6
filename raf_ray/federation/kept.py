"""What clients keep between rounds, as references that follow them; made again where it was lost with a node."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import ray
from ray.exceptions import ObjectLostError

from raf_ray.algorithms.interface import Memory
from raf_ray.errors import RunError
from raf_ray.federation.backend import Recall
from raf_ray.federation.host import Turn

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Source:
    """All that a client's round was made from: the same call gives the same again."""

    down: Any
    round_index: int
    turn: Turn
    weigher: Any
    prior: Any
    """Reference to what the client kept before; None: nothing"""
    prior_round: int | None
    before: Source | None
    """What that was made from, where it is not on disk either"""


@dataclass(frozen=True)
class Held:
    """What one client keeps at some time, whatever it keeps later."""

    client: str
    reference: Any
    """None: nothing"""
    done: int | None
    """Round after which it kept it"""
    source: Source | None
    """See `Kept`"""


class Kept:
    """Client -> what it keeps.

    Until that is on disk, the states that it was made from stay in memory: those of the rounds since the last
    checkpoint.
    """

    def __init__(self, recall: Recall, again: Callable[[Source, Any], Any]) -> None:
        """`again`: trains a client once more, from what it kept before; a reference to what it keeps then."""
        self._recall, self._again = recall, again
        self._references: dict[str, Any] = {}
        self._rounds: dict[str, int] = {}
        """Client -> round after which it kept that"""
        self._sources: dict[str, Source] = {}
        """Of what is not on disk yet"""

    def reference(self, client: str) -> Any:
        """None: it keeps nothing."""
        return self._references.get(client)

    def held(self, client: str) -> Held:
        """What it keeps now."""
        return Held(client, self.reference(client), self._rounds.get(client), self._sources.get(client))

    def there_again(self, held: Held) -> Held:
        """The same, made again where it was lost. Raises RunError where that cannot be."""
        if held.reference is None or _is_there(held.reference):
            return held
        return replace(held, reference=self._made_again(held))

    def source(self, client: str, down: Any, round_index: int, turn: Turn, weigher: Any) -> Source:
        """Of a round that a client is about to train."""
        prior, done, before = self.reference(client), self._rounds.get(client), self._sources.get(client)
        return Source(down, round_index, turn, weigher, prior, done, before)

    def put(self, client: str, reference: Any, source: Source) -> None:
        """It keeps something from its round."""
        self._references[client], self._sources[client] = reference, source
        self._rounds[client] = source.round_index + 1

    def restore(self, client: str, memory: Memory, done: int) -> None:
        """It kept this after round `done`, and it is on disk."""
        self._references[client], self._rounds[client] = ray.put(memory), done
        self._sources.pop(client, None)

    def drop(self, client: str) -> None:
        for column in (self._references, self._rounds, self._sources):
            column.pop(client, None)

    def value(self, client: str) -> Memory:
        """For a checkpoint: from now on it is on disk. Raises RunError where it is lost for good."""
        try:
            memory = dict(ray.get(self._references[client]))
        except ObjectLostError:
            self.recover([client])
            memory = dict(ray.get(self._references[client]))
        self._sources.pop(client, None)
        return memory

    def recover(self, clients: Sequence[str]) -> None:
        """Make again what of these clients' is lost. Raises RunError where that cannot be."""
        for client in clients:
            try:
                ray.get(self._references[client])
            except ObjectLostError:
                log.warning("what client %s keeps was lost with its node; it is made again", client)
                self._references[client] = self._made_again(self.held(client))

    def _made_again(self, held: Held) -> Any:
        client = held.client
        saved = self._recall(client)

        def after(done: int | None, source: Source | None) -> Any:
            """What it kept after round `done`, made from `source`."""
            if saved is not None and saved[0] == done:
                return ray.put(saved[1])
            if source is None:
                raise _gone(client)
            prior = source.prior
            if prior is not None and not _is_there(prior):
                prior = after(source.prior_round, source.before)
            return self._again(source, prior)

        return after(held.done, held.source)


def _is_there(reference: Any) -> bool:
    try:
        ray.get(reference)
    except ObjectLostError:
        return False
    return True


def _gone(client: str) -> RunError:
    return RunError(
        f"what client {client} keeps was lost with its node and is not on disk; --resume goes on from the last "
        "checkpoint"
    )
