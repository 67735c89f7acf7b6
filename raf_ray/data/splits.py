"""Who is in which split, and whose client a person is: drawn once from the seed, never anew by a client.

Every draw runs over sorted ids, so it does not depend on the order in which a file lists its people.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from raf_ray.data.people import People
from raf_ray.errors import InputError

Partition = Literal["equal", "counts", "dirichlet_size", "dirichlet_pose", "overlapping"]

POSE_CLUSTERS = 8
"""Clusters of `dirichlet_pose`; a choice: enough to tell standing, sitting and lying poses apart."""
KMEANS_STEPS = 25
"""Lloyd steps; a choice, since clusters need only be distinct, not optimal."""

_SPLIT, _PARTITION, _CLUSTERS = 1, 2, 3  # streams of a seed, so that no draw follows from another


def split_by_picture(
    people: People, val_fraction: float, seed: int, picture_id: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the training and the validation people, (n,) and (N - n,) int64, each ascending.

    All people of a picture are in one split. `val_fraction` of the pictures, rounded, become validation,
    but at least one picture is in each. `picture_id` (N,) stands in for the people's own, where one picture
    has several. Raises InputError where there is only one picture.
    """
    ids = people.picture_id if picture_id is None else picture_id
    pictures = np.unique(ids)
    if len(pictures) < 2:
        raise InputError(
            f"data.val_fraction: the training split has {len(pictures)} picture, but training and validation "
            "need one each; give a larger training split in data.annotations"
        )
    count = min(max(round(val_fraction * len(pictures)), 1), len(pictures) - 1)
    drawn = np.random.default_rng([seed, _SPLIT]).permutation(pictures)[:count]
    is_val = np.isin(ids, drawn)
    return np.flatnonzero(~is_val), np.flatnonzero(is_val)


def partition(
    people: People,
    num_clients: int,
    *,
    mode: Partition,
    people_per_client: int | None,
    counts: Sequence[int] | None,
    concentration: float,
    seed: int,
) -> list[np.ndarray]:
    """Each client's people: `num_clients` arrays of ascending indices into `people`, disjoint but for `overlapping`.

    `equal` gives each client `people_per_client` people, or (None) an equal part of all, `counts` each its
    own number. The other two give as many as `equal` but unlike ones: `dirichlet_size` by quartile of the
    box's height, `dirichlet_pose` by cluster of the pose (see `draw_by_cluster`).
    `overlapping` draws as many as `equal` for each client anew from all. Raises InputError where
    there are not enough people, or a client would get none.
    """
    sizes = _client_sizes(len(people), num_clients, mode, people_per_client, counts)
    by_id = np.argsort(people.person_id, kind="stable")
    rng = np.random.default_rng([seed, _PARTITION])
    if mode in ("equal", "counts"):
        order = rng.permutation(by_id)[: sum(sizes)]
        return [np.sort(part) for part in np.split(order, np.cumsum(sizes)[:-1])]
    if mode == "overlapping":
        return [np.sort(rng.permutation(by_id)[:size]) for size in sizes]
    ordered = people.take(by_id)
    cluster = size_clusters(ordered) if mode == "dirichlet_size" else pose_clusters(ordered, seed)
    return [np.sort(by_id[drawn]) for drawn in draw_by_cluster(cluster, sizes, concentration, rng)]


