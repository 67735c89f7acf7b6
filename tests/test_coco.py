"""COCO's person-keypoint form: who is read, where their joints lie, what is said of a wrong file."""

from __future__ import annotations

import json
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO

from raf_ray.data.people import PictureError
from raf_ray.data.pictures import PictureFiles
from raf_ray.data.skeletons import COCO17, LSP14, MPII16, Skeleton
from raf_ray.data.sources.coco import coco_files, coco_people, read_annotations
from raf_ray.errors import InputError

Content = dict[str, Any]


def person(**changes: Any) -> Content:
    """An annotation with two of 17 joints labelled, at (10, 20) hidden and (30.5, 40) visible."""
    keypoints = [10, 20, 1, 30.5, 40, 2] + [0, 0, 0] * 15
    return {
        "id": 7,
        "image_id": 5,
        "category_id": 1,
        "keypoints": keypoints,
        "num_keypoints": 2,
        "bbox": [8.0, 16.0, 24.0, 32.0],
        "area": 300.0,
        "iscrowd": 0,
    } | changes


def content(*people: Content, **changes: Any) -> Content:
    category = {"id": 1, "name": "person", "keypoints": list(COCO17.joints)}
    return {
        "images": [{"id": 5, "file_name": "five.png", "width": 64, "height": 48}],
        "annotations": list(people) or [person()],
        "categories": [category],
    } | changes


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., Any]:
    """Write a COCO file and read its people."""

    def write_and_read(content: Any, skeleton: Skeleton = COCO17) -> Any:
        (tmp_path / "pictures").mkdir()
        (tmp_path / "people.json").write_text(json.dumps(content))
        return coco_people(tmp_path / "people.json", tmp_path / "pictures", skeleton)

    return write_and_read


# --- who is read and where they lie -------------------------------------------------------------------------


def test_keypoints_are_pixel_indices_and_a_box_centre_moves_by_half_a_pixel(read: Callable[..., Any]) -> None:
    people = read(content())
    assert people.joints[0, :2].tolist() == [[10, 20], [30.5, 40]]
    assert people.visibility[0].tolist() == [1, 2] + [0] * 15
    assert people.centre.tolist() == [[19.5, 31.5]]  # pixels 8 .. 31 and 16 .. 47
    assert people.box.tolist() == [[24, 32]]
    assert people.area.tolist() == [300]
    assert (people.person_id.tolist(), people.picture_id.tolist()) == ([7], [5])
    assert np.isnan(people.head_size).all()


@pytest.mark.parametrize(
    "changes",
    [
        {"iscrowd": 1},
        {"num_keypoints": 0},
        {"keypoints": [0] * 51},
        {"bbox": [1, 1, 0, 9]},
        {"bbox": [1, 1, 9, -1]},
        {"bbox": None},
        {"category_id": 2},
    ],
    ids=str,
)
def test_those_whom_the_official_tools_leave_out_are_left_out(read: Callable[..., Any], changes: Content) -> None:
    assert read(content(person(id=1, **changes), person(id=2))).person_id.tolist() == [2]


def test_a_missing_number_of_keypoints_is_counted(read: Callable[..., Any]) -> None:
    unlabelled = person(id=1, keypoints=[0] * 51)
    labelled = person(id=2)
    del unlabelled["num_keypoints"], labelled["num_keypoints"]
    assert read(content(unlabelled, labelled)).person_id.tolist() == [2]


@pytest.mark.parametrize("area", [None, 0])
def test_an_area_that_is_not_given_is_a_share_of_the_box(read: Callable[..., Any], area: Any) -> None:
    assert read(content(person(area=area))).area[0] == pytest.approx(0.53 * 24 * 32)


def test_of_several_categories_with_keypoints_the_person_is_read(read: Callable[..., Any]) -> None:
    horse = {"id": 4, "name": "horse", "keypoints": ["nose", "tail"]}
    mine = content(person(id=1, category_id=4, keypoints=[1, 1, 2] * 2), person(id=2))
    mine["categories"].insert(0, horse)
    assert read(mine).person_id.tolist() == [2]


def test_joint_names_differ_neither_by_case_nor_by_spaces(read: Callable[..., Any]) -> None:
    names = [name.replace("_", " ").title() for name in COCO17.joints]
    assert len(read(content(categories=[{"id": 1, "name": "person", "keypoints": names}]))) == 1


# --- the real files -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("split", "pictures", "persons"), [("train", 43, 96), ("test", 52, 142)])
def test_coco_files_agree_with_pycocotools(
    shared_data: Path, split: Any, pictures: int, persons: int, capsys: pytest.CaptureFixture[str]
) -> None:
    annotation_file, folder = coco_files(shared_data / "coco", None, None, split)
    people = coco_people(annotation_file, folder, COCO17)
    official = COCO(str(annotation_file))
    wanted = [a for a in official.loadAnns(official.getAnnIds(iscrowd=False)) if a["num_keypoints"] > 0]
    order = {a["id"]: a for a in wanted}
    assert len(people) == persons == len(wanted)
    assert len(np.unique(people.picture_id)) == pictures
    for i, person_id in enumerate(people.person_id.tolist()):
        keypoints = np.array(order[person_id]["keypoints"]).reshape(17, 3)
        np.testing.assert_allclose(people.joints[i], keypoints[:, :2], atol=1e-4)
        assert people.visibility[i].tolist() == keypoints[:, 2].tolist()
        assert people.picture_id[i] == order[person_id]["image_id"]


