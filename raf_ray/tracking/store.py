"""The MLflow side: a tracking server or database as a `Destination`, and what its errors mean."""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from raf_ray.errors import InputError, one_line
from raf_ray.masking import masked, scrubbed
from raf_ray.tracking.checks import check_address, check_uri, is_http, local_uri, sqlite_file, usable_uri
from raf_ray.tracking.outbox import Record
from raf_ray.tracking.sender import Away, LoggedMetric, NotYet, Refused

KEY_TAG = "raf_ray.run"
"""Tag by which a run is found again, so that no second one is made for it."""
METRICS_A_BATCH, PARAMS_A_BATCH = 1000, 100
"""MLflow's limits."""
SETTINGS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",  # we retry ourselves; its defaults block for over a minute
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "CRITICAL",  # its errors are raised too, and told in a sentence
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_UV_AUTO_DETECT": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
REFUSALS = {
    "INVALID_PARAMETER_VALUE", "BAD_REQUEST", "INVALID_STATE", "RESOURCE_DOES_NOT_EXIST", "RESOURCE_ALREADY_EXISTS",
    "NOT_FOUND", "ALREADY_EXISTS", "RESOURCE_CONFLICT",
}  # fmt: skip
DELETED = re.compile(r"The (run|experiment) (\w+) must be in the 'active' state")
"""MLflow's words for what was deleted."""
UPLOAD_TRIES = 3
MAY_PASS = (401, 403, 408, 429)
"""Client errors that a later try may not meet."""


def prepare_store(uri: str | None, folder: Path) -> str:
    """The URI for runs in folders below `folder`; a SQLite file is made and migrated now.

    For a caller that starts many runs: they may then open it at once.

    Raises:
        InputError: MLflow cannot use the URI or make the file.
    """
    check_uri(uri)
    check_address(uri or local_uri(folder))
    uri = usable_uri(uri) if uri is not None else local_uri(folder)
    if uri.startswith("sqlite:"):
        try:
            MlflowStore(uri)
        except (Away, Refused) as error:
            raise InputError(f"tracking.uri={masked(uri)}: {error}") from error
    return uri


