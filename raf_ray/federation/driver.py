"""The rounds of one federation: broadcast, train, sum on arrival, step, score, checkpoint. No Ray in it."""

from __future__ import annotations

import gzip
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from raf_ray.errors import RunError
from raf_ray.evaluation.own import states
from raf_ray.federation.aggregation import Weigher
from raf_ray.federation.backend import Backend, ClientError, Group, Lost, Recall, own_models
from raf_ray.federation.cohort import RoundWork
from raf_ray.federation.events import (
    ActorLost,
    ClientsFinished,
    Event,
    Failed,
    Finished,
    Noted,
    RoundFinished,
    RoundStarted,
)
from raf_ray.federation.host import ClientFailure, Trained
from raf_ray.federation.round_scores import RoundScores
from raf_ray.federation.server import Server, init_memory
from raf_ray.federation.spec import FederationSpec
from raf_ray.federation.versions import Versions
from raf_ray.files import Json, without_nan, write_atomically
from raf_ray.runs.checkpoint import Checkpoint
from raf_ray.runs.folder import RunFolder, model_file
from raf_ray.runs.memories import ClientMemories
from raf_ray.training.exchange import Receipt
from raf_ray.training.tracing import trace_name

log = logging.getLogger(__name__)


@dataclass
class Federation:
    """One federation, from its initial state (or a checkpoint) to its results."""

    spec: FederationSpec
    make_backend: Callable[[Recall], Backend]
    """Given what reads from disk what a client keeps"""
    folder: RunFolder
    checkpoint: Checkpoint | None = None
    _stopped: threading.Event = field(default_factory=threading.Event)
    _ended: threading.Event = field(default_factory=threading.Event)
    _backend: Backend | None = None

    def __post_init__(self) -> None:
        self._tiers = self.spec.tiers
        self._account = self.spec.account()
        self._memories = ClientMemories(self.folder.memories)
        if self.checkpoint is not None:
            self._account.restore(self.checkpoint.account)

    def run(self) -> Iterator[Event]:
        """Train and yield what happens. Ends with Finished or Failed; the folder says which."""
        with self.folder.locked(), self.folder.logged():
            yield from self._run()

    def _run(self) -> Iterator[Event]:
        try:
            self.folder.begin_results(self._results("running"))
            self._backend = self.make_backend(self._memories.last)
            self._check_stopped()
            yield from self._rounds(self._backend)
        except KeyboardInterrupt:
            yield self._fail("stopped by the user", "interrupted")
        except Exception as error:
            if self._stopped.is_set():
                yield self._fail("stopped by the user", "interrupted")
            elif isinstance(error, RunError):
                log.error("%s\n%s", error, error.details)
                for actor in error.lost:
                    yield ActorLost(actor, self._tiers.get(actor, ""))
                yield self._fail(str(error), "failed")
            elif isinstance(error, OSError):
                log.exception("cannot write")
                yield self._fail(self.folder.sentence(error), "failed")
            else:
                log.exception("unexpected error")
                yield self._fail(f"unexpected {type(error).__name__}: {error} (see run.log)", "failed")
        finally:
            if self._backend is not None:
                self._backend.close()
            self._ended.set()

    def stop(self, seconds: float) -> bool:
        """From another thread: end the run in order; True where it has ended within `seconds`."""
        self._stopped.set()
        if self._backend is not None:
            self._backend.close()
        return self._ended.wait(seconds)

    def _check_stopped(self) -> None:
        if self._stopped.is_set():
            raise KeyboardInterrupt

    def _rounds(self, backend: Backend) -> Iterator[Event]:
        asked = self.spec.rounds
        server = self._server(backend)
        versions = Versions(backend)
        for older in self.checkpoint.older if self.checkpoint is not None else ():
            versions.add(older)
        versions.add(server.down())
        self.folder.cut_rows_after("rounds.csv", server.version)
        self.folder.cut_rows_after("scores.csv", server.version - 1)  # of the round itself they may be missing in part
        scores = RoundScores(self.spec, self.folder, backend)
        if server.version:
            scores.begin(server.version, versions.newest)

        for index in range(server.version, asked.rounds):
            self._check_stopped()
            done = index + 1
            yield from self._train(backend, server, versions, index)

            save = done % asked.checkpoint_every == 0 or done == asked.rounds
            yield from scores.collect(wait=save or bool(scores.splits(done)))
            if save:
                self._save(backend, server, versions)
            scores.begin(done, versions.newest)
        yield from scores.collect(wait=True)
        yield from self._finish(backend, scores, versions.newest, server.state)

    def _train(self, backend: Backend, server: Server, versions: Versions, index: int) -> Iterator[Event]:
        """One round: train a cohort, sum as its updates come, step, publish the next state.

        With devices, those train who answer on the virtual clock; where nobody does, the round is lost.
        """
        asked, done = self.spec.rounds, index + 1
        work = self.spec.work(index)
        cohort = [self.spec.clients[i] for i in work.clients]
        log.info("training round %d of %d: %d clients", done, asked.rounds, len(cohort))
        yield RoundStarted(done, asked.rounds, dict(Counter(client.tier for client in cohort)))
        begin = time.perf_counter()
        total = server.round([(client.name, client.people) for client in cohort])
        receipts: list[Receipt] = []
        arrived: list[float] = []
        left_out = 0
        for answer in self._answers(backend, versions, work, total.weigher):
            if isinstance(answer, Lost):
                yield ActorLost(answer.actor, answer.tier)
                yield Noted(answer.message)
                continue
            for failure in answer.failures:
                yield self._leave_out(failure, index)
            left_out += len(answer.failures)
            discount = self.spec.algorithm.discount(index - answer.start)
            total.add(answer.total, [receipt.client for receipt in answer.receipts], discount)
            arrived += [time.perf_counter()] * len(answer.receipts)
            receipts += [receipt.without_trace() for receipt in answer.receipts]
            yield from self._told(answer, done)
        if cohort and not receipts:
            raise RunError(f"no client could be trained in round {done}; see run.log")
        server.step(total)
        versions.add(server.down())
        versions.keep(work.still)
        figures = self.spec.figures(done, server.memory)
        row = self._account.add_round(
            done, receipts, arrived, time.perf_counter() - begin, left_out, figures, work.plan
        )
        self.folder.append_rows("rounds.csv", self._account.columns(), [row])
        yield RoundFinished(done, asked.rounds, row)

    def _answers(
        self, backend: Backend, versions: Versions, work: RoundWork, weigher: Weigher
    ) -> Iterator[Trained | Lost]:
        for wave in work.waves:
            groups = []
            for start, drawn in wave.items():
                discount = self.spec.algorithm.discount(work.index - start)
                clients = [self.spec.clients[i] for i in drawn]
                groups += [Group(versions[start], start, clients, weigher.at(discount))] if clients else []
            if groups:
                yield from backend.train(groups)

    def _leave_out(self, failure: ClientFailure, index: int) -> Noted:
        """A client's own work failed. Raises ClientError where that ends the run."""
        error = ClientError(failure.client, self._tiers[failure.client], index, failure.cause, failure.details)
        if not self.spec.rounds.drops_failed:
            raise error
        log.warning("%s\n%s", error, error.details)
        return Noted(f"{error}; it is left out of this round")

    def _told(self, answer: Trained, done: int) -> Iterator[ClientsFinished]:
        """Note what clients keep and have traced; an event for each tier among them."""
        by_tier: dict[str, list[Receipt]] = {}
        for receipt in answer.receipts:
            by_tier.setdefault(self._tiers[receipt.client], []).append(receipt)
            self._memories.trained(receipt.client, answer.start + 1, receipt.keeps)
            if receipt.trace is not None:
                self._write_trace(receipt.client, done, receipt.trace)
        for tier, own in by_tier.items():
            seconds = tuple(receipt.seconds for receipt in own)
            people = sum(receipt.people for receipt in own)
            loss = sum(receipt.loss * receipt.people for receipt in own) / people
            who = f"client {own[0].client}" if len(own) == 1 else f"{len(own)} {tier} clients"
            log.info("round %d %s: %.1f s, loss %.5g", done, who, sum(seconds), loss)
            largest = max(receipt.peak_memory_mb for receipt in own)
            yield ClientsFinished(done, tier, seconds, people, largest, own[0].device)

    def _finish(self, backend: Backend, round_scores: RoundScores, down: object, buffer: np.ndarray) -> Iterator[Event]:
        asked = self.spec.rounds
        pending = backend.submit_score(down, asked.final_split, asked.final_sizes, asked.trained_sizes)
        self._save_models(buffer)
        scores = backend.collect_score(pending, wait=True)
        assert scores is not None
        scored = round_scores.note(asked.rounds, scores)
        yield scored
        results = self._results(
            "completed",
            split=scores.split,
            by_resolution=scores.by_resolution,
            per_joint=scores.per_joint,
            extra=scores.extra,
            test_people=scores.people,
            bad_test_pictures=scores.bad_pictures,
            upsampled_test=scores.upsampled,
            drift_spread=scored.drift_spread,
            **({"by_client": scores.by_client} if scores.by_client else {}),
            **self.spec.hours_to_target(self.folder),
        )
        self.folder.end_results(results)
        log.info("completed: %s", results["by_resolution"])
        yield Finished(results, scores.samples)

    def _save_models(self, buffer: np.ndarray) -> None:
        """model.pt; where clients have models of their own, theirs too, and in model.pt the mean of their own parts."""
        own = self.spec.rounds.own_sizes
        kept = [last[1] if (last := self._memories.last(client)) else None for client in own]
        for client, state in states(self.spec.layout, self.spec.part, buffer, own_models(own, kept)).items():
            self.spec.save_model(state, self.folder / model_file(client))

    def _server(self, backend: Backend) -> Server:
        """The server at the start, or as the checkpoint left it, with the clients given back what they kept."""
        spec, saved = self.spec, self.checkpoint
        start = (spec.initial, init_memory(spec.algorithm, spec.transforms, spec.layout), 0)
        if saved is not None:
            start = (saved.buffer, saved.server, saved.round)
            for name, memory in self._memories.read(saved.clients):
                backend.restore(name, memory, saved.clients[name])
        return Server(
            spec.algorithm, spec.layout, len(spec.clients), *start, transforms=spec.transforms,
            seed=spec.rounds.seed, expected=spec.setting.expected, aggregator=spec.aggregator,
        )  # fmt: skip

    def _save(self, backend: Backend, server: Server, versions: Versions) -> None:
        """A checkpoint: what clients kept since the last one first, one by one, then the file that names them."""
        kept = self._memories.save(backend.memory)
        self.folder.save_checkpoint(
            Checkpoint(server.version, server.state, server.memory, kept, self._account.state(), versions.older)
        )
        self._memories.tidy()

    def _write_trace(self, client: str, done: int, trace: bytes) -> None:
        path = self.folder / trace_name(client, done)
        write_atomically(path, lambda temporary: temporary.write_bytes(gzip.decompress(trace)))
        log.info("trace of client %s in round %d: %s (open it at https://ui.perfetto.dev)", client, done, path)

    def _results(self, status: str, **more: Any) -> Json:
        values = {"status": status, **self.spec.facts, "drift_to_reference": None, **more,
                  "cost_by_tier": self._account.costs(), "totals": self._account.sums()}  # fmt: skip
        return dict(without_nan(values))

    def _fail(self, message: str, status: str) -> Failed:
        try:
            self.folder.end_results(self._results(status, error=message))
        except OSError:
            log.exception("results.json could not be written")
        return Failed(message, status)
