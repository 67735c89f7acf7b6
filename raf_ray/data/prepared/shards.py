"""Prepared shards as Parquet: many clients a file, one row group a client, a person a row.

A client's rows hold its patches exactly as `cut_shard` lays them and the other arrays of `Shard` bit by bit:

| column | type | `Shard`'s |
| --- | --- | --- |
| person_id | int64 | person_id |
| patch | binary | read: bytes of a PNG or JPEG file |
| joints, visibility | list of 2 K float32 (x0, y0, x1 ...), of K uint8 | joints, visibility |
| centre, scale, picture_scale, picture_offset | list of 2 float32 (x, y) | the same |
| area, upsampled | float32, bool | the same |
| picture_digest | int64 | of the picture (see `raf_ray.data.overlap`), where known; not in version 1 |

The file's metadata, key ``raf_ray``, are JSON: the schema version, the skeleton, and for each row group the
client's name, tier, size and margins. Pictures are stored uncompressed by Parquet, so that reading is one copy.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from raf_ray.data.annotations.fields import shown
from raf_ray.data.crop import Margins
from raf_ray.data.encoded import Encoding, OnBadImage, encode_picture, make_each
from raf_ray.data.prepared.index import ClientRecord
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
from raf_ray.data.shard import Shard
from raf_ray.data.skeletons import Skeleton
from raf_ray.errors import InputError, RunError
from raf_ray.files import write_atomically
from raf_ray.resolution import Size
from raf_ray.storage import Storage, StoredFile


def shard_schema(joints: int) -> pa.Schema:
    """Columns of a client's rows, each named as the field of `Shard`; K = `joints`."""
    pair = pa.list_(pa.float32(), 2)
    return pa.schema(
        {
            "person_id": pa.int64(),
            "patch": pa.large_binary(),
            "joints": pa.list_(pa.float32(), 2 * joints),
            "visibility": pa.list_(pa.uint8(), joints),
            "centre": pair,
            "scale": pair,
            "picture_scale": pair,
            "picture_offset": pair,
            "area": pa.float32(),
            "upsampled": pa.bool_(),
        }
    )


@dataclass(frozen=True)
class NamedShard:
    """A client's shard that is to be written; its patches are read one by one."""

    name: str
    tier: str
    shard: Shard
    picture_digest: np.ndarray | None = None
    """(N,) int64 of each person's picture; None: not known"""


@dataclass(frozen=True)
class Written:
    """One client that was written, and what that took."""

    record: ClientRecord
    picture_bytes: int
    seconds: float


@dataclass(frozen=True)
class StoredPatches:
    """Index -> (h, w, 3) uint8 RGB patch, decoded when asked for from bytes that stay in memory."""

    patches: pa.ChunkedArray
    rows: np.ndarray
    """(N,) int64, each person's row of `patches`"""
    where: str

    def __call__(self, index: int) -> np.ndarray:
        row = int(self.rows[index])
        return stored_picture(self.patches, row, f"patch {row} of {self.where}")


# --- writing --------------------------------------------------------------------------------------------


def write_shards(
    root: Path,
    clients: Sequence[NamedShard],
    *,
    encoding: Encoding,
    clients_per_file: int,
    on_bad_image: OnBadImage,
    advance: Callable[[], object] = lambda: None,
) -> list[Written]:
    """Write clients' shards as ``train-000.parquet`` and on; the same shards give the same bytes.

    Args:
        on_bad_image: raise where a picture is missing or cannot be decoded, or leave its person out.
        advance: called after each person.

    Raises:
        PictureError: a bad picture, with `on_bad_image="stop"`.
        InputError: no person of a client has a picture that can be read.
    """
    written: list[Written] = []
    for start in range(0, len(clients), clients_per_file):
        group = clients[start : start + clients_per_file]
        path = root / f"train-{start // clients_per_file:03d}.parquet"

        def write(temporary: Path, group: Sequence[NamedShard] = group, name: str = path.name) -> None:
            skeleton = group[0].shard.skeleton
            described = [_description(c.name, c.tier, c.shard.size, c.shard.margins) for c in group]
            digests = all(client.picture_digest is not None for client in group)
            schema = shard_schema(len(skeleton))
            schema = (with_digest(schema) if digests else schema).with_metadata(
                file_metadata(skeleton, {"clients": described})
            )
            with open_writer(temporary, schema, "patch") as writer:
                for row_group, client in enumerate(group):
                    begin = time.perf_counter()
                    table, patch_bytes = _client_table(client, schema, encoding, on_bad_image, advance)
                    writer.write_table(table, row_group_size=len(table))
                    record = _record(client, name, row_group, table)
                    written.append(Written(record, patch_bytes, time.perf_counter() - begin))

        write_atomically(path, write)
    return written


def _client_table(
    client: NamedShard, schema: pa.Schema, encoding: Encoding, on_bad_image: OnBadImage, advance: Callable[[], object]
) -> tuple[pa.Table, int]:
    """A client's rows, and the bytes of its pictures."""
    shard = client.shard
    patches, kept = make_each(
        lambda index: encode_picture(shard.read(index), encoding), len(shard), on_bad_image, advance
    )
    if not patches:
        raise InputError(f"client {client.name} has no people: none of its {len(shard)} pictures can be read")
    arrays = {name: getattr(shard, name)[kept] for name in schema.names if name not in ("patch", PICTURE_DIGEST)}
    if client.picture_digest is not None:
        arrays[PICTURE_DIGEST] = client.picture_digest[kept]
    return make_table(schema, arrays, {"patch": patches}), sum(map(len, patches))


