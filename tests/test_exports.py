"""Exports of labelling tools: each gives the people that it was written from, and runs from prepare to predict."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import raf_ray.evaluate
import raf_ray.predict
import raf_ray.prepare
import raf_ray.run
from raf_ray.cli import run_command
from raf_ray.data.annotations.fields import warn_once
from raf_ray.data.annotations.joints import plain_name
from raf_ray.data.skeletons import LSP14
from raf_ray.errors import InputError
from tests.exports import (
    box_of,
    coco_content,
    cvat,
    draw,
    label_studio,
    label_studio_coco,
    label_studio_task,
    points_of,
    read,
    refused,
    roboflow,
    write,
    yolo,
)


@pytest.fixture(autouse=True)
def _said_anew() -> None:
    warn_once.cache_clear()


MADE: dict[str, tuple[str, Any, int]] = {
    "cvat": ("coco", cvat, 6),
    "roboflow": ("coco", roboflow, 6),
    "label studio's coco": ("coco", label_studio_coco, 9),
    "yolo": ("yolo_pose", yolo, 6),
    "label studio": ("label_studio", label_studio, 9),
}
each_tool = pytest.mark.parametrize(("name", "make", "count"), MADE.values(), ids=MADE)


# --- the people ---------------------------------------------------------------------------------------------


@each_tool
def test_an_export_gives_the_people_that_were_labelled(tmp_path: Path, name: str, make: Any, count: int) -> None:
    people = read(name, make(tmp_path))
    assert len(people) == count
    order = [people.skeleton.index(joint) for joint in ("nose", "left_paw", "right_paw", "tail")]
    for i in range(count):
        at = [row for row in range(count) if Path(people.picture_name(row)).stem.split("_")[0].endswith(str(i))]
        (row,) = at
        truth = np.array(points_of(i))
        assert people.visibility[row][order].tolist() == truth[:, 2].tolist()
        labelled = truth[:, 2] > 0
        assert people.joints[row][order][labelled] == pytest.approx(truth[labelled, :2], abs=1e-4)
        x, y, width, height = box_of(i)
        assert people.box[row] == pytest.approx([width, height], abs=1e-4)
        assert people.centre[row] == pytest.approx([x + width / 2 - 0.5, y + height / 2 - 0.5], abs=1e-4)
        assert people.picture(row).shape == (48, 64, 3)


@each_tool
def test_its_joints_pair_by_their_names_and_their_sigmas_are_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, make: Any, count: int
) -> None:
    skeleton = read(name, make(tmp_path)).skeleton
    pairs = {(skeleton.joints[a], skeleton.joints[b]) for a, b in skeleton.flip_pairs}
    assert pairs == {("left_paw", "right_paw")}
    assert skeleton.sigmas[skeleton.joints.index("nose")] == 0.026  # COCO's
    assert skeleton.sigmas[skeleton.joints.index("tail")] == 0.05
    assert "no OKS sigma is known of 3 of its 4 joints" in caplog.text and "0.05 is taken" in caplog.text


def test_limbs_are_the_files_own(tmp_path: Path) -> None:
    assert read("coco", cvat(tmp_path)).skeleton.limbs == (
        ("nose", "left_paw"), ("nose", "right_paw"), ("nose", "tail"),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("Left Shoulder", "left_shoulder"), ("shoulder-left", "left_shoulder"), ("LeftShoulder", "left_shoulder"),
        ("R_Knee", "right_knee"), ("kneeR", "right_knee"), ("left_eye", "left_eye"), ("nose", "nose"), ("r", "r"),
        ("collar", "collar"), ("Front-Left Paw", "front_left_paw"), ("手", "手"),
    ],
)  # fmt: skip
def test_a_joints_name_in_the_scheme_of_left_and_right(name: str, plain: str) -> None:
    assert plain_name(name) == plain


def test_a_file_of_known_joints_gets_the_known_record(tmp_path: Path) -> None:
    cvat(tmp_path)
    content = coco_content({0: "0.png"})
    content["categories"][0]["keypoints"] = [name.replace("_", " ").title() for name in LSP14.joints]
    content["annotations"][0]["keypoints"] = [5, 5, 2] * 14
    write(tmp_path / "annotations/person_keypoints_train.json", content)
    assert read("coco", tmp_path).skeleton is LSP14


def test_a_category_is_chosen_by_its_name_and_an_unknown_one_gets_the_files_own(tmp_path: Path) -> None:
    content = coco_content({0: "0.png", 1: "1.png"})
    dog = content["categories"][0] | {"id": 2, "name": "Dog"}
    content["categories"].append(dog)
    content["annotations"][1]["category_id"] = 2
    cvat(tmp_path)
    write(tmp_path / "annotations/person_keypoints_train.json", content)
    assert read("coco", tmp_path, category="dog").person_id.tolist() == [2]
    refused("coco", tmp_path, "data.category", "no category horse", "cat, Dog", category="horse")
    refused("coco", tmp_path, "data.category must name one", "cat, Dog")


# --- splits -------------------------------------------------------------------------------------------------


def test_the_test_split_of_each_layout(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert read("coco", cvat(tmp_path / "a"), "test").person_id.tolist() == [7, 8, 9]
    assert "person_keypoints_val.json of CVAT is taken as test" in caplog.text
    assert read("coco", roboflow(tmp_path / "b"), "test").person_id.tolist() == [7, 8, 9]
    assert len(read("yolo_pose", yolo(tmp_path / "c"), "test")) == 3
    refused("coco", label_studio_coco(tmp_path / "d"), "Label Studio", "data.test_fraction", split="test")
    refused("label_studio", label_studio(tmp_path / "e"), "no test split", "data.test_fraction", split="test")


# --- Label Studio -------------------------------------------------------------------------------------------


def test_a_turned_box_is_taken_by_its_extent(tmp_path: Path) -> None:
    label_studio(tmp_path, 1)
    task = label_studio_task(0)
    value = task["annotations"][0]["result"][0]["value"]
    value |= {"x": 50.0, "y": 25.0, "width": 25.0, "height": 25.0, "rotation": 90}  # corner 32, 12; sides 16, 12
    write(tmp_path / "project-1.json", [task])
    people = read("label_studio", tmp_path)
    assert people.box[0] == pytest.approx([12, 16])
    assert people.centre[0] == pytest.approx([32 - 6 - 0.5, 12 + 8 - 0.5])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda region: region.pop("parentID", None), ["belong to no box", "without a skeleton", "parentID"]),
        (lambda region: region["value"].update(width=0, height=0), ["1 boxes without a valid box"]),
        (lambda region: region["value"].update(x="far"), ["'x' of", "task 10", "one finite number"]),
        (lambda region: "keypointlabels" in region["value"] and region["value"].update(keypointlabels=["tail"]),
         ["there twice", "'tail'"]),
    ],
)  # fmt: skip
def test_regions_that_nobody_can_be_made_of(tmp_path: Path, change: Any, says: list[str]) -> None:
    label_studio(tmp_path, 1)
    task = label_studio_task(0)
    for region in task["annotations"][0]["result"]:
        change(region)
    write(tmp_path / "project-1.json", [task])
    refused("label_studio", tmp_path, *says)


def test_a_skeleton_without_a_label_that_occurs(tmp_path: Path) -> None:
    refused("label_studio", label_studio(tmp_path), "labelled left_paw", "lsp14", skeleton=LSP14)


# --- what is in another form --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ([label_studio_task(0)], ["id, data, annotations", "nearest is Label Studio's JSON", "data.name=label_studio"]),
        ({"version": "5", "shapes": [], "imagePath": "a.png"}, ["version, shapes, imagePath", "LabelMe"]),
        ({"a": 1, "b": 2}, ["with a, b, which no reader knows"]),
        (
            coco_content({0: "0.png"}, categories=[{"id": 1, "name": "nose", "keypoints": []}]),
            ["drawn without a skeleton", "(nose)"],
        ),
        (
            coco_content({}, categories=[{"id": 1, "name": "cat"}], annotations=[{"id": 1, "bbox": [1, 1, 5, 5]}]),
            ["an export of boxes", "(cat)"],
        ),
    ],
    ids=["label studio", "labelme", "unknown", "no skeleton", "boxes"],
)
def test_a_file_that_coco_cannot_be_read_from(tmp_path: Path, content: Any, says: list[str]) -> None:
    cvat(tmp_path)
    write(tmp_path / "annotations/person_keypoints_train.json", content)
    refused("coco", tmp_path, *says)


def test_boxes_of_no_extent_in_cocos_form(tmp_path: Path) -> None:
    content = coco_content({0: "0.png"})
    content["annotations"][0]["bbox"] = [0, 0, 0, 0]
    cvat(tmp_path)
    write(tmp_path / "annotations/person_keypoints_train.json", content)
    refused("coco", tmp_path, "1 without a valid box", "0 x 0", "draw boxes too")


def test_nan_of_an_unseen_joint_is_no_place(tmp_path: Path) -> None:
    content = coco_content({1: "1.png"})
    content["annotations"][0]["keypoints"][9:] = [float("nan"), float("nan"), 0]
    cvat(tmp_path)
    write(tmp_path / "annotations/person_keypoints_train.json", content)
    assert read("coco", tmp_path).visibility.tolist() == [[2, 2, 2, 0]]


# --- from end to end ----------------------------------------------------------------------------------------

TINY = ["federation.clients=[high, low]", "federation.rounds=1", "federation.engine=in_process",
        "data.people_per_client=2", "data.val_people=1", "data.test_people=2", "data.val_fraction=0.2",
        "evaluation.metric=oks_ap", "evaluation.resolutions=[64x48]", "optimizer.batch_size=2",
        "tracking.mlflow=false", "resources.dashboard=false"]  # fmt: skip


def ran(main: Any, *words: str | Path) -> None:
    assert run_command(main, [str(word) for word in words]) == 0


@pytest.mark.parametrize(("name", "make"), [("coco", roboflow), ("yolo_pose", yolo), ("label_studio", label_studio)])
def test_from_prepare_to_predict(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, name: str, make: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    root = make(tmp_path / "export")
    words = [*TINY, f"data.name={name}", f"data.root={root}"]
    if name == "label_studio":
        words.append("data.test_fraction=0.25")
    ran(raf_ray.prepare.main, *words, "--output", "shards")
    ran(raf_ray.run.main, *words, "--output", "run")
    ran(raf_ray.run.main, *TINY, "data.name=shards", "data.root=shards", "--output", "again")
    first, again = (json.loads((tmp_path / run / "results.json").read_text()) for run in ("run", "again"))
    joints = set(first["per_joint"]["64x48"])
    assert joints == {"nose", "left_paw", "right_paw", "tail"}
    assert first["per_joint"]["64x48"] == again["per_joint"]["64x48"]
    capsys.readouterr()
    ran(raf_ray.evaluate.main, "run", "--json")
    assert json.loads(capsys.readouterr().out)["by_resolution"] == first["by_resolution"]
    draw(tmp_path / "new.png", 50)
    ran(raf_ray.predict.main, "run", "new.png", "--output", "drawn")
    (person,) = json.loads((tmp_path / "drawn/new.joints.json").read_text())["people"]
    assert set(person) == joints


def test_test_people_of_one_file_are_in_pictures_of_their_own(tmp_path: Path) -> None:
    from raf_ray.config import load_config
    from raf_ray.request.people import load_held_out, load_splits
    from raf_ray.request.plans import plan_clients

    words = [*TINY, "data.name=label_studio", f"data.root={label_studio(tmp_path)}", "data.test_fraction=0.3"]
    config = load_config(overrides=[*words, "data.test_people=null", "data.val_people=null"])
    train, held_out, _ = load_splits(config, 2, ("val", "test"), compare=True)
    parts = [train, held_out["val"], held_out["test"]]
    assert [len(part) for part in parts] == [5, 1, 3]
    assert sorted(np.concatenate([part.picture_id for part in parts]).tolist()) == list(range(9))
    again = load_held_out(config, plan_clients(config), ("test",))["test"]
    assert again.person_id.tolist() == held_out["test"].person_id.tolist()


def test_splits_of_other_joints_are_refused(tmp_path: Path) -> None:
    from raf_ray.config import load_config
    from raf_ray.request.people import load_splits

    cvat(tmp_path)
    content = coco_content({7: "7.png"})
    content["categories"][0]["keypoints"] = ["nose", "left_paw", "right_paw", "ear"]
    write(tmp_path / "annotations/person_keypoints_val.json", content)
    config = load_config(overrides=[*TINY, "data.name=coco", f"data.root={tmp_path}"])
    with pytest.raises(InputError, match=r"joint 4 is tail in train and ear in test; set data\.skeleton"):
        load_splits(config, 2, ("val", "test"), compare=True)


@pytest.mark.parametrize("word", ["data.category=cat", "data.test_fraction=0.2"])
def test_keys_that_do_not_go_with_drawn_people(word: str) -> None:
    from raf_ray.config import load_config

    with pytest.raises(InputError, match=rf"{word.split('=')[0]}: synthetic takes none"):
        load_config(overrides=[word])
