"""One MLflow run as the program tells it: into its outbox, from which a thread sends it."""

from __future__ import annotations

import math
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from raf_ray.config.tree import TrackingConfig
from raf_ray.masking import masked
from raf_ray.tracking.checks import local_uri
from raf_ray.tracking.outbox import Outbox, Record
from raf_ray.tracking.sender import Sender
from raf_ray.tracking.store import MlflowStore

LONGEST_PARAM = 6000
"""MLflow's limit."""
CUT = " ... (cut: config.yaml has it whole)"

Warn = Callable[[str], None]
"""Told, in one sentence, what MLflow does not get."""


class Log:
    """One MLflow run: its outbox, and the thread that sends it."""

    def __init__(self, folder: Path, tracking: TrackingConfig, store: Path, warn: Warn) -> None:
        """`store` holds the local database and artifacts where no server is given. Raises OSError."""
        self._warn = warn
        self._outbox = Outbox(folder)
        self._tracking = tracking
        self._uri = tracking.address or local_uri(store)
        self._home = {"uri": masked(self._uri), "experiment": tracking.experiment}
        self._artifacts = str((store / "mlartifacts").resolve())
        self._recorded: set[tuple[str, int]] = set()
        self._has_model = False
        self.key = ""
        for record, _ in self._outbox.read():
            if record["kind"] == "run":
                self.key = record["key"]
                experiment = record["experiment"]
                if experiment != tracking.experiment:
                    warn(f"MLflow goes on with this run where it began, in experiment {experiment}")
            elif record["kind"] == "metrics":
                self._recorded.update((name, record["step"]) for name in record["values"])
            self._has_model |= record["kind"] == "model"
        self.is_new = not self.key
        self.key = self.key or uuid.uuid4().hex
        self._failed = False
        self._sender: Sender | None = None

    def open(self, name: str, params: Mapping[str, Any], tags: Mapping[str, str], **parent: str | None) -> None:
        """Begin the run, or go on with it, and start to send."""
        if self.is_new:
            self._put(
                "run", key=self.key, artifacts=self._artifacts, name=_text(name),
                tags={key: _text(value) for key, value in tags.items()}, **self._home, **parent,
            )  # fmt: skip
            self._put("params", values={key: _param(value) for key, value in params.items()})
        else:
            self._put("resumed", **self._home)
        self._start()

    def add(self, values: Mapping[str, float], step: int, artifact: str) -> None:
        """Metrics that became known after the run's end, and the file that has them too."""
        waiting = self._outbox.waiting(self._uri)
        is_new = self.metrics(values, step)
        if is_new:
            self.artifact(artifact)
        self._send_added(is_new, bool(waiting))

    def add_model(self) -> None:
        """The model, after the run's end; once."""
        waiting, is_new = self._outbox.waiting(self._uri), not self._has_model
        if is_new:
            self.model()
        self._send_added(is_new, bool(waiting))

    def _send_added(self, is_new: bool, waiting: bool) -> None:
        if is_new and not waiting:  # else the server was away a moment ago, and the user knows how to send the rest
            self._start()
            self._finish()
        else:
            self._outbox.close()

    def metrics(self, values: Mapping[str, float], step: int) -> bool:
        """Record those that are numbers and that the run does not have at this step yet; whether there were any."""
        new = {
            _name(key): value
            for key, value in values.items()
            if math.isfinite(value) and (_name(key), step) not in self._recorded
        }
        if new:
            self._recorded.update((key, step) for key in new)
            self._put("metrics", step=step, values=new)
        return bool(new)

    def last_step(self, prefix: str) -> int:
        """The last recorded step of the metrics whose names begin so; 0 without one."""
        return max((step for key, step in self._recorded if key.startswith(prefix)), default=0)

    def artifact(self, path: str) -> None:
        self._put("artifact", path=path)

    def model(self) -> None:
        self._put("model", register=self._tracking.register_model)

    def close(self, status: str) -> None:
        """End the run with MLflow's word for how, and wait a moment for what waits."""
        self._put("end", key=self.key, status=status)
        self._finish()

    def _start(self) -> None:
        self._sender = Sender(self._outbox, self._uri, MlflowStore, self._warn)
        self._sender.wake()

    def _finish(self) -> None:
        if self._sender is not None:
            self._sender.finish()

    def _put(self, kind: str, **values: object) -> None:
        record: Record = {"kind": kind, "time": int(time.time() * 1000), **values}
        try:
            self._outbox.append(record)
        except OSError as error:
            if not self._failed:
                self._failed = True
                self._warn(f"MLflow will lack records of this run, which could not be written: {error}")
        if self._sender is not None:
            self._sender.wake()


@contextmanager
def spared(warn: Warn) -> Iterator[None]:
    """Whatever goes wrong with MLflow in here costs its record, and never the run."""
    try:
        yield
    except Exception as error:  # MLflow's, its databases' and its servers' own
        warn(f"MLflow lacks a part of this run ({type(error).__name__}: {' '.join(str(error).split())[:300]}); "
             "the run itself is whole")  # fmt: skip


def _text(value: str) -> str:
    """Without what UTF-8 cannot say, such as a folder's name of odd bytes."""
    return value.encode("utf-8", "replace").decode()


def _param(value: object) -> str:
    text = _text(str(value))
    return text if len(text) <= LONGEST_PARAM else text[: LONGEST_PARAM - len(CUT)] + CUT


def _name(name: str) -> str:
    """A metric's name with only what MLflow allows in one."""
    return "".join(c if c.isascii() and (c.isalnum() or c in "_-. :/") else "_" for c in name)
