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
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from raf_ray.algorithms.interface import Memory
from raf_ray.errors import InputError
from raf_ray.federation.accounting import Account
from raf_ray.federation.memories import MemoryFiles
from raf_ray.files import read_json, read_text, write_atomically, write_json, write_text

if TYPE_CHECKING:
    from raf_ray.state import Layout

FILES = ("config.yaml", "results.json", "rounds.csv", "scores.csv", "model.pt", "checkpoint.pt", "drift.png",
         "samples.png", "run.log", "mlflow.jsonl", "mlflow.sent.json")  # fmt: skip

CLIENTS = "clients"
"""Folder of what clients keep between rounds, where a method or a kept optimiser has them keep anything."""

ROOM = ".results.room.bin"
"""While a run goes on, bytes that are given up for the last results.json where its disk is full."""
ROOM_BYTES = 64 * 2**10

TRACES = re.compile(r"\.?trace-.+-round-\d+(\.\d+)?\.json")
"""Profiler traces and their temporary neighbours; see `raf_ray.training.tracing`."""


RESTORE = "put back the one that the run wrote, or start again with --overwrite"


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
    return name in (*FILES, CLIENTS) or name.startswith(stems) or bool(TRACES.fullmatch(name))


@dataclass(frozen=True)
class Checkpoint:
    """All that a run needs to go on after `round` whole rounds."""

    round: int
    buffer: np.ndarray
    """(num_bytes,) uint8 global state"""
    server: Memory
    """What the method keeps on the server"""
    clients: dict[str, int]
    """Client name -> round after which it kept what it keeps; see `raf_ray.federation.memories`"""
    account: dict[str, Any]
    """`raf_ray.federation.accounting.Account.state`"""


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

    @property
    def memories(self) -> MemoryFiles:
        return MemoryFiles(self / CLIENTS)

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
            self.memories.keep_only({})
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
        """The rows of a CSV file; none where it is missing. Raises InputError where it is no text."""
        path = self / name
        if not path.exists():
            return []
        return rows_of(path, read_text(path, "table").splitlines(keepends=True))

    def cut_rows_after(self, name: str, last_round: int) -> None:
        """Drop the rows of rounds after `last_round` (and a half-written last line)."""
        path = self / name
        if path.exists():
            write_text(path, "".join(_lines_until(read_text(path, "table"), last_round)))

    def check_rows(self, last_round: int) -> None:
        """Raise InputError where rounds.csv or scores.csv does not hold what a run to `last_round` wrote."""
        for name in ("rounds.csv", "scores.csv"):
            path = self / name
            if not path.exists() and (last_round == 0 or name == "scores.csv"):
                continue
            rows = rows_of(path, _lines_until(read_text(path, "table"), last_round))
            if name == "rounds.csv" and [int(row["round"]) for row in rows] != list(range(1, last_round + 1)):
                raise InputError(f"{path} does not hold the rounds 1 to {last_round} once each; {RESTORE}")
            check_cells(path, rows)

    def save_checkpoint(self, checkpoint: Checkpoint) -> None:
        import torch

        values = {
            "round": checkpoint.round,
            "buffer": torch.from_numpy(np.array(checkpoint.buffer)),
            "server": {name: torch.from_numpy(array) for name, array in checkpoint.server.items()},
            "clients": checkpoint.clients,
            "account": checkpoint.account,
        }
        save_plain(values, self / "checkpoint.pt")

    def load_checkpoint(self, layout: Layout, tiers: Mapping[str, str], rounds: int) -> Checkpoint | None:
        """The last checkpoint, or None where the run ended before its first.

        Args:
            layout: of the run's model.
            tiers: client -> tier, of the run's clients.
            rounds: of the whole run.

        Raises InputError where it cannot be read, or is of another run.
        """
        import torch

        path = self / "checkpoint.pt"
        if not path.exists():
            self.check_rows(0)
            return None
        try:
            values = torch.load(path, weights_only=True, map_location="cpu")
        except Exception as error:  # torch raises a different type for every kind of damage
            raise InputError(f"{path} cannot be read ({type(error).__name__}); start again with --overwrite") from error
        try:
            checkpoint = _checkpoint_of(values, layout, tiers, rounds)
        except ValueError as error:
            raise InputError(f"{path} is not this run's: {error}; start again with --overwrite") from error
        self.check_rows(checkpoint.round)
        return checkpoint

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


