"""Who owns which people: each client's share of the configured source, and the held-out splits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

from raf_ray.config.tree import Config
from raf_ray.data.annotations.boxes import check_boxes
from raf_ray.data.augment import NO_MARGINS, Augmentation
from raf_ray.data.crop import lay_patches
from raf_ray.data.overlap import number_pictures, one_id, picture_name, shared_pictures
from raf_ray.data.people import People, check_numbers
from raf_ray.data.pictures import size_notes
from raf_ray.data.prepared.index import Index, check_clients, check_margins, check_partition, first_people, read_index
from raf_ray.data.prepared.people import read_people
from raf_ray.data.prepared.shards import read_shard, read_upsampled
from raf_ray.data.skeletons import SKELETONS, Skeleton
from raf_ray.data.sources import Asked, read_source
from raf_ray.data.sources.synthetic import synthetic_people
from raf_ray.data.splits import partition, split_by_picture
from raf_ray.errors import InputError
from raf_ray.paths import existing_folder
from raf_ray.plugins import is_import_path, load_object
from raf_ray.request.crops import check_ours, crop_rule
from raf_ray.request.overlap import compare_shards, judge_overlap, note_twins
from raf_ray.request.plans import final_sizes
from raf_ray.storage import Storage, is_uri, open_storage
from raf_ray.training.clients import ClientData, ClientPlan, Owned, OwnedPeople, OwnedShards, Plans
from raf_ray.training.spec import margins_of

TRAIN_SAMPLE = 2**31 + 11
"""Stream of the seed that the clients' people who are scored are drawn from."""
TEST_SEED = 2**30 + 7
"""Added to the seed that draws the test pictures of a set in one file, so that val's are drawn anew from the rest."""
SYNTHETIC_CLIENT, SYNTHETIC_VAL, SYNTHETIC_TEST = 600, 200, 400
"""People where `data.people_per_client`, `.val_people`, `.test_people` are null."""


def augmentation_of(config: Config) -> Augmentation | None:
    asked = config.data.augment
    if asked is None:
        return None
    return Augmentation(
        flip=asked.flip, scale=asked.scale, rotation=asked.rotation, half_body=asked.half_body, shift=asked.shift,
        rotation_cut=asked.rotation_cut,
    )  # fmt: skip


Split = Literal["val", "test"]


def picture_notes(owned: Sequence[Owned], held_out: Sequence[Mapping[str, People]]) -> tuple[str, ...]:
    """What is odd about the pictures of these people, a sentence an annotation file; see `size_notes`."""
    groups = [people for splits in held_out for people in splits.values()]
    return size_notes([*(own.people.take(own.rows) for own in owned if isinstance(own, OwnedPeople)), *groups])


def splits_of(config: Config) -> tuple[Split, ...]:
    """The held-out splits that a run may see: with ``evaluation.split=val`` no test person is even loaded."""
    return ("val",) if config.evaluation.split == "val" else ("val", "test")


def load_data(config: Config, plans: Plans, splits: Sequence[Split]) -> tuple[Owned, dict[str, People]]:
    """Each client's people and the held-out splits.

    No picture is in two of them: raises InputError where one is, unless data.allow_overlap says to go on.
    """
    if config.data.name == "shards":
        stored, held_out = load_shards(config, plans), load_held_out(config, plans, splits)
        return replace(stored, notes=compare_shards(config, *_open_shards(config), held_out)), held_out
    train, held_out, notes = load_splits(config, len(plans), splits, compare=True)
    parts = partition(
        train,
        len(plans),
        mode=config.data.partition,
        people_per_client=config.data.people_per_client,
        counts=config.data.counts,
        concentration=config.data.concentration,
        seed=config.seed,
    )
    return _share_out(config, plans, train, parts, notes), held_out


def _share_out(
    config: Config, plans: Plans, people: People, parts: Sequence[np.ndarray], notes: tuple[str, ...]
) -> OwnedPeople:
    """The clients' rows as one column, without people that are too small where the config skips them."""
    rows, counts = np.concatenate(parts), np.array([len(part) for part in parts])
    owner = np.repeat(np.arange(len(plans)), counts)
    upsampled, rule = np.zeros(len(rows), bool), crop_rule(config)
    for number, tier in enumerate(plans.tiers):
        own = plans.tier[owner] == number
        upsampled[own] = lay_patches(people.take(rows[own]), tier.size, NO_MARGINS, rule).upsampled
    share = np.bincount(owner, upsampled, len(plans)) / counts
    if config.data.upsampled == "skip":
        rows, owner = rows[~upsampled], owner[~upsampled]
        counts = np.bincount(owner, minlength=len(plans))
        if not counts.all():
            _check_left(0, plans[int(counts.argmin())])
    return OwnedPeople(people, rows, np.concatenate([[0], np.cumsum(counts)]), share, notes)


