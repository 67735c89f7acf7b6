"""The index of prepared shards: numbers that could size memory or point elsewhere are refused by their field."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from raf_ray.data.crop import Margins
from raf_ray.data.prepared.index import ClientRecord, Index, SplitRecord, read_index, write_index
from raf_ray.data.skeletons import MPII16
from raf_ray.errors import InputError

NAN, INF = float("nan"), float("inf")


@pytest.fixture
def index(tmp_path: Path) -> Index:
    """An index of one client, written to a folder."""
    client = ClientRecord("client-0", "high", "128x96", "train-000.parquet", 0, 4, 5, 0.5, Margins(1.9, 1.5))
    held_out = {split: SplitRecord(f"{split}.parquet", 3, 3) for split in ("val", "test")}
    written = Index(
        1, "0.1", "png", 7, "equal", 0.5, MPII16, (client,), held_out, ("128x96", "48x36"), "48x36", "seed: 7", 18
    )
    write_index(tmp_path, written)
    return written


def test_it_comes_back_as_it_was_also_behind_a_byte_order_mark(index: Index, tmp_path: Path) -> None:
    assert read_index(tmp_path) == index
    path = tmp_path / "index.json"
    path.write_text(path.read_text(), encoding="utf-8-sig")
    assert read_index(tmp_path) == index


def test_an_older_one_is_of_cocos_people(index: Index, tmp_path: Path) -> None:
    path = tmp_path / "index.json"
    values = json.loads(path.read_text())
    assert values.pop("category_id") == 18
    path.write_text(json.dumps(values))
    assert read_index(tmp_path).category_id == 1


CLIENT = ("clients", 0)
COUNTS = [-1, 2**70, 10**400, NAN, INF, 1e39, 0.5, True, "x", None, [1], {}]
WRONG: list[tuple[tuple[Any, ...], list[Any]]] = [
    ((*CLIENT, "row_group"), COUNTS),
    ((*CLIENT, "people"), [0, *COUNTS]),
    ((*CLIENT, "asked"), [0, *COUNTS]),
    (("held_out", "test", "people"), [0, *COUNTS]),
    (("seed",), COUNTS),
    ((*CLIENT, "upsampled"), [-0.1, 1.1, NAN, INF, 10**400, True, "x", None]),
    ((*CLIENT, "margins", "width"), [NAN, INF, -INF, 10**400, "x", None, []]),
    (("concentration",), [0, -1, NAN, INF, 10**400, True]),
    (("skeleton", "sigmas", 0), [NAN, INF, 10**400, "x"]),
    ((*CLIENT, "size"), ["1000000000x1000000000", "9" * 5000 + "x1", "0x0", "x" * 10**6, 128, None]),
    (("evaluation_sizes", 0), ["1000000000x1000000000", "-1x5"]),
    (("smallest_size",), ["1000000000x1000000000", "big"]),
    ((*CLIENT, "file"), ["../train-000.parquet", "/etc/passwd", "a\0.parquet", "\ud800.parquet", "x" * 300, "", 3]),
    (("held_out", "val", "file"), ["/val.parquet"]),
]


@pytest.mark.parametrize(
    ("place", "value"),
    [(place, value) for place, values in WRONG for value in values],
    ids=lambda value: ".".join(map(str, value)) if isinstance(value, tuple) else repr(value)[:20],
)
def test_what_its_field_cannot_hold_is_named(index: Index, tmp_path: Path, place: tuple[Any, ...], value: Any) -> None:
    path = tmp_path / "index.json"
    values = json.loads(path.read_text())
    inner = values
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    path.write_text(json.dumps(values))
    with pytest.raises(InputError) as caught:
        read_index(tmp_path)
    message = str(caught.value)
    assert f"{path} is damaged ({'.'.join(map(str, place))}: " in message
    assert "\n" not in message and len(message) < 500


@pytest.mark.parametrize("version", [True, 1.0, "1", 10**400, "x" * 10**6], ids=lambda v: repr(v)[:9])
def test_another_schema_version(index: Index, tmp_path: Path, version: Any) -> None:
    path = tmp_path / "index.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema_version": version}))
    with pytest.raises(InputError, match="is of schema version") as caught:
        read_index(tmp_path)
    assert len(str(caught.value)) < 400


def test_nesting_that_is_too_deep_to_be_read(tmp_path: Path) -> None:
    (tmp_path / "index.json").write_text("[" * 100_000)
    with pytest.raises(InputError, match=r"index\.json is nested too deeply"):
        read_index(tmp_path)