@pytest.mark.parametrize(("split", "name", "persons"), [("train", "train", 1584), ("test", "val", 337)])
def test_lspet_is_read_by_its_own_layout_and_joints(shared_data: Path, split: Any, name: str, persons: int) -> None:
    annotations = {split: f"annotations/person_keypoints_{name}.json"}
    people = coco_people(*coco_files(shared_data / "lspet", annotations, {split: "images"}, split), LSP14)
    assert len(people) == persons
    assert people.picture(0).ndim == 3


def test_ochuman_is_read_as_coco17(shared_data: Path) -> None:
    folder = shared_data / "mmpose_samples" / "ochuman"
    people = coco_people(folder / "test_ochuman.json", folder, COCO17)
    assert len(people) == 5
    height, width = people.picture(0).shape[:2]
    assert (width, height) == (900, 864)


def test_a_set_with_its_own_joints_is_read_by_a_record_of_them(shared_data: Path) -> None:
    folder = shared_data / "mmpose_samples" / "aic"
    limbs = ("shoulder", "elbow", "wrist"), ("hip", "knee", "ankle")
    joints = [f"{side}_{joint}" for part in limbs for side in ("right", "left") for joint in part]
    aic = Skeleton("aic14", (*joints, "head_top", "neck"), sigmas=(0.08,) * 14)
    people = coco_people(folder / "test_aic.json", folder, aic)
    assert len(people) == 9
    assert people.area[0] == pytest.approx(0.53 * 213 * 544)


# --- layout -------------------------------------------------------------------------------------------------


def test_the_official_layout_is_the_default_and_overrides_are_below_the_root(tmp_path: Path) -> None:
    assert coco_files(tmp_path, None, {"train": "images"}, "test") == (
        tmp_path / "annotations/person_keypoints_val2017.json",
        tmp_path / "val2017",
    )
    assert coco_files(tmp_path, {"train": "mine.json"}, {"train": "images"}, "train") == (
        tmp_path / "mine.json",
        tmp_path / "images",
    )


def test_a_root_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"data\.root: folder .*nowhere does not exist; set data\.root"):
        coco_files(tmp_path / "nowhere", None, None, "train")


# --- pictures -----------------------------------------------------------------------------------------------


def test_a_picture_is_rgb(read: Callable[..., Any], tmp_path: Path) -> None:
    people = read(content())
    blue_green_red = np.zeros((48, 64, 3), np.uint8)
    blue_green_red[:, :] = (10, 20, 200)
    cv2.imwrite(str(tmp_path / "pictures" / "five.png"), blue_green_red)
    picture = people.picture(0)
    assert picture.shape == (48, 64, 3)
    assert picture[0, 0].tolist() == [200, 20, 10]


def test_a_picture_is_read_in_its_stored_orientation(tmp_path: Path) -> None:
    """EXIF orientation 6 asks a viewer for a quarter turn, under which the labels would no longer fit."""
    jpeg = cv2.imencode(".jpg", np.zeros((48, 64, 3), np.uint8))[1].tobytes()
    tag = b"II*\0" + struct.pack("<IHHHIII", 8, 1, 0x0112, 3, 1, 6, 0)
    exif = b"\xff\xe1" + struct.pack(">H", len(tag) + 8) + b"Exif\0\0" + tag
    path = tmp_path / "turned.jpg"
    path.write_bytes(jpeg[:2] + exif + jpeg[2:])
    turned = cv2.imread(str(path))
    assert turned is not None and turned.shape == (64, 48, 3)
    assert PictureFiles((str(path),))(0).shape == (48, 64, 3)


def test_the_reader_of_pictures_crosses_processes(read: Callable[..., Any], tmp_path: Path) -> None:
    people = read(content())
    cv2.imwrite(str(tmp_path / "pictures" / "five.png"), np.full((4, 5, 3), 9, np.uint8))
    assert pickle.loads(pickle.dumps(people.read))(0).shape == (4, 5, 3)


def test_a_missing_picture_is_named_when_it_is_read(read: Callable[..., Any]) -> None:
    with pytest.raises(PictureError, match=r"five\.png is missing$"):
        read(content()).picture(0)


