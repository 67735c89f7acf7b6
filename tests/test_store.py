"""Prepared shards: what the files hold, that they come back bit by bit, what is said of wrong ones, same training."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from raf_ray.config import Config, load_config
from raf_ray.data.augment import NO_MARGINS, Augmentation
from raf_ray.data.crop import lay_patches
from raf_ray.data.people import People
from raf_ray.data.prepared.index import SCHEMA_VERSION, Index, check_clients, first_people, read_index
from raf_ray.data.prepared.shards import NamedShard, Written, read_shard, read_upsampled, write_shards
from raf_ray.data.shard import Shard, cut_shard
from raf_ray.data.skeletons import LSP14, MPII16
from raf_ray.data.sources.synthetic import synthetic_people
from raf_ray.errors import InputError, RunError
from raf_ray.experiment.run import Results, run_federation
from raf_ray.experiment.shards import prepare_shards
from raf_ray.request.people import load_data
from raf_ray.request.plans import plan_clients
from raf_ray.resolution import Size
from raf_ray.training.clients import Owned

MARGINS = Augmentation().margins(0.75)
HIGH, LOW = Size(128, 96), Size(64, 48)
SHARD_ARRAYS = [f.name for f in fields(Shard) if f.name in {
    "joints", "visibility", "centre", "scale", "picture_scale", "picture_offset", "area", "person_id", "upsampled"
}]  # fmt: skip
PEOPLE_ARRAYS = [f.name for f in fields(People) if f.name not in ("skeleton", "rows", "read", "ignored", "category_id")]


def crowd(count: int, start: int = 0, height: float = 110.0) -> People:
    """Synthetic people, of whom some are smaller than HIGH and some larger."""
    return synthetic_people(3, "train", np.arange(start, start + count), height)


def bits(array: np.ndarray) -> tuple[Any, ...]:
    return array.dtype, array.shape, array.tobytes()


def write(root: Path, counts: Sequence[int], encoding: Any = "png", per_file: int = 2) -> list[Written]:
    """Clients of the given numbers of people, alternately HIGH and LOW."""
    clients = []
    for number, count in enumerate(counts):
        tier, size = (("high", HIGH), ("low", LOW))[number % 2]
        shard = cut_shard(crowd(count, 100 * number), size, MARGINS)
        clients.append(NamedShard(f"client-{number}", tier, shard))
    return write_shards(root, clients, encoding=encoding, clients_per_file=per_file, on_bad_image="stop")


def settings(**changes: Any) -> Config:
    """A small federation of three tiers; two underscores in a name stand for a dot."""
    values = {
        "data.people_per_client": 4, "data.val_people": 4, "data.test_people": 5, "data.augment": True,
        "evaluation.resolutions": "[128x96, 48x36]", "federation.engine": "in_process", "tracking.mlflow": False,
    } | {name.replace("__", "."): value for name, value in changes.items()}  # fmt: skip
    return load_config(overrides=[f"{key}={'null' if value is None else value}" for key, value in values.items()])


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("prepared") / "shards"
    prepare_shards(settings(), root, clients_per_file=2)
    return root


def load(root: Path, **changes: Any) -> tuple[Owned, dict[str, People]]:
    config = settings(**{"data__name": "shards", "data__root": root} | changes)
    return load_data(config, plan_clients(config), ("val", "test"))


def copy_of(root: Path, folder: Path) -> Path:
    folder.mkdir()
    for file in root.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


def edit_index(root: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    path = root / "index.json"
    values = json.loads(path.read_text())
    edit(values)
    path.write_text(json.dumps(values))


# --- margins ------------------------------------------------------------------------------------------------


def test_margins_cover_30_degrees_and_a_quarter_of_zoom() -> None:
    assert MARGINS.width == pytest.approx(1.25 * (np.sqrt(3) / 2 + 0.5 / 0.75))
    assert MARGINS.height == pytest.approx(1.25 * (np.sqrt(3) / 2 + 0.5 * 0.75))
    assert (int(100 * MARGINS.width), int(100 * MARGINS.height)) == (191, 155)


def test_a_patch_holds_every_corner_of_the_farthest_augmented_crop() -> None:
    shard = cut_shard(crowd(20), HIGH, MARGINS)
    corner = np.array([(x, y) for x in (-0.5, 0.5) for y in (-0.5, 0.5)]) * (HIGH.width, HIGH.height) * 1.25
    for degrees in (-30, 0, 30):
        cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
        turned = corner @ np.array([[cos, sin], [-sin, cos]])
        for i in range(len(shard)):
            height, width = shard.patch(i).shape[:2]
            reached = turned / shard.scale[i] + shard.centre[i]
            assert np.all((reached >= -0.5) & (reached <= (width - 0.5, height - 0.5)))


# --- the format ---------------------------------------------------------------------------------------------


def test_each_client_is_a_row_group_and_a_file_holds_several(tmp_path: Path) -> None:
    written = write(tmp_path, [3, 4, 5])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["train-000.parquet", "train-001.parquet"]
    first = pq.ParquetFile(tmp_path / "train-000.parquet").metadata
    assert [first.row_group(i).num_rows for i in range(first.num_row_groups)] == [3, 4]
    records = [one.record for one in written]
    assert [(r.file, r.row_group, r.people) for r in records] == [
        ("train-000.parquet", 0, 3), ("train-000.parquet", 1, 4), ("train-001.parquet", 0, 5)
    ]  # fmt: skip
    assert [(r.name, r.tier, r.size) for r in records[:2]] == [
        ("client-0", "high", "128x96"), ("client-1", "low", "64x48")
    ]  # fmt: skip
    assert records[0].upsampled == lay_patches(crowd(3), HIGH, NO_MARGINS).upsampled.mean()


def test_a_file_can_be_read_without_this_library(tmp_path: Path) -> None:
    write(tmp_path, [3, 4])
    file = pq.ParquetFile(tmp_path / "train-000.parquet")
    described = json.loads(file.schema_arrow.metadata[b"raf_ray"])
    assert described["schema_version"] == SCHEMA_VERSION
    assert described["skeleton"]["joints"] == list(MPII16.joints)
    assert described["clients"][1] == {
        "name": "client-1", "tier": "low", "size": "64x48",
        "margins": {"width": MARGINS.width, "height": MARGINS.height},
    }  # fmt: skip
    row = file.read_row_group(1).to_pylist()[0]
    assert row["patch"].startswith(b"\x89PNG")
    assert set(row) == {*SHARD_ARRAYS, "patch"}
    assert row["joints"] == cut_shard(crowd(1, 100), LOW, MARGINS).joints[0].ravel().tolist()


def test_the_same_shards_give_the_same_bytes(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
        write(tmp_path / name, [3, 4])
    assert (tmp_path / "a/train-000.parquet").read_bytes() == (tmp_path / "b/train-000.parquet").read_bytes()


# --- there and back -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [0, 1])
def test_png_keeps_every_bit(tmp_path: Path, number: int) -> None:
    record = write(tmp_path, [4, 6])[number].record
    shard = read_shard(tmp_path, record, MPII16)
    cut = cut_shard(crowd(record.people, 100 * number), (HIGH, LOW)[number], MARGINS)
    assert (shard.size, shard.skeleton, shard.margins) == (cut.size, cut.skeleton, cut.margins)
    for name in SHARD_ARRAYS:
        assert bits(getattr(shard, name)) == bits(getattr(cut, name)), name
    for i in range(len(cut)):
        assert bits(shard.patch(i)) == bits(cut.patch(i))


def test_jpeg_is_smaller_and_nearly_the_same_picture(tmp_path: Path) -> None:
    (tmp_path / "jpeg").mkdir()
    png, jpeg = write(tmp_path, [4])[0], write(tmp_path / "jpeg", [4], "jpeg")[0]
    assert jpeg.picture_bytes < png.picture_bytes / 2
    a, b = read_shard(tmp_path, png.record, MPII16), read_shard(tmp_path / "jpeg", jpeg.record, MPII16)
    assert bits(a.joints) == bits(b.joints)
    difference = np.abs(a.patch(0).astype(int) - b.patch(0))
    assert 0 < difference.mean() < 6


def test_the_first_people_and_those_not_upsampled_can_be_taken(tmp_path: Path) -> None:
    record = write(tmp_path, [12])[0].record
    (upsampled,) = read_upsampled(tmp_path, [record], MPII16)
    assert 0 < upsampled[:8].sum() < 8
    shard = read_shard(tmp_path, record, MPII16, first=8, skip_upsampled=True)
    kept = np.flatnonzero(~upsampled[:8])
    assert shard.person_id.tolist() == crowd(12).person_id[kept].tolist()
    assert bits(shard.patch(1)) == bits(cut_shard(crowd(12), HIGH, MARGINS).patch(int(kept[1])))


def test_an_opener_travels_to_another_process(tmp_path: Path) -> None:
    record = write(tmp_path, [3])[0].record
    opener = pickle.loads(pickle.dumps(partial(read_shard, tmp_path, record, MPII16, first=2, cache_mb=1.0)))
    assert len(opener()) == 2


def test_held_out_people_keep_every_bit_and_all_that_scoring_needs(prepared: Path) -> None:
    config = settings()
    original = load_data(config, plan_clients(config), ("val", "test"))[1]["test"]
    _, held_out = load(prepared)
    stored = pickle.loads(pickle.dumps(held_out["test"]))
    for name in PEOPLE_ARRAYS:
        assert bits(getattr(stored, name)) == bits(getattr(original, name)), name
    assert stored.category_id == original.category_id
    for size in (HIGH, LOW, Size(48, 36)):
        a, b = cut_shard(original, size, NO_MARGINS), cut_shard(stored, size, NO_MARGINS)
        for i in range(len(original)):
            assert bits(a.patch(i)) == bits(b.patch(i))


def test_a_held_out_picture_is_kept_only_as_far_as_needed(shared_data: Path, tmp_path: Path) -> None:
    config = settings(data__name="coco", data__root=shared_data / "coco", evaluation__metric="oks_ap",
                      data__people_per_client=2)  # fmt: skip
    prepare_shards(config, tmp_path / "shards")
    _, held_out = load(tmp_path / "shards", data__people_per_client=2)
    plain = load_data(config, plan_clients(config), ("val", "test"))[1]
    for stored, original in ((held_out[split], plain[split]) for split in ("val", "test")):
        assert stored.area.tolist() == original.area.tolist()
        for i in range(len(original)):
            picture, whole = stored.picture(i), original.picture(i)
            shown = picture.any(axis=2)
            assert picture.shape == whole.shape
            assert np.array_equal(picture[shown], whole[shown])
        patches = [cut_shard(p, Size(48, 36), NO_MARGINS).patch(0) for p in (stored, original)]
        assert bits(patches[0]) == bits(patches[1])


def test_a_smaller_evaluation_size_than_prepared_is_refused(prepared: Path) -> None:
    load(prepared, evaluation__resolutions="[256x192, 128x96]")
    with pytest.raises(InputError, match=r"24x18 needs more .* prepared for sizes down to 48x36"):
        load(prepared, evaluation__resolutions="[128x96, 24x18]")


# --- what is wrong is said ----------------------------------------------------------------------------------


def test_the_index_comes_back_as_it_was(prepared: Path) -> None:
    index = read_index(prepared)
    assert isinstance(index, Index)
    assert [(c.name, c.size, c.people, c.file) for c in index.clients] == [
        ("client-high-000", "128x96", 4, "train-000.parquet"), ("client-mid-000", "96x72", 4, "train-000.parquet"),
        ("client-low-000", "64x48", 4, "train-001.parquet"),
    ]  # fmt: skip
    assert index.skeleton == MPII16
    assert index.smallest_size == "48x36"
    assert index.clients[0].margins == MARGINS
    source = prepared.with_name("source.yaml")
    source.write_text(index.config)
    assert load_config(file=source) == settings()


WRONG_FILES: list[tuple[str, Callable[[Path], object], str]] = [
    ("no folder", lambda root: [p.unlink() for p in root.iterdir()] and root.rmdir(), "does not exist"),
    ("no index", lambda root: (root / "index.json").unlink(), "holds no prepared shards"),
    ("no JSON", lambda root: (root / "index.json").write_text('{"schema'), "index.json is not valid JSON"),
    ("not an index", lambda root: (root / "index.json").write_text("[]"), "names no schema version"),
    ("other version", lambda root: edit_index(root, lambda v: v.update(schema_version=99)), "schema version 99"),
    ("no seed", lambda root: edit_index(root, lambda v: v.pop("seed")), r"damaged \(seed: Field required\)"),
    ("no split", lambda root: edit_index(root, lambda v: v["held_out"].pop("val")), "damaged"),
    ("no size", lambda root: edit_index(root, lambda v: v["clients"][0].update(size="big")), "'big' is not a size"),
    ("other joints", lambda root: edit_index(root, lambda v: v["skeleton"].update(name="mine")), "joints of skeleton"),
    ("other group", lambda root: edit_index(root, lambda v: v["clients"][0].update(row_group=1)),
     "row group 1 of .* is client-mid-000 at 96x72, but the index says client-high-000 at 128x96"),
    ("no group", lambda root: edit_index(root, lambda v: v["clients"][0].update(row_group=9)), "is nothing, but"),
    ("other margins", lambda root: edit_index(root, lambda v: v["clients"][0]["margins"].update(width=1e300)),
     r"row group 0 of .* is client-high-000 at 128x96 with margins .*, but the index says .* 1e\+300"),
    ("other columns", lambda root: pq.write_table(pq.read_table(root / "val.parquet").drop_columns(["box"]),
                                                  root / "val.parquet"), "has other columns than"),
    ("other metadata", lambda root: pq.write_table(
        pq.read_table(root / "val.parquet").replace_schema_metadata({"raf_ray": '{"schema_version": 1}'}),
        root / "val.parquet"), "holds the 0 joints of skeleton null, not the 16"),
    ("other people", lambda root: edit_index(root, lambda v: v["clients"][0].update(people=3)), "4 people .* says 3"),
    ("other split", lambda root: (root / "val.parquet").write_bytes((root / "test.parquet").read_bytes()),
     "does not hold the 4 people of split val"),
    ("no file", lambda root: (root / "train-001.parquet").unlink(), "train-001.parquet is missing"),
    ("cut off", lambda root: (root / "train-000.parquet").write_bytes((root / "train-000.parquet").read_bytes()[:-99]),
     "train-000.parquet cannot be read as Parquet"),
    ("test cut off", lambda root: (root / "test.parquet").write_bytes(b"PAR1"), "test.parquet cannot be read"),
    ("foreign", lambda root: pq.write_table(pq.read_table(root / "val.parquet").replace_schema_metadata(None),
                                            root / "val.parquet"), "was not made by raf_ray.prepare"),
]  # fmt: skip


@pytest.mark.parametrize(("damage", "message"), [w[1:] for w in WRONG_FILES], ids=[w[0] for w in WRONG_FILES])
def test_wrong_files_are_refused_before_training(
    prepared: Path, tmp_path: Path, damage: Callable[[Path], object], message: str
) -> None:
    root = copy_of(prepared, tmp_path / "shards")
    damage(root)
    with pytest.raises(InputError, match=message) as caught:
        load(root)
    assert "\n" not in str(caught.value)


def test_a_flipped_bit_inside_a_file_is_found_when_the_client_opens_it(prepared: Path, tmp_path: Path) -> None:
    root = copy_of(prepared, tmp_path / "shards")
    data = bytearray((root / "train-000.parquet").read_bytes())
    data[len(data) // 4] ^= 1
    (root / "train-000.parquet").write_bytes(data)
    owned, _ = load(root)
    with pytest.raises(RunError, match="damaged in row group 0"):
        assert owned[0].open_shard is not None
        owned[0].open_shard()


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"federation__clients": "[high, mid]"}, "shards of 3 clients, but the run has 2; federation.clients"),
    ({"federation__clients": "[high, low, mid]"}, r"client 2 .* is of 64x48, but its shard .* was cut at 96x72"),
    ({"resolution__tiers": "{high: 160x120, mid: 96x72, low: 64x48}"}, "is of 160x120, but its shard"),
    ({"data__augment": "{rotation: 45}"}, "reaches 2.06 x a box's width .* margins of 1.92 x"),
    ({"data__skeleton": "lsp14"}, "data.skeleton=lsp14, but .* 16 joints of 'mpii16'"),
    ({"data__people_per_client": 5}, "data.people_per_client=5, but the shards hold 4 people of client"),
    ({"data__partition": "counts", "data__counts": "[1, 2, 3]"}, "prepared with equal"),
    ({"data__partition": "dirichlet_pose"}, "data.partition=dirichlet_pose, but the shards were prepared with equal"),
    ({"data__test_people": 6}, "data.test_people=6, but the shards hold 5 people of split test"),
]


@pytest.mark.parametrize(("changes", "message"), REFUSED, ids=[next(iter(r[0])) for r in REFUSED])
def test_a_run_that_does_not_fit_the_shards_is_refused(prepared: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        load(prepared, **changes)
    assert str(caught.value).count(". ") <= 1


def test_shards_of_other_joints_are_refused(tmp_path: Path) -> None:
    record = write(tmp_path, [3])[0].record
    with pytest.raises(InputError, match="16 joints of skeleton 'mpii16', not the 14 of 'lsp14'"):
        read_shard(tmp_path, record, LSP14)


def test_fewer_people_are_the_first_and_null_is_all(prepared: Path) -> None:
    owned, held_out = load(prepared, data__people_per_client=3, data__val_people=2, data__test_people=None)
    assert [data.count for data in owned] == [3, 3, 3]
    assert (len(held_out["val"]), len(held_out["test"])) == (2, 5)
    record = read_index(prepared).clients[0]
    assert first_people("key", None, record, "a client") == 4
    assert first_people("key", 4, replace(record, people=3), "a client") == 3  # one was left out for a bad picture


def test_other_names_for_the_same_sizes_are_the_same_clients(prepared: Path) -> None:
    check_clients(read_index(prepared), [("a", HIGH), ("b", Size(96, 72)), ("c", LOW)])


def test_no_readable_picture_means_no_people(tmp_path: Path) -> None:
    def unreadable(row: int) -> np.ndarray:
        from raf_ray.data.people import PictureError

        raise PictureError(f"picture {row} is missing")

    shard = cut_shard(replace(crowd(3), read=unreadable), HIGH, MARGINS)
    client = NamedShard("client-0", "high", shard)
    with pytest.raises(InputError, match="client client-0 has no people: none of its 3 pictures can be read"):
        write_shards(tmp_path, [client], encoding="png", clients_per_file=1, on_bad_image="skip")
    with pytest.raises(RunError, match="picture 0 is missing"):
        write_shards(tmp_path, [client], encoding="png", clients_per_file=1, on_bad_image="stop")
    assert not list(tmp_path.iterdir())


# --- training -----------------------------------------------------------------------------------------------


def train(folder: Path, **changes: Any) -> tuple[Results, dict[str, torch.Tensor]]:
    results = run_federation(settings(federation__rounds=2, **changes), folder)
    return results, torch.load(folder / "model.pt", weights_only=True)["model"]


def same_from_shards(tmp_path: Path, **changes: Any) -> None:
    """Two rounds on three tiers, with augmentation, from the pictures and from PNG shards of them."""
    sizes = {"evaluation__resolutions": "[160x120, 128x96, 48x36]"}
    from_pictures, model = train(tmp_path / "pictures", **sizes | changes)
    prepare_shards(settings(**sizes | changes), tmp_path / "shards", clients_per_file=2)
    shards = {"data__name": "shards", "data__root": tmp_path / "shards"}
    from_shards, again = train(tmp_path / "again", **sizes | changes | shards)
    assert all(torch.equal(model[name], again[name]) for name in model)
    assert from_pictures.by_resolution == from_shards.by_resolution
    for key in ("train_clients", "train_people", "upsampled_train", "val_people", "train_resolutions"):
        assert from_pictures.values[key] == from_shards.values[key]


def test_training_from_png_shards_gives_the_same_bits(tmp_path: Path) -> None:
    # Small people, of whom the high tier leaves out those that it would upsample.
    same_from_shards(tmp_path, data__people_per_client=20, data__test_people=10, data__synthetic_height=110,
                     data__upsampled="skip")  # fmt: skip


def test_training_from_png_shards_gives_the_same_bits_on_real_pictures(shared_data: Path, tmp_path: Path) -> None:
    real = {"data__name": "mpii", "data__root": shared_data / "lspet"}
    same_from_shards(tmp_path, data__people_per_client=20, data__test_people=10, **real)
