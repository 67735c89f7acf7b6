"""Whether two splits hold the same picture, whatever it is called in each.

A picture file is itself wherever links lead to it, and the same as another file of the same bytes; only files of one
size are opened, first for a piece of their middle. Pictures that one's own source reads are the same where their
pixels are: all are read where there are few, of many those whose id or labels both splits have.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Hashable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np

from raf_ray.data.people import People, PictureError
from raf_ray.data.pictures import PictureFiles, read_picture

THREADS = 32
"""A choice: on a network disk each look waits for an answer, and so many wait at once."""

MIDDLE_BYTES = 4096
"""Read of two files of one size before all of them: the middle of a JPEG is coded pixels, its head the camera's."""

MOST_READ = 1000
"""Pictures of one's own source that are decoded to be compared: some seconds."""

UNKNOWN = 0
"""Digest of a picture that could not be read."""

Item = TypeVar("Item")
Found = TypeVar("Found")


def number_pictures(splits: Sequence[People]) -> list[np.ndarray]:
    """For each split (N,) int64, a number for each person's picture: the same picture has one number in all splits.

    A picture that is missing or cannot be read is like no other of another name; that it is bad is told when it is
    used.
    """
    used = [np.unique(people.rows, return_inverse=True) for people in splits]
    readers = [people.read for people in splits]
    if all(isinstance(read, PictureFiles) for read in readers):
        paths = [
            read.paths[row]
            for read, (rows, _) in zip(readers, used, strict=True)
            if isinstance(read, PictureFiles)
            for row in rows.tolist()
        ]
        numbers = _numbered(_file_keys(paths))
    else:
        numbers = _numbered(_pixel_keys(splits, [rows for rows, _ in used]))
    starts = np.cumsum([0, *(len(rows) for rows, _ in used)])
    return [numbers[start:][inverse] for start, (_, inverse) in zip(starts, used, strict=False)]


def shared_pictures(first: np.ndarray, second: np.ndarray) -> list[tuple[int, int]]:
    """For each number that both (N,) and (M,) hold, where it first is in each."""
    numbers, at, there = np.intersect1d(first, second, return_indices=True)
    return list(zip(at.tolist(), there.tolist(), strict=True)) if len(numbers) else []


