"""Clients in Ray actors and an evaluator actor; when a process dies, what it was at is begun again elsewhere."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray
from ray.exceptions import ObjectLostError, RayError

from raf_ray.algorithms.interface import Memory
from raf_ray.cluster.shares import ActorShares
from raf_ray.evaluation.scores import Scores
from raf_ray.federation.backend import Group, Lost, NodeError, Recall
from raf_ray.federation.crew import Crew
from raf_ray.federation.dispatch import Dispatch
from raf_ray.federation.host import Trained, Turn
from raf_ray.federation.kept import Held, Kept, Source
from raf_ray.federation.spec import ClientInfo, FederationSpec
from raf_ray.resolution import Size
from raf_ray.training.exchange import Down

NOWHERE = -1
"""Home of a client that has not trained yet"""


@dataclass(frozen=True)
class Call:
    """What a host was asked for."""

    host: int
    clients: list[str]
    memories: list[Any]
    """References to what each client keeps then"""
    sources: list[Source]
    """What each one's round is made from"""


@dataclass
class Scoring:
    """What the evaluator was asked for, so that it can be asked again."""

    down: object
    split: str
    sizes: tuple[Size, ...]
    sample_sizes: tuple[Size, ...]
    own: list[Held]
    """Of the clients whose own models are scored, in order"""
    reference: Any = None
    tries: int = 0


@dataclass
class Round:
    """One round under way."""

    groups: list[Group]
    weighers: list[Any]
    """Reference to the weigher of each"""
    of: dict[str, tuple[int, ClientInfo]]
    """Client -> place of its group, and what is known of it"""
    waiting: dict[str | None, Dispatch]
    """By the tier whose clients alone a host trains; None: any host trains any client"""
    calls: dict[Any, Call]
    tries: dict[str, int]
    """Client -> times that a process died in which it was trained"""


