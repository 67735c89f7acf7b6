"""What clients keep between rounds, on disk: a file a client, written when it trained, so that none is in memory twice.

The checkpoint says of which round each client's file is the right one; files of later rounds are a killed run's.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from raf_ray.algorithms.interface import Memory
from raf_ray.errors import RunError
from raf_ray.files import write_atomically


@dataclass(frozen=True)
class MemoryFiles:
    """The folder of a run's client memories; it exists where a method keeps any."""

    path: Path

    def save(self, client: str, done: int, memory: Memory) -> None:
        """Write what `client` keeps after round `done`."""
        self.path.mkdir(exist_ok=True)
        write_atomically(self._file(client, done), lambda temporary: _save(temporary, memory))

    def read(self, rounds: Mapping[str, int]) -> Iterator[tuple[str, Memory]]:
        """(client, memory) one by one. Raises RunError where a file is missing or damaged."""
        for client, done in rounds.items():
            path = self._file(client, done)
            try:
                with np.load(path, allow_pickle=False) as content:
                    memory = dict(content)
            except Exception as error:  # zip, header and array damage each raise their own
                cause = type(error).__name__
                raise RunError(f"{path} cannot be read ({cause}); start again with --overwrite") from error
            yield client, memory

    def keep_only(self, rounds: Mapping[str, int]) -> None:
        """Delete every file but these."""
        if not rounds:
            shutil.rmtree(self.path, ignore_errors=True)
            return
        wanted = {self._file(client, done) for client, done in rounds.items()}
        for path in self.path.iterdir():
            if path not in wanted:
                path.unlink()

    def _file(self, client: str, done: int) -> Path:
        return self.path / f"{client}-{done}.npz"


class ClientMemories:
    """Of which round each client's memory is, in its process and on disk."""

    def __init__(self, files: MemoryFiles) -> None:
        self._files = files
        self._kept: dict[str, int] = {}
        """Client -> round after which it kept what it keeps"""
        self._saved: dict[str, int] = {}
        """The same, as far as it is on disk"""

    def trained(self, client: str, done: int, keeps: bool) -> None:
        """A client has trained in round `done`, and keeps something from it or nothing."""
        if keeps:
            self._kept[client] = done
        else:
            self._kept.pop(client, None)

    def read(self, rounds: Mapping[str, int]) -> Iterator[tuple[str, Memory]]:
        """What a checkpoint's clients keep, one by one; see `MemoryFiles.read`."""
        self._kept, self._saved = dict(rounds), dict(rounds)
        return self._files.read(rounds)

    def last(self, client: str) -> tuple[int, Memory] | None:
        """(round, what a client kept after it) as the last checkpoint has it; None: it has nothing of it."""
        done = self._saved.get(client)
        if done is None:
            return None
        ((_, memory),) = self._files.read({client: done})
        return done, memory

    def save(self, memory_of: Callable[[str], Memory]) -> dict[str, int]:
        """Write what clients kept since the last time, one by one; client -> round, for the checkpoint."""
        for client, done in self._kept.items():
            if self._saved.get(client) != done:
                self._files.save(client, done, memory_of(client))
        self._saved = dict(self._kept)
        return self._saved

    def tidy(self) -> None:
        """Delete what the last checkpoint does not name."""
        self._files.keep_only(self._saved)


def _save(path: Path, memory: Memory) -> None:
    with open(path, "wb") as file:
        np.savez(file, **memory)  # type: ignore[arg-type]
