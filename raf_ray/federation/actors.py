"""Ray actors, each a thin shell over a plain class, and the pool of client actors.

Actors are made by the driver actor, so they end with it, and it ends with the command.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import OutOfMemoryError, RayError, RayTaskError
from ray.util.placement_group import get_current_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from raf_ray.algorithms.interface import Memory
from raf_ray.errors import RunError
from raf_ray.federation.actor_log import ActorLog
from raf_ray.federation.messages import Event, Scores
from raf_ray.federation.meters import Meters, metered
from raf_ray.federation.names import EVALUATOR, ray_name
from raf_ray.federation.pool import ClientError, MakeClient, MakeScore, Member, NodeError, Score, told
from raf_ray.training.client import Client
from raf_ray.training.exchange import Down, Receipt, Up

if TYPE_CHECKING:
    from raf_ray.federation.driver import Federation

log = logging.getLogger(__name__)

LONGEST_SHARE = 0.75
"""Clients that cost less than this share of the costliest let it go first where they share cores: a round ends
with its longest client, and on two cores a demo round is a tenth shorter so."""

STILL_WAITING_SECONDS = 60.0
"""After so long without news the log says who is waited for. Ray reports a death by itself."""

NODE_ANSWERS_SECONDS = 3.0
LONGEST_CAUSE = 300
"""Characters of Ray's words in a sentence; run.log has them whole."""

SHOWN = 8
"""Clients that an error names before it only counts them; run.log names all."""


class ClientHost:
    """One client; see `raf_ray.training.client.Client`."""

    def __init__(self, name: str, make: MakeClient) -> None:
        self._name = name
        self._make = make
        self._client: Client | None = None
        self._memory: Memory | None = None

    def __repr__(self) -> str:
        return ray_name(self._name)

    def build(self, yields: bool) -> str:
        """Build the client: here and not in the constructor, whose exceptions Ray reports as a death.

        `yields`: leave the cores to longer clients while they want them. Returns the id of the node it lives on.
        """
        if yields:
            os.nice(19)
        self._log = ActorLog.install(self._name)
        self._client = self._make()
        log.info("built, with %d people", len(self._client.task))
        return _this_node()

    def train(self, down: Down, round_index: int) -> tuple[Up, Receipt]:
        assert self._client is not None
        self._log.doing = f"round {round_index + 1}"
        log.info("training")
        up, receipt, self._memory = self._client.train(down, round_index, self._memory)
        log.info(
            "trained on %d people in %.1f s, loss %.5g, update norm %.4g, peak memory %.0f MB (%s)",
            receipt.people, receipt.seconds, receipt.loss, receipt.norm, receipt.peak_memory_mb, receipt.device,
        )  # fmt: skip
        return up, receipt

    def memory(self) -> Memory:
        assert self._memory is not None
        return self._memory

    def restore(self, memory: Memory) -> None:
        self._memory = memory


class EvaluatorHost:
    """Scores models while the next round trains."""

    def __init__(self, make: MakeScore) -> None:
        self._make = make
        self._score: Score | None = None

    def __repr__(self) -> str:
        return EVALUATOR

    def build(self) -> str:
        """Build the scorer; it leaves the cores to the clients while they want them. Returns its node's id."""
        os.nice(19)
        ActorLog.install(EVALUATOR)
        self._score = self._make()
        return _this_node()

    def score(self, down: Down, split: str, sizes: Sequence[str], sample_sizes: Sequence[str]) -> Scores:
        assert self._score is not None
        scores = self._score(down.state, split, sizes, sample_sizes)
        log.info("scored %d %s people: %s", scores.people, split, scores.by_resolution)
        return scores


class DriverHost:
    """Runs the rounds. A second thread hears `stop` while `run` works."""

    def __init__(self, make: Callable[[], Federation]) -> None:
        self._federation = make()

    def __repr__(self) -> str:
        return "driver"

    def run(self) -> Iterator[Event]:
        yield from metered(self._federation.run(), Meters(self._federation.facts["name"]))

    def stop(self, seconds: float) -> bool:
        """End the run in order; True where its folder says so within `seconds`."""
        return self._federation.stop(seconds)


