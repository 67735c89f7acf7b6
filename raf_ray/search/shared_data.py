"""What trials have in common, made once and shared: Ray's object store keeps one copy on each node.

Without it every trial's every client would read and cut the same pictures again, into memory of its own.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import ray
from ray.actor import ActorHandle

from raf_ray.config import Config
from raf_ray.data.crop import Margins
from raf_ray.data.encoded import OnBadImage
from raf_ray.data.packed import PackedShard, pack
from raf_ray.data.people import People
from raf_ray.data.shard import Shard, cut_shard
from raf_ray.request.people import Split, augmentation_of, load_data
from raf_ray.request.prepared import Prepared
from raf_ray.resolution import Size
from raf_ray.training.clients import ClientData, Owned, OwnedShards, Plans
from raf_ray.training.spec import margins_of


class SharedData:
    """Keeps what was made under a key; a thin actor, so that it outlives the trial that asked first."""

    def __init__(self) -> None:
        self._made: dict[str, Any] = {}
        self._lock = threading.Lock()
        self._making: dict[str, threading.Lock] = {}
        self._uri: str | None = None

    def __repr__(self) -> str:
        return "shared_data"

    def reference(self, key: str, make: Callable[[], Any]) -> list[Any]:
        """[reference] to what `make` returns; made when a key is first asked for, by one thread a key."""
        with self._lock:
            making = self._making.setdefault(key, threading.Lock())
        with making:
            if key not in self._made:
                self._made[key] = ray.put(make())
        return [self._made[key]]

    def made(self) -> int:
        return len(self._made)

    def keep_uri(self, uri: str | None) -> None:
        """MLflow's, whose password may lie in memory alone: Tune writes what it gives to trials into files."""
        self._uri = uri

    def uri(self) -> str | None:
        return self._uri


SharedDataActor: Any = ray.remote(num_cpus=0, max_restarts=0, max_concurrency=8)(SharedData)
"""Threads: reading and cutting pictures runs outside Python's lock."""


def take(shared_data: ActorHandle, key: str, make: Callable[[], Any]) -> Any:
    """What is among the shared data under `key`; numpy arrays in it are read-only views of the node's store."""
    return ray.get(ray.get(shared_data.reference.remote(key, make))[0])


def uri_of(shared_data: ActorHandle) -> str | None:
    """What the shared data keep for MLflow."""
    return ray.get(shared_data.uri.remote())


def shared_load(
    shared_data: ActorHandle, config: Config, plans: Plans, splits: Sequence[Split]
) -> tuple[Owned, dict[str, People]]:
    """`load_data`, once for all trials with the same people."""
    key = _key("people", _data_of(config), [(plan.name, str(plan.size)) for plan in plans], list(splits),
               config.evaluation.resolutions)  # fmt: skip
    return take(shared_data, key, partial(load_data, config, plans, splits))


def with_shared_pixels(shared_data: ActorHandle, prepared: Prepared) -> Prepared:
    """The same request, whose clients and evaluator take their patches from the shared data.

    A shard that `data.cache_mb` does not hold stays as it was: read piece by piece.
    """
    config = prepared.config
    owners = [(plan.name, str(plan.size)) for plan in prepared.plans]
    data = []
    for plan, own in zip(prepared.plans, prepared.data, strict=True):
        margins = margins_of(augmentation_of(config), plan.size)
        if _fits(own.count, plan.size, margins, config.data.cache_mb):
            key = _key("shard", _data_of(config), owners, plan.name)
            make = partial(_pack_client, own, plan.size, margins, config.data.on_bad_image)
            own = replace(own, people=None, open_shard=partial(_open, shared_data, key, make, config.data.cache_mb))
        data.append(own)
    cut = partial(_cut_shared, shared_data, config.data.on_bad_image, json.dumps(_data_of(config)))
    return replace(prepared, data=OwnedShards(tuple(data), prepared.data.notes), cut=cut)


def _open(shared_data: ActorHandle, key: str, make: Callable[[], PackedShard], cache_mb: float) -> Shard:
    return take(shared_data, key, make).unpack(cache_mb)


def _pack_client(own: ClientData, size: Size, margins: Margins, on_bad_image: OnBadImage) -> PackedShard:
    if own.open_shard is not None:
        return pack(own.open_shard(), on_bad_image)
    assert own.people is not None
    return _pack_people(own.people, size, margins, on_bad_image)


def _cut_shared(
    shared_data: ActorHandle,
    on_bad_image: OnBadImage,
    source: str,
    people: People,
    size: Size,
    margins: Margins,
    cache_mb: float,
) -> Shard:
    """`cut_shard` of held-out people, from the shared data."""
    if not _fits(len(people), size, margins, cache_mb):
        return cut_shard(people, size, margins, cache_mb)
    labels = hashlib.sha256(people.person_id.tobytes() + people.centre.tobytes() + people.box.tobytes()).hexdigest()
    make = partial(_pack_people, people, size, margins, on_bad_image)
    return take(shared_data, _key("held out", source, labels, str(size)), make).unpack(cache_mb)


def _pack_people(people: People, size: Size, margins: Margins, on_bad_image: OnBadImage) -> PackedShard:
    return pack(cut_shard(people, size, margins), on_bad_image)


def _fits(people: int, size: Size, margins: Margins, cache_mb: float) -> bool:
    return people * 3 * size.pixels * margins.width * margins.height <= cache_mb * 2**20


def _data_of(config: Config) -> list[object]:
    return [config.data.model_dump(mode="json"), config.seed]


def _key(*parts: object) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