class RayBackend:
    """A `raf_ray.federation.backend.Backend` on a Ray cluster; see `Crew` for its arguments."""

    def __init__(self, spec: FederationSpec, shares: ActorShares, namespace: str, recall: Recall) -> None:
        """`recall`: what a client kept, as it is on disk."""
        self._spec, self._tiers = spec, spec.tiers
        self._kept = Kept(recall, self._again)
        self._homes = np.full(len(spec.clients), NOWHERE, np.int32)
        """(clients,) host where each trained last"""
        self._seconds = np.full(len(spec.clients), np.nan)
        """(clients,) of each one's last round"""
        self._crew = Crew(spec, shares, namespace)

    def publish(self, down: Down) -> object:
        return ray.put(down)

    def train(self, groups: Sequence[Group]) -> Iterator[Trained | Lost]:
        self._crew.begun = max(group.start for group in groups) + 1
        hosts = self._crew.hosts
        now = Round(
            groups=list(groups),
            weighers=[ray.put(group.weigher) for group in groups],
            of={client.name: (place, client) for place, group in enumerate(groups) for client in group.clients},
            waiting=self._dispatches(groups),
            calls={},
            tries={},
        )
        while True:
            busy = {call.host for call in now.calls.values()}
            for number, host in enumerate(hosts):
                waiting = now.waiting.get(host.share.tier)
                if host.alive and number not in busy and waiting and (clients := waiting.next(number)):
                    self._call(now, number, clients)
            if not now.calls and not any(now.waiting.values()):
                return
            for reference in self._crew.wait(list(now.calls)):
                call = now.calls.pop(reference)
                try:
                    trained: Trained = ray.get(reference)
                except ObjectLostError:  # of what a client keeps, which was on a node that is gone
                    self._kept.recover([client for client in call.clients if self._kept.reference(client) is not None])
                    now.waiting[hosts[call.host].share.tier].put_back(call.host, call.clients)
                    continue
                except RayError as error:
                    yield self._lost(now, call, error)
                    continue
                self._keep(call, trained)
                yield trained

    def submit_score(self, down: object, split: str, sizes: Sequence[Size], sample_sizes: Sequence[Size]) -> object:
        own = [self._kept.held(client) for client in self._spec.rounds.own_sizes]
        scoring = Scoring(down, split, tuple(sizes), tuple(sample_sizes), own)
        self._score(scoring)
        return scoring

    def collect_score(self, pending: object, wait: bool) -> Scores | None:
        assert isinstance(pending, Scoring)
        while wait or ray.wait([pending.reference], timeout=0)[0]:
            try:
                scores: Scores = ray.get(pending.reference)
                return scores
            except ObjectLostError:  # of what a client keeps, which was on a node that is gone
                pending.own = [self._kept.there_again(held) for held in pending.own]
                self._score(pending)
            except RayError as error:
                pending.tries += 1
                self._crew.mourn_evaluator(error, pending.tries)
                self._score(pending)
        return None

    def memory(self, client: str) -> Memory:
        try:
            return self._kept.value(client)
        except RayError as error:
            raise self._crew.sentence(client, error, None) from error

    def restore(self, client: str, memory: Memory, done: int) -> None:
        self._kept.restore(client, memory, done)

    def close(self) -> None:
        self._crew.close()

    def _dispatches(self, groups: Sequence[Group]) -> dict[str | None, Dispatch]:
        """Who trains whom, for each kind of host that has clients in the cohort."""
        cohort = [client for group in groups for client in group.clients]
        of = {client.name: place for place, group in enumerate(groups) for client in group.clients}
        costs, homes = self._costs(cohort), self._homes_of(cohort)
        kinds = {host.share.tier for host in self._crew.hosts}
        found = {}
        for kind in kinds:
            hosts = [number for number, host in enumerate(self._crew.hosts) if host.share.tier == kind]
            living = [number for number in hosts if self._crew.hosts[number].alive]
            own = {client.name: costs[client.name] for client in cohort if kind in (None, client.tier)}
            if own:
                found[kind] = Dispatch(own, living or hosts, homes, of)
        return found

    def _costs(self, cohort: Sequence[ClientInfo]) -> dict[str, float]:
        """Client -> expected seconds of its round: its last one's, or from its pixels at the others' pace."""
        numbers = [client.number for client in cohort]
        known, cost = ~np.isnan(self._seconds), self._spec.clients.cost
        pace = self._seconds[known].sum() / cost[known].sum() if known.any() else 1.0
        costs = np.where(known[numbers], self._seconds[numbers], cost[numbers] * pace)
        return {client.name: seconds for client, seconds in zip(cohort, costs.tolist(), strict=True)}

    def _homes_of(self, cohort: Sequence[ClientInfo]) -> dict[str, int]:
        """Client -> host where it trained last, of those that did."""
        return {client.name: int(home) for client in cohort if (home := self._homes[client.number]) != NOWHERE}

    def _call(self, now: Round, number: int, clients: list[str]) -> None:
        place, infos = now.of[clients[0]][0], [now.of[client][1] for client in clients]
        group, weigher = now.groups[place], now.weighers[place]
        sources = [
            self._kept.source(info.name, group.down, group.start, Turn(info.name, info.number, info.people), weigher)
            for info in infos
        ]
        answer, *memories = self._train(number, sources, [source.prior for source in sources])
        now.calls[answer] = Call(number, clients, memories, sources)

    def _train(self, number: int, sources: Sequence[Source], priors: Sequence[Any]) -> list[Any]:
        """Call a host with the rounds of some clients: references to its answer and to what each keeps then."""
        first = sources[0]
        train = self._crew.hosts[number].actor.train
        turns = [source.turn for source in sources]
        references: list[Any] = train.options(
            name=f"train round {first.round_index + 1}", num_returns=1 + len(turns)
        ).remote(first.down, first.round_index, turns, first.weigher, self._spec.rounds.drops_failed, *priors)
        return references

    def _again(self, source: Source, prior: Any) -> Any:
        """Train a client's round once more, for what it keeps; a reference to that. Raises RunError."""
        tries = 0
        while True:
            number = next((number for number, host in enumerate(self._crew.hosts) if host.alive), None)
            if number is None:
                self._crew.wait([])
                continue
            answer, memory = self._train(number, [source], [prior])
            try:
                ray.get(answer)
                return memory
            except RayError as error:
                tries += 1
                self._crew.mourn(number, source.turn.client, error, source.round_index, tries)

    def _keep(self, call: Call, trained: Trained) -> None:
        """Where its clients live, how long they took, and what they keep."""
        made = {s.turn.client: (s, memory) for s, memory in zip(call.sources, call.memories, strict=True)}
        for receipt in trained.receipts:
            source, memory = made[receipt.client]
            number = source.turn.number
            self._homes[number], self._seconds[number] = call.host, receipt.seconds
            if receipt.keeps:
                self._kept.put(receipt.client, memory, source)
            else:
                self._kept.drop(receipt.client)

    def _lost(self, now: Round, call: Call, error: RayError) -> Lost:
        """A call did not come back: its clients wait again. Raises RunError where one was tried too often."""
        for client in call.clients:
            now.tries[client] = now.tries.get(client, 0) + 1
        tries = max(now.tries[client] for client in call.clients)
        start = now.groups[now.of[call.clients[0]][0]].start
        failure = self._crew.mourn(call.host, call.clients[0], error, start, tries)
        host = self._crew.hosts[call.host]
        now.waiting[host.share.tier].put_back(call.host, call.clients)
        lost = "its node was lost" if isinstance(failure, NodeError) else "its process died, see run.log"
        what = call.clients[0] if len(call.clients) == 1 else f"the {len(call.clients)} clients of {host.name}"
        return Lost(
            host.name,
            self._tiers.get(host.name, ""),
            f"{host.name} was lost in round {start + 1} ({lost}); {what}: trained again",
        )

    def _score(self, scoring: Scoring) -> None:
        score = self._crew.ready_evaluator().score.options(name=f"score {scoring.split}")
        scoring.reference = score.remote(
            scoring.down, scoring.split, scoring.sizes, scoring.sample_sizes, self._spec.rounds.own_sizes,
            *(held.reference for held in scoring.own),
        )  # fmt: skip