ClientActor: Any = ray.remote(max_restarts=0, max_task_retries=0)(ClientHost)
EvaluatorActor: Any = ray.remote(max_restarts=0, max_task_retries=0)(EvaluatorHost)
DriverActor: Any = ray.remote(max_restarts=0, max_task_retries=0, max_concurrency=2)(DriverHost)


@dataclass(frozen=True)
class ActorShares:
    """What each actor asks the cluster for."""

    client_cpus: float
    client_gpus: float
    evaluator_cpus: float
    evaluator_gpus: float


@dataclass(frozen=True)
class Node:
    """A node of the cluster and its raylet's port."""

    address: str
    port: int

    def answers(self) -> bool:
        """Whether its raylet still listens. Ray itself notices a lost node only after missed health checks."""
        try:
            socket.create_connection((self.address, self.port), timeout=NODE_ANSWERS_SECONDS).close()
        except OSError:
            return False
        return True


class RayPool:
    """The clients as Ray actors, one each, and an evaluator actor.

    `namespace`: of this federation alone, from `raf_ray.federation.names.new_namespace`.
    """

    def __init__(self, members: Sequence[Member], make_score: MakeScore, shares: ActorShares, namespace: str) -> None:
        self._members = {member.name: member for member in members}
        self._nodes: dict[str, Node] = {}
        self._begun = 0
        """Rounds that training has begun of."""
        self._evaluator = EvaluatorActor.options(
            name=EVALUATOR,
            namespace=namespace,
            num_cpus=shares.evaluator_cpus,
            num_gpus=shares.evaluator_gpus or None,
            **_bundle(1),
        ).remote(make_score)
        self._clients = {
            member.name: ClientActor.options(
                name=ray_name(member.name),
                namespace=namespace,
                num_cpus=shares.client_cpus,
                num_gpus=shares.client_gpus or None,
                **_bundle(2 + number),
            ).remote(member.name, member.make)
            for number, member in enumerate(members)
        }
        longest = max(member.cost for member in members)
        building = {
            self._clients[member.name].build.remote(member.cost < LONGEST_SHARE * longest): member.name
            for member in members
        }
        # The evaluator is built while the first round trains; its first scoring waits for it.
        self._building_evaluator = {self._evaluator.build.remote(): EVALUATOR}
        self._check_built(building)
        for node in dict.fromkeys(self._nodes[name] for name in self._clients):
            log.info("on node %s: %s", node.address, ", ".join(self._living_on(node)))

    def publish(self, down: Down) -> Any:
        return ray.put(down)

    def train(self, down: Any, round_index: int, clients: Sequence[str]) -> Iterator[tuple[Up, Receipt]]:
        self._begun = round_index + 1
        task = f"train round {self._begun}"
        calls = {self._clients[name].train.options(name=task).remote(down, round_index): name for name in clients}
        for name, result in self._arrivals(calls):
            if isinstance(result, Exception):
                raise self._failure(name, result, round_index)
            yield result

    def submit_score(self, down: Any, split: str, sizes: Sequence[str], sample_sizes: Sequence[str]) -> Any:
        self._check_built(self._building_evaluator)
        return self._evaluator.score.options(name=f"score {split}").remote(down, split, sizes, sample_sizes)

    def collect_score(self, pending: Any, wait: bool) -> Scores | None:
        if not wait and not ray.wait([pending], timeout=0)[0]:
            return None
        for _, result in self._arrivals({pending: EVALUATOR}):
            if isinstance(result, Exception):
                raise self._failure(EVALUATOR, result) from result
            return result
        raise AssertionError("unreachable: a pending reference always arrives")

    def memory(self, client: str) -> Memory:
        ((name, memory),) = self._arrivals({self._clients[client].memory.remote(): client})
        if isinstance(memory, Exception):
            raise self._failure(name, memory)
        return dict(memory)

    def restore(self, client: str, memory: Memory) -> None:
        for name, error in self._arrivals({self._clients[client].restore.remote(memory): client}):
            if isinstance(error, Exception):
                raise self._failure(name, error)

    def close(self) -> None:
        for actor in (*self._clients.values(), self._evaluator):
            ray.kill(actor)

    def _check_built(self, building: dict[Any, str]) -> None:
        """Wait until these are built, and note where they live. Raises RunError where one cannot be."""
        homes: dict[str, str] = {}
        for name, result in self._arrivals(building):
            if isinstance(result, Exception):
                raise self._failure(name, result, what="could not start") from result
            homes[name] = result
        known = {node["NodeID"]: Node(node["NodeManagerAddress"], node["NodeManagerPort"]) for node in ray.nodes()}
        self._nodes.update({name: known[home] for name, home in homes.items()})

    def _arrivals(self, calls: dict[Any, str]) -> Iterator[tuple[str, Any]]:
        """(name, result or exception) as calls finish. Takes them out of `calls`, so that results are freed."""
        while calls:
            ready, _ = ray.wait(list(calls), num_returns=1, timeout=STILL_WAITING_SECONDS)
            if not ready:
                log.info("still waiting for %s", ", ".join(list(calls.values())[:5]))
                continue
            reference = ready[0]
            name = calls.pop(reference)
            result: Any
            try:
                result = ray.get(reference)
            except RayError as error:
                result = error
            del ready, reference
            yield name, result

    def _failure(self, name: str, error: Exception, round_index: int | None = None, what: str = "failed") -> RunError:
        """The error in one sentence: the actor's own, or the node that was lost and all who lived there."""
        node = self._nodes.get(name)
        if node is not None and not isinstance(error, RayTaskError) and not node.answers():
            return self._lost_node(node, round_index, error)
        if name not in self._members:
            return _lost(RunError(f"the {name} {what}: {cause_of(error)}"), name, error)
        tier = self._members[name].tier
        if round_index is None:
            return _lost(RunError(f"client {name} (tier {tier}) {what}: {cause_of(error)}"), name, error)
        return _lost(ClientError(name, tier, round_index, cause_of(error)), name, error)

    def _lost_node(self, node: Node, round_index: int | None, error: Exception) -> NodeError:
        names = self._living_on(node)
        told = [f"{name} (tier {self._members[name].tier})" if name in self._members else name for name in names]
        more = f" and {len(told) - SHOWN} more" if len(told) > SHOWN else ""
        after = f" after round {self._begun}" if self._begun else ""
        when = after if round_index is None else f" in round {round_index + 1}"
        failure = NodeError(
            f"node {node.address} was lost{when}, and with it {', '.join(told[:SHOWN])}{more}; --resume goes on "
            "once the cluster has room for all clients again",
            details=f"{', '.join(told)}\n{error}",
        )
        failure.lost = tuple(names)
        return failure

    def _living_on(self, node: Node) -> list[str]:
        return sorted(name for name, place in self._nodes.items() if place == node)


