"""The actors of a federation through their deaths: where each lives, how it is begun again, what is said of a loss."""

from __future__ import annotations

import logging
import time
from functools import partial
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from raf_ray.cluster.names import EVALUATOR, ray_name
from raf_ray.cluster.shares import ActorShares, HostShare
from raf_ray.errors import RunError
from raf_ray.federation.backend import ClientError, NodeError
from raf_ray.federation.hosts import ClientActor, EvaluatorActor, cause_of
from raf_ray.federation.process import (
    Process,
    Raylet,
    first_clients,
    host_name,
    no_room,
    place_options,
    raylet_of,
    with_lost,
)
from raf_ray.federation.spec import FederationSpec

log = logging.getLogger(__name__)

LONGEST_SHARE = 0.75
"""Clients that cost less than this share of the costliest let it go first where they share cores: a round ends
with its longest client, and on two cores a demo round is a tenth shorter so."""

STILL_WAITING = 60.0
"""Seconds without news after which the log says who is waited for. Ray reports a death by itself."""

SLOWEST_START = 120.0
"""Seconds that a process may take to be there on a busy machine, beyond which there is no room for it: a choice."""

FIRST_PAUSE = 0.25
"""Seconds before a second try, doubled before each further one: a choice."""

SHOWN = 8
"""Clients that an error names before it only counts them; run.log names all."""


