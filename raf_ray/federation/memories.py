"""What clients keep between rounds, on disk: a file a client, written when it trained, so that none is in memory twice.

The checkpoint says of which round each client's file is the right one; files of later rounds are a killed run's.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
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


def _save(path: Path, memory: Memory) -> None:
    with open(path, "wb") as file:
        np.savez(file, **memory)  # type: ignore[arg-type]
