"""A picture is in one of train, val and test, by whatever name: else a request is refused, or goes on and says so."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest

from raf_ray import prepare as prepare_command
from raf_ray import run
from raf_ray.cli import run_command
from raf_ray.data.overlap import number_pictures, one_id
from raf_ray.data.people import People, PictureError
from raf_ray.data.pictures import PictureFiles
from raf_ray.data.sources.synthetic import synthetic_people
from raf_ray.errors import InputError
from raf_ray.experiment.shards import prepare_shards
from raf_ray.request.assembly import prepare
from raf_ray.request.people import load_held_out, load_splits
from tests.tiny import tiny

WORDS = ("data.people_per_client=null", "federation.clients=[low]", "federation.engine=in_process",
         "evaluation.resolutions=[64x48]", "federation.rounds=1")  # fmt: skip


def picture(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (90, 70, 3), np.uint8)


def entry(image: str) -> dict[str, Any]:
    """A person in MPII's form."""
    joints = [[20.0 + 2 * k, 15.0 + 4 * k] for k in range(16)]
    return {"image": image, "center": [35.0, 40.0], "scale": 0.35, "joints": joints, "joints_vis": [1] * 16}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A data set in MPII's form: pictures train0 to train5 and test0 to test2, a person each."""
    (tmp_path / "annot").mkdir()
    (tmp_path / "images").mkdir()
    for number, (split, name, count) in enumerate((("train", "train", 6), ("test", "valid", 3))):
        for i in range(count):
            cv2.imwrite(str(tmp_path / "images" / f"{split}{i}.png"), picture(100 * number + i))
        write(tmp_path, name, [f"{split}{i}.png" for i in range(count)])
    return tmp_path


def write(root: Path, name: str, images: list[str]) -> None:
    (root / "annot" / f"{name}.json").write_text(json.dumps([entry(image) for image in images]))


def request(root: Path, *words: str) -> Any:
    return tiny(*WORDS, "data.name=mpii", f"data.root={root}", *words)


# --- files ------------------------------------------------------------------------------------------------


def same_file(root: Path) -> None:
    shutil.copy(root / "annot" / "train.json", root / "annot" / "valid.json")


def same_name(root: Path) -> None:
    write(root, "valid", ["test0.png", "train3.png", "./train4.png"])


def linked(root: Path) -> None:
    (root / "images" / "link.png").symlink_to(root / "images" / "train3.png")
    (root / "folder").symlink_to(root / "images")
    write(root, "valid", ["test0.png", "link.png", "../folder/train4.png"])


def hard_linked(root: Path) -> None:
    for i in (0, 1):
        os.link(root / "images" / f"train{i}.png", root / "images" / f"again{i}.png")
    write(root, "valid", ["again0.png", "again1.png", "test0.png"])


def copied(root: Path) -> None:
    for i in (2, 5):
        shutil.copy(root / "images" / f"train{i}.png", root / "images" / f"copy{i}.png")
    write(root, "valid", ["copy5.png", "test0.png", "copy2.png"])


def never_fetched(root: Path) -> None:
    write(root, "train", ["absent0.png", "absent1.png", "train0.png"])
    write(root, "valid", ["absent0.png", "absent1.png", "test0.png"])


SHARED = [(same_file, 6), (same_name, 2), (linked, 2), (hard_linked, 2), (copied, 2), (never_fetched, 2)]


@pytest.mark.parametrize(("change", "count"), SHARED, ids=lambda v: getattr(v, "__name__", ""))
def test_test_pictures_in_training_are_refused_with_two_of_them_and_their_number(
    root: Path, change: Callable[[Path], None], count: int
) -> None:
    assert prepare(request(root)).notes == ()
    change(root)
    with pytest.raises(InputError) as caught:
        prepare(request(root))
    message = str(caught.value)
    assert message.startswith(f"{count} pictures of test are also in train") and "\n" not in message
    assert message.count(str(root / "images")) >= 2 and "data.allow_overlap=true" in message