class Crew:
    """The actors that hold clients, one or many each, and the evaluator. Hosts are numbers.

    `namespace`: of this federation alone, from `raf_ray.cluster.names.new_namespace`.
    """

    def __init__(self, spec: FederationSpec, shares: ActorShares, namespace: str) -> None:
        self._spec, self._namespace = spec, namespace
        self._tiers = spec.tiers
        self._open = ray.put(spec.clients.open)
        self._has_one_each = len(shares.hosts) == len(spec.clients)
        self._firsts = first_clients(spec.clients, shares.hosts)
        self.hosts = [
            Process(spec.clients[first].name if self._has_one_each else host_name(number, share), share)
            for number, (first, share) in enumerate(zip(self._firsts, shares.hosts, strict=True))
        ]
        self.evaluator = Process(EVALUATOR, HostShare(shares.evaluator_cpus, shares.evaluator_gpus))
        self.begun = 0
        """Rounds that training has begun of."""
        self._failure: RunError | None = None
        """Why the last process died"""
        self._is_closed = False
        self._building = {self._begin(host): host for host in range(len(self.hosts))}
        # The evaluator is built while the first round trains; its first scoring waits for it.
        self._building_evaluator = self._begin_evaluator()
        self._wait_for_all()
        for node in dict.fromkeys(host.node for host in self.hosts if host.node is not None):
            log.info("on node %s: %s", node.address, ", ".join(self._living_on(node)))

    def _wait_for_all(self) -> None:
        """Until each host is built, or those that find no room in time are left to come later.

        Raises RunError where without them nobody could train the clients of some tier.
        """
        begun, most = time.monotonic(), self._spec.hosts.wait_for_room_s
        while self._building:
            missing = self._missing()
            last = begun + (max(most, SLOWEST_START) if missing else most)
            if (left := last - time.monotonic()) <= 0:
                break
            if ready := ray.wait(list(self._building), num_returns=1, timeout=min(left, 1.0))[0]:
                self._settle(ready[0])
        if missing := self._missing():
            raise no_room(missing, max(most, SLOWEST_START))
        if self._building:
            log.warning("no room yet for %s", ", ".join(self.hosts[i].name for i in self._building.values()))

    def _missing(self) -> str | None:
        """A host of a tier that has none alive."""
        living = {host.share.tier for host in self.hosts if host.alive}
        return next((host.name for host in self.hosts if host.share.tier not in living), None)

    def wait(self, calls: list[Any]) -> list[Any]:
        """The next of `calls` that has come to something; none where instead a host is ready to be called.

        Raises RunError where no host lives and none finds room in time, or one cannot be built.
        """
        since = time.monotonic()
        while True:
            timeout = STILL_WAITING if calls else 1.0
            ready, _ = ray.wait([*calls, *self._building], num_returns=1, timeout=timeout)
            if ready and ready[0] in self._building:
                self._settle(ready[0])
                return []
            if ready:
                return list(ready)
            waited = time.monotonic() - since
            if not calls and self._failure is not None and waited > self._spec.hosts.wait_for_room_s:
                raise self._failure
            if calls:
                log.info("still waiting for %d calls", len(calls))

    def mourn(self, number: int, client: str, error: RayError, round_index: int, tries: int) -> RunError:
        """A call to a host did not come back, in which `client` was trained: the host is begun again.

        Returns what is to be said. Raises it where that was tried too often or our own code failed.
        """
        host = self.hosts[number]
        failure = self.sentence(client, error, round_index, host=host)
        if self._is_over(error, tries):
            raise failure from error
        log.warning("%s\n%s", failure, failure.details)
        self._failure = failure
        host.alive, host.deaths = False, host.deaths + 1
        ray.kill(host.actor)
        self._pause(tries)
        self._building[self._begin(number)] = number
        return failure

    def ready_evaluator(self) -> Any:
        """The evaluator's actor, built."""
        if not self.evaluator.alive:
            most = max(self._spec.hosts.wait_for_room_s, SLOWEST_START)
            if not ray.wait([self.evaluator.actor.__ray_ready__.remote()], timeout=most)[0]:
                raise no_room(EVALUATOR, most)
            try:
                self.evaluator.node = raylet_of(ray.get(self._building_evaluator))
            except RayError as error:
                raise self.sentence(EVALUATOR, error, None, "could not start") from error
            self.evaluator.alive = True
        return self.evaluator.actor

    def mourn_evaluator(self, error: RayError, tries: int) -> None:
        """A scoring did not come back: begin the evaluator again. Raises RunError where that was tried too often."""
        failure = self.sentence(EVALUATOR, error, None)
        if self._is_over(error, tries):
            raise failure from error
        log.warning("%s; it is begun again", failure)
        self.evaluator.alive, self.evaluator.deaths = False, self.evaluator.deaths + 1
        ray.kill(self.evaluator.actor)
        self._pause(tries)
        self._building_evaluator = self._begin_evaluator()

    def close(self) -> None:
        self._is_closed = True
        for process in (*self.hosts, self.evaluator):
            if process.actor is not None:
                ray.kill(process.actor)

    def _is_over(self, error: RayError, tries: int) -> bool:
        return self._is_closed or isinstance(error, RayTaskError) or tries > self._spec.hosts.retries

    def _pause(self, tries: int) -> None:
        time.sleep(FIRST_PAUSE * 2**tries)

    def _begin(self, number: int) -> Any:
        """Start a host's process; the reference that is ready when its first client is built."""
        host, clients = self.hosts[number], self._spec.clients
        first = clients[self._firsts[number]]
        host.actor = ClientActor.options(
            name=self._new_name(host),
            namespace=self._namespace,
            num_cpus=host.share.cpus,
            num_gpus=host.share.gpus or None,
            **place_options(2 + number, host.share),
        ).remote(host.name, self._open, self._spec.hosts.cache_mb)
        longest = clients.cost.max()
        return host.actor.build.remote(first.number, self._has_one_each and first.cost < LONGEST_SHARE * longest)

    def _begin_evaluator(self) -> Any:
        self.evaluator.actor = EvaluatorActor.options(
            name=self._new_name(self.evaluator),
            namespace=self._namespace,
            num_cpus=self.evaluator.share.cpus,
            num_gpus=self.evaluator.share.gpus or None,
            **place_options(1),
        ).remote(partial(self._spec.make_scorer, self.evaluator.share.gpus > 0))
        return self.evaluator.actor.build.remote()

    def _new_name(self, process: Process) -> str:
        """Each life has its own: Ray may still hold a dead actor's."""
        return ray_name(process.name if not process.deaths else f"{process.name} ({process.deaths + 1})")

    def _settle(self, reference: Any) -> None:
        """A host is built, or could not be: then it is begun again."""
        number = self._building.pop(reference)
        host = self.hosts[number]
        try:
            node: str = ray.get(reference)
        except RayError as error:
            host.deaths += 1
            if self._is_over(error, host.deaths):
                first = self._spec.clients[self._firsts[number]].name
                raise self.sentence(first, error, None, "could not start", host) from error
            self._pause(host.deaths)
            self._building[self._begin(number)] = number
            return
        host.alive, host.node = True, raylet_of(node)
        if host.deaths:
            log.info("on node %s again: %s", host.node.address, host.name)

    # --- what is said ---------------------------------------------------------------------------------

    def sentence(
        self, name: str, error: RayError, round_index: int | None, what: str = "failed", host: Process | None = None
    ) -> RunError:
        """The failure in one sentence: the actor's own, or the node that was lost and all who lived there.

        Args:
            name: of a client, or the evaluator.
            host: that the client was at, where it is known.
        """
        process = self.evaluator if name == EVALUATOR else host
        node = process.node if process is not None else None
        lost = process.name if process is not None else name
        if node is not None and not isinstance(error, RayTaskError) and not node.answers():
            return self._lost_node(node, round_index, error)
        if name not in self._tiers:
            return with_lost(RunError(f"the {name} {what}: {cause_of(error)}"), lost, error)
        tier = self._tiers[name]
        if round_index is None:
            return with_lost(RunError(f"client {name} (tier {tier}) {what}: {cause_of(error)}"), lost, error)
        return with_lost(ClientError(name, tier, round_index, cause_of(error)), lost, error)

    def _lost_node(self, node: Raylet, round_index: int | None, error: Exception) -> NodeError:
        names = self._living_on(node)
        told = [f"{name} (tier {self._tiers[name]})" if name in self._tiers else name for name in names]
        more = f" and {len(told) - SHOWN} more" if len(told) > SHOWN else ""
        after = f" after round {self.begun}" if self.begun else ""
        when = after if round_index is None else f" in round {round_index + 1}"
        failure = NodeError(
            f"node {node.address} was lost{when}, and with it {', '.join(told[:SHOWN])}{more}; --resume goes on "
            "once the cluster has room for all clients again",
            details=f"{', '.join(told)}\n{error}",
        )
        failure.lost = tuple(names)
        return failure

    def _living_on(self, node: Raylet) -> list[str]:
        return sorted(process.name for process in (*self.hosts, self.evaluator) if process.node == node)