class MlflowStore:
    """A `raf_ray.tracking.sender.Destination`."""

    def __init__(self, uri: str) -> None:
        """Raises Away where a database cannot be opened, or its driver or a password is missing; asks no server."""
        try:
            check_address(uri)
            uri = usable_uri(uri)
        except InputError as error:
            raise Away(str(error)) from error
        self._uri = uri
        self.is_packing = False
        self._known: set[str] = set()
        for name, value in SETTINGS.items():
            os.environ.setdefault(name, value)
        with self._answers(), _alone(uri):
            from mlflow import MlflowClient

            for name in ("mlflow", "alembic"):
                logging.getLogger(name).setLevel(logging.CRITICAL)
            self._client = MlflowClient(tracking_uri=uri, registry_uri=uri)
            if not is_http(uri):
                self._client.search_experiments(max_results=1)  # opens and, where it is new, migrates it

    def has_run(self, run_id: str) -> bool:
        if run_id in self._known:
            return True
        with self._answers():
            try:
                self._client.get_run(run_id)
            except Exception as error:
                if getattr(error, "error_code", "") == "RESOURCE_DOES_NOT_EXIST":
                    return False
                raise
        self._known.add(run_id)
        return True

    def open_run(self, record: Record) -> str:
        """The id of the record's run, which is found or made."""
        with self._answers():
            experiment = self._experiment(record["experiment"], record["artifacts"])
            if found := self._find(experiment, record["key"]):
                return found[0]
            tags = {**record["tags"], KEY_TAG: record["key"]}
            if record.get("search"):
                parents = self._find(experiment, record["search"])
                if not parents:
                    raise NotYet("the run of its search is not there yet: its folder must be sent first")
                tags["mlflow.parentRunId"] = parents[0]
            elif record.get("parent"):
                tags["mlflow.parentRunId"] = record["parent"]
            run = self._client.create_run(experiment, record["time"], tags, record["name"])
            return str(run.info.run_id)

    def log_params(self, run_id: str, values: dict[str, str]) -> None:
        from mlflow.entities import Param

        params = [Param(name, value) for name, value in values.items()]
        with self._answers():
            for start in range(0, len(params), PARAMS_A_BATCH):
                self._client.log_batch(run_id, params=params[start : start + PARAMS_A_BATCH])

    def log_metrics(self, run_id: str, metrics: Sequence[LoggedMetric]) -> None:
        # Equal metrics that are sent twice are stored once: they are the key of their table.
        from mlflow.entities import Metric as Entity

        entities = [Entity(*metric) for metric in metrics]
        with self._answers():
            for start in range(0, len(entities), METRICS_A_BATCH):
                self._client.log_batch(run_id, metrics=entities[start : start + METRICS_A_BATCH])

    def log_artifact(self, run_id: str, path: Path) -> None:
        if not path.is_file():
            raise Refused("the file is gone")
        with self._answers():
            self._client.log_artifact(run_id, str(path))

    def log_model(self, run_id: str, folder: Path, register: str | None, step: Callable[[], None]) -> None:
        from raf_ray.tracking.model_package import MODEL_PATH, build_package

        with tempfile.TemporaryDirectory(prefix="raf-ray-model-") as place:
            package = Path(place) / MODEL_PATH
            self.is_packing = True
            try:
                build_package(folder, package, run_id)
            except Exception as error:  # MLflow, or a model of one's own, may raise anything
                raise Refused(f"the package could not be made: {self._said(error)}") from error
            finally:
                self.is_packing = False
            step()
            # One by one, and each again by itself: a lost answer must not cost the whole upload.
            for path in sorted(path for path in package.rglob("*") if path.is_file()):
                self._upload(run_id, path, (MODEL_PATH / path.relative_to(package).parent).as_posix())
                step()
        if register is not None:
            with self._answers():
                self._register(run_id, MODEL_PATH, register)

    def set_status(self, run_id: str, record: Record) -> None:
        with self._answers():
            if record["kind"] == "resumed":
                self._client.update_run(run_id, status="RUNNING")
                return
            self._client.set_terminated(run_id, record["status"], record["time"])
            # A server that was slow may have made the run twice: once for each request that went unanswered.
            experiment = self._client.get_run(run_id).info.experiment_id
            for other in self._find(experiment, record["key"]):
                if other != run_id:
                    self._client.delete_run(other)

    def _experiment(self, name: str, artifacts: str) -> str:
        """The id of the experiment, which is found or made, without a server with its artifacts in that folder."""
        found = self._client.get_experiment_by_name(name)
        if found is None:
            if self._uri.startswith("sqlite:"):
                artifacts = str(sqlite_file(self._uri).resolve().parent / "mlartifacts")
            location = None if is_http(self._uri) else Path(artifacts).as_uri()
            try:
                return str(self._client.create_experiment(name, location))
            except Exception as error:  # another process may have been faster
                found = self._client.get_experiment_by_name(name)
                if found is None:
                    raise error
        if _is_deleted(found):
            raise self._restorable(found)
        return str(found.experiment_id)

    def _find(self, experiment: str, key: str) -> list[str]:
        runs = self._client.search_runs([experiment], f"tags.`{KEY_TAG}` = '{key}'")
        return sorted(run.info.run_id for run in runs)

    def _upload(self, run_id: str, path: Path, place: str) -> None:
        for tries in range(UPLOAD_TRIES, 0, -1):
            try:
                with self._answers():
                    self._client.log_artifact(run_id, str(path), place)
                return
            except Away:
                if tries == 1:
                    raise

    def _register(self, run_id: str, path: str, name: str) -> None:
        try:
            self._client.create_registered_model(name)
        except Exception as error:
            if getattr(error, "error_code", "") != "RESOURCE_ALREADY_EXISTS":
                raise
        if any(v.name == name for v in self._client.search_model_versions(f"run_id = '{run_id}'")):
            return
        source = f"{self._client.get_run(run_id).info.artifact_uri}/{path}"
        self._client.create_model_version(name, source, run_id, await_creation_for=0)

    @contextmanager
    def _answers(self) -> Iterator[None]:
        """Turn what MLflow raises into Away or Refused."""
        try:
            yield
        except (Away, Refused):
            raise
        except Exception as error:  # requests', SQLAlchemy's, urllib3's and MLflow's own
            if deleted := DELETED.search(str(error)):
                raise self._deleted(deleted[1], deleted[2]) from None
            if _is_refusal(error):
                raise Refused(self._said(error)) from None
            raise Away(self._cause(error)) from None

    def _deleted(self, kind: str, name: str) -> Away | Refused:
        """What a run or experiment that is not active means: an experiment can be brought back."""
        with self._answers():
            experiment = self._client.get_experiment(
                name if kind == "experiment" else self._client.get_run(name).info.experiment_id
            )
        return self._restorable(experiment) if _is_deleted(experiment) else Refused("the run was deleted in MLflow")

    def _restorable(self, experiment: Any) -> Away:
        command = f"MLFLOW_TRACKING_URI={masked(self._uri)} mlflow experiments restore -x {experiment.experiment_id}"
        return Away(
            f"MLflow's experiment {experiment.name!r} was deleted: bring it back with `{command}`, or begin runs with "
            "another tracking.experiment"
        )

    def _cause(self, error: Exception) -> str:
        from requests.exceptions import ConnectionError, RetryError, Timeout

        server = masked(self._uri)
        for link in _chain(error):
            if isinstance(link, Timeout):
                return f"the server at {server} does not answer in time"
            if isinstance(link, RetryError):
                return f"the server at {server} answers with errors: {self._said(link)}"
            if isinstance(link, ConnectionError):
                return f"no server answers at {server}"
        status = getattr(error, "get_http_status_code", lambda: None)()
        if status in (401, 403):
            return f"the server at {server} refuses access ({status})"
        return self._said(error)

    def _said(self, error: BaseException) -> str:
        """The error in one line, without this URI's secrets."""
        return one_line(scrubbed(str(error), self._uri), 300) or type(error).__name__


@contextmanager
def _alone(uri: str) -> Iterator[None]:
    """Only one process at a time opens a SQLite file: its migrations cannot bear two."""
    if not uri.startswith("sqlite:"):
        yield
        return
    name = f"raf-ray-{os.getuid()}-{hashlib.sha256(uri.encode()).hexdigest()[:16]}.lock"
    with open(Path(tempfile.gettempdir()) / name, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _is_deleted(experiment: Any) -> bool:
    return bool(experiment.lifecycle_stage == "deleted")


def _is_refusal(error: Exception) -> bool:
    """Whether the server will never take it: not its absence, an overload, or a missing right."""
    if isinstance(error, FileNotFoundError | PermissionError):  # an artifact, or the folder it is to go to
        return True
    status = getattr(getattr(error, "response", None), "status_code", None)  # of an upload
    if status is not None:
        return 400 <= status < 500 and status not in MAY_PASS
    return getattr(error, "error_code", "") in REFUSALS


def _chain(error: BaseException) -> Iterator[BaseException]:
    link: BaseException | None = error
    while link is not None:
        yield link
        link = link.__cause__ or link.__context__