def _lost(failure: RunError, name: str, error: Exception) -> RunError:
    """The same with Ray's own words; saying that the actor is lost where its process is gone."""
    failure.details = str(error)
    if not isinstance(error, RayTaskError):
        failure.lost = (name,)
    return failure


def _bundle(index: int) -> dict[str, Any]:
    """Options that place an actor in a bundle of this process's placement group, where it lives in one.

    A trial of a search has one: the driver's bundle, the evaluator's, one for each client. Without the index an
    actor could take a larger actor's bundle, and that one would wait for ever.
    """
    group = get_current_placement_group()
    if group is None:
        return {}
    return {"scheduling_strategy": PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=index)}


def _this_node() -> str:
    return str(ray.get_runtime_context().get_node_id())


def cause_of(error: Exception) -> str:
    """One line: the task's own exception, or how the actor died."""
    if isinstance(error, RayTaskError):
        return told(getattr(error, "cause", None))
    lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    # Ray tells where, indented, and below it why; of a lack of memory, why first and then advice.
    last = max((number for number, line in enumerate(lines) if line[0].isspace()), default=-1)
    why = " ".join(
        " ".join(lines[:2] if isinstance(error, OutOfMemoryError) else lines[last + 1 :] or lines[-1:]).split()
    )
    return f"its process died ({why if len(why) <= LONGEST_CAUSE else why[:LONGEST_CAUSE] + ' ...'})"