def load_shards(config: Config, plans: Plans) -> OwnedShards:
    """Each client's prepared shard, of which no patch is read.

    Raises InputError where the shards are of other clients, joints or another partition than the config's, or
    hold too few people or too little around them.
    """
    data = config.data
    root, index = _open_shards(config)
    check_clients(index, [(plan.name, plan.size) for plan in plans])
    check_partition(index, data.partition, data.concentration)
    key = "data.counts" if data.counts else "data.people_per_client"
    wanted: Sequence[int | None] = data.counts or [data.people_per_client] * len(plans)
    if len(wanted) != len(plans):
        raise InputError(f"data.counts: {len(wanted)} numbers for {len(plans)} clients; give one for each")
    stored = read_upsampled(root, index.clients, index.skeleton)
    skip, augmentation = data.upsampled == "skip", augmentation_of(config)
    owned = []
    for plan, record, most, flags in zip(plans, index.clients, wanted, stored, strict=True):
        check_margins(record, margins_of(augmentation, plan.size))
        first = first_people(key, most, record, f"client {record.name}")
        upsampled = flags[:first]
        count = int((~upsampled).sum()) if skip else first
        _check_left(count, plan)
        opened = partial(
            read_shard, root, record, index.skeleton, first=first, skip_upsampled=skip, cache_mb=data.cache_mb
        )
        owned.append(ClientData(None, count, float(upsampled.mean()), opened))
    return OwnedShards(tuple(owned))


def _open_shards(config: Config) -> tuple[Path | Storage, Index]:
    """The folder of prepared shards and its index, checked against the configured joints."""
    check_ours(config, "a folder of prepared shards")
    given = config.data.root or ""
    root = open_storage(given, "data.root") if is_uri(given) else existing_folder(given, "data.root").absolute()
    index = read_index(root)
    if config.data.skeleton is not None and skeleton_of(config) != index.skeleton:
        raise InputError(
            f"data.skeleton={config.data.skeleton}, but the shards in {config.data.root} hold the "
            f"{len(index.skeleton)} joints of '{index.skeleton.name}'; leave data.skeleton out"
        )
    return root, index


def _check_left(people: int, plan: ClientPlan) -> None:
    if not people:
        raise InputError(
            f"client {plan.name} has no people left: all are smaller than {plan.size} in their pictures; "
            "set data.upsampled=keep or give it a lower tier"
        )


def load_splits(
    config: Config, clients: int, splits: Sequence[Split], compare: bool
) -> tuple[People, dict[str, People], tuple[str, ...]]:
    """The training people of the configured source, those of the asked held-out splits, and notes for the user.

    Train and val are drawn by picture, and a picture that the source has twice counts as one. `compare`: hold test's
    pictures against theirs too; see `load_data`.
    """
    data = config.data
    if data.name == "synthetic":
        needed = sum(data.counts) if data.counts else clients * (data.people_per_client or SYNTHETIC_CLIENT)

        def drawn(split: str, count: int) -> People:
            return synthetic_people(config.seed, split, np.arange(count), float(data.synthetic_height))

        counts = {"val": data.val_people or SYNTHETIC_VAL, "test": data.test_people or SYNTHETIC_TEST}
        return drawn("train", needed), {split: drawn(split, counts[split]) for split in splits}, ()
    both = source_people(config, "train")
    test = None
    if data.test_fraction is not None:
        both, test = _without_test(both, config)
    elif "test" in splits:
        test = source_people(config, "test")
        check_same_joints(both, test)
    numbers = number_pictures([both] if test is None or not compare else [both, test])
    notes: list[str] = []
    if test is not None and compare:
        pairs = shared_pictures(numbers[0], numbers[1])
        named = [(picture_name(both, i), picture_name(test, j)) for i, j in pairs[:2]]
        notes += judge_overlap(config, "test", "train (of which val is drawn)", named, len(pairs))
    picture_id = one_id(both.picture_id, numbers[0])
    notes += note_twins(both, picture_id)
    train_index, val_index = split_by_picture(both, data.val_fraction, config.seed, picture_id)
    rng = np.random.default_rng([config.seed, 2**31 + 1])
    held_out = {"val": _some(both.take(val_index), data.val_people, rng)}  # always: `test` draws after it
    if test is not None and "test" in splits:
        held_out["test"] = _some(test, data.test_people, rng)
    return both.take(train_index), {split: held_out[split] for split in splits}, tuple(notes)


