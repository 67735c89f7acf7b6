"""The run folder: its files, written atomically, and what a resume keeps of them."""

from __future__ import annotations

import contextlib
import csv
import fcntl
import io
import json
import logging
import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from raf_ray.errors import InputError
from raf_ray.files import write_atomically, write_json, write_text

FILES = ("config.yaml", "results.json", "rounds.csv", "scores.csv", "model.pt", "checkpoint.pt", "drift.png",
         "samples.png", "run.log", "mlflow.jsonl", "mlflow.sent.json")  # fmt: skip

ROOM = ".results.room.bin"
"""While a run goes on, bytes that are given up for the last results.json where its disk is full."""
ROOM_BYTES = 64 * 2**10

TRACES = re.compile(r"\.?trace-.+-round-\d+(\.\d+)?\.json")
"""Profiler traces and their temporary neighbours; see `raf_ray.federation.tracing`."""


class RunLog(logging.FileHandler):
    """run.log. What does not fit on a full disk is left out without a word: the run says why it ends."""

    def __init__(self, path: str) -> None:
        super().__init__(path, encoding="utf-8", delay=True, errors="backslashreplace")
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        with contextlib.suppress(OSError):  # where run.log cannot be opened
            super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None: ...

    def close(self) -> None:
        with contextlib.suppress(OSError):
            super().close()


def _is_ours(name: str) -> bool:
    """A file of a run, or the temporary neighbour of one that a kill left behind."""
    stems = tuple(f".{Path(file).stem}." for file in FILES)
    return name in FILES or name.startswith(stems) or bool(TRACES.fullmatch(name))


@dataclass(frozen=True)
class Checkpoint:
    """All that a run needs to go on after `round` whole rounds."""

    round: int
    buffer: np.ndarray
    """(num_bytes,) uint8 global state"""
    client_states: dict[str, Any]
    """Client name -> what it keeps between rounds"""
    totals: dict[str, float]
    costs: dict[str, dict[str, float]]
    """Tier -> running cost sums"""


def save_plain(values: Mapping[str, Any], path: Path) -> None:
    """Write plain tensors and containers, atomically. Raises OSError where they cannot be written."""
    import torch

    def write(temporary: Path) -> None:
        try:
            with open(temporary, "wb") as file:
                torch.save(dict(values), file)
        except RuntimeError as error:  # in closing its archive torch stumbles over what the disk did not take
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise

    write_atomically(path, write)


