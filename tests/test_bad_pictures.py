"""Bad pictures through the commands: each is named, `data.on_bad_image=skip` leaves it out; odd sizes are told once."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raf_ray import evaluate, prepare, run
from raf_ray.cli import run_command
from raf_ray.data.people import PictureError
from raf_ray.data.prepared.people import StoredPictures
from raf_ray.data.skeletons import COCO17
from raf_ray.request.people import source_people
from tests.test_pictures import png
from tests.tiny import WORDS, tiny

BAD = {
    "cut.png": cv2.imencode(".png", np.full((80, 60, 3), 9, np.uint8))[1].tobytes()[:60],
    "bomb.png": png(60_000, 60_000),
    "large.png": png(30_000, 30_000),
    "text.jpg": b"no picture",
    "nul\0.jpg": None,
    "lone\ud800.jpg": None,
    "x" * 300 + ".jpg": None,
    "folder.jpg": "folder",
    "none.jpg": None,
}
GOOD = 3


def picture(number: int) -> np.ndarray:
    return cv2.GaussianBlur(np.random.default_rng(number).integers(0, 255, (80, 60, 3), dtype=np.uint8), (0, 0), 3)


def data_set(root: Path, bad: tuple[str, ...] = (), size: tuple[int, int] = (60, 80)) -> list[str]:
    """COCO's layout with GOOD pictures a split, and the bad ones; the words that name it."""
    for number, split in enumerate(("train2017", "val2017")):
        folder = root / split
        folder.mkdir(parents=True)
        names = [f"good{split}{i}.png" for i in range(GOOD)]
        for i, name in enumerate(names):
            cv2.imwrite(str(folder / name), picture(10 * number + i))
        for name in bad:
            if BAD[name] == "folder":
                (folder / name).mkdir()
            elif BAD[name] is not None:
                (folder / name).write_bytes(BAD[name])
        names += bad
        images = [{"id": i, "file_name": name, "width": size[0], "height": size[1]} for i, name in enumerate(names)]
        joints = [5 * v for k in range(17) for v in (k % 9 + 1, k % 11 + 1, 0)]
        joints[2::3] = [2] * 17
        people = [
            {"id": i, "image_id": i, "category_id": 1, "bbox": [5, 5, 40, 60], "area": 2000, "iscrowd": 0,
             "num_keypoints": 17, "keypoints": joints} for i in range(len(names))
        ]  # fmt: skip
        category = {"id": 1, "name": "person", "keypoints": list(COCO17.joints)}
        (root / "annotations").mkdir(exist_ok=True)
        file = root / "annotations" / f"person_keypoints_{split}.json"
        file.write_text(json.dumps({"images": images, "annotations": people, "categories": [category]}))
    return [*WORDS, "federation.engine=in_process", "federation.clients=[low]", "federation.rounds=1", "data.name=coco",
            f"data.root={root}", "data.people_per_client=null", "data.val_people=null", "data.test_people=null",
            "evaluation.resolutions=[64x48]"]  # fmt: skip


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_skip_leaves_out_every_kind_of_bad_picture(here, capfd):
    words = [*data_set(here / "data", tuple(BAD)), "data.on_bad_image=skip"]
    assert run_command(run.main, [*words, "--output", "run"]) == 0
    shown = capfd.readouterr()
    assert (
        f"could not be read: {2 * len(BAD)}" in shown.out and "Traceback" not in shown.err and "ERROR" not in shown.err
    )
    assert json.loads(Path("run/results.json").read_text())["bad_test_pictures"] == len(BAD)

    assert run_command(evaluate.main, ["run"]) == 0
    assert f"could not be read: {len(BAD)}." in capfd.readouterr().out

    assert run_command(prepare.main, [*words, "--output", "shards"]) == 0
    assert f"could not be read: {2 * len(BAD)}" in capfd.readouterr().out


@pytest.mark.parametrize("name", BAD)
def test_each_is_named_in_words_that_can_be_printed(here, capsys, name):
    words = data_set(here / "data", (name,))
    assert run_command(prepare.main, [*words, "--output", "shards"]) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: picture ") and len(error.splitlines()) == 1 and error.isprintable()
    assert "data.on_bad_image=skip" in error and not Path("shards").exists()


