"""A search in MLflow: one run for the search, nested below it one for each federation."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from raf_ray.config import Config
from raf_ray.config.loading import flatten
from raf_ray.config.section import SecretUri
from raf_ray.config.tree import TrackingConfig
from raf_ray.experiment.watching import Guarded, Watcher
from raf_ray.files import Json
from raf_ray.search.ledger import Ledger, TrialRecord
from raf_ray.search.spec import Search
from raf_ray.tracking.log import spared
from raf_ray.tracking.mlflow import MlflowTracker, SearchTracker, ended_status, log_model_of
from raf_ray.tracking.outbox import RECORDS, Outbox
from raf_ray.tracking.sender import Away, Refused, send_waiting
from raf_ray.tracking.store import MlflowStore, prepare_store

log = logging.getLogger(__name__)

PATIENCE_S = 20.0
"""For all processes of stopped trials to end, which a search waits for at its own end: a choice."""

ARTIFACTS = ("search.yaml", "trials.json", "trials.csv", "results.json", "best.yaml", "report.html", "parallel.png",
             "importance.png", "pareto.png")  # fmt: skip


@dataclass(frozen=True)
class Tracking:
    """What a search and its trials tell MLflow; nothing where `tracking.mlflow` is false."""

    setting: TrackingConfig
    """With the URI that all trials write to; its secrets do not go along where it is sent"""
    warn: Callable[[str], None]
    parent: SearchTracker | None

    @property
    def watchers(self) -> Callable[[Config, TrialRecord, str | None], Sequence[Watcher]]:
        """Of a trial's config, its record and MLflow's URI; small enough to send to the trials."""
        search_id = self.parent.search_id if self.parent is not None else None
        return partial(_watchers, self.setting, search_id)

    def answer(self, ledger: Ledger, best: TrialRecord, test: Json) -> None:
        """Log what the search found, and the winner's model with the winner's run."""
        if self.parent is None:
            return
        scores = {f"best/{name}": value for name, value in best.metrics.items() if name != "round"}
        tested = {f"test/{test['metric']}/{s}": v for s, v in test["by_resolution"].items() if v is not None}
        self.parent.metric({**scores, **tested, "best/trial": best.number}, len(ledger.finished()))
        for name in ARTIFACTS:
            if (ledger.output / name).is_file():
                self.parent.artifact(ledger.output / name)
        if self.setting.log_model:
            log_model_of(ledger.folder_of(best).path, self.setting, self.warn)


@contextmanager
def tracked(search: Search, output: Path, warn: Callable[[str], None]) -> Iterator[Tracking]:
    """The search's own MLflow run while it runs; a resumed search goes on with the same one."""
    asked = search.tracking
    if not asked.mlflow:
        yield Tracking(asked, warn, None)
        return
    # Made and migrated before any trial opens it: processes that open a fresh SQLite file at once break it.
    uri = prepare_store(asked.address, output)
    setting = asked.model_copy(update={"uri": SecretUri(uri)})
    params = {key: value for key, value in flatten(search.config).items() if not key.startswith("base.")}
    params |= {f"base.{key}": value for key, value in flatten(search.base_config()).items()}
    try:
        parent = SearchTracker(output, setting, search.name, params, {"raf_ray.kind": "search"}, warn)
    except OSError as error:
        warn(f"MLflow does not log this search: its records cannot be kept in {output} ({error.strerror or error})")
        yield Tracking(setting, warn, None)
        return
    parent.begin()
    status = "FAILED"
    try:
        yield Tracking(setting, warn, parent)
        status = "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    finally:
        parent.end(status)
        with spared(warn):
            _settle(output, uri, warn)


def _settle(output: Path, uri: str, warn: Callable[[str], None]) -> None:
    """Send what ended trials left on disk, and the end of those that were stopped before they could say it."""
    left, trials, away = 0, 0, False
    deadline = time.monotonic() + PATIENCE_S
    for path in sorted(output.glob(f"tune/*/*/{RECORDS}")):
        outbox = Outbox(path.parent)
        try:
            # A stopped trial's process may still be sending what it did last.
            if not outbox.lock(max(0.0, deadline - time.monotonic())):
                continue
            outbox.end_dead_run(ended_status(path.parent, None))
            if outbox.waiting(uri) and not away:
                send_waiting(outbox, uri, MlflowStore(uri), warn)
        except (Away, Refused):
            away = True
        finally:
            left, trials = left + (waiting := outbox.waiting(uri)), trials + bool(waiting)
            outbox.close()
    if left:
        warn(f"MLflow lacks {left} records of {trials} trials; python -m raf_ray.track sync {output} sends them")


def _watchers(
    setting: TrackingConfig, search_id: str | None, config: Config, record: TrialRecord, uri: str | None
) -> list[Watcher]:
    if search_id is None or uri is None:
        return []
    told = config.model_copy(update={"tracking": setting.model_copy(update={"uri": SecretUri(uri)})})
    tags = {"raf_ray.trial": str(record.number)}
    tracker = MlflowTracker(told, log.warning, search_id=search_id, tags=tags, log_model=False, name=record.name)
    return [Guarded(tracker, "logging to MLflow", log.warning)]