def one_id(picture_id: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """(N,) picture ids, those of one picture replaced by their smallest."""
    ids = picture_id
    while len(ids):
        lower = ids
        for groups in (numbers, picture_id):
            _, inverse = np.unique(groups, return_inverse=True)
            smallest = np.full(inverse.max() + 1, np.iinfo(np.int64).max)
            np.minimum.at(smallest, inverse, lower)
            lower = smallest[inverse]
        if (lower == ids).all():
            break
        ids = lower
    return ids


def picture_name(people: People, index: int) -> str:
    """What a user knows a person's picture by."""
    if isinstance(people.read, PictureFiles):
        return people.read.paths[int(people.rows[index])]
    return f"picture {people.picture_id[index]}"


def picture_digests(people: People) -> np.ndarray:
    """(N,) int64 of each person's picture: of its file's bytes, else of its pixels; or UNKNOWN."""
    rows, inverse = np.unique(people.rows, return_inverse=True)
    read = people.read
    if isinstance(read, PictureFiles):
        found = in_threads(_whole, [read.paths[row] for row in rows.tolist()])
    else:
        found = in_threads(lambda row: _pixels(people, row), rows.tolist())
    numbers = [UNKNOWN if digest is None else int.from_bytes(digest[:8], "big", signed=True) for digest in found]
    return np.array(numbers, np.int64)[inverse]


# --- files ----------------------------------------------------------------------------------------------


def _file_keys(paths: Sequence[str]) -> list[Hashable]:
    """For each path a key that it shares with the paths of the same picture."""
    looks = in_threads(_look, paths)
    keys: list[Hashable] = [place for place, _ in looks]
    one_of = {place: (path, size) for path, (place, size) in zip(paths, looks, strict=True) if size}
    alike: dict[Hashable, Hashable] = {place: size for place, (_, size) in one_of.items()}
    for stage in (_middle, _whole):
        alike = _those_together(alike)
        found = in_threads(stage, [one_of[place][0] for place in alike])
        alike = {
            place: (key, digest)
            for (place, key), digest in zip(alike.items(), found, strict=True)
            if digest is not None
        }
    same = _those_together(alike)
    # An error page or a file cut off in its head is no picture, however often it is there.
    one_file = {key: one_of[place][0] for place, key in same.items()}
    pictures = {key for key, good in zip(one_file, in_threads(_decodes, one_file.values()), strict=True) if good}
    known = {place: key for place, key in same.items() if key in pictures}
    return [known.get(place, place) for place in keys]


def _look(path: str) -> tuple[Hashable, int]:
    """Where a file really is, and its size; 0 where it cannot be looked at."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return os.path.normpath(path), 0
    place = (found.st_dev, found.st_ino) if found.st_ino else os.path.realpath(path)
    return place, found.st_size


def _middle(path: str) -> bytes | None:
    try:
        with open(path, "rb") as file:
            file.seek(max(0, (os.fstat(file.fileno()).st_size - MIDDLE_BYTES) // 2))
            return file.read(MIDDLE_BYTES)
    except OSError:
        return None


def _whole(path: str) -> bytes | None:
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    except (OSError, ValueError):
        return None


def _decodes(path: str) -> bool:
    try:
        read_picture(path)
    except PictureError:
        return False
    return True


def _those_together(keys: dict[Hashable, Hashable]) -> dict[Hashable, Hashable]:
    """The entries whose value another entry has too."""
    times: dict[Hashable, int] = {}
    for key in keys.values():
        times[key] = times.get(key, 0) + 1
    return {place: key for place, key in keys.items() if times[key] > 1}


# --- pictures of one's own source -----------------------------------------------------------------------


def _pixel_keys(splits: Sequence[People], rows: Sequence[np.ndarray]) -> list[Hashable]:
    """For each split's rows, one after the other, a key that the same picture shares.

    Read one by one, since one's own source need not bear threads.
    """
    few = sum(map(len, rows)) <= MOST_READ
    chosen = [set(of.tolist()) for of in rows] if few else _suspects(splits)
    keys: list[Hashable] = []
    for number, (people, of) in enumerate(zip(splits, rows, strict=True)):
        for row in of.tolist():
            digest = _pixels(people, row) if row in chosen[number] else None
            keys.append((number, row) if digest is None else digest)
    return keys


def _suspects(splits: Sequence[People]) -> list[set[int]]:
    """For each split the rows whose picture id, or the labels of a person in which, all splits have; of MOST_READ."""
    marks = [_marks(people) for people in splits]
    shared = [mark for mark in marks[0] if all(mark in others for others in marks[1:])] if len(marks) > 1 else []
    suspects: list[set[int]] = [set() for _ in splits]
    for mark in shared:
        if sum(map(len, suspects)) >= MOST_READ:
            break
        for found, own in zip(suspects, marks, strict=True):
            found.add(own[mark])
    return suspects


def _marks(people: People) -> dict[Hashable, int]:
    """What to recognise a picture by without reading it -> its row."""
    labels = np.where(people.visibility[:, :, None] > 0, people.joints, 0).astype(np.float32)
    rows = people.rows.tolist()
    marks: dict[Hashable, int] = {joints.tobytes(): row for joints, row in zip(labels, rows, strict=True)}
    return marks | dict(zip(people.picture_id.tolist(), rows, strict=True))


def _pixels(people: People, row: int) -> bytes | None:
    try:
        picture = np.ascontiguousarray(people.read(row))
    except Exception:  # the user's own code: what it raises is told when the picture is used
        return None
    return hashlib.sha256(repr(picture.shape).encode() + picture.tobytes()).digest()


# --- both -----------------------------------------------------------------------------------------------


def in_threads(make: Callable[[Item], Found], items: Iterable[Item]) -> list[Found]:
    """What `make` gives for each item, in order; in threads, each with a part of the items."""
    listed = list(items)
    parts = [listed[start::THREADS] for start in range(min(THREADS, len(listed)))]
    with ThreadPoolExecutor(THREADS) as pool:
        made = list(pool.map(lambda part: [make(item) for item in part], parts))
    return [made[i % THREADS][i // THREADS] for i in range(len(listed))]


def _numbered(keys: Sequence[Hashable]) -> np.ndarray:
    """(n,) int64, equal where the keys are."""
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys], np.int64)
