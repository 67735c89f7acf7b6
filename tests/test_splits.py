"""Splits and clients: disjoint, exact in number, drawn once from the seed, unlike where that is asked for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from raf_ray.data.people import People
from raf_ray.data.skeletons import COCO17
from raf_ray.data.splits import (
    draw_by_cluster,
    kmeans,
    partition,
    pose_clusters,
    size_clusters,
    split_by_picture,
)
from raf_ray.errors import InputError

MODES = ["equal", "dirichlet_size", "dirichlet_pose"]


def people(count: int, per_picture: int = 1) -> People:
    """`count` people of random size and pose, `per_picture` of them in each picture."""
    rng = np.random.default_rng(5)
    box = rng.uniform(20, 200, (count, 2)).astype(np.float32)
    centre = rng.uniform(100, 500, (count, 2)).astype(np.float32)
    spread = rng.uniform(-0.5, 0.5, (count, 17, 2))
    return People(
        skeleton=COCO17,
        joints=(centre[:, None] + spread * box[:, None]).astype(np.float32),
        visibility=rng.integers(0, 3, (count, 17)).astype(np.uint8),
        centre=centre,
        box=box,
        area=box.prod(axis=1),
        head_size=np.full(count, np.nan, np.float32),
        person_id=1000 + np.arange(count),
        picture_id=10 + np.arange(count) // per_picture,
        rows=np.arange(count),
        read=lambda row: np.zeros((1, 1, 3), np.uint8),
    )


def draw(crowd: People, clients: int, **changes: Any) -> list[np.ndarray]:
    options: dict[str, Any] = {
        "mode": "equal",
        "people_per_client": None,
        "counts": None,
        "concentration": 0.5,
        "seed": 3,
    }
    return partition(crowd, clients, **(options | changes))


# --- training and validation --------------------------------------------------------------------------------


def test_a_picture_is_in_one_split_only_and_everyone_is_in_one() -> None:
    crowd = people(60, per_picture=3)
    train, val = split_by_picture(crowd, 0.25, seed=1)
    assert not set(crowd.picture_id[train]) & set(crowd.picture_id[val])
    assert sorted([*train, *val]) == list(range(60))
    assert len(val) == 15  # 5 of 20 pictures


@pytest.mark.parametrize(("fraction", "val_pictures"), [(0.001, 1), (0.999, 3)])
def test_each_split_has_at_least_one_picture(fraction: float, val_pictures: int) -> None:
    crowd = people(4)
    train, val = split_by_picture(crowd, fraction, seed=1)
    assert (len(train), len(val)) == (4 - val_pictures, val_pictures)


def test_the_split_follows_from_the_seed_and_not_from_the_order_of_the_list() -> None:
    crowd = people(50)
    shuffled = crowd.take(np.random.default_rng(0).permutation(50))
    val = set(crowd.picture_id[split_by_picture(crowd, 0.2, seed=1)[1]])
    assert set(shuffled.picture_id[split_by_picture(shuffled, 0.2, seed=1)[1]]) == val
    assert set(crowd.picture_id[split_by_picture(crowd, 0.2, seed=2)[1]]) != val


def test_one_picture_cannot_be_split() -> None:
    with pytest.raises(InputError, match=r"^data\.val_fraction: .* has 1 picture, .*data\.annotations$"):
        split_by_picture(people(5, per_picture=5), 0.1, seed=0)


# --- clients ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_clients_are_disjoint_and_get_their_number(mode: str) -> None:
    parts = draw(people(100), 3, mode=mode, people_per_client=20)
    assert [len(part) for part in parts] == [20, 20, 20]
    assert len(np.unique(np.concatenate(parts))) == 60


@pytest.mark.parametrize("mode", MODES)
def test_without_a_number_all_people_are_shared_out_in_equal_parts(mode: str) -> None:
    parts = draw(people(50), 3, mode=mode)
    assert [len(part) for part in parts] == [17, 17, 16]
    assert sorted(np.concatenate(parts)) == list(range(50))


def test_counts_are_kept_in_order() -> None:
    parts = draw(people(50), 3, mode="counts", counts=[5, 30, 1])
    assert [len(part) for part in parts] == [5, 30, 1]
    assert len(np.unique(np.concatenate(parts))) == 36


@pytest.mark.parametrize("mode", MODES)
def test_clients_follow_from_the_seed_and_not_from_the_order_of_the_list(mode: str) -> None:
    crowd = people(80)
    shuffled = crowd.take(np.random.default_rng(0).permutation(80))
    ids = [set(crowd.person_id[part]) for part in draw(crowd, 3, mode=mode, people_per_client=20)]
    again = [set(shuffled.person_id[part]) for part in draw(shuffled, 3, mode=mode, people_per_client=20)]
    other = draw(crowd, 3, mode=mode, people_per_client=20, seed=4)
    assert again == ids
    assert [set(crowd.person_id[part]) for part in other] != ids


@pytest.mark.parametrize(
    ("clients", "options", "parts"),
    [
        (3, {"people_per_client": 4}, ["data.people_per_client", "3 clients x 4 = 12", "10", "=3 or less"]),
        (11, {}, ["federation.clients", "11 clients", "10 training people"]),
        (11, {"people_per_client": 1}, ["federation.clients", "11 clients", "10 training people"]),
        (2, {"mode": "counts", "counts": [6, 5]}, ["data.counts", "11 training people", "10"]),
        (3, {"mode": "counts", "counts": [6, 4]}, ["data.counts", "2 numbers for 3 clients"]),
        (2, {"mode": "counts", "counts": [6, 0]}, ["data.counts", "no people"]),
        (2, {"mode": "dirichlet_pose", "people_per_client": 6}, ["data.people_per_client", "=5 or less"]),
    ],
    ids=str,
)
def test_too_few_people_are_refused_with_the_numbers_and_the_key(
    clients: int, options: dict[str, Any], parts: list[str]
) -> None:
    with pytest.raises(InputError) as caught:
        draw(people(10), clients, **options)
    assert "\n" not in str(caught.value)
    for part in parts:
        assert part in str(caught.value)


# --- unlike clients -----------------------------------------------------------------------------------------


def shares(cluster: np.ndarray, parts: list[np.ndarray]) -> np.ndarray:
    """(clients, clusters) share of each client's people in each cluster."""
    counts = np.array([np.bincount(cluster[part], minlength=cluster.max() + 1) for part in parts])
    return np.asarray(counts / counts.sum(axis=1, keepdims=True))


