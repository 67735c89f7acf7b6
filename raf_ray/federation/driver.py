"""The rounds of one federation: broadcast, train, sum on arrival, step, score, checkpoint. No Ray in it."""

from __future__ import annotations

import gzip
import logging
import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from raf_ray.algorithms.interface import Algorithm
from raf_ray.errors import RunError
from raf_ray.federation.accounting import Account
from raf_ray.federation.aggregation import UpdateError
from raf_ray.federation.checkpoint import Checkpoint
from raf_ray.federation.cohort import draw_cohort
from raf_ray.federation.messages import (
    ActorLost,
    ClientFinished,
    Event,
    Failed,
    Finished,
    RoundFinished,
    RoundStarted,
    Scored,
    Scores,
)
from raf_ray.federation.pool import ClientError, Member, Pool
from raf_ray.federation.run_folder import RunFolder
from raf_ray.federation.server import Server
from raf_ray.files import write_atomically
from raf_ray.metrics.drift import drift_spread
from raf_ray.state import Layout
from raf_ray.training.exchange import Receipt
from raf_ray.training.tracing import trace_name

log = logging.getLogger(__name__)

SCORE_COLUMNS = ("round", "split", "resolution", "metric", "value")


@dataclass(frozen=True)
class Schedule:
    """How long, how often, and on what the model is scored."""

    seed: int
    rounds: int
    participation: float
    checkpoint_every: int
    score_every: int
    trained_sizes: tuple[str, ...]
    """Sizes of the clients' tiers."""
    round_sizes: tuple[str, ...]
    """Sizes that rounds are scored at on `val`."""
    final_split: str
    final_sizes: tuple[str, ...]
    """Sizes of the drift curve."""
    level_sizes: tuple[str, ...]
    """All sizes that some client trains on: the columns of the loss terms."""


