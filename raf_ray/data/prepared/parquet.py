"""Parquet files of prepared data: opened with what is wrong with them said in a sentence, arrays in and out bit by bit.

A file's metadata, key ``raf_ray``, are JSON: the schema version, the skeleton, and what the kind of file adds.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from raf_ray.data.annotations.fields import brief, shown
from raf_ray.data.encoded import decode_picture
from raf_ray.data.people import PictureError
from raf_ray.data.prepared.index import SCHEMA_VERSION, check_version
from raf_ray.data.skeletons import Skeleton
from raf_ray.errors import InputError, RunError
from raf_ray.storage import StoredFile

METADATA = b"raf_ray"

PICTURE_DIGEST = "picture_digest"
"""Column of all files: int64 of each person's picture; see `raf_ray.data.overlap.picture_digests`."""


def file_metadata(skeleton: Skeleton, more: Mapping[str, Any]) -> dict[bytes, bytes]:
    values = {"schema_version": SCHEMA_VERSION, "skeleton": asdict(skeleton), **more}
    return {METADATA: json.dumps(values).encode()}


def open_writer(path: Path, schema: pa.Schema, pictures: str) -> pq.ParquetWriter:
    """A writer that neither compresses nor indexes the column of pictures."""
    others = [name for name in schema.names if name != pictures]
    return pq.ParquetWriter(
        path, schema, compression="none", use_dictionary=False, write_statistics=others, write_page_checksum=True
    )


def open_file(path: Path | StoredFile, skeleton: Skeleton, schema: pa.Schema) -> pq.ParquetFile:
    """A Parquet file of prepared shards with the joints of `skeleton` and the columns of `schema`, which names no
    PICTURE_DIGEST: a file may have that one after the others.

    Raises InputError where it is missing, cut off, no such file, of another schema version, of other joints or columns.
    """
    if not path.is_file():
        raise InputError(f"{path} is missing, but {path.parent / 'index.json'} names it; prepare the shards again")
    try:
        source = path.open() if isinstance(path, StoredFile) else path
        file = pq.ParquetFile(source, page_checksum_verification=True)
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{path} cannot be read as Parquet, it may be cut off; prepare the shards again") from error
    metadata = metadata_of(file, path)
    check_version(metadata, path)
    given = metadata.get("skeleton")
    if given != json.loads(json.dumps(asdict(skeleton))):
        raise InputError(
            f"{path} holds {_in_words(given)}, not the {len(skeleton)} of '{brief(skeleton.name)}' that the index "
            "names; prepare the shards again"
        )
    if not any(file.schema_arrow.equals(known) for known in (schema, with_digest(schema))):
        raise InputError(f"{path} has other columns than prepared shards have; prepare the shards again")
    return file


def with_digest(schema: pa.Schema) -> pa.Schema:
    """The columns and PICTURE_DIGEST after them."""
    return schema.append(pa.field(PICTURE_DIGEST, pa.int64()))


def _in_words(skeleton: object) -> str:
    """The joints of a file's metadata, in short."""
    values = skeleton if isinstance(skeleton, Mapping) else {}
    joints = values.get("joints")
    return f"the {len(joints) if isinstance(joints, list) else 0} joints of skeleton {shown(values.get('name'))}"


def metadata_of(file: pq.ParquetFile, path: Path | StoredFile) -> dict[str, Any]:
    try:
        return dict(json.loads(file.schema_arrow.metadata[METADATA]))
    except (TypeError, KeyError, ValueError, RecursionError) as error:
        raise InputError(f"{path} was not made by raf_ray.prepare: it has no metadata of a shard") from error


def read_row_group(
    file: pq.ParquetFile,
    number: int,
    path: Path | StoredFile,
    columns: list[str] | None = None,
    raises: type[InputError] | type[RunError] = InputError,
) -> pa.Table:
    """A row group, its pages checked. Where it is damaged: InputError before a run, RunError if asked for within.

    A picture that is not there is a bad picture, not damage: see `stored_picture`.
    """
    damaged = f"{path} is damaged in row group {number}; prepare the shards again"
    try:
        table = file.read_row_group(number, columns=columns)
    except (OSError, pa.ArrowException) as error:
        raise raises(damaged) from error
    if any(column.null_count for column in table.columns if not pa.types.is_large_binary(column.type)):
        raise raises(damaged)
    return table


def make_table(schema: pa.Schema, arrays: Mapping[str, np.ndarray], pictures: Mapping[str, list[bytes]]) -> pa.Table:
    """A table of `schema`: arrays (N, ...) as N numbers or N lists of numbers, bit by bit, and N encoded pictures."""

    def column(field: pa.Field) -> pa.Array:
        if field.name in pictures:
            return pa.array(pictures[field.name], field.type)
        listed = pa.types.is_fixed_size_list(field.type)
        of = field.type.value_type if listed else field.type
        flat = pa.array(arrays[field.name].astype(of.to_pandas_dtype()).reshape(-1), of)
        return pa.FixedSizeListArray.from_arrays(flat, field.type.list_size) if listed else flat

    return pa.table([column(field) for field in schema], schema=schema)


def to_array(column: pa.ChunkedArray) -> np.ndarray:
    """A column as (N,), or (N, numbers of a list)."""
    if not pa.types.is_fixed_size_list(column.type):
        return np.array(column.to_numpy())
    width = column.type.list_size
    return np.concatenate([chunk.flatten().to_numpy() for chunk in column.chunks]).reshape(-1, width)


def stored_picture(column: pa.ChunkedArray, row: int, what: str) -> np.ndarray:
    """(H, W, 3) uint8 RGB picture of a row; PictureError, naming `what`, where its bytes are none."""
    data = column[row].as_buffer()
    try:
        return decode_picture(b"" if data is None else memoryview(data), what)
    except PictureError as error:
        raise PictureError(f"{error}; prepare the shards again") from error
