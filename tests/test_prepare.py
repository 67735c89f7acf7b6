"""``python -m raf_ray.prepare`` from end to end: exit codes, what is printed, a folder that is whole or not there."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest

import raf_ray.prepare
import raf_ray.run
from raf_ray.cli import run_command
from raf_ray.config import load_config
from raf_ray.data.prepared.index import read_index
from raf_ray.experiment.shards import prepare_shards
from raf_ray.prepare import summary

SMALL = ["federation.clients=[high, low]", "data.people_per_client=3", "data.val_people=2", "data.test_people=2",
         "data.augment=true", "evaluation.resolutions=[64x48]"]  # fmt: skip


def command(*words: str | Path) -> int:
    return run_command(raf_ray.prepare.main, [str(word) for word in words])


def refused(capsys: pytest.CaptureFixture[str], *words: str | Path) -> str:
    """The one line that a wrong request ends with."""
    assert command(*words) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    return captured.err


def left_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A data set in MPII's form: 12 training and 3 test people, a picture each."""
    root = tmp_path / "pictures"
    (root / "annot").mkdir(parents=True)
    (root / "images").mkdir()
    rng = np.random.default_rng(0)
    for name, count in (("train", 12), ("valid", 3)):
        entries: list[dict[str, Any]] = []
        for i in range(count):
            cv2.imwrite(str(root / "images" / f"{name}{i}.jpg"), rng.integers(0, 255, (90, 70, 3), np.uint8))
            joints = rng.uniform(20, 60, (16, 2)).tolist()
            entries.append({"image": f"{name}{i}.jpg", "center": [35.0, 40.0], "scale": 0.35, "joints": joints,
                            "joints_vis": [1] * 16})  # fmt: skip
        (root / "annot" / f"{name}.json").write_text(json.dumps(entries))
    return root


def cut_off(picture: Path) -> None:
    picture.write_bytes(picture.read_bytes()[:300])


def of(root: Path, *more: str) -> list[str]:
    """Words for the shards of all of them: of the 12 training people 2 are val, and each of two clients has 5."""
    counts = ["data.people_per_client=5", "data.val_fraction=0.15", "data.test_people=3"]
    return [*SMALL, "data.name=mpii", f"data.root={root}", *counts, *more]


# --- what it does -------------------------------------------------------------------------------------------


def test_it_writes_shards_says_what_they_are_and_how_to_train_from_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "new" / "shards"
    assert command(SMALL[0], "--output", output, *SMALL[1:], "--clients-per-file", "1") == 0
    assert left_in(tmp_path) == ["new"]
    assert left_in(output) == ["index.json", "test.parquet", "train-000.parquet", "train-001.parquet", "val.parquet"]
    shown = capsys.readouterr().out
    for cell in ("client-high-000", "high 128x96", "upsampled", "people/s", "MB"):
        assert cell in shown
    line = next(line for line in shown.splitlines() if line.startswith("Train from them: "))
    words = shlex.split(line)[3:]
    assert words == ["python", "-m", "raf_ray.run", *SMALL, "data.name=shards", f"data.root={output}"]
    quick = ["federation.engine=in_process", "tracking.mlflow=false", "federation.rounds=1"]
    assert run_command(raf_ray.run.main, [*words[3:], *quick, "--output", str(tmp_path / "run")]) == 0


def test_jpeg_is_a_choice(tmp_path: Path) -> None:
    assert command("--encoding", "jpeg", "--output", tmp_path / "shards", *SMALL) == 0
    assert read_index(tmp_path / "shards").encoding == "jpeg"
    for file, column in (("train-000", "patch"), ("val", "picture")):
        stored = pq.read_table(tmp_path / "shards" / f"{file}.parquet")[column][0].as_py()
        assert stored.startswith(b"\xff\xd8\xff")


def test_upsampled_people_are_stored_whatever_the_run_will_do_with_them(tmp_path: Path) -> None:
    words = [*SMALL, "data.synthetic_height=60"]
    assert command("--output", tmp_path / "shards", *words, "data.upsampled=skip") == 0
    clients = read_index(tmp_path / "shards").clients
    assert [(c.people, c.upsampled) for c in clients] == [(3, 1.0), (3, pytest.approx(1 / 3, abs=0.4))]


def test_many_clients_are_shown_a_row_a_tier(tmp_path: Path) -> None:
    words = ["federation.clients={high: 40, low: 2}", "data.people_per_client=1", *SMALL[2:]]
    table = summary(prepare_shards(load_config(overrides=words), tmp_path / "shards"))
    columns = [list(column.cells) for column in table.columns]
    assert columns[0] == ["40", "2", "val", "test"]
    assert columns[1][:2] == ["high 128x96", "low 64x48"]
    assert len(list((tmp_path / "shards").glob("train-*"))) == 1


