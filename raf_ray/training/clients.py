"""The clients of a federation as columns: who is of which tier and owns which people. One is made when it is asked for.

So a hundred thousand clients are a few arrays, which processes of a machine share, and no hundred thousand objects.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar, overload

import numpy as np

from raf_ray.data.people import People
from raf_ray.data.shard import Shard
from raf_ray.resolution import Size

Item = TypeVar("Item")


class MadeWhenAsked(Sequence[Item]):
    """A sequence whose items come from their places, one by one."""

    @abstractmethod
    def make(self, number: int) -> Item:
        """Item `number`, from 0."""

    @overload
    def __getitem__(self, number: int) -> Item: ...
    @overload
    def __getitem__(self, number: slice) -> Sequence[Item]: ...
    def __getitem__(self, number: int | slice) -> Item | Sequence[Item]:
        places = range(len(self))[number]
        return self.make(places) if isinstance(places, int) else [self.make(place) for place in places]


@dataclass(frozen=True)
class TierPlan:
    """What the clients of one tier have in common."""

    name: str
    size: Size
    levels: tuple[Size, ...]
    """Their pyramid, own size first"""
    level_weights: tuple[float, ...]


@dataclass(frozen=True)
class ClientPlan:
    """One client before it exists."""

    name: str
    number: int
    tier: str
    size: Size
    levels: tuple[Size, ...]
    level_weights: tuple[float, ...]


@dataclass(frozen=True)
class Plans(MadeWhenAsked[ClientPlan]):
    """All clients before they exist, in order; each is called client-TIER-NNN, numbered from 000 in its tier."""

    tiers: tuple[TierPlan, ...]
    """In the order of their first clients"""
    tier: np.ndarray
    """(N,) int32, place of each client's tier in `tiers`"""
    place: np.ndarray
    """(N,) int32, number of each client in its tier"""

    def __len__(self) -> int:
        return len(self.tier)

    def make(self, number: int) -> ClientPlan:
        tier = self.tiers[self.tier[number]]
        name = client_name(tier.name, int(self.place[number]))
        return ClientPlan(name, number, tier.name, tier.size, tier.levels, tier.level_weights)

    def names(self) -> np.ndarray:
        """(N,) str"""
        pairs = zip(self.tier.tolist(), self.place.tolist(), strict=True)
        return np.array([client_name(self.tiers[tier].name, place) for tier, place in pairs])

    def counts(self) -> dict[str, int]:
        """Tier -> its clients"""
        counted = np.bincount(self.tier, minlength=len(self.tiers)).tolist()
        return {tier.name: count for tier, count in zip(self.tiers, counted, strict=True)}


def client_name(tier: str, place: int) -> str:
    return f"client-{tier}-{place:03d}"


@dataclass(frozen=True)
class ClientData:
    """What a client owns: people whose pictures are cut at its tier when they are read, or a stored shard."""

    people: People | None
    count: int
    upsampled: float
    """Share of the people who are smaller in their picture than the tier."""
    open_shard: Callable[[], Shard] | None = None


@dataclass(frozen=True)
class OwnedPeople(MadeWhenAsked[ClientData]):
    """Clients that own people of one source: rows of one table, client by client."""

    people: People
    rows: np.ndarray
    """(M,) int64 into `people`"""
    start: np.ndarray
    """(N + 1,) int64, where each client's begin in `rows`"""
    upsampled: np.ndarray
    """(N,) float64; see `ClientData`"""
    notes: tuple[str, ...] = ()
    """Sentences for the user on the source"""

    @property
    def counts(self) -> np.ndarray:
        """(N,) int64, people of each client"""
        return np.diff(self.start)

    def __len__(self) -> int:
        return len(self.upsampled)

    def make(self, number: int) -> ClientData:
        own = self.people.take(self.rows[self.start[number] : self.start[number + 1]])
        return ClientData(own, len(own), float(self.upsampled[number]))


@dataclass(frozen=True)
class OwnedShards(MadeWhenAsked[ClientData]):
    """Clients whose shards are opened one by one."""

    clients: tuple[ClientData, ...]
    notes: tuple[str, ...] = ()
    """Sentences for the user on the source"""

    @property
    def counts(self) -> np.ndarray:
        """(N,) int64, people of each client"""
        return np.fromiter((client.count for client in self.clients), np.int64, len(self))

    @property
    def upsampled(self) -> np.ndarray:
        """(N,) float64; see `ClientData`"""
        return np.fromiter((client.upsampled for client in self.clients), np.float64, len(self))

    def __len__(self) -> int:
        return len(self.clients)

    def make(self, number: int) -> ClientData:
        return self.clients[number]


Owned = OwnedPeople | OwnedShards
