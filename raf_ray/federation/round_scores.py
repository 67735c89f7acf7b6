"""Scores of a run's rounds: begun behind the rounds, written to scores.csv when they are there."""

from __future__ import annotations

import logging
from collections.abc import Iterator

from raf_ray.evaluation.scores import Scores
from raf_ray.federation.backend import Backend
from raf_ray.federation.events import Scored
from raf_ray.federation.spec import FederationSpec
from raf_ray.metrics.drift import drift_spread
from raf_ray.runs.folder import RunFolder

log = logging.getLogger(__name__)

COLUMNS = ("round", "split", "resolution", "metric", "value")


class RoundScores:
    """One pending scoring at most."""

    def __init__(self, spec: FederationSpec, folder: RunFolder, backend: Backend) -> None:
        self._spec, self._folder, self._backend = spec, folder, backend
        self._pending: tuple[int, object] | None = None

    def is_due(self, done: int) -> bool:
        """Whether the state after round `done` is scored on val."""
        asked = self._spec.rounds
        if done == asked.rounds:  # the final scores say it, where they are of the same people and sizes
            return asked.final_split != "val" or not set(asked.round_sizes) <= set(asked.final_sizes)
        return done % asked.score_every == 0

    def begin(self, done: int, down: object) -> None:
        """Of a state as it was published, where it is due."""
        if self.is_due(done):
            self._pending = (done, self._backend.submit_score(down, "val", self._spec.rounds.round_sizes, ()))

    def collect(self, wait: bool) -> Iterator[Scored]:
        """The pending one, if it is ready (or `wait`)."""
        if self._pending is None:
            return
        done, pending = self._pending
        scores = self._backend.collect_score(pending, wait)
        if scores is None:
            return
        self._pending = None
        log.info("round %d scored on %s: %s", done, scores.split, scores.by_resolution)
        yield self.note(done, scores)

    def note(self, done: int, scores: Scores) -> Scored:
        """Write them down."""
        rows = [
            dict(zip(COLUMNS, (done, scores.split, size, scores.metric, repr(value)), strict=True))
            for size, value in scores.by_resolution.items()
        ]
        self._folder.append_rows("scores.csv", COLUMNS, rows)
        trained = {str(size): scores.by_resolution[str(size)] for size in self._spec.rounds.trained_sizes}
        return Scored(done, scores, drift_spread(trained))
