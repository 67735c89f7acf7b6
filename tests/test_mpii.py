"""MPII's json lists: 1-based coordinates, HRNet's boxes and head sizes, what is said of a wrong file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from scipy.io import savemat

from raf_ray.data.skeletons import LSP14, MPII16
from raf_ray.data.sources.coco import coco_people
from raf_ray.data.sources.mpii import mpii_files, mpii_people
from raf_ray.errors import InputError

Entry = dict[str, Any]


def entry(**changes: Any) -> Entry:
    """A person of scale 2 around (101, 201), of whom two joints are labelled."""
    return {
        "image": "a.png",
        "center": [101.0, 201.0],
        "scale": 2.0,
        "joints": [[11.0, 21.0], [31.5, 41.0]] + [[-1.0, -1.0]] * 14,
        "joints_vis": [1, 1] + [0] * 14,
    } | changes


def write(folder: Path, entries: Any) -> Path:
    (folder / "images").mkdir(exist_ok=True)
    file = folder / "valid.json"
    file.write_text(json.dumps(entries))
    return file


def read(folder: Path, *entries: Entry, head_boxes: Path | None = None) -> Any:
    return mpii_people(write(folder, list(entries) or [entry()]), folder / "images", head_boxes)


# --- who is read and where they lie -------------------------------------------------------------------------


def test_coordinates_become_0_based_and_the_box_is_hrnets(tmp_path: Path) -> None:
    people = read(tmp_path)
    assert people.skeleton is MPII16
    assert people.joints[0, :2].tolist() == [[10, 20], [30.5, 40]]
    assert people.visibility[0].tolist() == [2, 2] + [0] * 14
    assert people.box.tolist() == [[400, 400]]
    assert people.centre.tolist() == [[100, 200 + 15 * 2]]
    assert people.area[0] == pytest.approx(0.53 * 400**2)
    assert np.isnan(people.head_size).all()


def test_an_unknown_centre_is_not_moved_down(tmp_path: Path) -> None:
    assert read(tmp_path, entry(center=[-1.0, -1.0])).centre.tolist() == [[-2, -2]]


def test_people_are_numbered_by_their_place_and_pictures_by_their_name(tmp_path: Path) -> None:
    nobody = entry(joints_vis=[0] * 16)
    people = read(tmp_path, entry(image="b.png"), nobody, entry(scale=-1.0), entry(), entry(image="b.png"))
    assert people.person_id.tolist() == [0, 3, 4]
    assert people.picture_id.tolist() == [1, 0, 1]


def test_each_person_has_their_own_picture(tmp_path: Path) -> None:
    people = read(tmp_path, entry(image="b.png"), entry(image="a.png"))
    for name, grey in (("a", 10), ("b", 20)):
        cv2.imwrite(str(tmp_path / "images" / f"{name}.png"), np.full((4, 4, 3), grey, np.uint8))
    assert [int(people.picture(i)[0, 0, 0]) for i in (0, 1)] == [20, 10]


# --- the real files -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("split", "persons"), [("train", 3), ("test", 2)])
def test_mpii_is_read_by_hrnets_layout(shared_data: Path, split: Any, persons: int) -> None:
    people = mpii_people(*mpii_files(shared_data / "mpii", None, None, split))
    assert len(people) == persons
    height, width = people.picture(0).shape[:2]
    inside = (people.joints[0] >= 0) & (people.joints[0] < (width, height))
    assert inside[people.visibility[0] > 0].all()


@pytest.mark.parametrize(("mpii", "coco"), [("train", "train"), ("valid", "val")])
def test_lspets_two_forms_agree_on_the_joints_they_share(shared_data: Path, mpii: str, coco: str) -> None:
    """The MPII form is 1-based and the COCO form 0-based, so agreement checks both readers' conventions."""
    folder = shared_data / "lspet"
    ours = mpii_people(folder / "annot" / f"{mpii}.json", folder / "images", None)
    theirs = coco_people(folder / "annotations" / f"person_keypoints_{coco}.json", folder / "images", LSP14)
    assert len(ours) == len(theirs)
    by_name = np.argsort(ours.picture_id), np.argsort(theirs.picture_id)
    shared = [MPII16.joints.index({"neck": "upper_neck"}.get(name, name)) for name in LSP14.joints]
    visible = ours.visibility[by_name[0]][:, shared] > 0
    np.testing.assert_array_equal(visible, theirs.visibility[by_name[1]] > 0)
    apart = np.abs(ours.joints[by_name[0]][:, shared] - theirs.joints[by_name[1]])
    assert apart[visible].max() < 0.02


