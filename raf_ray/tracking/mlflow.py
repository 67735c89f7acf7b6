"""MLflow: what happens in a run and in a search of runs, as records of an outbox that a thread sends.

Nothing here waits for a server, and nothing that happened is lost with one: see `outbox` and `sender`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from raf_ray.config import Config
from raf_ray.config.loading import flatten
from raf_ray.config.tree import TrackingConfig
from raf_ray.federation.events import Event, RoundFinished, Scored
from raf_ray.files import Json
from raf_ray.metrics.drift import drift_spread
from raf_ray.request.plans import trained_sizes
from raf_ray.request.prepared import Prepared
from raf_ray.runs.folder import RunFolder
from raf_ray.tracking.labels import git_tags, run_tags
from raf_ray.tracking.log import Log, Warn, spared
from raf_ray.tracking.outbox import RECORDS
from raf_ray.tracking.system_metrics import SystemSampler

ARTIFACTS = (
    "config.yaml",
    "results.json",
    "rounds.csv",
    "scores.csv",
    "model.pt",
    "drift.png",
    "samples.png",
    "rounds.png",
    "run.log",
)


OUTCOMES = ("drift_spread", "drift_to_reference", "virtual_hours_to_target")
"""Of results.json, metrics of the last round."""


class MlflowTracker:
    """Watches one run and logs it to MLflow."""

    def __init__(
        self,
        config: Config,
        warn: Warn,
        *,
        parent_run_id: str | None = None,
        search_id: str | None = None,
        tags: Mapping[str, str] | None = None,
        log_model: bool | None = None,
        name: str | None = None,
    ) -> None:
        """
        Args:
            config: the run's.
            warn: told, in one sentence each, what MLflow did not get.
            parent_run_id: MLflow run that this one is nested below.
            search_id: `SearchTracker.search_id` of the search that this run belongs to, instead.
            tags: further ones.
            log_model: in place of `tracking.log_model`.
            name: of the run; None is the run folder's.
        """
        self._config = config
        self._warn = warn
        self._parent = {"search": search_id, "parent": parent_run_id}
        self._tags = {**(tags or {}), **({"raf_ray.search": search_id} if search_id else {})}
        self._log_model = config.tracking.log_model if log_model is None else log_model
        self._name = name
        self._log: Log | None = None
        self._sampler: SystemSampler | None = None
        self._trained: tuple[str, ...] = ()
        self._is_broken = False

    def begin(self, prepared: Prepared, folder: Path) -> None:
        with spared(self._warn_once):
            self._begin(prepared, folder)

    def see(self, event: Event) -> None:
        with spared(self._warn_once):
            self._see(event)

    def end(self, folder: Path, results: Json | None) -> None:
        with spared(self._warn_once):
            self._end(folder, results)

    def _warn_once(self, line: str) -> None:
        if not self._is_broken:
            self._is_broken = True
            self._warn(line)

    def _begin(self, prepared: Prepared, folder: Path) -> None:
        self._trained = tuple(str(size) for size in trained_sizes(prepared.plans))
        try:
            log = Log(folder, self._config.tracking, folder.parent, self._warn)
        except OSError as error:
            self._warn(f"MLflow does not log this run: its records cannot be kept in {folder} ({error})")
            return
        tags = {**run_tags(self._config, prepared.plans, folder), **self._tags}
        log.open(self._name or folder.resolve().name, flatten(self._config), tags, **self._parent)
        if not log.is_new:
            self._catch_up(log, RunFolder(folder))
        if self._config.tracking.system_metrics:
            before = log.last_step("system/")
            steps = iter(range(before + 1, 2**53))
            self._sampler = SystemSampler(lambda values: log.metrics(values, next(steps)), self._warn_once)
        self._log = log

    def _see(self, event: Event) -> None:
        if self._log is None:
            return
        if isinstance(event, RoundFinished):
            self._log.metrics({name: value for name, value in event.row.items() if name != "round"}, event.round)
        elif isinstance(event, Scored):
            scores = event.scores
            self._score(self._log, event.round, scores.split, scores.metric, scores.by_resolution)

    def _end(self, folder: Path, results: Json | None) -> None:
        if self._log is None:
            return
        if self._sampler is not None:
            self._sampler.stop()
        if results is not None:
            told = {name: results.get(name) for name in OUTCOMES} | {
                "virtual_hours": results.get("totals", {}).get("virtual_hours")
            }
            self._log.metrics({name: value for name, value in told.items() if value is not None}, results["rounds"])
            self._log.metrics(extra_metrics(results), results["rounds"])
        for name in ARTIFACTS:
            if (folder / name).is_file():
                self._log.artifact(name)
        if results is not None and self._log_model:
            self._log.model()
        self._log.close(ended_status(folder, results))

    def _score(self, log: Log, done: int, split: str, metric: str, by_size: Mapping[str, float]) -> None:
        log.metrics({f"{split}/{metric}/{size}": value for size, value in by_size.items()}, done)
        trained = {size: by_size[size] for size in self._trained if size in by_size}
        if len(trained) == len(self._trained):
            log.metrics({f"{split}/drift_spread": drift_spread(trained)}, done)

    def _catch_up(self, log: Log, folder: RunFolder) -> None:
        """Record what the run's own files say and a kill kept from the outbox."""
        for row in folder.read_rows("rounds.csv"):
            log.metrics(
                {name: float(cell) for name, cell in row.items() if cell and name != "round"}, int(row["round"])
            )
        for one in folder.scores():
            self._score(log, one.round, one.split, one.metric, one.by_resolution)