def _record(client: NamedShard, file: str, row_group: int, table: pa.Table) -> ClientRecord:
    return ClientRecord(
        name=client.name,
        tier=client.tier,
        size=str(client.shard.size),
        file=file,
        row_group=row_group,
        people=len(table),
        asked=len(client.shard),
        upsampled=float(table["upsampled"].to_numpy().mean()),
        margins=client.shard.margins,
    )


def _description(name: str, tier: str, size: Size | str, margins: Margins) -> dict[str, Any]:
    """What a file says of one of its row groups."""
    return {"name": name, "tier": tier, "size": str(size), "margins": asdict(margins)}


# --- reading --------------------------------------------------------------------------------------------


def read_shard(
    root: Path | Storage,
    record: ClientRecord,
    skeleton: Skeleton,
    *,
    first: int | None = None,
    skip_upsampled: bool = False,
    cache_mb: float = 0.0,
) -> Shard:
    """One client's shard; with PNG every array and patch has the bits of the one that was written.

    Encoded patches are held in memory and decoded when asked for; decoded ones are kept up to `cache_mb`.

    Args:
        first: use only so many of the stored people; None: all.
        skip_upsampled: of these, leave out those who are smaller in their picture than the tier.

    Raises:
        InputError: the file is missing or cut off, or its row group is not the client's that the index names.
        RunError: the rows are damaged (a client opens its shard when the run has begun).
    """
    path = root / record.file
    with open_file(path, skeleton, shard_schema(len(skeleton))) as file:
        _check_row_group(file, record, path)
        table = read_row_group(file, record.row_group, path, raises=RunError)
    arrays = {name: to_array(table[name]) for name in table.column_names if name not in ("patch", PICTURE_DIGEST)}
    rows = np.arange(record.people if first is None else first)
    if skip_upsampled:
        rows = rows[~arrays["upsampled"][rows]]
    arrays = {name: array[rows] for name, array in arrays.items()}
    return Shard(
        size=record.pixels,
        skeleton=skeleton,
        **arrays | {"joints": arrays["joints"].reshape(-1, len(skeleton), 2)},
        margins=record.margins,
        read=StoredPatches(table["patch"], rows, f"{record.name} in {path}"),
        cache_mb=cache_mb,
    )


def read_upsampled(root: Path | Storage, clients: Sequence[ClientRecord], skeleton: Skeleton) -> list[np.ndarray]:
    """For each client (N,) bool: which of its stored people are smaller in their picture than the tier.

    Every file is opened once, and no patch is read. Raises InputError where a file is missing or cut off, or holds
    other clients, sizes or joints than the index says.
    """
    return [to_array(table["upsampled"]) for table in _read_columns(root, clients, skeleton, ["upsampled"])]


def read_digests(root: Path | Storage, clients: Sequence[ClientRecord], skeleton: Skeleton) -> np.ndarray | None:
    """(N,) int64 of the pictures of all clients' stored people; None where a shard does not say.

    Raises InputError as `read_upsampled` does.
    """
    tables = _read_columns(root, clients, skeleton, [PICTURE_DIGEST])
    if any(PICTURE_DIGEST not in table.column_names for table in tables):
        return None
    return np.concatenate([to_array(table[PICTURE_DIGEST]) for table in tables])


def _read_columns(
    root: Path | Storage, clients: Sequence[ClientRecord], skeleton: Skeleton, columns: list[str]
) -> list[pa.Table]:
    """Each client's `columns`, as far as its shard has them; every file is opened once."""
    by_file: dict[str, list[ClientRecord]] = {}
    for record in clients:
        by_file.setdefault(record.file, []).append(record)
    found: dict[tuple[str, int], pa.Table] = {}
    for name, records in by_file.items():
        with open_file(root / name, skeleton, shard_schema(len(skeleton))) as file:
            for record in records:
                _check_row_group(file, record, root / name)
                found[name, record.row_group] = read_row_group(file, record.row_group, root / name, columns)
    return [found[record.file, record.row_group] for record in clients]


def _check_row_group(file: pq.ParquetFile, record: ClientRecord, path: Path | StoredFile) -> None:
    described = metadata_of(file, path).get("clients")
    number = record.row_group
    groups = described if isinstance(described, list) else []
    here = groups[number] if number < min(len(groups), file.metadata.num_row_groups) else None
    wanted = _description(record.name, record.tier, record.size, record.margins)
    if here != wanted:
        same = isinstance(here, Mapping) and all(here.get(key) == wanted[key] for key in ("name", "tier", "size"))
        raise InputError(
            f"row group {number} of {path} is {_in_words(here, same)}, but the index says {_in_words(wanted, same)}: "
            "the two were not prepared together; prepare the shards again"
        )
    people = file.metadata.row_group(record.row_group).num_rows
    if people != record.people:
        raise InputError(
            f"{path} holds {people} people of {record.name}, but the index says {record.people}; prepare the shards "
            "again"
        )


def _in_words(description: object, margins: bool) -> str:
    """A row group's description, in short."""
    if not isinstance(description, Mapping):
        return "nothing"
    name, size = (shown(description.get(key)).strip("'") for key in ("name", "size"))
    return f"{name} at {size}" + (f" with margins {shown(description.get('margins'))}" if margins else "")
