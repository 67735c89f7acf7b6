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
    """The scorings of one state are pending at most."""

    def __init__(self, spec: FederationSpec, folder: RunFolder, backend: Backend) -> None:
        self._spec, self._folder, self._backend = spec, folder, backend
        self._pending: list[tuple[int, object]] = []

    def splits(self, done: int) -> list[str]:
        """Whom the state after round `done` is scored on."""
        asked = self._spec.rounds
        if done < asked.rounds:
            return list(asked.round_splits) if done % asked.score_every == 0 else []
        # The final scores say it, where they are of the same people and sizes.
        is_told = asked.final_split == "val" and set(asked.round_sizes) <= set(asked.final_sizes)
        return [split for split in asked.round_splits if split != "val" or not is_told]

    def begin(self, done: int, down: object) -> None:
        """Of a state as it was published, where it is due."""
        sizes = self._spec.rounds.round_sizes
        self._pending += [(done, self._backend.submit_score(down, split, sizes, ())) for split in self.splits(done)]

    def collect(self, wait: bool) -> Iterator[Scored]:
        """Those pending that are ready (or `wait`), in order."""
        while self._pending:
            done, pending = self._pending[0]
            scores = self._backend.collect_score(pending, wait)
            if scores is None:
                return
            self._pending.pop(0)
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