def test_help_needs_no_torch() -> None:
    code = "import sys, raf_ray.prepare as p; p.parser().format_help(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# --- bad pictures -------------------------------------------------------------------------------------------


def test_a_bad_picture_stops_it_and_leaves_nothing(
    tmp_path: Path, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cut_off(pictures / "images" / "train4.jpg")
    message = refused(capsys, "--output", tmp_path / "shards", *of(pictures))
    assert "train4.jpg cannot be decoded" in message
    assert "data.on_bad_image=skip" in message
    assert left_in(tmp_path) == ["pictures"]


def test_skipped_pictures_are_counted_and_said(
    tmp_path: Path, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("train4", "train7", "valid1"):
        cut_off(pictures / "images" / f"{name}.jpg")
    words = of(pictures, "data.on_bad_image=skip")
    assert command("--output", tmp_path / "shards", *words) == 0
    assert "People left out because their picture could not be read: 3 (" in capsys.readouterr().out
    index = read_index(tmp_path / "shards")
    stored = sum(client.people for client in index.clients) + index.held_out["val"].people
    assert (stored, index.held_out["test"].people) == (12 - 2, 3 - 1)
    # Those who were left out are not missed again: the same words train.
    quick = ["federation.engine=in_process", "tracking.mlflow=false", "federation.rounds=1"]
    from_shards = ["data.name=shards", f"data.root={tmp_path / 'shards'}"]
    assert run_command(raf_ray.run.main, [*words, *quick, *from_shards, "--output", str(tmp_path / "run")]) == 0


def test_a_client_without_a_readable_picture_has_no_people(
    tmp_path: Path, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for i in range(12):
        cut_off(pictures / "images" / f"train{i}.jpg")
    message = refused(capsys, "--output", tmp_path / "shards", *of(pictures, "data.on_bad_image=skip"))
    assert "client client-high-000 has no people" in message
    assert left_in(tmp_path) == ["pictures"]


# --- the output folder --------------------------------------------------------------------------------------


def test_prepared_shards_are_replaced_only_with_overwrite(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "shards"
    assert command("--output", output, *SMALL) == 0
    assert "is not empty; choose another --output, or add --overwrite" in refused(capsys, "--output", output, *SMALL)
    assert command("--output", output, *SMALL, "--overwrite", "seed=7", "--clients-per-file", "1") == 0
    assert read_index(output).seed == 7
    assert left_in(tmp_path) == ["shards"]


def test_overwrite_leaves_other_folders_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "shards"
    assert command("--output", output, *SMALL) == 0
    (output / "thesis.tex").write_text("years of work")
    assert "holds other files than prepared shards" in refused(capsys, "--output", output, *SMALL, "--overwrite")
    assert (output / "thesis.tex").read_text() == "years of work"
    (tmp_path / "file").write_text("")
    assert "is a file" in refused(capsys, "--output", tmp_path / "file", *SMALL, "--overwrite")
    assert "cannot write" in refused(capsys, "--output", tmp_path / "file" / "shards", *SMALL)


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    (tmp_path / "shards").mkdir()
    assert command("--output", tmp_path / "shards", *SMALL) == 0
    assert len(read_index(tmp_path / "shards").clients) == 2


def test_interrupted_it_leaves_what_was_there(tmp_path: Path) -> None:
    output = tmp_path / "shards"
    prepare_shards(load_config(overrides=SMALL), output)
    before = {path.name: path.read_bytes() for path in output.iterdir()}
    done = []

    def interrupt() -> None:
        done.append(1)
        if len(done) == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare_shards(load_config(overrides=[*SMALL, "seed=7"]), output, overwrite=True, advance=interrupt)
    assert {path.name: path.read_bytes() for path in output.iterdir()} == before
    assert left_in(tmp_path) == ["shards"]


# --- wrong requests -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["data.name=shards", "data.root=x"], "shards are cut from pictures"),
        (["--clients-per-file", "0"], "--clients-per-file 0: it must be at least 1"),
        (["data.name=mpii", "data.root=nowhere"], "nowhere does not exist; set data.root"),
        (["data.peple_per_client=3"], "did you mean 'data.people_per_client'"),
        (["federation.clients=[huge]"], "unknown tier 'huge'"),
    ],
)
def test_a_wrong_request_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert message in refused(capsys, "--output", tmp_path / "shards", *SMALL, *words)
    assert left_in(tmp_path) == []
