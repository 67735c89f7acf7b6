"""Ultralytics' YOLO pose form: what data.yaml and the lines of its labels may say, and sentences for the rest."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import ExifTags, Image

from raf_ray.data.annotations.fields import warn_once
from raf_ray.data.skeletons import COCO17
from tests.exports import KPT_NAMES, YAML, read, refused, write, yolo, yolo_line


@pytest.fixture(autouse=True)
def _said_anew() -> None:
    warn_once.cache_clear()


# --- joints and pictures ------------------------------------------------------------------------------------


def test_yolo_without_visibility_takes_joints_at_zero_as_not_labelled(tmp_path: Path) -> None:
    people = read("yolo_pose", yolo(tmp_path, dim=2))
    assert people.visibility.tolist() == [[2, 2, 2, 2 * (i % 2 == 0)] for i in range(6)]


def test_yolo_joints_without_names_pair_as_flip_idx_says(tmp_path: Path) -> None:
    skeleton = read("yolo_pose", yolo(tmp_path, yaml=YAML)).skeleton
    assert skeleton.flip_order.tolist() == [0, 2, 1, 3]
    assert skeleton.joints == ("joint_1", "left_joint_2", "right_joint_2", "joint_4")


def test_yolo_of_17_joints_with_cocos_mirror_images_is_coco(tmp_path: Path) -> None:
    flips = COCO17.flip_order.tolist()
    yaml = YAML.replace("[4, {dim}]", "[17, 3]").replace("[0, 2, 1, 3]", str(flips))
    yolo(tmp_path, yaml=yaml)
    for i in range(6):
        line = yolo_line(i).split()[:5] + ["0.5", "0.5", "2"] * 17
        write(tmp_path / f"labels/train/{i}.txt", " ".join(line))
    assert read("yolo_pose", tmp_path).skeleton is COCO17


def test_yolo_pictures_of_a_list_and_without_labels(tmp_path: Path) -> None:
    yolo(tmp_path, yaml=YAML.replace("train: images/train", "train: [lists.txt]"))
    write(tmp_path / "lists.txt", "images/train/4.png\n./images/train/1.png\n")
    (tmp_path / "labels/train/1.txt").unlink()
    people = read("yolo_pose", tmp_path)
    assert [Path(people.picture_name(i)).name for i in range(len(people))] == ["4.png"]


def test_a_path_of_roboflow_that_leads_out_of_the_folder(tmp_path: Path) -> None:
    yolo(tmp_path, yaml=YAML.replace("path: ../datasets/cats\n", "").replace("train: ", "train: ../"))
    assert len(read("yolo_pose", tmp_path)) == 6


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("0 0.5 0.5 0.2 0.2", ["line 1", "a box alone", "points were lost"]),
        (yolo_line(0) + " 0.1 0.1 2", ["20 numbers", "'kpt_shape' [4, 3]", "asks for 17", "fits [5, 3]"]),
        (yolo_line(0, dim=2), ["13 numbers", "fits [4, 2]"]),
        (yolo_line(0).replace("0 ", "3 ", 1), ["class 3", "names 1 from 0"]),
        (yolo_line(0)[:-1] + "x", ["number 17 is", "x"]),
        ("0 32 24 20 30 " + "20 8 2 " * 4, ["shares of the picture", "divide pixels"]),
        ("0 0.5 0.5 0 0 " + "0.5 0.5 2 " * 4, ["no person to use", "without a valid box"]),
        ("0 0.5 0.5 0.1 0.1 " + "0.5 0.5 5 " * 4, ["visibility other than 0, 1 and 2"]),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_a_line_that_does_not_fit(tmp_path: Path, line: str, says: list[str]) -> None:
    yolo(tmp_path, train=1)
    write(tmp_path / "labels/train/0.txt", line)
    refused("yolo_pose", tmp_path, *says)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("kpt_shape: [4, {dim}]\n", "", ["no 'kpt_shape'", "boxes without points"]),
        ("[4, {dim}]", "[4, 4]", ["'kpt_shape' is [4, 4]", "[joints, 2 or 3]"]),
        ("[0, 2, 1, 3]", "[0, 2, 3, 1]", ["'flip_idx'", "in pairs"]),
        ("[0, 2, 1, 3]", "[3, 1, 2, 0]", ["'flip_idx' makes", "left_paw", "right_paw"]),
        ("tail]", "tail, ear]", ["'kpt_names'", "4 joints"]),
        ("train: images/train", "train: pictures", ["'train' is pictures", "there is no"]),
        ("  0: cat", "  0: cat\n  1: dog", ["classes cat, dog", "data.category"]),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_a_data_yaml_that_cannot_be_followed(tmp_path: Path, old: str, new: str, says: list[str]) -> None:
    yaml = YAML + KPT_NAMES
    assert old in yaml
    refused("yolo_pose", yolo(tmp_path, yaml=yaml.replace(old, new)), *says)


def test_a_flip_idx_that_swaps_nothing_gives_way_to_names(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    yaml = (YAML + KPT_NAMES).replace("[0, 2, 1, 3]", "[0, 1, 2, 3]")
    assert read("yolo_pose", yolo(tmp_path, yaml=yaml)).skeleton.flip_order.tolist() == [0, 2, 1, 3]
    assert "'flip_idx' swaps nothing" in caplog.text


def test_a_yolo_class_is_chosen_by_its_name(tmp_path: Path) -> None:
    yolo(tmp_path, yaml=YAML.replace("  0: cat", "  0: cat\n  1: dog"))
    write(tmp_path / "labels/train/3.txt", yolo_line(3, class_id=1))
    cats, dogs = (read("yolo_pose", tmp_path, category=name) for name in ("cat", "dog"))
    assert (len(cats), cats.category_id) == (5, 1) and (len(dogs), dogs.category_id) == (1, 2)
    refused("yolo_pose", tmp_path, "no category horse", "cat, dog", category="horse")


def test_a_picture_that_is_turned_by_its_tag_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    yolo(tmp_path)
    read("yolo_pose", tmp_path)
    assert "EXIF" not in caplog.text
    tags = Image.Exif()
    tags[ExifTags.Base.Orientation] = 6
    Image.new("RGB", (64, 48)).save(tmp_path / "images/train/2.png", exif=tags)
    read("yolo_pose", tmp_path)
    assert "1 pictures with labels have an EXIF orientation" in caplog.text and "2.png" in caplog.text
