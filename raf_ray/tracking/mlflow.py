"""MLflow: parameters, metrics a round, the run folder's files. A server that is away costs one warning."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import queue
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from raf_ray.config import Config
from raf_ray.config.loading import flatten
from raf_ray.errors import InputError
from raf_ray.federation.messages import Event, RoundFinished, Scored

REACH_SECONDS = 3.0
FINISH_SECONDS = 60.0


def check_uri(uri: str | None) -> None:
    """Raise InputError for a tracking URI that MLflow cannot use; nothing is contacted."""
    if uri is None:
        return
    parts = urlparse(uri)
    if parts.scheme in ("http", "https"):
        if parts.hostname:
            return
    elif parts.scheme in ("sqlite", "postgresql", "mysql", "mssql", "databricks") or parts.scheme.startswith(
        ("postgresql+", "mysql+")
    ):
        return
    raise InputError(
        f"tracking.uri={uri} is no tracking server; write http://HOST:PORT or sqlite:///FILE, or null for a local file"
    )


class MlflowTracker:
    """Logs one run from a thread of its own, so that the run never waits for the server."""

    def __init__(self, config: Config, warn: Callable[[str], None]) -> None:
        self._config = config
        self._warn = warn
        self._tasks: queue.Queue[Callable[[], None] | None] = queue.Queue()
        self._thread: threading.Thread | None = None
        self._client: Any = None
        self._run_id = ""
        self._failed = False

    def begin(self, prepared: Any, folder: Path) -> None:
        self._thread = threading.Thread(target=self._work, name="mlflow", daemon=True)
        self._thread.start()
        resumed = (folder / "results.json").exists()  # now: the run may write it before the thread comes to it
        self._tasks.put(lambda: self._open(folder, resumed))

    def see(self, event: Event) -> None:
        now = int(time.time() * 1000)
        if isinstance(event, RoundFinished):
            values = {name: value for name, value in event.row.items() if name != "round"}
            self._tasks.put(lambda: self._log(values, event.round, now))
        elif isinstance(event, Scored):
            scores = event.scores
            named = {f"{scores.split}/{scores.metric}/{s}": v for s, v in scores.by_resolution.items() if v == v}
            self._tasks.put(lambda: self._log(named, event.round, now))

    def end(self, folder: Path, results: dict[str, Any] | None) -> None:
        if self._thread is None:
            return
        self._tasks.put(lambda: self._close(folder, results))
        self._tasks.put(None)
        self._thread.join(FINISH_SECONDS)
        if self._thread.is_alive():
            self._warn_once(f"the server did not take the run within {FINISH_SECONDS:.0f} s")

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None:
            if self._failed:
                continue
            try:
                task()
            except Exception as error:  # whatever the server or its client raises must not end the run
                self._warn_once(" ".join(str(error).split())[:300] or type(error).__name__)

    def _warn_once(self, cause: str) -> None:
        if not self._failed:
            self._failed = True
            self._warn(f"MLflow does not log this run: {cause}")

    def _open(self, folder: Path, resumed: bool) -> None:
        uri = self._config.tracking.uri
        if uri is None:
            uri = f"sqlite:///{(folder.parent / 'mlflow.db').resolve()}"
        parts = urlparse(uri)
        if parts.scheme in ("http", "https"):
            port = parts.port or (443 if parts.scheme == "https" else 80)
            try:
                socket.create_connection((parts.hostname or "", port), timeout=REACH_SECONDS).close()
            except OSError as error:
                raise ConnectionError(f"no server answers at {uri} ({error})") from error
        # Its own defaults retry for more than a minute.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "5")
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "ERROR")
        with contextlib.redirect_stderr(io.StringIO()):  # it tells of every migration of a fresh database
            from mlflow import MlflowClient

            logging.getLogger("mlflow").setLevel(logging.ERROR)
            logging.getLogger("alembic").setLevel(logging.ERROR)
            self._client = MlflowClient(tracking_uri=uri)
            experiment = self._client.get_experiment_by_name(self._config.tracking.experiment)
        if experiment is not None:
            experiment_id = experiment.experiment_id
        else:
            local = None if parts.scheme in ("http", "https") else (folder.parent / "mlartifacts").resolve().as_uri()
            experiment_id = self._client.create_experiment(self._config.tracking.experiment, local)
        found = (
            self._client.search_runs([experiment_id], f"tags.run_folder = '{folder.resolve()}'", max_results=1)
            if resumed
            else []
        )
        if found:
            self._run_id = found[0].info.run_id
            self._client.update_run(self._run_id, status="RUNNING")
            return
        run = self._client.create_run(experiment_id, run_name=folder.name, tags={"run_folder": str(folder.resolve())})
        self._run_id = run.info.run_id
        from mlflow.entities import Param

        params = [Param(key, str(value)[:6000]) for key, value in flatten(self._config).items()]
        self._client.log_batch(self._run_id, params=params)

    def _log(self, values: dict[str, float], step: int, timestamp: int) -> None:
        from mlflow.entities import Metric

        self._client.log_batch(
            self._run_id,
            metrics=[Metric(key, float(value), timestamp, step) for key, value in values.items()],
        )

    def _close(self, folder: Path, results: dict[str, Any] | None) -> None:
        if results is not None and results["drift_spread"] is not None:
            self._log({"drift_spread": results["drift_spread"]}, results["rounds"], int(time.time() * 1000))
        for name in ("config.yaml", "results.json", "rounds.csv", "scores.csv", "model.pt", "drift.png",
                     "samples.png", "run.log"):  # fmt: skip
            if (folder / name).is_file():
                self._client.log_artifact(self._run_id, str(folder / name))
        self._client.set_terminated(self._run_id, _status(folder, results))


def _status(folder: Path, results: dict[str, Any] | None) -> str:
    """MLflow's word for how the run ended, by its results.json."""
    if results is not None:
        return "FINISHED"
    path = folder / "results.json"
    ended = json.loads(path.read_text(encoding="utf-8")).get("status") if path.is_file() else None
    return "KILLED" if ended == "interrupted" else "FAILED"
