"""Clients and the evaluator as Ray actors, one each; where they live, and what becomes of the run when one is lost."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

import ray
from ray.exceptions import RayError, RayTaskError
from ray.util.placement_group import get_current_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from raf_ray.algorithms.interface import Memory
from raf_ray.cluster.names import EVALUATOR, ray_name
from raf_ray.cluster.planner import ActorShares
from raf_ray.errors import RunError
from raf_ray.evaluation.scores import Scores
from raf_ray.federation.backend import ClientError, NodeError
from raf_ray.federation.hosts import ClientActor, EvaluatorActor, cause_of
from raf_ray.federation.spec import FederationSpec
from raf_ray.resolution import Size
from raf_ray.training.exchange import Down, Receipt, Up

log = logging.getLogger(__name__)

LONGEST_SHARE = 0.75
"""Clients that cost less than this share of the costliest let it go first where they share cores: a round ends
with its longest client, and on two cores a demo round is a tenth shorter so."""

STILL_WAITING_SECONDS = 60.0
"""After so long without news the log says who is waited for. Ray reports a death by itself."""

NODE_ANSWERS_SECONDS = 3.0

SHOWN = 8
"""Clients that an error names before it only counts them; run.log names all."""

Value = TypeVar("Value")


@dataclass(frozen=True)
class Arrival(Generic[Value]):
    """What a call to an actor came to."""

    actor: str
    value: Value


@dataclass(frozen=True)
class Failure:
    """How a call to an actor failed: by its own exception (RayTaskError), or because its process is gone."""

    actor: str
    error: RayError


@dataclass(frozen=True)
class Raylet:
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


class RayBackend:
    """The clients as Ray actors, one each, and an evaluator actor.

    `namespace`: of this federation alone, from `raf_ray.cluster.names.new_namespace`.
    """

    def __init__(self, spec: FederationSpec, shares: ActorShares, namespace: str) -> None:
        self._tiers = spec.tiers
        self._nodes: dict[str, Raylet] = {}
        self._begun = 0
        """Rounds that training has begun of."""
        self._evaluator = EvaluatorActor.options(
            name=EVALUATOR,
            namespace=namespace,
            num_cpus=shares.evaluator_cpus,
            num_gpus=shares.evaluator_gpus or None,
            **_bundle(1),
        ).remote(partial(spec.make_scorer, shares.evaluator_gpus > 0))
        self._clients = {
            client.name: ClientActor.options(
                name=ray_name(client.name),
                namespace=namespace,
                num_cpus=shares.client_cpus,
                num_gpus=shares.client_gpus or None,
                **_bundle(2 + number),
            ).remote(client.name, client.make)
            for number, client in enumerate(spec.clients)
        }
        longest = max(client.cost for client in spec.clients)
        building = {
            self._clients[client.name].build.remote(client.cost < LONGEST_SHARE * longest): client.name
            for client in spec.clients
        }
        # The evaluator is built while the first round trains; its first scoring waits for it.
        self._building_evaluator = {self._evaluator.build.remote(): EVALUATOR}
        self._check_built(building)
        for node in dict.fromkeys(self._nodes[name] for name in self._clients):
            log.info("on node %s: %s", node.address, ", ".join(self._living_on(node)))

    def publish(self, down: Down) -> object:
        return ray.put(down)

    def train(self, down: object, round_index: int, clients: Sequence[str]) -> Iterator[tuple[Up, Receipt]]:
        self._begun = round_index + 1
        task = f"train round {self._begun}"
        calls = {self._clients[name].train.options(name=task).remote(down, round_index): name for name in clients}
        came: Arrival[tuple[Up, Receipt]] | Failure
        for came in self._arrivals(calls):
            if isinstance(came, Failure):
                raise self._sentence(came, round_index)
            yield came.value

    def submit_score(self, down: object, split: str, sizes: Sequence[Size], sample_sizes: Sequence[Size]) -> object:
        self._check_built(self._building_evaluator)
        return self._evaluator.score.options(name=f"score {split}").remote(down, split, sizes, sample_sizes)

    def collect_score(self, pending: object, wait: bool) -> Scores | None:
        if not wait and not ray.wait([pending], timeout=0)[0]:
            return None
        scores: Scores = self._value({pending: EVALUATOR})
        return scores

    def memory(self, client: str) -> Memory:
        memory: Memory = self._value({self._clients[client].memory.remote(): client})
        return dict(memory)

    def restore(self, client: str, memory: Memory) -> None:
        self._value({self._clients[client].restore.remote(memory): client})

    def close(self) -> None:
        for actor in (*self._clients.values(), self._evaluator):
            ray.kill(actor)

    def _check_built(self, building: dict[object, str]) -> None:
        """Wait until these are built, and note where they live. Raises RunError where one cannot be."""
        homes: dict[str, str] = {}
        came: Arrival[str] | Failure
        for came in self._arrivals(building):
            if isinstance(came, Failure):
                raise self._sentence(came, what="could not start") from came.error
            homes[came.actor] = came.value
        known = {node["NodeID"]: Raylet(node["NodeManagerAddress"], node["NodeManagerPort"]) for node in ray.nodes()}
        self._nodes.update({name: known[home] for name, home in homes.items()})

    def _value(self, call: dict[object, str]) -> Any:
        """What one call gives. Raises RunError where it fails."""
        (came,) = self._arrivals(call)
        if isinstance(came, Failure):
            raise self._sentence(came) from came.error
        return came.value

    def _arrivals(self, calls: dict[object, str]) -> Iterator[Arrival[Any] | Failure]:
        """What calls (reference -> actor) come to, as they finish. Takes them out of `calls`, so that results are
        freed."""
        while calls:
            ready, _ = ray.wait(list(calls), num_returns=1, timeout=STILL_WAITING_SECONDS)
            if not ready:
                log.info("still waiting for %s", ", ".join(list(calls.values())[:5]))
                continue
            reference = ready[0]
            name = calls.pop(reference)
            try:
                came: Arrival[Any] | Failure = Arrival(name, ray.get(reference))
            except RayError as error:
                came = Failure(name, error)
            del ready, reference
            yield came

    def _sentence(self, failure: Failure, round_index: int | None = None, what: str = "failed") -> RunError:
        """The failure in one sentence: the actor's own, or the node that was lost and all who lived there."""
        name, error = failure.actor, failure.error
        node = self._nodes.get(name)
        if node is not None and not isinstance(error, RayTaskError) and not node.answers():
            return self._lost_node(node, round_index, error)
        if name not in self._tiers:
            return _lost(RunError(f"the {name} {what}: {cause_of(error)}"), name, error)
        tier = self._tiers[name]
        if round_index is None:
            return _lost(RunError(f"client {name} (tier {tier}) {what}: {cause_of(error)}"), name, error)
        return _lost(ClientError(name, tier, round_index, cause_of(error)), name, error)

    def _lost_node(self, node: Raylet, round_index: int | None, error: Exception) -> NodeError:
        names = self._living_on(node)
        told = [f"{name} (tier {self._tiers[name]})" if name in self._tiers else name for name in names]
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

    def _living_on(self, node: Raylet) -> list[str]:
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
