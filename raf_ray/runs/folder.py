"""The run folder: its files, written atomically, and what a resume keeps of them."""

from __future__ import annotations

import contextlib
import csv
import fcntl
import io
import logging
import os
import re
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raf_ray.errors import InputError
from raf_ray.runs.checkpoint import Checkpoint, not_this_run, read_checkpoint, write_checkpoint
from raf_ray.runs.memories import MemoryFiles
from raf_ray.runs.output import check_free, writing_to
from raf_ray.runs.tables import RESTORE, Scoring, check_cells, lines_until, rows_of, scorings, whole_rows
from raf_ray.files import Json, read_json, read_text, write_json, write_text

if TYPE_CHECKING:
    from raf_ray.state import Layout

FILES = ("config.yaml", "results.json", "rounds.csv", "scores.csv", "model.pt", "checkpoint.pt", "drift.png",
         "samples.png", "rounds.png", "run.log", "mlflow.jsonl", "mlflow.sent.json")  # fmt: skip

CLIENTS = "clients"
"""Folder of what clients keep between rounds, where a method or a kept optimiser has them keep anything."""

RESERVE = ".results.room.bin"
"""While a run goes on, bytes that are given up for the last results.json where its disk is full."""
RESERVE_BYTES = 64 * 2**10

TRACES = re.compile(r"\.?trace-.+-round-\d+(\.\d+)?\.json")
"""Profiler traces and their temporary neighbours; see `raf_ray.training.tracing`."""


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


OWN_MODELS = re.compile(r"\.?model-.+\.pt")
"""Clients' own models and their temporary neighbours; see `model_file`."""


def model_file(client: str | None) -> str:
    """The file of a client's own model, where the method leaves it some of it; None: of the server's."""
    return "model.pt" if client is None else f"model-{client}.pt"


def client_of(file: str) -> str:
    """Whose own model that is."""
    return file.removeprefix("model-").removesuffix(".pt")


def _is_ours(name: str) -> bool:
    """A file of a run, or the temporary neighbour of one that a kill left behind."""
    stems = tuple(f".{Path(file).stem}." for file in FILES)
    many = TRACES.fullmatch(name) or OWN_MODELS.fullmatch(name)
    return name in (*FILES, CLIENTS) or name.startswith(stems) or many is not None


@dataclass(frozen=True)
class RunFolder:
    path: Path

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    @property
    def memories(self) -> MemoryFiles:
        return MemoryFiles(self / CLIENTS)

    def sentence(self, error: OSError) -> str:
        """A sentence about what could not be written, or read elsewhere."""
        why = error.strerror or str(error)
        named = os.fspath(error.filename) if isinstance(error.filename, str | os.PathLike) else None
        if named is None or Path(named).is_relative_to(self.path):
            return f"cannot write to {self.path}: {why}"
        return f"{named}: {why}"

    def check_free(self, overwrite: bool) -> None:
        """Raise InputError where the folder is in use; with `overwrite`, where what it holds is no run."""

        def foreign(names: list[str]) -> str | None:
            others = [name for name in names if not _is_ours(name)]
            return f"what no run wrote ({others[0]})" if others else None

        check_free(self.path, "run", overwrite=overwrite, foreign=foreign)

    def create(self, config_yaml: str, overwrite: bool) -> None:
        """Make the folder with its config, in place of an earlier run's with `overwrite`.

        Raises:
            InputError: the folder is in use or cannot be written.
        """
        self.check_free(overwrite)
        with writing_to(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            self.memories.keep_only({})
            for path in self.path.iterdir():
                path.unlink()
            write_text(self / "config.yaml", config_yaml)

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
        """The whole rows of rounds.csv or scores.csv; none where it is missing. Raises InputError for damage."""
        return whole_rows(self / name)

    def scores(self) -> list[Scoring]:
        """The scorings in scores.csv, in order."""
        return scorings(self.read_rows("scores.csv"))

    def cut_rows_after(self, name: str, last_round: int) -> None:
        """Drop the rows of rounds after `last_round` (and a half-written last line)."""
        path = self / name
        if path.exists():
            write_text(path, "".join(lines_until(read_text(path, "table"), last_round)))

    def check_rows(self, last_round: int) -> None:
        """Raise InputError where rounds.csv or scores.csv does not hold what a run to `last_round` wrote."""
        for name in ("rounds.csv", "scores.csv"):
            path = self / name
            if not path.exists() and (last_round == 0 or name == "scores.csv"):
                continue
            rows = rows_of(path, lines_until(read_text(path, "table"), last_round))
            if name == "rounds.csv" and [int(row["round"]) for row in rows] != list(range(1, last_round + 1)):
                raise InputError(f"{path} does not hold the rounds 1 to {last_round} once each; {RESTORE}")
            check_cells(path, rows)

    def save_checkpoint(self, checkpoint: Checkpoint) -> None:
        write_checkpoint(self / "checkpoint.pt", checkpoint)

    def load_checkpoint(self, layout: Layout, clients: Collection[str], rounds: int) -> Checkpoint | None:
        """The last checkpoint, or None where the run ended before its first.

        Raises InputError where it cannot be read, or is of another run; see `read_checkpoint`.
        """
        path = self / "checkpoint.pt"
        checkpoint = read_checkpoint(path, layout, clients, rounds) if path.exists() else None
        self.check_rows(0 if checkpoint is None else checkpoint.round)
        return checkpoint

    def not_this_run(self, error: ValueError) -> str:
        """A sentence about what of the checkpoint is another run's."""
        return not_this_run(self / "checkpoint.pt", error)

    def begin_results(self, values: Mapping[str, Any]) -> None:
        """results.json of a run that begins or goes on, and room for its last one."""
        write_json(self / "results.json", values)
        size = 2 * (self / "results.json").stat().st_size + RESERVE_BYTES
        (self / RESERVE).write_bytes(os.urandom(size))

    def start_again(self) -> None:
        """results.json of a run that goes on says so before its driver is there."""
        results = self.results()
        if results is not None:
            write_json(self / "results.json", {**results, "status": "starting", "error": ""})

    def end_results(self, values: Mapping[str, Any]) -> None:
        """The last results.json of a run, for which a full disk has room."""
        (self / RESERVE).unlink(missing_ok=True)
        write_json(self / "results.json", values)

    def mark_ended(self, status: str, cause: str) -> None:
        """Where results.json does not say how the run ended, say it: its driver could not."""
        if not (self / "config.yaml").is_file():
            return
        with contextlib.suppress(OSError, InputError):
            results = self.results() or {"status": "starting"}
            if results.get("status") in ("starting", "running"):
                self.end_results({**results, "status": status, "error": cause})

    def results(self) -> Json | None:
        """results.json, or None where there is none. Raises InputError where it is damaged."""
        path = self / "results.json"
        if not path.exists():
            return None
        values = read_json(path, "results file")
        if not isinstance(values, dict) or not isinstance(values.get("status"), str):
            raise InputError(
                f"results file {path} is no run's: it has no status; remove it, and --resume writes it anew"
            )
        return values
