"""``index.json`` of prepared shards: which clients and held-out people there are, in which file, how they were cut."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError

from raf_ray.data.annotations.fields import brief, shown
from raf_ray.data.crop import Margins
from raf_ray.data.encoded import Encoding
from raf_ray.data.people import PERSON
from raf_ray.data.skeletons import Skeleton
from raf_ray.data.splits import Partition
from raf_ray.errors import InputError
from raf_ray.files import read_json, write_json
from raf_ray.resolution import Size, parse_size, tier_label
from raf_ray.storage import Storage, StoredFile

SCHEMA_VERSION = 2
"""Of the index and the Parquet files. It grows whenever older readers would misread what is written."""

READ_VERSIONS = (1, 2)
"""Version 1 does not say which pictures people are of."""

FILE_NAME = "index.json"

FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}\.parquet$")]
"""A file beside the index, never one elsewhere."""
Count = Annotated[int, Field(strict=True, ge=0, lt=2**31)]
People = Annotated[int, Field(strict=True, gt=0, lt=2**31)]
SizeText = Annotated[str, AfterValidator(lambda text: str(parse_size(text)))]
"""Height x width"""
Finite = Annotated[float, Field(strict=True, allow_inf_nan=False)]


@dataclass(frozen=True)
class ClientRecord:
    """One client's shard: one row group of one file."""

    name: str
    tier: str
    size: SizeText
    """Height x width of the tier it was cut at"""
    file: FileName
    row_group: Count
    people: People
    """People stored"""
    asked: People
    """People that the client was to have; more than `people` where pictures were bad"""
    upsampled: Annotated[Finite, Field(ge=0, le=1)]
    """Share of the stored people who are smaller in their picture than the tier"""
    margins: Margins

    @property
    def pixels(self) -> Size:
        return parse_size(self.size)


@dataclass(frozen=True)
class SplitRecord:
    """The people of a held-out split: one file."""

    file: FileName
    people: People
    asked: People


@dataclass(frozen=True)
class Index:
    __pydantic_config__: ClassVar = ConfigDict(allow_inf_nan=False)

    schema_version: int
    raf_ray: str
    """Version of the library that wrote the shards"""
    encoding: Encoding
    seed: Annotated[int, Field(strict=True, ge=0, lt=2**63)]
    """Of the split and the partition"""
    partition: Partition
    concentration: Annotated[Finite, Field(gt=0)]
    skeleton: Skeleton
    clients: tuple[ClientRecord, ...]
    held_out: dict[str, SplitRecord]
    """`val` and `test`"""
    evaluation_sizes: tuple[SizeText, ...]
    """Sizes that the held-out pictures suffice for, largest first"""
    smallest_size: SizeText
    """The last of them"""
    config: str
    """The source's resolved config as YAML"""
    category_id: Annotated[int, Field(strict=True)] = PERSON
    """Of the people, by their source; older indices do not say it"""


def write_index(root: Path, index: Index) -> None:
    write_json(root / FILE_NAME, asdict(index))


def read_index(root: Path | Storage) -> Index:
    """The index of the prepared shards in `root`.

    Raises InputError where the folder or the index is missing, cannot be read, or is of another schema version.
    """
    path = root / FILE_NAME
    if not root.is_dir():
        raise InputError(f"data.root: folder {root} does not exist; set data.root to a folder made by raf_ray.prepare")
    if not path.is_file():
        raise InputError(
            f"data.root: {root} holds no prepared shards, since it has no {FILE_NAME}; make them with raf_ray.prepare"
        )
    values = read_json(path, "index of prepared shards")
    check_version(values, path)
    try:
        index = TypeAdapter(Index).validate_python(values)
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        place = brief(".".join(str(part) for part in first["loc"]))
        raise InputError(f"{path} is damaged ({place}: {first['msg']}); prepare the shards again") from error
    if not {"val", "test"} <= set(index.held_out):
        raise InputError(f"{path} is damaged (held_out: val or test is missing); prepare the shards again")
    return index


def check_version(values: object, path: Path | StoredFile) -> None:
    """Raise InputError where what `path` holds was not written in this schema version."""
    version = values.get("schema_version") if isinstance(values, Mapping) else None
    if version is None:
        raise InputError(f"{path} names no schema version, so it was not made by raf_ray.prepare; set data.root")
    if type(version) is not int or version not in READ_VERSIONS:
        raise InputError(
            f"{path} is of schema version {shown(version)}, but this raf-ray reads versions "
            f"{' and '.join(map(str, READ_VERSIONS))}; prepare the shards again"
        )


def check_clients(index: Index, clients: list[tuple[str, Size]]) -> None:
    """Raise InputError where a run's clients, (name, size) in order, are not those that were prepared."""
    stored = ", ".join(_in_words(index))
    rule = f"federation.clients and resolution.tiers must be as prepared ({stored})"
    if len(clients) != len(index.clients):
        raise InputError(f"data.root: shards of {len(index.clients)} clients, but the run has {len(clients)}; {rule}")
    for number, ((name, size), record) in enumerate(zip(clients, index.clients, strict=True), 1):
        if size != record.pixels:
            raise InputError(
                f"data.root: client {number} of the run ({name}) is of {size}, but its shard ({brief(record.name)}) "
                f"was cut at {record.size}; {rule}"
            )


def check_partition(index: Index, partition: Partition, concentration: float) -> None:
    """Raise InputError where a run asks for another partition of the people than the one that was prepared."""
    asked = {"partition": partition, "concentration": concentration}
    for key in ("partition", *(("concentration",) if index.partition.startswith("dirichlet") else ())):
        prepared = getattr(index, key)
        if asked[key] != prepared:
            raise InputError(
                f"data.{key}={asked[key]}, but the shards were prepared with {prepared}; set data.{key}={prepared}, "
                "or prepare them again"
            )


def check_margins(record: ClientRecord, needed: Margins) -> None:
    """Raise InputError where the augmentation reaches beyond what was stored around a client's people."""
    if not record.margins.cover(needed):
        raise InputError(
            f"data.augment reaches {_factors(needed)}, but the shard of {brief(record.name)} has margins of "
            f"{_factors(record.margins)}; prepare the shards again with this data.augment, or ask for less"
        )


def _factors(margins: Margins) -> str:
    return f"{margins.width:.3g} x a box's width and {margins.height:.3g} x its height"


def _in_words(index: Index) -> list[str]:
    """Clients in short: runs of equal ones as ``2 x high 128x96``."""
    runs: list[tuple[str, int]] = []
    for record in index.clients:
        label = tier_label(brief(record.tier), record.size)
        if runs and runs[-1][0] == label:
            runs[-1] = (label, runs[-1][1] + 1)
        else:
            runs.append((label, 1))
    told = [f"{count} x {label}" for label, count in runs]
    return told if len(told) <= 6 else [*told[:6], "..."]


def first_people(key: str, wanted: int | None, record: ClientRecord | SplitRecord, whose: str) -> int:
    """How many of the stored people to use: `wanted`, at most; None: all.

    Raises InputError where more are wanted than were asked for when the shards were prepared. (Asked for, not
    stored: people left out for a bad picture are not missed twice.)
    """
    if wanted is None:
        return record.people
    if wanted > max(record.asked, record.people):
        raise InputError(
            f"{key}={wanted}, but the shards hold {record.people} people of {whose}; set it to {record.people} or "
            "less, or to null for all, or prepare the shards again"
        )
    return min(wanted, record.people)
