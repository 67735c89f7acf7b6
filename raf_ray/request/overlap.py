"""One picture in two of train, val and test: refused or noted, as the config says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from raf_ray.config.tree import Config
from raf_ray.data.overlap import UNKNOWN, picture_name, shared_pictures
from raf_ray.data.people import People
from raf_ray.data.prepared.index import Index
from raf_ray.data.prepared.people import stored_digests
from raf_ray.data.prepared.shards import read_digests
from raf_ray.errors import InputError
from raf_ray.plugins import is_import_path
from raf_ray.storage import Storage


def judge_overlap(config: Config, split: str, other: str, named: Sequence[tuple[str, str]], count: int) -> list[str]:
    """What to note of `count` pictures that two splits share, `named` by their names in `other` and in `split`.

    Raises InputError where there are some and data.allow_overlap is false.
    """
    if not count:
        return []
    shown = " and ".join(first if first == second else f"{second} (there {first})" for first, second in named)
    are = "pictures of {} are" if count > 1 else "picture of {} is"
    shared = f"{count} {are.format(split)} also in {other}, such as {shown}"
    if config.data.allow_overlap:
        return [f"data.allow_overlap: {shared}; scores on {split} are in part of pictures that were trained on"]
    if config.data.name == "shards":
        remedy = "prepare the shards again from different pictures"
    elif is_import_path(config.data.name):
        remedy = f"let {config.data.name} give each split its own pictures"
    else:
        remedy = "name files of different pictures in data.annotations and data.images"
    raise InputError(
        f"{shared}, so scores would be of pictures that were trained on; {remedy}, or set data.allow_overlap=true to "
        "go on"
    )


def note_twins(people: People, picture_id: np.ndarray) -> list[str]:
    """A note where the training file has one picture by several ids or names; `picture_id` from `one_id`."""
    twins = np.flatnonzero(picture_id != people.picture_id)
    if not len(twins):
        return []
    second = int(twins[0])
    first = int(np.flatnonzero(people.picture_id == picture_id[second])[0])
    names = f"{picture_name(people, second)} is {picture_name(people, first)}"
    return [
        f"the training file has {len(np.unique(people.picture_id[twins]))} of its pictures twice ({names}); all people "
        "of one picture are either in train or in val"
    ]


def compare_shards(
    config: Config, root: Path | Storage, index: Index, held_out: Mapping[str, People]
) -> tuple[str, ...]:
    """Notes on pictures that are in two splits of prepared shards; see `judge_overlap`."""
    train = read_digests(root, index.clients, index.skeleton)
    seen = {"train": train} | {split: stored_digests(people) for split, people in held_out.items()}
    if any(digests is None for digests in seen.values()):
        return (
            f"the shards in {root} were prepared before shards recorded their pictures, so whether train, val and test "
            "share some is not known; prepare them again to have them compared",
        )
    notes: list[str] = []
    for split, people in held_out.items():
        for other in list(seen)[: list(seen).index(split)]:
            first, second = seen[other], seen[split]
            assert first is not None and second is not None
            pairs = [(i, j) for i, j in shared_pictures(first, second) if first[i] != UNKNOWN]
            names = [picture_name(people, j) for _, j in pairs[:2]]
            notes += judge_overlap(config, split, other, [(name, name) for name in names], len(pairs))
    return tuple(notes)