def _without_test(people: People, config: Config) -> tuple[People, People]:
    """The people of a set in one file without `data.test_fraction` of its pictures, and those of these pictures."""
    assert config.data.test_fraction is not None
    picture_id = one_id(people.picture_id, number_pictures([people])[0])
    rest, test = split_by_picture(people, config.data.test_fraction, config.seed + TEST_SEED, picture_id)
    return people.take(rest), people.take(test)


def check_same_joints(train: People, test: People) -> None:
    """Raise InputError where the two splits have other joints."""
    if train.skeleton.joints != test.skeleton.joints:
        pairs = zip(train.skeleton.joints, test.skeleton.joints, strict=False)
        at = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(train.skeleton), len(test.skeleton)))
        told = " and ".join(
            f"{' '.join(p.skeleton.joints[at : at + 1]) or 'none'} in {s}"
            for p, s in ((train, "train"), (test, "test"))
        )
        raise InputError(
            f"the joints of train ({len(train.skeleton)}) and test ({len(test.skeleton)}) are not the same: joint "
            f"{at + 1} is {told}; set data.skeleton, or correct the files"
        )


def load_held_out(config: Config, plans: Plans, splits: Sequence[Split]) -> dict[str, People]:
    """The people of the asked held-out splits alone."""
    if config.data.name == "shards":
        root, index = _open_shards(config)
        wanted = {"val": config.data.val_people, "test": config.data.test_people}
        sizes = final_sizes(config, plans)
        return {split: read_people(root, index, split, wanted[split], sizes) for split in splits}
    return load_splits(config, len(plans), splits, compare=False)[1]


def source_people(config: Config, split: Literal["train", "test"]) -> People:
    """All people of a file-based (or one's own) source's split, their boxes checked (see `check_boxes`)."""
    data = config.data
    if not is_import_path(data.name):
        return read_source(data.name, _asked(config), split)
    people = load_object(data.name, "data.name")(root=data.root, split=split)
    if not isinstance(people, People):
        raise InputError(f"data.name={data.name} returned {type(people).__name__}, not raf_ray.data.people.People")
    source = f"data.name={data.name}, split {split}"
    people = check_numbers(people, source)
    check_boxes(people, source)
    return people


def _asked(config: Config) -> Asked:
    data = config.data
    return Asked(data.root or "", data.annotations, data.images, skeleton_of(config), data.category)


def skeleton_of(config: Config) -> Skeleton | None:
    """The configured joints; None: those of the data."""
    name = config.data.skeleton
    if name is None:
        return None
    if not is_import_path(name):
        return SKELETONS[name]
    skeleton = load_object(name, "data.skeleton")
    if not isinstance(skeleton, Skeleton):
        raise InputError(f"data.skeleton={name} is no raf_ray.data.skeletons.Skeleton")
    return skeleton


def train_sample(config: Config, data: Owned) -> dict[str, People]:
    """`train` -> evaluation.train_people of the clients' own people, in the clients' order; {} where that is 0.

    Raises InputError where they are not at hand at every size.
    """
    asked = config.evaluation.train_people
    if not asked:
        return {}
    if not isinstance(data, OwnedPeople):
        raise InputError(
            "evaluation.train_people: prepared shards and a search's shared data hold each client's people at its own "
            "tier alone, so they cannot be scored at other sizes; set it to 0, or train from the data set itself"
        )
    rng = np.random.default_rng([config.seed, TRAIN_SAMPLE])
    rows = data.rows[np.sort(np.unique(data.rows, return_index=True)[1])]  # once each, where clients share people
    return {"train": _some(data.people.take(rows), asked, rng)}


def _some(people: People, count: int | None, rng: np.random.Generator) -> People:
    """At most `count` people, drawn from `rng`, in file order."""
    if count is None or count >= len(people):
        return people
    return people.take(np.sort(rng.choice(len(people), count, replace=False)))
