"""Held-out people of prepared shards: labels as the source gave them, and of each picture what scoring can need.

A model is scored from the original picture at any size, so the pictures are not reduced: of each is kept the
region that `cut_shard` asks for at any of the evaluation sizes. A smaller size reaches farther (it averages over
larger areas at the edge), and may need more than was kept; `check_reach` says so before anything is scored.

Regions that COCO's evaluator ignores are not kept, so OKS AP from shards forgives nothing (it can be lower).

A file, ``val.parquet``, has a person a row: the arrays of `People`, `picture` (bytes of a PNG or JPEG file),
`region` (list of 4 int64: x, y, width, height in the original), `picture_size` (list of 2 int64: its width
and height) and, but in version 1, `picture_digest` (int64, of the whole picture; see `raf_ray.data.overlap`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from raf_ray.data.augment import NO_MARGINS
from raf_ray.data.crop import lay_patches
from raf_ray.data.encoded import Encoding, OnBadImage, encode_picture, make_each
from raf_ray.data.headers import MOST_PIXELS
from raf_ray.data.overlap import picture_digests
from raf_ray.data.people import People, PictureError
from raf_ray.data.prepared.index import Index, SplitRecord, first_people
from raf_ray.data.prepared.parquet import (
    PICTURE_DIGEST,
    file_metadata,
    make_table,
    metadata_of,
    open_file,
    open_writer,
    read_row_group,
    stored_picture,
    to_array,
    with_digest,
)
from raf_ray.data.skeletons import Skeleton
from raf_ray.errors import InputError, RunError
from raf_ray.files import write_atomically
from raf_ray.resolution import Size
from raf_ray.storage import Storage, StoredFile

ROWS_PER_GROUP = 32
"""People a row group: what is read at a time when pictures are asked for in order; a choice, some MB.