def _checkpoint_of(values: Any, layout: Layout, tiers: Mapping[str, str], rounds: int) -> Checkpoint:
    """What a checkpoint file holds, checked. Raises ValueError saying what is wrong."""
    names = {field.name for field in fields(Checkpoint)}
    if not isinstance(values, dict) or not names & set(values):
        raise ValueError("it is no checkpoint")
    if set(values) != names:
        odd = sorted(map(str, names ^ set(values)))[0]
        raise ValueError(f"it holds {'no' if odd in names else 'a'} '{odd[:40]}', as one of another version of raf-ray")
    done, buffer, server, clients, account = (
        values[name] for name in ("round", "buffer", "server", "clients", "account")
    )
    if type(done) is not int or not 1 <= done <= rounds:
        raise ValueError(f"its round is {done!r:.40}, of {rounds} rounds")
    shape = tuple(getattr(buffer, "shape", ()))
    if str(getattr(buffer, "dtype", "")) != "torch.uint8" or shape != (layout.num_bytes,):
        raise ValueError(f"its state is not the {layout.num_bytes} bytes of this model")
    if not np.isfinite(layout.floats(buffer.numpy())).all():
        raise ValueError("its state holds NaN or Inf")
    if not isinstance(clients, dict) or not set(clients) <= set(tiers):
        raise ValueError("its clients are others")
    if not all(type(kept) is int and 1 <= kept <= done for kept in clients.values()):
        raise ValueError("its clients are of no round of it")
    if not isinstance(server, dict) or not all(hasattr(kept, "numpy") for kept in server.values()):
        raise ValueError("what its method keeps is no vectors")
    if not isinstance(account, dict):
        raise ValueError("it holds no totals")
    Account(tiers, ()).restore(account)
    return Checkpoint(done, buffer.numpy(), {name: kept.numpy() for name, kept in server.items()}, clients, account)


def _lines_until(text: str, last_round: int) -> list[str]:
    """A table's header and its whole lines of rounds up to `last_round`."""
    lines = text.splitlines(keepends=True)
    header = lines[0].strip().split(",") if lines else []
    if "round" not in header:
        return []
    column, kept = header.index("round"), lines[:1]
    for line in lines[1:]:
        cells = line.rstrip("\r\n").split(",")
        cell = cells[column] if len(cells) > column else ""
        if line.endswith("\n") and cell.isdecimal() and len(cell) < 19 and int(cell) <= last_round:
            kept.append(line)
    return kept


def rows_of(path: Path, lines: Iterable[str]) -> list[dict[str, str]]:
    """The rows of a CSV file's lines, header first. Raises InputError where they are no table."""
    try:
        return list(csv.DictReader(lines))
    except csv.Error as error:
        raise InputError(f"{path} is damaged ({error}); {RESTORE}") from error


def check_cells(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Raise InputError where a row of rounds.csv or scores.csv has cells too many or too few, or no number in one."""
    for row in rows:
        for column, cell in row.items():
            is_text = path.name == "scores.csv" and column in ("split", "resolution", "metric")
            is_empty = path.name == "rounds.csv" and cell == "" and column != "round"
            if column is None or cell is None or not (is_text or is_empty or _is_number(cell, column == "round")):
                raise InputError(
                    f"{path} is damaged at round {str(row.get('round'))[:20]}, {column or 'its end'}; {RESTORE}"
                )


def _is_number(text: str, whole: bool) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return text.isdecimal() or not whole
