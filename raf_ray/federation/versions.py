"""The states that clients train from: the newest, and older ones where the server does not wait for whole rounds."""

from __future__ import annotations

from collections.abc import Collection

from raf_ray.federation.backend import Backend
from raf_ray.training.exchange import Down


class Versions:
    """What was published, by the rounds that made it."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._downs: dict[int, Down] = {}
        self._published: dict[int, object] = {}

    def add(self, down: Down) -> None:
        self._downs[down.version], self._published[down.version] = down, self._backend.publish(down)

    def __getitem__(self, version: int) -> object:
        """What a backend trains from and scores."""
        return self._published[version]

    @property
    def newest(self) -> object:
        return self._published[max(self._published)]

    @property
    def older(self) -> tuple[Down, ...]:
        """For a checkpoint"""
        return tuple(self._downs[version] for version in sorted(self._downs)[:-1])

    def keep(self, older: Collection[int]) -> None:
        """Forget all but these and the newest."""
        wanted = {*older, max(self._downs)}
        for kept in (self._downs, self._published):
            for version in set(kept) - wanted:
                del kept[version]