# --- head boxes ---------------------------------------------------------------------------------------------


def head_file(folder: Path, boxes: list[list[float]], **more: Any) -> Path:
    """HRNet's ``gt_valid.mat`` from x1, y1, x2, y2 a person."""
    path = folder / "gt_valid.mat"
    corners = np.array(boxes, np.float64).reshape(-1, 2, 2).transpose(1, 2, 0)
    savemat(path, {"headboxes_src": corners, "jnt_missing": np.zeros((16, len(boxes)))} | more)
    return path


def test_the_head_size_is_a_share_of_the_head_boxs_diagonal(tmp_path: Path) -> None:
    boxes = head_file(tmp_path, [[10, 10, 40, 50], [0, 0, 5, 12]])
    people = read(tmp_path, entry(), entry(), head_boxes=boxes)
    assert people.head_size.tolist() == pytest.approx([0.6 * 50, 0.6 * 13])


def test_head_sizes_stay_with_their_people_when_others_are_left_out(tmp_path: Path) -> None:
    boxes = head_file(tmp_path, [[0, 0, 3, 4], [0, 0, 6, 8]])
    people = read(tmp_path, entry(joints_vis=[0] * 16), entry(), head_boxes=boxes)
    assert people.head_size.tolist() == pytest.approx([6.0])


def test_head_boxes_of_the_same_places_are_accepted(tmp_path: Path) -> None:
    places = np.array([entry()["joints"]], np.float64).transpose(1, 2, 0)
    boxes = head_file(tmp_path, [[0, 0, 3, 4]], pos_gt_src=places)
    assert read(tmp_path, head_boxes=boxes).head_size.tolist() == pytest.approx([3.0])


# --- layout -------------------------------------------------------------------------------------------------


def test_head_boxes_are_those_beside_the_list_of_the_same_name(tmp_path: Path) -> None:
    (tmp_path / "annot").mkdir()
    boxes = head_file(tmp_path / "annot", [[0, 0, 3, 4]])
    valid, train = tmp_path / "annot" / "valid.json", tmp_path / "annot" / "train.json"
    assert mpii_files(tmp_path, None, None, "test") == (valid, tmp_path / "images", boxes)
    assert mpii_files(tmp_path, None, None, "train") == (train, tmp_path / "images", None)


def test_overrides_are_below_the_root(tmp_path: Path) -> None:
    assert mpii_files(tmp_path, {"test": "mine.json"}, {"test": "frames"}, "test") == (
        tmp_path / "mine.json",
        tmp_path / "frames",
        None,
    )


# --- what is said where a file is wrong ---------------------------------------------------------------------


def check_sentence(error: InputError, *parts: str) -> None:
    """One line that holds every part."""
    message = str(error)
    assert "\n" not in message
    for part in parts:
        assert part in message


