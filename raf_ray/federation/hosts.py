"""Ray actors, each a thin shell over a plain class. They end with the driver actor, which ends with the command."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import ray
from ray.exceptions import OutOfMemoryError, RayTaskError

from raf_ray.algorithms.interface import Memory
from raf_ray.cluster.names import EVALUATOR, ray_name
from raf_ray.errors import described
from raf_ray.evaluation.own import OwnSizes
from raf_ray.evaluation.scores import ScoreModel, Scores
from raf_ray.federation.actor_log import ActorLog
from raf_ray.federation.aggregation import Weigher
from raf_ray.federation.backend import own_models
from raf_ray.federation.driver import Federation
from raf_ray.federation.events import Event
from raf_ray.federation.host import Host, Trained, Turn
from raf_ray.federation.meters import Meters, metered
from raf_ray.resolution import Size
from raf_ray.training.exchange import Down, OpenClient, Receipt

log = logging.getLogger(__name__)

LONGEST_CAUSE = 300
"""Characters of Ray's words in a sentence; run.log has them whole."""


class ClientHost:
    """One client or several; see `raf_ray.federation.host.Host`."""

    def __init__(self, name: str, make: OpenClient, cache_mb: float) -> None:
        self._name = name
        self._host = Host(make, cache_mb)

    def __repr__(self) -> str:
        return ray_name(self._name)

    def build(self, first: int, yields: bool) -> str:
        """Build a client, by its number: here and not in the constructor, whose exceptions Ray reports as a death.

        `yields`: leave the cores to longer clients while they want them. Returns the id of the node it lives on.
        """
        if yields:
            os.nice(19)
        self._log = ActorLog.install(self._name)
        self._host.open(first)
        log.info("built")
        return this_node()

    def train(
        self,
        down: Down,
        round_index: int,
        turns: Sequence[Turn],
        weigher: Weigher,
        go_on: bool,
        *memories: Memory | None,
    ) -> tuple[Trained | Memory, ...]:
        """The answer, then what each client keeps: objects of their own, which follow the client."""

        def at(client: str) -> None:
            self._log.doing = f"{client + ' ' if client != self._name else ''}round {round_index + 1}"

        self._log.doing = f"round {round_index + 1}"
        log.info("training %s", ", ".join(turn.client for turn in turns))
        trained, kept = self._host.train(down, round_index, turns, memories, weigher, go_on, at)
        self._log.doing = f"round {round_index + 1}"
        # One record for all: Ray's log monitor reads each, which took a hundredth of two cores with small clients.
        if trained.receipts:
            log.info("trained %s", "; ".join(map(_told, trained.receipts)))
        return trained, *kept


def _told(receipt: Receipt) -> str:
    return (
        f"{receipt.client} on {receipt.people} people in {receipt.seconds:.1f} s, loss {receipt.loss:.5g}, update norm "
        f"{receipt.norm:.4g}, peak memory {receipt.peak_memory_mb:.0f} MB ({receipt.device})"
    )


class EvaluatorHost:
    """Scores models while the next round trains."""

    def __init__(self, make: Callable[[], ScoreModel]) -> None:
        self._make = make
        self._score: ScoreModel | None = None

    def __repr__(self) -> str:
        return EVALUATOR

    def build(self) -> str:
        """Build the scorer; it leaves the cores to the clients while they want them. Returns its node's id."""
        os.nice(19)
        ActorLog.install(EVALUATOR)
        self._score = self._make()
        return this_node()

    def score(
        self,
        down: Down,
        split: str,
        sizes: Sequence[Size],
        sample_sizes: Sequence[Size],
        own_sizes: OwnSizes,
        *memories: Memory | None,
    ) -> Scores:
        """`memories`: what each client of `own_sizes` keeps."""
        assert self._score is not None
        scores = self._score(down.state, split, sizes, sample_sizes, own_models(own_sizes, memories))
        log.info("scored %d %s people: %s", scores.people, split, scores.by_resolution)
        return scores


class DriverHost:
    """Runs the rounds. A second thread hears `stop` while `run` works."""

    def __init__(self, make: Callable[[], Federation]) -> None:
        self._federation = make()

    def __repr__(self) -> str:
        return "driver"

    def run(self) -> Iterator[Event]:
        yield from metered(self._federation.run(), Meters(self._federation.spec.facts["name"]))

    def stop(self, seconds: float) -> bool:
        """End the run in order; True where its folder says so within `seconds`."""
        return self._federation.stop(seconds)


ClientActor: Any = ray.remote(max_restarts=0, max_task_retries=0)(ClientHost)


EvaluatorActor: Any = ray.remote(max_restarts=0, max_task_retries=0)(EvaluatorHost)


DriverActor: Any = ray.remote(max_restarts=0, max_task_retries=0, max_concurrency=2)(DriverHost)


def this_node() -> str:
    return str(ray.get_runtime_context().get_node_id())


def cause_of(error: Exception) -> str:
    """One line: the task's own exception, or how the actor died."""
    if isinstance(error, RayTaskError):
        return described(getattr(error, "cause", None))
    lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    # Ray tells where, indented, and below it why; of a lack of memory, why first and then advice.
    last = max((number for number, line in enumerate(lines) if line[0].isspace()), default=-1)
    why = " ".join(
        " ".join(lines[:2] if isinstance(error, OutOfMemoryError) else lines[last + 1 :] or lines[-1:]).split()
    )
    return f"its process died ({why if len(why) <= LONGEST_CAUSE else why[:LONGEST_CAUSE] + ' ...'})"