@dataclass(frozen=True)
class RunFolder:
    path: Path

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    def told(self, error: OSError) -> str:
        """A sentence about what could not be written, or read elsewhere."""
        why = error.strerror or str(error)
        named = os.fspath(error.filename) if isinstance(error.filename, str | os.PathLike) else None
        if named is None or Path(named).is_relative_to(self.path):
            return f"cannot write to {self.path}: {why}"
        return f"{named}: {why}"

    def check_free(self, overwrite: bool) -> None:
        """Raise InputError where the folder is in use; with `overwrite`, where what it holds is no run."""
        if not self.path.exists():
            return
        if not self.path.is_dir():
            raise InputError(f"output {self.path} is a file; choose a folder")
        if not any(self.path.iterdir()):
            return
        if not overwrite:
            raise InputError(
                f"output folder {self.path} is not empty; choose another --output, or add --resume to go on "
                "with its run or --overwrite to replace it"
            )
        foreign = sorted(path.name for path in self.path.iterdir() if not _is_ours(path.name))
        if foreign:
            raise InputError(
                f"{self.path} holds what no run wrote ({foreign[0]}), so --overwrite leaves it alone; "
                "choose another --output"
            )

    def create(self, config_yaml: str, overwrite: bool) -> None:
        """Make the folder with its config, in place of an earlier run's with `overwrite`.

        Raises:
            InputError: the folder is in use or cannot be written.
        """
        self.check_free(overwrite)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            for path in self.path.iterdir():
                path.unlink()
            write_text(self / "config.yaml", config_yaml)
        except OSError as error:
            raise InputError(f"cannot write to output folder {self.path}: {error.strerror}") from error

    @contextmanager
    def logged(self) -> Iterator[None]:
        """What the package logs meanwhile stands in run.log, once."""
        logger = logging.getLogger("raf_ray")
        path = str((self / "run.log").absolute())
        if any(isinstance(other, RunLog) and other.baseFilename == path for other in logger.handlers):
            yield
            return
        handler = RunLog(path)
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        try:
            yield
        finally:
            logger.removeHandler(handler)
            handler.close()

    def is_held(self) -> bool:
        """Whether a process holds the folder (see `locked`); True too where that cannot be found out."""
        try:
            with open(self / "config.yaml", "rb") as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
        return False

    @contextmanager
    def locked(self, seconds: float = 30.0) -> Iterator[None]:
        """Hold the folder against other processes; wait for one that is about to end, such as a killed run's driver.

        Raises InputError where another process still holds it after `seconds`.
        """
        with open(self / "config.yaml", "rb") as file:
            deadline = time.monotonic() + seconds
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        raise InputError(
                            f"another process still writes to {self.path}; wait for it or end it"
                        ) from None
                    time.sleep(0.1)
            yield

    def append_rows(self, name: str, header: Iterable[str], rows: Iterable[Mapping[str, Any]]) -> None:
        """Append rows to a CSV file, flushed to disk; the first call writes the header."""
        path = self / name
        text = io.StringIO()
        writer = csv.DictWriter(text, list(header), restval="", lineterminator="\n")
        if not path.exists():
            writer.writeheader()
        writer.writerows(rows)
        with open(path, "a", encoding="utf-8") as file:
            file.write(text.getvalue())
            file.flush()
            os.fsync(file.fileno())

    def read_rows(self, name: str) -> list[dict[str, str]]:
        path = self / name
        if not path.exists():
            return []
        with open(path, encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))

    def cut_rows_after(self, name: str, last_round: int) -> None:
        """Drop the rows of rounds after `last_round` (and a half-written last line)."""
        path = self / name
        if not path.exists():
            return
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        header, kept = lines[:1], []
        column = header[0].strip().split(",").index("round") if header else 0
        for line in lines[1:]:
            cell = line.split(",")[column]
            if line.endswith("\n") and cell.isdigit() and int(cell) <= last_round:
                kept.append(line)
        write_text(path, "".join(header + kept))

    def save_checkpoint(self, checkpoint: Checkpoint) -> None:
        import torch

        values = {
            "round": checkpoint.round,
            "buffer": torch.from_numpy(np.array(checkpoint.buffer)),
            "client_states": checkpoint.client_states,
            "totals": checkpoint.totals,
            "costs": checkpoint.costs,
        }
        save_plain(values, self / "checkpoint.pt")

    def load_checkpoint(self) -> Checkpoint | None:
        """The last checkpoint, or None where the run ended before its first."""
        import torch

        path = self / "checkpoint.pt"
        if not path.exists():
            return None
        try:
            values = torch.load(path, weights_only=True, map_location="cpu")
            return Checkpoint(**{**values, "buffer": values["buffer"].numpy()})
        except Exception as error:  # torch raises a different type for every kind of damage
            raise InputError(f"{path} cannot be read ({type(error).__name__}); start again with --overwrite") from error

    def begin_results(self, values: Mapping[str, Any]) -> None:
        """results.json of a run that begins or goes on, and room for its last one."""
        write_json(self / "results.json", values)
        size = 2 * (self / "results.json").stat().st_size + ROOM_BYTES
        (self / ROOM).write_bytes(os.urandom(size))

    def start_again(self) -> None:
        """results.json of a run that goes on says so before its driver is there."""
        results = self.results()
        if results is not None:
            write_json(self / "results.json", {**results, "status": "starting", "error": ""})

    def end_results(self, values: Mapping[str, Any]) -> None:
        """The last results.json of a run, for which a full disk has room."""
        (self / ROOM).unlink(missing_ok=True)
        write_json(self / "results.json", values)

    def mark_ended(self, status: str, cause: str) -> None:
        """Where results.json does not say how the run ended, say it: its driver could not."""
        if not (self / "config.yaml").is_file():
            return
        with contextlib.suppress(OSError, InputError):
            results = self.results() or {"status": "starting"}
            if results.get("status") in ("starting", "running"):
                self.end_results({**results, "status": status, "error": cause})

    def results(self) -> dict[str, Any] | None:
        path = self / "results.json"
        if not path.exists():
            return None
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, json.JSONDecodeError) as error:
            raise InputError(f"{path} cannot be read: {error}") from error
        return dict(values)
