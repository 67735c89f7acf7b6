"""The copy of a run folder in a storage, kept while the run goes on: what another host sees of it, and goes on from.

The copy is made whole again and again, in an order such that a checkpoint has all that it names whenever somebody
reads: what clients keep, then the tables, then the checkpoint, then the results. While the storage is away the run goes
on.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path

from raf_ray.errors import InputError, RunError
from raf_ray.files import Json, write_json
from raf_ray.storage import Storage

log = logging.getLogger(__name__)

EVERY_SECONDS = 2.0
"""Between two looks at the folder: a choice."""

LAST = ("checkpoint.pt", "model.pt", "results.json")
"""Files that speak of others, in order: they are sent after all others."""

HELD = ".held.json"
"""Who writes to the folder, written anew while it does."""
BEAT_SECONDS, STALE_SECONDS = 15.0, 60.0

Mark = tuple[int, int, int]
"""Of a file's content: inode, bytes, time of change in ns"""


class Mirror:
    """Sends what changed in a folder, in a thread of its own. Hidden files stay where they are."""

    def __init__(self, folder: Path, storage: Storage) -> None:
        self._folder, self._storage = folder, storage
        self._sent: dict[str, Mark] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="mirror", daemon=True)
        self._beaten: float | None = None
        """When the mark of who writes was last sent; None: nothing was sent yet"""
        self.problem = ""
        """Why the storage does not take it, for now"""
        self.failure: RunError | None = None
        """Why it did not take it at the end"""

    def begin(self, what: str) -> None:
        """Make the folder what the storage has, and follow it from then on.

        Args:
            what: names the storage in the error, such as ``--output``.

        Raises InputError where another process writes to it, RunError where it cannot be read.
        """
        holder = holder_of(self._storage)
        if holder is not None:
            raise InputError(
                f"{what}: another process ({holder['pid']} on {holder['host']}) writes to {self._storage}; wait for it "
                "or end it"
            )
        fetch(self._storage, self._folder)
        self._sent = self._marks()
        self._thread.start()

    def finish(self, seconds: float | None = None) -> None:
        """Send the rest.

        Args:
            seconds: to wait for a storage that is away; None: as it says itself.

        Raises RunError, kept as `failure`, where it does not take it.
        """
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()
        if seconds is not None:
            self._storage = replace(self._storage, patience=seconds)
        try:
            while not self._send():
                pass
            if self._beaten is not None:
                self._storage.delete(HELD)
        except RunError as error:
            self.failure = error
            raise

    def _follow(self) -> None:
        while not self._ended.wait(EVERY_SECONDS):
            try:
                self._send()
                self.problem = ""
            except (RunError, OSError) as error:  # said at the end, where it still holds
                self.problem = str(error)
                log.warning("%s", error)

    def _send(self) -> bool:
        """Send what changed since the last time; False: the folder changed meanwhile, so nothing was.

        Raises RunError where the storage does not take it.
        """
        with self._pinned() as (pins, marks):
            if marks is None:
                return False
            changed = [name for name in sorted(marks, key=_order) if self._sent.get(name) != marks[name]]
            gone = sorted(self._sent.keys() - marks.keys())
            if changed or gone or self._beaten is not None:
                self._beat(pins)
            for name in changed:
                self._storage.send(pins / name, name)
                self._sent[name] = marks[name]
        for name in gone:
            self._storage.delete(name)
            del self._sent[name]
        return True

    def _beat(self, pins: Path) -> None:
        if self._beaten is None or time.monotonic() - self._beaten > BEAT_SECONDS:
            holder = {"host": socket.gethostname(), "pid": os.getpid(), "time": time.time()}
            write_json(pins / HELD, holder)
            self._storage.send(pins / HELD, HELD)
            self._beaten = time.monotonic()

    @contextmanager
    def _pinned(self) -> Iterator[tuple[Path, dict[str, Mark] | None]]:
        """Links to the folder's files as they are at one moment; None where they changed while they were made."""
        self._folder.parent.mkdir(parents=True, exist_ok=True)
        pins = Path(tempfile.mkdtemp(prefix=f".{self._folder.name}.", dir=self._folder.parent))
        try:
            before = self._marks()
            try:
                for name in before:
                    (pins / name).parent.mkdir(parents=True, exist_ok=True)
                    os.link(self._folder / name, pins / name)
            except FileNotFoundError:
                yield pins, None
                return
            after = self._marks()
            same = _inodes(before) == _inodes(after)
            yield pins, before if same else None
        finally:
            shutil.rmtree(pins, ignore_errors=True)

    def _marks(self) -> dict[str, Mark]:
        marks = {}
        for here, folders, files in os.walk(self._folder):
            folders[:] = [name for name in folders if not name.startswith(".")]
            for path in (Path(here, name) for name in files if not name.startswith(".")):
                try:
                    of = path.stat()
                except FileNotFoundError:
                    continue
                marks[path.relative_to(self._folder).as_posix()] = (of.st_ino, of.st_size, of.st_mtime_ns)
        return marks


def fetch(storage: Storage, folder: Path, names: Sequence[str] | None = None) -> None:
    """Copy what a mirror sent into a folder.

    Args:
        names: just the files that are called so (``*``: whatever), in whatever folder; None: all.

    Raises RunError.
    """
    for name, written in storage.files().items():
        last = name.rpartition("/")[2]
        if not last.startswith(".") and (names is None or any(fnmatchcase(last, one) for one in names)):
            storage.fetch(name, folder / name)
            os.utime(folder / name, (written, written))


def holder_of(storage: Storage) -> Json | None:
    """Who writes to a storage's folder; None: nobody that gave a sign for a minute. Raises RunError."""
    try:
        holder = json.loads((storage / HELD).read_bytes())
        return dict(holder) if time.time() - holder["time"] < STALE_SECONDS else None
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def _inodes(marks: dict[str, Mark]) -> dict[str, int]:
    return {name: mark[0] for name, mark in marks.items()}


def _order(name: str) -> tuple[int, str]:
    last = name.rpartition("/")[2]
    return (LAST.index(last) if last in LAST else -1), name