def test_a_run_that_stops_at_one_names_it(here, capsys):
    words = data_set(here / "data", ("bomb.png",))
    assert run_command(run.main, [*words, "--output", "run"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("failed: ") and "bomb.png claims to have more than 179 million pixels" in error
    assert json.loads(Path("run/results.json").read_text())["status"] == "failed"


# --- prepared shards --------------------------------------------------------------------------------------


def replace_cells(path: Path, column: str, values: list[object]) -> None:
    """Put other values into the first rows of a column of a Parquet file."""
    table = pq.read_table(path)
    at = table.column_names.index(column)
    cells = values + table[column].to_pylist()[len(values) :]
    table = table.set_column(at, table.schema.field(column), pa.array(cells, table.schema.field(column).type))
    pq.write_table(table, path)


@pytest.fixture
def shards(here) -> list[str]:
    """Words that train from shards: two people to train, one to validate, three to test."""
    words = data_set(here / "data")
    assert run_command(prepare.main, [*words, "--output", "shards"]) == 0
    return [*words, "data.name=shards", "data.root=shards", "--output", "run"]


def test_bad_bytes_in_shards_are_named_and_skip_leaves_them_out(shards, here, capfd):
    replace_cells(here / "shards" / "train-000.parquet", "patch", [png(60_000, 60_000)])
    replace_cells(here / "shards" / "test.parquet", "picture", [None, b"no picture"])
    assert run_command(run.main, shards) == 1
    error = capfd.readouterr().err
    assert (
        "patch 0 of client-low-000" in error and "179 million pixels" in error and "prepare the shards again" in error
    )
    assert run_command(run.main, [*shards, "data.on_bad_image=skip", "--overwrite"]) == 0
    shown = capfd.readouterr()
    assert "could not be read: 3" in shown.out and "Traceback" not in shown.err
    assert run_command(evaluate.main, ["run"]) == 0
    assert "could not be read: 2." in capfd.readouterr().out


@pytest.mark.parametrize(
    ("column", "value"),
    [("region", [0, 0, 40, 76]), ("region", [-1, 0, 56, 76]), ("picture_size", [56, 70]),
     ("picture_size", [2**40, 2**40]), ("picture_size", [-1, -1])],
)  # fmt: skip
def test_a_stored_region_that_is_not_its_pictures_is_a_bad_picture(shards, here, column, value):
    replace_cells(here / "shards" / "test.parquet", column, [value])
    table = pq.read_table(here / "shards" / "test.parquet")
    places = {name: np.array(table[name].to_pylist()) for name in ("region", "picture_size")}
    stored = StoredPictures(here / "shards" / "test.parquet", COCO17, **places)
    with pytest.raises(PictureError, match=r"^picture 0 of .*test\.parquet is not the region that its row describes"):
        stored(0)
    assert stored(1).shape == (80, 60, 3)


# --- sizes ------------------------------------------------------------------------------------------------


def test_run_evaluate_and_prepare_tell_once_a_file_that_sizes_differ(here, capsys):
    words = data_set(here / "data", size=(80, 60))
    for command, more in ((run.main, ["--output", "run"]), (prepare.main, ["--output", "shards"])):
        assert run_command(command, [*words, *more]) == 0
        told = [line for line in capsys.readouterr().out.splitlines() if "gives picture" in line]
        assert [("train2017.json" in line, "val2017.json" in line) for line in told] == [(True, False), (False, True)]
        assert all("warning" in line and "exchanged" in line and "goodtrain" in line for line in told[:1])
    assert run_command(evaluate.main, ["run"]) == 0
    assert capsys.readouterr().out.count("gives picture") == 1
    assert run_command(evaluate.main, ["run", "--json"]) == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out)["people"] == GOOD and shown.err.count("gives picture") == 1


def test_a_comparison_tells_it_once_for_all_methods(here, capsys):
    words = data_set(here / "data", size=(30, 40))
    assert run_command(run.main, ["--compare", "--only", "fedavg-mixed,raf-mixed", *words, "--output", "compare"]) == 0
    told = [line for line in capsys.readouterr().out.splitlines() if "gives picture" in line]
    assert len(told) == 2 and "(3 of 3 pictures differ)" in told[0]


def test_sizes_come_from_the_file(here):
    people = source_people(tiny(*data_set(here / "data")), "train")
    assert people.read.sizes.tolist() == [[60, 80]] * GOOD