def _client_sizes(
    available: int, num_clients: int, mode: str, people_per_client: int | None, counts: Sequence[int] | None
) -> list[int]:
    """People of each client. Raises InputError where they cannot be had."""
    if mode == "counts":
        given = list(counts or ())
        if len(given) != num_clients:
            raise InputError(
                f"data.counts: {len(given)} numbers for {num_clients} clients; give one for each of federation.clients"
            )
        if min(given) < 1:
            raise InputError("data.counts: a client would get no people; give each at least 1")
        if sum(given) > available:
            raise InputError(
                f"data.counts: {sum(given)} training people are asked for, but there are {available}; lower the counts"
            )
        return given
    if available < num_clients:
        raise InputError(
            f"federation.clients: {num_clients} clients, but there are only {available} training people and "
            "each needs at least one; name fewer clients"
        )
    if people_per_client is None:
        return [available // num_clients + (i < available % num_clients) for i in range(num_clients)]
    if mode == "overlapping":
        if people_per_client > available:
            raise InputError(
                f"data.people_per_client={people_per_client}, but there are {available} training people; lower it"
            )
    elif people_per_client * num_clients > available:
        raise InputError(
            f"data.people_per_client: {num_clients} clients x {people_per_client} = "
            f"{num_clients * people_per_client} training people are asked for, but there are {available}; "
            f"set data.people_per_client={available // num_clients} or less, or null"
        )
    return [people_per_client] * num_clients


def draw_by_cluster(
    cluster: np.ndarray, sizes: Sequence[int], concentration: float, rng: np.random.Generator
) -> list[np.ndarray]:
    """Disjoint draws of exactly `sizes` people, each client with its own mixture of clusters.

    `cluster` (N,) is each person's. A client's proportions are drawn from Dirichlet(concentration), as Hsu et
    al. 2019 do for classes. The clients then draw in turn, one person each, so that no client is left with
    what the others did not want. Once a cluster is used up, a client's proportions are renormalised over
    those that last; where it wanted none of these, it draws by the number of people left in them.
    """
    clusters = np.unique(cluster)
    waiting = [rng.permutation(np.flatnonzero(cluster == c)).tolist() for c in clusters]
    wanted = rng.dirichlet(np.full(len(clusters), concentration), size=len(sizes))
    left = np.array([len(members) for members in waiting], np.float64)
    drawn: list[list[int]] = [[] for _ in sizes]
    for turn in range(max(sizes)):
        for client, size in enumerate(sizes):
            if turn >= size:
                continue
            share = np.where(left > 0, wanted[client], 0.0)
            if not share.sum() > 0:
                share = left
            pick = int(rng.choice(len(clusters), p=share / share.sum()))
            drawn[client].append(waiting[pick].pop())
            left[pick] -= 1
    return [np.array(rows, np.int64) for rows in drawn]


def size_clusters(people: People) -> np.ndarray:
    """(N,) quartile, 0 to 3, of each person's box height."""
    height = people.box[:, 1]
    return np.searchsorted(np.quantile(height, (0.25, 0.5, 0.75)), height)


def pose_clusters(people: People, seed: int) -> np.ndarray:
    """(N,) cluster, 0 to 7, of each person's pose: k-means of the joints as a share of the box.

    A joint that is not labelled lies at the box's centre.
    """
    poses = (people.joints - people.centre[:, None]) / people.box[:, None]
    poses = np.where(people.visibility[:, :, None] > 0, poses, 0.0)
    points = poses.reshape(len(people), -1).astype(np.float64)
    return kmeans(points, min(POSE_CLUSTERS, len(people)), np.random.default_rng([seed, _CLUSTERS]))


def kmeans(points: np.ndarray, k: int, rng: np.random.Generator) -> np.ndarray:
    """(N, D) points -> (N,) cluster in 0 .. k - 1, from k-means++ seeds (Arthur and Vassilvitskii 2007)."""
    centres = points[[rng.integers(len(points))]]
    while len(centres) < k:
        nearest = _squared_distances(points, centres).min(axis=1)
        chance = nearest if nearest.sum() > 0 else np.ones(len(points))
        centres = np.concatenate([centres, points[[rng.choice(len(points), p=chance / chance.sum())]]])
    for _ in range(KMEANS_STEPS):
        cluster = _squared_distances(points, centres).argmin(axis=1)
        centres = np.stack(
            [points[cluster == c].mean(axis=0) if (cluster == c).any() else centres[c] for c in range(k)]
        )
    return np.asarray(cluster)


def _squared_distances(points: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """(N, D) and (k, D) -> (N, k)."""
    return np.stack([((points - centre) ** 2).sum(axis=1) for centre in centres], axis=1)
