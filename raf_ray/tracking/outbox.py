"""The outbox: what MLflow is to be told about a run, in order, on disk, and how far it was told.

URIs lie here masked; two that differ in their user or password alone mean the same server.

`mlflow.jsonl` has one JSON record a line, only ever appended to; `mlflow.sent.json` is replaced atomically. Records by
`kind`:

- `run`: key (unique, found again by a tag), uri, experiment, artifacts (folder, for a database without a server), name,
  time, tags, search (the parent's key) or parent (its run id);
- `params`: values; `metrics`: step, time, values; `artifact`: path, relative to the folder; `model`: register;
- `resumed`: uri, experiment, time; `end`: key, status, time. Times are ms since 1970.
"""

from __future__ import annotations

import fcntl
import json
import os
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from raf_ray.files import write_json
from raf_ray.masking import masked, place

RECORDS = "mlflow.jsonl"
SENT = "mlflow.sent.json"

Record = dict[str, Any]


@dataclass(frozen=True)
class Sent:
    """How far the server at `uri` was told."""

    uri: str = ""
    """Masked"""
    run_id: str = ""
    """MLflow's; empty until its run exists"""
    offset: int = 0
    """Bytes of `mlflow.jsonl`"""

    def is_of(self, uri: str) -> bool:
        return place(self.uri) == place(uri)


class Outbox:
    """One run's records. Any thread may append; the process that holds the lock may send."""

    def __init__(self, folder: Path) -> None:
        """Raises OSError where the folder cannot be written."""
        self.folder = folder
        self._guard = threading.Lock()
        self._file = os.open(folder / RECORDS, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        size = os.fstat(self._file).st_size
        self._torn = size > 0 and os.pread(self._file, 1, size - 1) != b"\n"

    def append(self, record: Mapping[str, Any]) -> None:
        """Hand one record to the operating system: from then on it outlives the process. Raises OSError."""
        line = json.dumps(record, allow_nan=False, default=float).encode() + b"\n"
        with self._guard:
            if self._torn:  # a kill or a full disk left half a line: end it, so that reading skips it alone
                line = b"\n" + line
            self._torn = True
            self._torn = os.write(self._file, line) != len(line)
            if self._torn:
                raise OSError(f"{self.folder / RECORDS} took half a record: the disk is full")

    def read(self, offset: int = 0) -> Iterator[tuple[Record, int]]:
        """The whole records from `offset`, each with the offset after it."""
        size = os.fstat(self._file).st_size
        data = os.pread(self._file, size - offset, offset) if size > offset else b""
        for line in data.splitlines(keepends=True):
            if not line.endswith(b"\n"):
                return
            offset += len(line)
            record = _parsed(line)
            if record is not None:
                yield record, offset

    def target(self) -> str | None:
        """Where the records belong: the server of the run, or of its last resume; masked."""
        uris = [record["uri"] for record, _ in self.read() if "uri" in record]
        return uris[-1] if uris else None

    def waiting(self, uri: str) -> int:
        """Records that the server at `uri` was not told."""
        sent = self.sent()
        return sum(1 for _ in self.read(sent.offset if sent.is_of(uri) else 0))

    def end_dead_run(self, status: str) -> None:
        """Where the run was killed before it could say how it ended, say it; for who holds the lock."""
        states = [record for record, _ in self.read() if record["kind"] in ("run", "resumed", "end")]
        if states and states[-1]["kind"] != "end":
            self.append({"kind": "end", "key": states[0]["key"], "status": status, "time": int(time.time() * 1000)})

    def lock(self, patience_s: float = 0.0) -> bool:
        """Become the only sender; False where another process still is. The process's end gives it back."""
        deadline = time.monotonic() + patience_s
        while True:
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return True
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    return False
            time.sleep(0.1)

    def sent(self) -> Sent:
        path = self.folder / SENT
        if not path.exists():
            return Sent()
        try:
            return Sent(**json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):  # damaged: all is sent again, and each record is stored once
            return Sent()

    def save_sent(self, sent: Sent) -> None:
        """Raises OSError, also where another run has taken the folder over."""
        if not os.path.samestat(os.fstat(self._file), os.stat(self.folder / RECORDS)):
            raise FileNotFoundError(f"{self.folder} was given to another run")
        write_json(self.folder / SENT, {**asdict(sent), "uri": masked(sent.uri)})

    def close(self) -> None:
        os.close(self._file)


def _parsed(line: bytes) -> Record | None:
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) and "kind" in record else None