Part of the schema version, since a row is found by it."""


def people_schema(joints: int) -> pa.Schema:
    """Columns of a held-out split, each named as the field of `People` or `StoredPictures`; K = `joints`."""
    pair = pa.list_(pa.float32(), 2)
    return pa.schema(
        {
            "person_id": pa.int64(),
            "picture_id": pa.int64(),
            "picture": pa.large_binary(),
            "region": pa.list_(pa.int64(), 4),
            "picture_size": pa.list_(pa.int64(), 2),
            "joints": pa.list_(pa.float32(), 2 * joints),
            "visibility": pa.list_(pa.uint8(), joints),
            "centre": pair,
            "box": pair,
            "area": pa.float32(),
            "head_size": pa.float32(),
        }
    )


@dataclass(frozen=True, eq=False)
class StoredPictures:
    """Row -> (H, W, 3) uint8 RGB picture, black outside the stored region. A process opens the file when it first asks.

    The row group read last is kept, since people are asked for in order; it does not travel to other processes.
    """

    path: Path | StoredFile
    skeleton: Skeleton
    region: np.ndarray
    """(N, 4) int64 x, y, width, height in picture pixels"""
    picture_size: np.ndarray
    """(N, 2) int64 width, height"""
    picture_digest: np.ndarray | None = None
    """(N,) int64 of each whole picture; None: not known"""
    _last: dict[int, pa.ChunkedArray] = field(default_factory=dict, init=False, repr=False)

    def __call__(self, row: int) -> np.ndarray:
        group, at = divmod(row, ROWS_PER_GROUP)
        pictures = self._last.get(group)
        if pictures is None:
            with open_file(self.path, self.skeleton, people_schema(len(self.skeleton))) as file:
                pictures = read_row_group(file, group, self.path, ["picture"], RunError)["picture"]
            self._last.clear()
            self._last[group] = pictures
        (x, y, width, height), (across, down) = self.region[row].tolist(), self.picture_size[row].tolist()
        part = stored_picture(pictures, at, self.name(row))
        held = 0 <= x <= across - width and 0 <= y <= down - height and across * down <= MOST_PIXELS
        if not held or part.shape[:2] != (height, width):
            raise PictureError(f"{self.name(row)} is not the region that its row describes; prepare the shards again")
        picture = np.zeros((down, across, 3), np.uint8)
        picture[y : y + height, x : x + width] = part
        return picture

    def name(self, row: int) -> str:
        """How messages name the picture."""
        return f"picture {row} of {self.path}"

    def __reduce__(self) -> tuple[Any, ...]:
        return StoredPictures, (self.path, self.skeleton, self.region, self.picture_size, self.picture_digest)


def write_people(
    root: Path,
    split: str,
    people: People,
    sizes: Sequence[Size],
    *,
    asked: int,
    encoding: Encoding,
    on_bad_image: OnBadImage,
    advance: Callable[[], object] = lambda: None,
) -> tuple[SplitRecord, int]:
    """Write a held-out split for scoring at `sizes`; its record, and the bytes of its pictures.

    Raises:
        PictureError: a bad picture, with `on_bad_image="stop"`.
        InputError: none of the pictures can be read.
    """
    start, end = _reach(people, sizes)

    def make(index: int) -> tuple[bytes, list[int], list[int]]:
        picture = people.picture(index)
        size = np.array(picture.shape[1::-1])
        # At least a pixel, also where a person lies outside the picture.
        first = np.clip(start[index], 0, size - 1)
        last = np.clip(end[index], first + 1, size)
        part = picture[first[1] : last[1], first[0] : last[0]]
        return encode_picture(part, encoding), [*first.tolist(), *(last - first).tolist()], size.tolist()

    made, kept = make_each(make, len(people), on_bad_image, advance)
    if not made:
        raise InputError(f"split {split} has no people: none of its {len(people)} pictures can be read")
    schema = with_digest(people_schema(len(people.skeleton)))
    schema = schema.with_metadata(file_metadata(people.skeleton, {"split": split}))
    pictures, regions, picture_sizes = zip(*made, strict=True)
    labels = people.take(kept)
    arrays = {"region": np.array(regions), "picture_size": np.array(picture_sizes)}
    arrays[PICTURE_DIGEST] = picture_digests(labels)
    arrays |= {name: getattr(labels, name) for name in schema.names if name not in (*arrays, "picture")}
    table = make_table(schema, arrays, {"picture": list(pictures)})
    path = root / f"{split}.parquet"

    def write(temporary: Path) -> None:
        with open_writer(temporary, schema, "picture") as writer:
            writer.write_table(table, row_group_size=ROWS_PER_GROUP)

    write_atomically(path, write)
    return SplitRecord(path.name, len(made), asked), sum(map(len, pictures))


def read_people(root: Path | Storage, index: Index, split: str, first: int | None, sizes: Sequence[Size]) -> People:
    """The first `first` stored people (None: all) of a held-out split, to be scored at `sizes`.

    A picture is read when it is asked for. Raises InputError where the file is missing or damaged or is not the
    split's that the index names, where more people are asked for than were prepared, and where a size needs
    more of the pictures than was stored.
    """
    record, skeleton = index.held_out[split], index.skeleton
    count = first_people(f"data.{split}_people", first, record, f"split {split}")
    path = root / record.file
    names = [name for name in with_digest(people_schema(len(skeleton))).names if name != "picture"]
    with open_file(path, skeleton, people_schema(len(skeleton))) as file:
        if metadata_of(file, path).get("split") != split or file.metadata.num_rows != record.people:
            raise InputError(
                f"{path} does not hold the {record.people} people of split {split} that the index names; "
                "prepare the shards again"
            )
        groups = [read_row_group(file, i, path, names) for i in range(file.metadata.num_row_groups)]
    table = pa.concat_tables(groups)
    arrays = {name: to_array(table[name]) for name in table.column_names}
    pictures = StoredPictures(
        path, skeleton, arrays.pop("region"), arrays.pop("picture_size"), arrays.pop(PICTURE_DIGEST, None)
    )
    people = People(
        skeleton=skeleton,
        **arrays | {"joints": arrays["joints"].reshape(-1, len(skeleton), 2)},
        rows=np.arange(record.people, dtype=np.int64),
        read=pictures,
        category_id=index.category_id,
    ).take(np.arange(count))
    check_reach(people, pictures, sizes, index.smallest_size)
    return people


def stored_digests(people: People) -> np.ndarray | None:
    """(N,) int64 of the pictures of people that `read_people` gave; None where the shards do not say."""
    assert isinstance(people.read, StoredPictures)
    digest = people.read.picture_digest
    return None if digest is None else digest[people.rows]


def check_reach(people: People, stored: StoredPictures, sizes: Sequence[Size], smallest: str) -> None:
    """Raise InputError where scoring `people` at one of `sizes` needs more of their pictures than was stored.

    `smallest` is the smallest size that the shards were prepared for, as the error names it.
    """
    region, picture = stored.region[people.rows], stored.picture_size[people.rows]
    for size in sizes:
        start, end = (np.clip(edge, 0, picture) for edge in _reach(people, [size]))
        held = (start >= region[:, :2]) & (end <= region[:, :2] + region[:, 2:])
        if not (held.all(axis=1) | (start >= end).any(axis=1)).all():
            raise InputError(
                f"evaluation.resolutions: {size} needs more of the held-out pictures than the shards hold, which were "
                f"prepared for sizes down to {smallest}; leave it out, or prepare the shards again with it"
            )


def _reach(people: People, sizes: Sequence[Size]) -> tuple[np.ndarray, np.ndarray]:
    """(N, 2) int64 first and (excluded) last picture pixels, x and y, that crops at any of `sizes` use."""
    laid = [lay_patches(people, size, NO_MARGINS) for size in sizes]
    start = np.min([lay.start for lay in laid], axis=0)
    end = np.max([lay.start + lay.extent for lay in laid], axis=0)
    return start, end