@dataclass
class Federation:
    """One federation, from its initial state (or a checkpoint) to its results."""

    members: Sequence[Member]
    make_pool: Callable[[], Pool]
    algorithm: Algorithm
    layout: Layout
    initial: np.ndarray
    """(num_bytes,) uint8"""
    schedule: Schedule
    folder: RunFolder
    facts: dict[str, Any]
    """What results.json says of the run whatever comes out: seed, people, versions ..."""
    save_model: Callable[[np.ndarray, Any], None]
    """(buffer, path): write model.pt"""
    checkpoint: Checkpoint | None = None
    _stopped: threading.Event = field(default_factory=threading.Event)
    _ended: threading.Event = field(default_factory=threading.Event)
    _pool: Pool | None = None
    _pending: tuple[int, Any] | None = None

    def __post_init__(self) -> None:
        self._kept: dict[str, int] = {}  # client -> round after which it kept what it keeps
        self._saved: dict[str, int] = {}  # the same, as far as it is on disk
        self._tiers = {member.name: member.tier for member in self.members}
        self._account = Account(self._tiers, self.schedule.level_sizes)
        if self.checkpoint is not None:
            self._account.restore(self.checkpoint.account)

    def run(self) -> Iterator[Event]:
        """Train and yield what happens. Ends with Finished or Failed; the folder says which."""
        with self.folder.locked(), self.folder.logged():
            yield from self._run()

    def _run(self) -> Iterator[Event]:
        try:
            self.folder.begin_results(self._results("running"))
            self._pool = self.make_pool()
            self._check_stopped()
            yield from self._rounds(self._pool)
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
                yield self._fail(self.folder.told(error), "failed")
            else:
                log.exception("unexpected error")
                yield self._fail(f"unexpected {type(error).__name__}: {error} (see run.log)", "failed")
        finally:
            if self._pool is not None:
                self._pool.close()
            self._ended.set()

    def stop(self, seconds: float) -> bool:
        """From another thread: end the run in order; True where it has ended within `seconds`."""
        self._stopped.set()
        if self._pool is not None:
            self._pool.close()
        return self._ended.wait(seconds)

    def _check_stopped(self) -> None:
        if self._stopped.is_set():
            raise KeyboardInterrupt

    def _rounds(self, pool: Pool) -> Iterator[Event]:
        plan = self.schedule
        server = self._server(pool)
        self.folder.cut_rows_after("rounds.csv", server.version)
        self.folder.cut_rows_after("scores.csv", server.version - 1)  # of the round itself they may be missing in part
        down = pool.publish(server.down())
        if server.version and self._is_scored(server.version):
            self._pending = (server.version, pool.submit_score(down, "val", plan.round_sizes, ()))

        for index in range(server.version, plan.rounds):
            self._check_stopped()
            done = index + 1
            cohort = [self.members[i] for i in draw_cohort(len(self.members), plan.participation, plan.seed, index)]
            log.info("training round %d of %d: %d clients", done, plan.rounds, len(cohort))
            yield RoundStarted(done, plan.rounds, {member.name: member.tier for member in cohort})
            begin = time.perf_counter()
            total = server.round({member.name: member.people for member in cohort})
            receipts: list[Receipt] = []
            arrived: list[float] = []
            for up, receipt in pool.train(down, index, [member.name for member in cohort]):
                arrived.append(time.perf_counter())
                tier = self._tiers[up.client]
                try:
                    total.add(up)
                except UpdateError as error:
                    raise ClientError(up.client, tier, index, str(error)) from error
                receipts.append(receipt.without_trace())
                if receipt.keeps:
                    self._kept[up.client] = done
                else:
                    self._kept.pop(up.client, None)
                log.info("round %d client %s: %.1f s, loss %.5g", done, up.client, receipt.seconds, receipt.loss)
                if receipt.trace is not None:
                    self._write_trace(up.client, done, receipt.trace)
                yield ClientFinished(done, up.client, tier, receipt.people, receipt.seconds, receipt.loss,
                                     receipt.peak_memory_mb, receipt.device)  # fmt: skip
            server.step(total)
            down = pool.publish(server.down())
            row = self._account.add_round(done, receipts, arrived, time.perf_counter() - begin)
            self.folder.append_rows("rounds.csv", self._account.columns(), [row])
            yield RoundFinished(done, plan.rounds, row)

            due = self._is_scored(done)
            save = done % plan.checkpoint_every == 0 or done == plan.rounds
            yield from self._collect(pool, wait=due or save)
            if save:
                self._save(pool, server)
            if due:
                self._pending = (done, pool.submit_score(down, "val", plan.round_sizes, ()))
        yield from self._collect(pool, wait=True)
        yield from self._finish(pool, down, server.state)

    def _finish(self, pool: Pool, down: Any, buffer: np.ndarray) -> Iterator[Event]:
        plan = self.schedule
        pending = pool.submit_score(down, plan.final_split, plan.final_sizes, plan.trained_sizes)
        self.save_model(buffer, self.folder / "model.pt")
        scores = pool.collect_score(pending, wait=True)
        assert scores is not None
        self._append_scores(plan.rounds, scores)
        spread = self._drift_spread(scores)
        yield Scored(plan.rounds, scores, spread)
        results = self._results(
            "completed",
            split=scores.split,
            by_resolution=scores.by_resolution,
            per_joint=scores.per_joint,
            extra=scores.extra,
            test_people=scores.people,
            bad_test_pictures=scores.bad_pictures,
            upsampled_test=scores.upsampled,
            drift_spread=spread,
        )
        self.folder.end_results(results)
        log.info("completed: %s", results["by_resolution"])
        yield Finished(results, scores.samples)

    def _server(self, pool: Pool) -> Server:
        """The server at the start, or as the checkpoint left it, with the clients given back what they kept."""
        saved, count = self.checkpoint, len(self.members)
        if saved is None:
            return Server(self.algorithm, self.layout, count, self.initial, self.algorithm.init_server(self.layout))
        self._kept, self._saved = dict(saved.clients), dict(saved.clients)
        for name, memory in self.folder.memories.read(saved.clients):
            pool.restore(name, memory)
        return Server(self.algorithm, self.layout, count, saved.buffer, saved.server, saved.round)

    def _save(self, pool: Pool, server: Server) -> None:
        """A checkpoint: what clients kept since the last one first, one by one, then the file that names them."""
        for name, done in self._kept.items():
            if self._saved.get(name) != done:
                self.folder.memories.save(name, done, pool.memory(name))
        self._saved = dict(self._kept)
        self.folder.save_checkpoint(
            Checkpoint(server.version, server.state, server.memory, self._saved, self._account.state())
        )
        self.folder.memories.keep_only(self._saved)

    def _is_scored(self, done: int) -> bool:
        plan = self.schedule
        if done == plan.rounds:  # the final scores say it, where they are of the same people and sizes
            return plan.final_split != "val" or not set(plan.round_sizes) <= set(plan.final_sizes)
        return done % plan.score_every == 0

    def _collect(self, pool: Pool, wait: bool) -> Iterator[Event]:
        """The pending evaluation, if it is ready (or `wait`)."""
        if self._pending is None:
            return
        done, pending = self._pending
        scores = pool.collect_score(pending, wait)
        if scores is None:
            return
        self._pending = None
        self._append_scores(done, scores)
        log.info("round %d scored on %s: %s", done, scores.split, scores.by_resolution)
        yield Scored(done, scores, self._drift_spread(scores))

    def _drift_spread(self, scores: Scores) -> float:
        return drift_spread({size: scores.by_resolution[size] for size in self.schedule.trained_sizes})

    def _append_scores(self, done: int, scores: Scores) -> None:
        self.folder.append_rows(
            "scores.csv",
            SCORE_COLUMNS,
            [
                dict(zip(SCORE_COLUMNS, (done, scores.split, size, scores.metric, repr(value)), strict=True))
                for size, value in scores.by_resolution.items()
            ],
        )

    def _write_trace(self, client: str, done: int, trace: bytes) -> None:
        path = self.folder / trace_name(client, done)
        write_atomically(path, lambda temporary: temporary.write_bytes(gzip.decompress(trace)))
        log.info("trace of client %s in round %d: %s (open it at https://ui.perfetto.dev)", client, done, path)

    def _results(self, status: str, **more: Any) -> dict[str, Any]:
        values = {"status": status, **self.facts, "drift_to_reference": None, **more,
                  "cost_by_tier": self._account.costs(), "totals": self._account.totals}  # fmt: skip
        return dict(_no_nan(values))

    def _fail(self, message: str, status: str) -> Failed:
        try:
            self.folder.end_results(self._results(status, error=message))
        except OSError:
            log.exception("results.json could not be written")
        return Failed(message, status)


def _no_nan(value: Any) -> Any:
    """NaN becomes null, so that results.json is JSON."""
    if isinstance(value, Mapping):
        return {str(key): _no_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_no_nan(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