def test_a_small_concentration_gives_a_client_one_cluster() -> None:
    cluster = np.repeat(np.arange(4), 500)
    parts = draw_by_cluster(cluster, [50] * 6, 1e-3, np.random.default_rng(0))
    assert (shares(cluster, parts).max(axis=1) == 1).all()


def test_a_large_concentration_gives_every_client_every_cluster_alike() -> None:
    cluster = np.repeat(np.arange(4), 500)
    parts = draw_by_cluster(cluster, [400] * 3, 1e6, np.random.default_rng(0))
    np.testing.assert_allclose(shares(cluster, parts), 0.25, atol=0.08)  # 3.7 standard deviations


def test_clients_that_want_a_used_up_cluster_are_filled_from_the_others() -> None:
    cluster = np.repeat([0, 1], [10, 90])
    parts = draw_by_cluster(cluster, [50, 50], 1e-300, np.random.default_rng(0))
    assert sorted(np.concatenate(parts)) == list(range(100))


def test_size_clusters_are_quartiles_of_the_box_height() -> None:
    crowd = people(40)
    cluster = size_clusters(crowd)
    by_height = cluster[np.argsort(crowd.box[:, 1])]
    assert by_height.tolist() == [0] * 10 + [1] * 10 + [2] * 10 + [3] * 10


def test_kmeans_finds_groups_that_lie_apart() -> None:
    rng = np.random.default_rng(0)
    group = np.repeat(np.arange(3), 30)
    points = np.array([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])[group] + rng.normal(0, 0.3, (90, 2))
    cluster = kmeans(points, 3, rng)
    assert all(len(set(cluster[group == g])) == 1 for g in range(3))
    assert len(set(cluster)) == 3


def test_poses_are_clustered_whatever_their_size_and_place() -> None:
    """Two poses of the same crowd, upright and mirrored upside down, at random sizes and places."""
    rng = np.random.default_rng(1)
    crowd = people(40)
    pose = rng.uniform(-0.5, 0.5, (17, 2))
    sign = np.where(np.arange(40) % 2, -1.0, 1.0)[:, None, None]
    joints = crowd.centre[:, None] + sign * pose * crowd.box[:, None]
    posed = People(**(vars(crowd) | {"joints": joints, "visibility": np.full((40, 17), 2, np.uint8)}))
    cluster = pose_clusters(posed, seed=0)
    assert not set(cluster[::2]) & set(cluster[1::2])


def test_where_an_unlabelled_joint_lies_does_not_change_the_pose() -> None:
    crowd = people(40)
    moved = np.where(crowd.visibility[:, :, None] > 0, crowd.joints, 1e6)
    other = People(**(vars(crowd) | {"joints": moved}))
    assert pose_clusters(other, seed=0).tolist() == pose_clusters(crowd, seed=0).tolist()