@pytest.mark.parametrize("data", [b"", b"no picture at all", "half"], ids=["empty", "text", "cut off"])
def test_a_picture_that_cannot_be_decoded_is_named(tmp_path: Path, data: bytes | str) -> None:
    if isinstance(data, str):
        noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
        jpeg = cv2.imencode(".jpg", noise)[1].tobytes()
        data = jpeg[: len(jpeg) // 2]
    path = tmp_path / "bad.jpg"
    path.write_bytes(data)
    with pytest.raises(PictureError, match=r"bad\.jpg cannot be decoded"):
        PictureFiles((str(path),))(0)


# --- what is said where a file is wrong ---------------------------------------------------------------------


def check_sentence(error: InputError, *parts: str) -> None:
    """One line that holds every part."""
    message = str(error)
    assert "\n" not in message
    for part in parts:
        assert part in message


@pytest.mark.parametrize(
    ("data", "parts"),
    [
        (None, ["does not exist", "data.annotations"]),
        (b" \n", ["is empty"]),
        (json.dumps(content()).encode()[:300], ["not valid JSON", "cut off"]),
        (b"\xff\xfe\xff", ["not valid JSON"]),
        (b"[]", ["is a list", "no keys", "data.annotations"]),
        (b'[{"joints": [], "image": "a.png", "center": []}]', ["joints, image, center", "set data.name=mpii"]),
        (b"3", ["neither a list nor an object"]),
    ],
    ids=["missing", "empty", "truncated", "binary", "list", "mpii", "number"],
)
def test_a_file_that_cannot_be_parsed(tmp_path: Path, data: bytes | None, parts: list[str]) -> None:
    file = tmp_path / "people.json"
    if data is not None:
        file.write_bytes(data)
    with pytest.raises(InputError) as caught:
        coco_people(file, tmp_path, COCO17)
    check_sentence(caught.value, str(file), *parts)


def test_a_missing_picture_folder(tmp_path: Path) -> None:
    file = tmp_path / "people.json"
    file.write_text(json.dumps(content()))
    with pytest.raises(InputError) as caught:
        coco_people(file, tmp_path / "train2017", COCO17)
    check_sentence(caught.value, str(tmp_path / "train2017"), "does not exist", "data.images")


def without(mapping: Content, key: str) -> Content:
    return {k: v for k, v in mapping.items() if k != key}


def renamed(at: int, name: str) -> list[str]:
    return [name if i == at else joint for i, joint in enumerate(COCO17.joints)]


def category(keypoints: list[str]) -> list[Content]:
    return [{"id": 1, "name": "person", "keypoints": keypoints}]


@pytest.mark.parametrize(
    ("wrong", "parts"),
    [
        (without(content(), "images"), ["no list 'images'"]),
        (without(content(), "annotations"), ["no list 'annotations'"]),
        (without(content(), "categories"), ["no list 'categories'"]),
        (content(categories=[{"id": 1, "name": "person"}]), ["one category 'person'", "keypoints"]),
        (content(categories=category(["nose"]) * 2), ["several categories 'person'"]),
        (content(categories=category(list(LSP14.joints))), ["14 joints", "data.skeleton=lsp14"]),
        (content(categories=category(list(MPII16.joints))), ["16 joints", "data.skeleton=mpii16"]),
        (content(categories=category(["a", "b"])), ["2 joints", "data.skeleton=package.module:SKELETON"]),
        (content(categories=category(renamed(2, "chin"))), ["joint 3 is chin, not right_eye"]),
        (content(person(keypoints=[1, 1, 2] * 14)), ["annotation 7", "42 keypoint numbers", "51"]),
        (content(person(keypoints=[1, 1, 3] * 17)), ["annotation 7", "visibility"]),
        (content(person(keypoints=["x", 1, 2] * 17)), ["annotation 7", "finite numbers"]),
        (content(person(bbox=[1, 2, 3])), ["annotation 7", "'bbox'", "4 finite numbers"]),
        (content(person(bbox=[1, 2, 3, float("nan")])), ["annotation 7", "'bbox'", "4 finite numbers"]),
        (content(person(image_id=6)), ["annotation 7", "image 6"]),
        (content(person(id="seven")), ["'seven'", "whole numbers"]),
        (content(without(person(), "image_id")), ["annotation 7", "'image_id'"]),
        (content(without(person(), "keypoints")), ["annotation 7", "no 'keypoints'"]),
        (content(images=[{"id": 5}]), ["image 5", "'file_name'"]),
        (content(annotations=[]), ["no person", "none", "data.annotations"]),
        (content(person(iscrowd=1), person(num_keypoints=0)), ["1 of a crowd, 1 without a labelled joint"]),
    ],
    ids=lambda value: "; ".join(value) if isinstance(value, list) else "",
)
def test_a_file_that_contradicts_the_form_is_named_with_the_remedy(
    read: Callable[..., Any], tmp_path: Path, wrong: Content, parts: list[str]
) -> None:
    with pytest.raises(InputError) as caught:
        read(wrong)
    check_sentence(caught.value, str(tmp_path / "people.json"), *parts)


def test_a_number_of_thousands_of_digits_is_named_and_not_pythons_limit(tmp_path: Path) -> None:
    file = tmp_path / "people.json"
    file.write_text('{"images": ' + "9" * 5000 + "}")
    with pytest.raises(InputError, match=r"people\.json holds a number of thousands of digits; correct it$"):
        read_annotations(file)
