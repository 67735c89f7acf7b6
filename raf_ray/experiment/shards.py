"""A config's clients and held-out people as prepared shards: a folder that is there whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from raf_ray.config import Config, write_yaml
from raf_ray.data.encoded import Encoding
from raf_ray.data.overlap import picture_digests
from raf_ray.data.people import People, PictureError
from raf_ray.data.prepared import CLIENTS_PER_FILE
from raf_ray.data.prepared.index import FILE_NAME, SCHEMA_VERSION, Index, write_index
from raf_ray.data.prepared.people import write_people
from raf_ray.data.prepared.shards import NamedShard, Written, write_shards
from raf_ray.data.shard import cut_shard
from raf_ray.errors import InputError
from raf_ray.request.crops import check_ours
from raf_ray.request.people import augmentation_of, load_data, picture_notes
from raf_ray.request.plans import final_sizes, plan_clients
from raf_ray.runs.output import check_free, writing_to
from raf_ray.storage import Storage
from raf_ray.training.clients import Owned, Plans
from raf_ray.training.spec import margins_of


@dataclass(frozen=True)
class PreparedShards:
    """What was written, and what it took."""

    folder: Path | Storage
    index: Index
    clients: tuple[Written, ...]
    held_out_bytes: dict[str, int]
    """Split -> bytes of its pictures"""
    left_out: dict[str, int]
    """Client or split -> people left out because their picture could not be read"""
    notes: tuple[str, ...]
    """Sentences for the user on the people and their pictures"""


def prepare_shards(
    config: Config,
    output: Path | Storage,
    *,
    encoding: Encoding = "png",
    clients_per_file: int = CLIENTS_PER_FILE,
    overwrite: bool = False,
    begin: Callable[[int], object] = lambda total: None,
    advance: Callable[[], object] = lambda: None,
) -> PreparedShards:
    """Write the shards of a config's clients and its held-out people.

    Args:
        begin: told the number of people; `advance` is called after each.

    Raises:
        InputError: the request, the output folder or a picture is wrong; nothing was written.
    """
    check_shards(output, overwrite)
    if config.data.name == "shards":
        raise InputError("data.name=shards: shards are cut from pictures; name the data set that they come from")
    check_ours(config, "a folder of prepared shards")
    plans = plan_clients(config)
    # Upsampled people are stored in any case: whether to train on them is the run's choice.
    everyone = config.model_copy(update={"data": config.data.model_copy(update={"upsampled": "keep"})})
    owned, held_out = load_data(everyone, plans, ("val", "test"))
    clients = _cut(config, plans, owned)
    begin(int(owned.counts.sum()) + sum(map(len, held_out.values())))
    with replacing(output, overwrite) as folder:
        written = write_shards(
            folder, clients, encoding=encoding, clients_per_file=clients_per_file,
            on_bad_image=config.data.on_bad_image, advance=advance,
        )  # fmt: skip
        index, held_out_bytes = _write_rest(folder, config, plans, held_out, written, encoding, advance)
    left_out = {one.record.name: one.record.asked - one.record.people for one in written}
    left_out |= {split: len(held_out[split]) - record.people for split, record in index.held_out.items()}
    notes = (*owned.notes, *picture_notes([owned], [held_out]))
    return PreparedShards(output, index, tuple(written), held_out_bytes, left_out, notes)


def _cut(config: Config, plans: Plans, owned: Owned) -> list[NamedShard]:
    clients = []
    for plan, own in zip(plans, owned, strict=True):
        assert own.people is not None
        shard = cut_shard(own.people, plan.size, margins_of(augmentation_of(config), plan.size))
        clients.append(NamedShard(plan.name, plan.tier, shard, picture_digests(own.people)))
    return clients


def _write_rest(
    folder: Path,
    config: Config,
    plans: Plans,
    held_out: dict[str, People],
    written: Sequence[Written],
    encoding: Encoding,
    advance: Callable[[], object],
) -> tuple[Index, dict[str, int]]:
    """Held-out people and the index; the index, and split -> bytes of its pictures."""
    data, sizes = config.data, final_sizes(config, plans)
    asked = {"val": data.val_people, "test": data.test_people}
    splits = {
        split: write_people(
            folder, split, people, sizes, asked=max(asked[split] or 0, len(people)), encoding=encoding,
            on_bad_image=data.on_bad_image, advance=advance,
        )
        for split, people in held_out.items()
    }  # fmt: skip
    index = Index(
        schema_version=SCHEMA_VERSION,
        raf_ray=version("raf-ray"),
        encoding=encoding,
        seed=config.seed,
        partition=data.partition,
        concentration=data.concentration,
        skeleton=held_out["test"].skeleton,
        clients=tuple(one.record for one in written),
        held_out={split: record for split, (record, _) in splits.items()},
        evaluation_sizes=tuple(str(size) for size in sizes),
        smallest_size=str(sizes[-1]),
        config=write_yaml(config),
        category_id=held_out["test"].category_id,
    )
    write_index(folder, index)
    return index, {split: size for split, (_, size) in splits.items()}


def check_shards(output: Path | Storage, overwrite: bool) -> None:
    """Raise InputError where the folder is in use; with `overwrite`, where it holds anything but shards."""

    def foreign(names: list[str]) -> str | None:
        ours = FILE_NAME in names and all(name == FILE_NAME or name.endswith(".parquet") for name in names)
        return None if ours else "other files than prepared shards"

    check_free(output, "shards", overwrite=overwrite, can_resume=False, replaced="its shards", foreign=foreign)


@contextmanager
def replacing(output: Path | Storage, overwrite: bool) -> Iterator[Path]:
    """A temporary folder to write into; it takes the place of `output` at the end, or goes away on an error."""
    try:
        with _sent_to(output, overwrite) if isinstance(output, Storage) else _renamed_to(output, overwrite) as folder:
            yield folder
    except PictureError as error:
        raise InputError(f"{error}; repair it, or leave its people out with data.on_bad_image=skip") from error


@contextmanager
def _sent_to(output: Storage, overwrite: bool) -> Iterator[Path]:
    """The index goes first and comes last: without it nobody takes what is there for shards."""
    with tempfile.TemporaryDirectory(prefix="raf-ray-") as folder:
        yield Path(folder)
        check_shards(output, overwrite)
        old = set(output.files())
        if FILE_NAME in old:
            output.delete(FILE_NAME)
        names = {path.name for path in Path(folder).iterdir()}
        for name in sorted(names, key=lambda name: (name == FILE_NAME, name)):
            output.send(Path(folder, name), name)
        for name in sorted(old - names):
            output.delete(name)


@contextmanager
def _renamed_to(output: Path, overwrite: bool) -> Iterator[Path]:
    place = output.resolve()
    # In the nearest folder that exists: no empty parents stay behind, and a rename within one disk is atomic.
    beside = next(parent for parent in place.parents if parent.exists())
    temporary, old = (beside / f".{place.name}.{os.getpid()}.{kind}" for kind in ("new", "old"))
    try:
        with writing_to(output):
            temporary.mkdir()
            yield temporary
            check_shards(output, overwrite)
            place.parent.mkdir(parents=True, exist_ok=True)
            if place.exists():
                place.rename(old)
            temporary.rename(place)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if old.exists() and not place.exists():
            old.rename(place)
        shutil.rmtree(old, ignore_errors=True)