@pytest.mark.parametrize(
    ("wrong", "parts"),
    [
        ({"images": []}, ["an object with images", "data.name=coco"]),
        ([], ["no person", "0 entries", "data.annotations"]),
        ([entry(joints_vis=[0] * 16)], ["no person", "1 entries"]),
        ([{"image": "a.png", "center": [1, 1], "scale": 1}], ["entry 0", "'joints'"]),
        ([entry(), entry(joints=[[1, 2]] * 14)], ["entry 1", "'joints'", "16 x 2"]),
        ([entry(joints_vis=[1] * 14)], ["entry 0", "'joints_vis'", "16 finite numbers"]),
        ([entry(center=None)], ["entry 0", "'center'", "2 finite numbers"]),
        ([entry(scale=float("nan"))], ["entry 0", "'scale'", "one finite number;"]),
        ([3], ["entry 0", "'image'"]),
    ],
    ids=lambda value: "; ".join(value) if all(isinstance(v, str) for v in value) else "list",
)
def test_a_list_in_another_form_is_named_with_the_remedy(tmp_path: Path, wrong: Any, parts: list[str]) -> None:
    file = write(tmp_path, wrong)
    with pytest.raises(InputError) as caught:
        mpii_people(file, tmp_path / "images", None)
    check_sentence(caught.value, str(file), *parts)


def test_a_missing_list(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        mpii_people(tmp_path / "valid.json", tmp_path, None)
    check_sentence(caught.value, str(tmp_path / "valid.json"), "does not exist", "data.annotations")


def test_a_missing_picture_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        mpii_people(write(tmp_path, [entry()]), tmp_path / "frames", None)
    check_sentence(caught.value, str(tmp_path / "frames"), "does not exist", "data.images")


def test_head_boxes_of_another_number_of_people(tmp_path: Path) -> None:
    boxes = head_file(tmp_path, [[0, 0, 3, 4]] * 3)
    with pytest.raises(InputError) as caught:
        read(tmp_path, entry(), entry(), head_boxes=boxes)
    check_sentence(caught.value, str(boxes), "3 people", "valid.json has 2")


def test_head_boxes_of_other_people(tmp_path: Path) -> None:
    boxes = head_file(tmp_path, [[0, 0, 3, 4]], pos_gt_src=np.full((16, 2, 1), 500.0))
    with pytest.raises(InputError) as caught:
        read(tmp_path, head_boxes=boxes)
    check_sentence(caught.value, str(boxes), "other places or another order")


@pytest.mark.parametrize(
    ("data", "part"),
    [
        (None, "does not exist"),
        (b"", "cannot be read"),
        (b"no MATLAB file " * 40, "cannot be read"),
        ("half", "cannot be read"),
        ("other", "headboxes_src"),
    ],
    ids=["missing", "empty", "text", "cut off", "without head boxes"],
)
def test_a_head_box_file_that_is_none(tmp_path: Path, data: bytes | str | None, part: str) -> None:
    path = tmp_path / "gt_valid.mat"
    if data == "other":
        savemat(path, {"something": np.zeros(3)})
    elif data == "half":
        whole = head_file(tmp_path, [[0, 0, 3, 4]]).read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
    elif isinstance(data, bytes):
        path.write_bytes(data)
    with pytest.raises(InputError) as caught:
        read(tmp_path, head_boxes=path)
    check_sentence(caught.value, str(path), part)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e39])
def test_head_boxes_that_are_no_numbers_of_pixels(tmp_path: Path, value: float) -> None:
    boxes = head_file(tmp_path, [[0, 0, 3, 4], [0, 0, value, 4]])
    with pytest.raises(InputError) as caught:
        read(tmp_path, entry(), entry(), head_boxes=boxes)
    check_sentence(caught.value, str(boxes), "'headboxes_src' of person 1", "finite numbers")


@pytest.mark.parametrize(
    "corners", [np.ones((2, 2, 1)) * 1j, np.full((2, 2, 1), "x", object)], ids=["complex", "cells"]
)
def test_head_boxes_of_other_than_plain_numbers(tmp_path: Path, corners: np.ndarray) -> None:
    path = tmp_path / "gt_valid.mat"
    savemat(path, {"headboxes_src": corners})
    with pytest.raises(InputError) as caught:
        read(tmp_path, head_boxes=path)
    check_sentence(caught.value, str(path), "no 'headboxes_src' of 2 x 2 x people")