def extra_metrics(results: Json) -> dict[str, float]:
    """Further figures of the final score as metrics, such as ``test/AP50/128x96``; those that are none are left out."""
    return {
        f"{results['split']}/{name.replace('@', '_')}/{size}": value
        for size, figures in (results.get("extra") or {}).items()
        for name, value in figures.items()
        if value is not None and math.isfinite(value)
    }


def log_afterwards(config: Config, folder: Path, values: Mapping[str, float], step: int, warn: Warn) -> None:
    """Add metrics that became known when a run had ended, such as drift to other runs, and its results.json again."""
    if not (folder / RECORDS).is_file():
        return
    with spared(warn):
        Log(folder, config.tracking, folder.parent, warn).add(values, step, "results.json")


def log_model_of(folder: Path, tracking: TrackingConfig, warn: Warn) -> None:
    """Log the model of a run that has ended, such as a search's best. Nothing where the run was not logged."""
    if not (folder / RECORDS).is_file():
        return
    with spared(warn):
        Log(folder, tracking, folder.parent, warn).add_model()


class SearchTracker:
    """The MLflow run of a search, above the runs of its trials.

    Give each trial `MlflowTracker(..., search_id=search.search_id)`, and to all the same `tracking.uri` and
    `tracking.experiment` (`raf_ray.tracking.store.prepare_store` names the one and makes its file).
    """

    def __init__(
        self,
        folder: Path,
        tracking: TrackingConfig,
        name: str,
        params: Mapping[str, Any],
        tags: Mapping[str, str],
        warn: Warn,
    ) -> None:
        """`folder` is the search's own, and is there; a search that is resumed keeps its id. Raises OSError."""
        self._log, self._warn = Log(folder, tracking, folder, warn), warn
        self._folder, self._name, self._params = folder, name, params
        self._tags = {"run_folder": str(folder.resolve()), **git_tags(), **tags}
        self.search_id = self._log.key

    def begin(self) -> None:
        with spared(self._warn):
            self._log.open(self._name, self._params, self._tags)

    def metric(self, values: Mapping[str, float], step: int) -> None:
        with spared(self._warn):
            self._log.metrics(values, step)

    def artifact(self, path: Path) -> None:
        """A file in or below the search's folder, or elsewhere where it stays until it is sent."""
        path, folder = path.resolve(), self._folder.resolve()
        with spared(self._warn):
            self._log.artifact(str(path.relative_to(folder) if path.is_relative_to(folder) else path))

    def end(self, status: str) -> None:
        """`status`: FINISHED, FAILED or KILLED."""
        with spared(self._warn):
            self._log.close(status)


def ended_status(folder: Path, results: Json | None) -> str:
    """MLflow's word for how the run ended, by its results.json."""
    if results is not None:
        return "FINISHED"
    path = folder / "results.json"
    try:
        ended = json.loads(path.read_text(encoding="utf-8")).get("status") if path.is_file() else None
    except (OSError, ValueError):
        ended = None
    return "KILLED" if ended in ("interrupted", "stopped") else "FAILED"