def test_whoever_means_it_goes_on_and_is_told(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    same_name(root)
    (note,) = prepare(request(root, "data.allow_overlap=true")).notes
    assert note.startswith("data.allow_overlap: 2 pictures of test are also in train") and "train3.png" in note
    words = [*WORDS, "data.name=mpii", f"data.root={root}", "tracking.mlflow=false", "--output", str(root / "run")]
    assert run_command(run.main, words) == 2
    assert not (root / "run").exists()
    assert run_command(run.main, [*words, "data.allow_overlap=true"]) == 0
    assert "2 pictures of test are also in train" in " ".join(capsys.readouterr().out.split())


def test_it_is_the_files_that_count_and_not_who_of_them_is_drawn(root: Path) -> None:
    same_name(root)
    for seed in range(4):
        with pytest.raises(InputError, match="2 pictures of test"):
            prepare(request(root, "data.people_per_client=1", "data.test_people=1", f"seed={seed}"))


def test_bad_files_are_like_no_other(root: Path) -> None:
    """Error pages fetched in place of pictures, files cut off, empty or missing: `on_bad_image` is told of them."""
    for name, data in (("train0", b"<html>"), ("train1", b""), ("test0", b"<html>"), ("test1", b"")):
        (root / "images" / f"{name}.png").write_bytes(data)
    whole = (root / "images" / "train2.png").read_bytes()
    for name in ("train2", "test2"):
        (root / "images" / f"{name}.png").write_bytes(whole[:200])
    (root / "images" / "train3.png").unlink()
    assert prepare(request(root)).notes == ()


def test_a_search_that_loads_no_test_person_compares_none(root: Path) -> None:
    same_file(root)
    assert set(prepare(request(root, "evaluation.split=val")).held_out) == {"val"}


def test_to_score_a_saved_model_on_training_people_is_ones_own_wish(root: Path) -> None:
    config = request(root)
    same_file(root)
    assert len(load_held_out(config, prepare_plans(config), ["test"])["test"]) == 6


def prepare_plans(config: Any) -> Any:
    from raf_ray.request.plans import plan_clients

    return plan_clients(config)


def test_real_data_whose_lists_overlap(shared_data: Path) -> None:
    lists = "data.annotations={train: annot/trainval.json, test: annot/valid.json}"
    with pytest.raises(InputError, match="2 pictures of test are also in train"):
        prepare(request(shared_data / "mpii", lists))
    load_splits(request(shared_data / "mpii", "data.val_fraction=0.4"), 1, ["val", "test"], compare=True)
    load_splits(request(shared_data / "lspet"), 1, ["val", "test"], compare=True)


# --- train and val ----------------------------------------------------------------------------------------


def test_a_picture_by_two_names_is_not_torn_between_train_and_val(root: Path) -> None:
    for i in range(6):
        shutil.copy(root / "images" / f"train{i}.png", root / "images" / f"twin{i}.png")
    names = [f"{kind}{i}.png" for i in range(6) for kind in ("train", "twin")]
    write(root, "train", names)
    for seed in range(5):
        config = request(root, "data.val_fraction=0.5", "data.val_people=null", f"seed={seed}")
        train, held_out, notes = load_splits(config, 1, ["val", "test"], compare=True)
        seen = [{names[row] for row in part.person_id} for part in (train, held_out["val"])]
        assert not {n.replace("twin", "train") for n in seen[0]} & {n.replace("twin", "train") for n in seen[1]}
        assert len(seen[1]) == 6
        assert notes[0].startswith("the training file has 6 of its pictures twice (")


def test_ids_of_one_picture_become_their_smallest_through_any_chain() -> None:
    ids, numbers = np.array([7, 3, 3, 5, 9]), np.array([0, 0, 1, 1, 2])
    assert one_id(ids, numbers).tolist() == [3, 3, 3, 3, 9]
    assert one_id(ids[::-1], numbers[::-1]).tolist() == [9, 3, 3, 3, 3]
    assert len(one_id(ids[:0], numbers[:0])) == 0


def test_distinct_pictures_are_split_as_ever(root: Path) -> None:
    people = PictureFiles(tuple(str(root / "images" / f"train{i}.png") for i in range(6)))
    crowd = synthetic_people(0, "train", np.arange(6), 60.0)
    numbers = number_pictures([People(**(vars(crowd) | {"read": people}))])[0]
    assert one_id(crowd.picture_id, numbers).tolist() == crowd.picture_id.tolist()


# --- one's own source -------------------------------------------------------------------------------------


def own(split: str, pictures: list[int], ids: list[int] | None = None) -> People:
    """Synthetic people whose picture is that of a number; below 0 it cannot be read."""
    crowd = synthetic_people(0, split, np.arange(len(pictures)), 60.0)

    def read(row: int) -> np.ndarray:
        if pictures[row] < 0:
            raise PictureError(f"picture {row} is missing") if pictures[row] == -1 else OSError("my own trouble")
        return picture(pictures[row])

    changes = {"read": read, "picture_id": np.array(ids) if ids else crowd.picture_id}
    return People(**(vars(crowd) | changes))


def whole_same(root: str | None, split: str) -> People:
    return own("train", list(range(8)))


def some_same(root: str | None, split: str) -> People:
    return own(split, list(range(8)) if split == "train" else [20, 21, 5, 2])


def all_other(root: str | None, split: str) -> People:
    return own(
        split,
        list(range(8)) if split == "train" else [20, 21, 22],
        [0, 1, 2, 3, 4, 5, 6, 7][: 8 if split == "train" else 3],
    )


def unreadable(root: str | None, split: str) -> People:
    return own(split, [0, -1, -1, -2, -2, 1] if split == "train" else [20, -1, -2])


@pytest.mark.parametrize(("source", "count"), [("whole_same", 8), ("some_same", 2)])
def test_ones_own_source_is_compared_by_pixels(source: str, count: int) -> None:
    name = f"data.name=tests.test_overlap:{source}"
    with pytest.raises(InputError, match=rf"^{count} pictures of test .* let tests\.test_overlap:{source} give each"):
        prepare(tiny(*WORDS, name))
    assert len(prepare(tiny(*WORDS, name, "data.allow_overlap=true")).notes) == 1


@pytest.mark.parametrize("source", ["all_other", "unreadable"])
def test_ones_own_source_may_count_pictures_anew_in_each_split_and_have_bad_ones(source: str) -> None:
    assert prepare(tiny(*WORDS, f"data.name=tests.test_overlap:{source}")).notes == ()


def test_of_very_many_pictures_those_are_read_whose_id_or_labels_both_splits_have(monkeypatch) -> None:
    monkeypatch.setattr("raf_ray.data.overlap.MOST_READ", 6)
    train, test = own("train", [0, 1, 2, 3, 4, 5], [1, 2, 3, 4, 5, 6]), own("test", [9, 4], [100, 5])
    numbers = number_pictures([train, test])
    assert numbers[0][4] == numbers[1][1] and len({*numbers[0], *numbers[1]}) == 7
    train, test = own("train", list(range(9))), own("train", list(range(9)))
    numbers = number_pictures([train, test])
    assert len({*numbers[0]} & {*numbers[1]}) == 3  # as many as are read of each


# --- prepared shards --------------------------------------------------------------------------------------


def shards(root: Path, *words: str) -> Path:
    prepare_shards(request(root, *words), root / "shards")
    return root / "shards"


def on_shards(folder: Path, *words: str) -> Any:
    return tiny(*WORDS, "data.name=shards", f"data.root={folder}", *words)


def test_shards_of_overlapping_splits_are_not_prepared(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copied(root)
    words = [*WORDS, "data.name=mpii", f"data.root={root}", "--output", str(root / "shards")]
    assert run_command(prepare_command.main, words) == 2
    assert "2 pictures of test are also in train" in capsys.readouterr().err
    assert not (root / "shards").exists()
    assert run_command(prepare_command.main, [*words, "data.allow_overlap=true"]) == 0
    assert "2 pictures of test are also in train" in " ".join(capsys.readouterr().out.split())
    with pytest.raises(InputError, match=r"of test (is|are) also in (train|val), .* prepare the shards again from"):
        prepare(on_shards(root / "shards"))
    assert prepare(on_shards(root / "shards", "data.allow_overlap=true")).notes


@pytest.mark.parametrize("swapped", ["test", "val"])
def test_held_out_people_of_other_shards_are_compared(root: Path, swapped: str) -> None:
    """A file of another request's shards in the folder, and the index made to name it."""
    folder = shards(root, "seed=1")
    assert prepare(on_shards(folder)).notes == ()
    other = root / "other"
    other.mkdir()
    shutil.copytree(root / "images", other / "images")
    shutil.copytree(root / "annot", other / "annot")
    write(other, "valid", [f"train{i}.png" for i in range(6)])
    write(other, "train", [f"test{i}.png" for i in range(3)] + [f"train{i}.png" for i in range(6)])
    theirs = shards(other, "data.allow_overlap=true", "data.val_fraction=0.8", "data.val_people=null")
    shutil.copy(theirs / f"{swapped}.parquet", folder / f"{swapped}.parquet")
    index = json.loads((folder / "index.json").read_text())
    index["held_out"][swapped] = json.loads((theirs / "index.json").read_text())["held_out"][swapped]
    (folder / "index.json").write_text(json.dumps(index))
    with pytest.raises(InputError, match=rf"pictures? of (test|{swapped}) (is|are) also in"):
        prepare(on_shards(folder))


def test_shards_from_before_pictures_were_recorded_are_read_and_said_to_be_unknown(root: Path) -> None:
    folder = shards(root)
    for path in folder.glob("*.parquet"):
        table = pq.read_table(path).drop_columns(["picture_digest"])
        metadata = json.loads(table.schema.metadata[b"raf_ray"]) | {"schema_version": 1}
        pq.write_table(table.replace_schema_metadata({b"raf_ray": json.dumps(metadata).encode()}), path)
    index = json.loads((folder / "index.json").read_text())
    (folder / "index.json").write_text(json.dumps(index | {"schema_version": 1}))
    (note,) = prepare(on_shards(folder)).notes
    assert "whether train, val and test share some is not known" in note


def test_an_index_names_files_of_its_own_folder_only(root: Path) -> None:
    folder = shards(root)
    text = (folder / "index.json").read_text()
    (folder / "index.json").write_text(text.replace('"test.parquet"', '"../test.parquet"'))
    with pytest.raises(InputError, match=r"held_out\.test\.file: String should match pattern"):
        prepare(on_shards(folder))
