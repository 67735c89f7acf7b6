"""One rule for numbers, ids and names in COCO, MPII and --boxes, whoever wrote them; a sentence for the rest."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raf_ray.data.annotations.listed_boxes import read_boxes
from raf_ray.data.people import Ignored, People
from raf_ray.data.skeletons import COCO17
from raf_ray.data.sources.coco import coco_people
from raf_ray.data.sources.mpii import mpii_people
from raf_ray.errors import InputError
from tests.test_coco import content, person, without
from tests.test_mpii import entry

NAN, INF = float("nan"), float("inf")


def deep() -> list[Any]:
    nested: list[Any] = []
    for _ in range(300):
        nested = [nested]
    return nested


NO_NUMBERS: dict[str, Any] = {
    "nan": NAN, "inf": INF, "-inf": -INF, "70 bits": 2**70, "400 digits": 10**400, "beyond float32": 1e39, "true": True,
    "word": "x", "nan in words": "nan", "inf in words": "1e999", "thousands": "1_000", "empty": "", "digits": "9" * 400,
    "megabytes": "x" * 10**6, "list": [1], "nested": deep(), "object": {"a": 1}, "full width": "\uff11",
}  # fmt: skip
"""What is no number, in any field."""

each_no_number = pytest.mark.parametrize("value", list(NO_NUMBERS.values()), ids=list(NO_NUMBERS))


@pytest.fixture
def coco(tmp_path: Path) -> Callable[[Any], People]:
    """Write a COCO file and read its people."""

    def read(values: Any) -> People:
        (tmp_path / "people.json").write_text(json.dumps(values))
        return coco_people(tmp_path / "people.json", tmp_path, COCO17)

    return read


@pytest.fixture
def mpii(tmp_path: Path) -> Callable[..., People]:
    """Write an MPII list and read its people."""

    def read(*entries: Any) -> People:
        (tmp_path / "valid.json").write_text(json.dumps(list(entries)))
        return mpii_people(tmp_path / "valid.json", tmp_path, None)

    return read


@pytest.fixture
def boxes(tmp_path: Path) -> Callable[[Any], Any]:
    """Write a file of boxes and read it."""

    def read(values: Any) -> Any:
        (tmp_path / "boxes.json").write_text(json.dumps(values))
        return read_boxes(tmp_path / "boxes.json")

    return read


def refused(read: Callable[..., Any], *values: Any, says: tuple[str, ...]) -> str:
    """The one short line that reading `values` is refused with; it can be printed anywhere."""
    with pytest.raises(InputError) as caught:
        read(*values)
    message = str(caught.value)
    for part in says:
        assert part in message
    assert "\n" not in message and len(message) < 500
    message.encode()
    return message


def edited(values: Any, *place: Any, to: Any) -> Any:
    """A copy of JSON values with one of them replaced."""
    values = copy.deepcopy(values)
    inner = values
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = to
    return values


def arrays(record: People | Ignored) -> list[tuple[str, Any]]:
    found = [(f.name, getattr(record, f.name)) for f in fields(record)]
    return [(name, value.tolist()) for name, value in found if isinstance(value, np.ndarray) and name != "head_size"]


# --- what is no number is named by file, entry and field ----------------------------------------------------

ANNOTATION = ("annotations", 0)
COCO_FIELDS: list[tuple[tuple[Any, ...], tuple[str, ...]]] = [
    (("images", 0, "id"), ("images[0]", "'id'")),
    (("images", 0, "width"), ("image 5", "'width'")),
    (("images", 0, "height"), ("image 5", "'height'")),
    (("categories", 0, "id"), ("category of people", "'id'")),
    ((*ANNOTATION, "id"), ("annotations[0]", "'id'")),
    ((*ANNOTATION, "image_id"), ("annotation 7", "'image_id'")),
    ((*ANNOTATION, "category_id"), ("annotation 7", "'category_id'")),
    ((*ANNOTATION, "num_keypoints"), ("annotation 7", "'num_keypoints'")),
    ((*ANNOTATION, "area"), ("annotation 7", "'area'")),
    ((*ANNOTATION, "bbox"), ("annotation 7", "'bbox'")),
    ((*ANNOTATION, "bbox", 0), ("annotation 7", "'bbox'")),
    ((*ANNOTATION, "bbox", 3), ("annotation 7", "'bbox'")),
    ((*ANNOTATION, "keypoints"), ("annotation 7", "keypoint")),
    ((*ANNOTATION, "keypoints", 4), ("annotation 7", "'keypoints'")),
    ((*ANNOTATION, "keypoints", 5), ("annotation 7", "'keypoints'")),
]


@each_no_number
@pytest.mark.parametrize(("place", "says"), COCO_FIELDS, ids=lambda value: ".".join(map(str, value)))
def test_in_coco(coco: Callable[..., Any], place: Any, says: tuple[str, ...], value: Any) -> None:
    refused(coco, edited(content(), *place, to=value), says=("people.json", *says))


MPII_FIELDS = [("center",), ("center", 0), ("scale",), ("joints",), ("joints", 1), ("joints", 1, 0), ("joints_vis",)]


@each_no_number
@pytest.mark.parametrize("place", MPII_FIELDS, ids=lambda value: ".".join(map(str, value)))
def test_in_mpii(mpii: Callable[..., Any], place: Any, value: Any) -> None:
    refused(mpii, entry(), edited(entry(), *place, to=value), says=("valid.json", "entry 1", f"'{place[0]}'"))


@each_no_number
@pytest.mark.parametrize("at", range(4))
def test_in_boxes(boxes: Callable[..., Any], at: int, value: Any) -> None:
    box = edited([1, 2, 30, 40], at, to=value)
    refused(boxes, {"a.jpg": [[1, 2, 3, 4], box]}, says=("--boxes", "boxes.json", "box 2 of 'a.jpg'", str(at + 1)))


@pytest.mark.parametrize("value", [2, "yes", "true", -1, 0.5, NAN, 2**70, [], {}, ""], ids=str)
def test_a_crowd_is_said_by_0_or_1(coco: Callable[..., Any], value: Any) -> None:
    refused(coco, content(person(iscrowd=value)), says=("people.json", "'iscrowd' of annotation 7"))


def test_nesting_that_is_too_deep_to_be_read(coco: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "people.json").write_text("[" * 100_000)
    with pytest.raises(InputError, match=r"people\.json is nested too deeply"):
        coco_people(tmp_path / "people.json", tmp_path, COCO17)


# --- numbers as text, and whole numbers with a point, are numbers -------------------------------------------


def as_text(value: Any, key: str = "") -> Any:
    """JSON values with every number (but names) written as text."""
    if isinstance(value, dict):
        return {k: as_text(v, k) for k, v in value.items()}
    if isinstance(value, list):
        return [as_text(v, key) for v in value]
    return str(value) if isinstance(value, int | float) else value


def test_text_that_is_plainly_a_number_is_one(
    coco: Callable[..., Any], mpii: Callable[..., Any], boxes: Callable[..., Any]
) -> None:
    crowd = person(id=8, iscrowd=1)
    numbers, texts = coco(content(person(), crowd)), coco(as_text(content(person(), crowd)))
    assert arrays(texts) == arrays(numbers)
    assert arrays(texts.ignored) == arrays(numbers.ignored)
    assert arrays(mpii(as_text(entry()))) == arrays(mpii(entry()))
    assert boxes({"a": [["1", " 2.5 ", "3e1", "+4"]]}).boxes["a"].tolist() == [[1, 2.5, 30, 4]]


@pytest.mark.parametrize("form", [float, str, lambda number: f"{number}.0"], ids=["12.0", "text", "text of 12.0"])
def test_ids_may_be_written_as_others_write_numbers(coco: Callable[..., Any], form: Callable[[int], Any]) -> None:
    values = content(person(id=form(7), image_id=form(5), category_id=form(1), num_keypoints=form(2)))
    values["images"][0]["id"] = form(5)
    values["categories"][0]["id"] = form(1)
    people = coco(values)
    assert (people.person_id.tolist(), people.picture_id.tolist()) == ([7], [5])


def test_a_long_id_as_text_keeps_every_digit(coco: Callable[..., Any]) -> None:
    assert coco(content(person(id=str(2**60 + 1)))).person_id.tolist() == [2**60 + 1]


@pytest.mark.parametrize(("value", "crowd"), [
    (True, True), (1, True), ("1", True), (1.0, True), (False, False), (0, False), ("0", False), (0.0, False),
    (None, False),
])  # fmt: skip
def test_who_is_a_crowd(coco: Callable[..., Any], value: Any, crowd: bool) -> None:
    people = coco(content(person(id=1, iscrowd=value), person(id=2)))
    assert people.person_id.tolist() == ([2] if crowd else [1, 2])


def test_flags_of_mpii_may_be_true_and_false(mpii: Callable[..., Any]) -> None:
    assert arrays(mpii(entry(joints_vis=[True, True] + [False] * 14))) == arrays(mpii(entry()))


def test_an_area_as_text_is_read_and_not_replaced(coco: Callable[..., Any]) -> None:
    assert coco(content(person(area="123.5"))).area.tolist() == [123.5]


def test_a_byte_order_mark_is_no_content(tmp_path: Path) -> None:
    (tmp_path / "people.json").write_text(json.dumps(content()), encoding="utf-8-sig")
    assert len(coco_people(tmp_path / "people.json", tmp_path, COCO17)) == 1


# --- what cannot matter does not stop a file ----------------------------------------------------------------


@pytest.mark.parametrize("nothing", [NAN, None], ids=["NaN", "null"])
def test_a_joint_that_is_not_labelled_needs_no_coordinates(
    coco: Callable[..., Any], mpii: Callable[..., Any], nothing: Any
) -> None:
    people = coco(content(person(keypoints=[10, 20, 1, 30.5, 40, 2] + [nothing, nothing, 0] * 15)))
    assert people.joints[0].tolist() == [[10, 20], [30.5, 40]] + [[0, 0]] * 15
    people = mpii(entry(joints=[[11, 21], [31.5, 41]] + [[nothing, -1]] * 14))
    assert people.visibility[0].tolist() == [2, 2] + [0] * 14
    assert np.isfinite(people.joints).all()


@pytest.mark.parametrize("nothing", [NAN, None], ids=["NaN", "null"])
def test_a_labelled_joint_needs_them(coco: Callable[..., Any], mpii: Callable[..., Any], nothing: Any) -> None:
    labelled = edited(person(), "keypoints", 4, to=nothing)
    refused(coco, content(labelled), says=("people.json", "'keypoints' of annotation 7", "left_eye is at 30.5, nan"))
    refused(mpii, edited(entry(), "joints", 1, 1, to=nothing), says=("valid.json", "'joints' of entry 0", "right_knee"))


@pytest.mark.parametrize("box", [[], None, [0, 0, 0, 0]], ids=str)
def test_an_empty_box_of_a_crowd_or_of_people_without_joints(coco: Callable[..., Any], box: Any) -> None:
    nobody = person(id=2, num_keypoints=0, keypoints=[0] * 51, bbox=box)
    uncounted = without(nobody | {"id": 3}, "num_keypoints")
    assert coco(content(person(), person(id=1, iscrowd=1, bbox=box), nobody, uncounted)).person_id.tolist() == [7]


def test_mpiis_people_without_a_labelled_joint_need_neither_centre_nor_scale(mpii: Callable[..., Any]) -> None:
    assert mpii(entry(), entry(joints_vis=[0] * 16, center=None, scale=NAN)).person_id.tolist() == [0]


@pytest.mark.parametrize("name", [None, 3, "", "\0", "\ud800", "/"], ids=repr)
def test_an_image_that_no_person_uses(coco: Callable[..., Any], name: Any) -> None:
    values = content()
    values["images"] += [{"id": 6, "file_name": name}, {"id": 8, "width": NAN}]
    assert len(coco(values)) == 1


@pytest.mark.parametrize("name", [None, 12, "", " ", [], {}, True, NAN, 10**400], ids=lambda v: repr(v)[:9])
def test_a_name_that_is_none(coco: Callable[..., Any], mpii: Callable[..., Any], name: Any) -> None:
    refused(coco, edited(content(), "images", 0, "file_name", to=name), says=("people.json", "'file_name' of image 5"))
    refused(mpii, entry(), entry(image=name), says=("valid.json", "'image' of entry 1"))


@pytest.mark.parametrize("name", ["/elsewhere/a.jpg", "a\0", "\ud800", "x" * 10**6], ids=lambda v: repr(v)[:9])
def test_a_name_that_may_be_no_files_is_left_to_the_reader_of_pictures(
    coco: Callable[..., Any], mpii: Callable[..., Any], tmp_path: Path, name: str
) -> None:
    assert coco(edited(content(), "images", 0, "file_name", to=name)).read.paths == (str(tmp_path / name),)
    people = mpii(entry(), entry(image=name))
    assert [people.read.paths[row] for row in people.rows] == [str(tmp_path / "a.png"), str(tmp_path / name)]


# --- entries that contradict each other ---------------------------------------------------------------------


@pytest.mark.parametrize("again", [5, 5.0, "5"])
def test_two_images_of_one_id(coco: Callable[..., Any], again: Any) -> None:
    values = content()
    values["images"].append({"id": again, "file_name": "other.png"})
    refused(coco, values, says=("people.json", "2 images have the id 5"))


def test_an_annotation_id_that_occurs_again(coco: Callable[..., Any]) -> None:
    refused(coco, content(person(), person(id=1), person(iscrowd=1)), says=("2 annotations have the id 7",))


def test_a_category_without_an_id_hides_nobody(coco: Callable[..., Any]) -> None:
    values = content()
    del values["categories"][0]["id"]
    refused(coco, values, says=("people.json", "category of people has no 'id'"))


@pytest.mark.parametrize("name", ["\ud800", "two\nlines", "x" * 10**6, 10**400, deep()], ids=lambda v: repr(v)[:9])
def test_a_joints_name_that_cannot_be_printed(coco: Callable[..., Any], name: Any) -> None:
    refused(coco, edited(content(), "categories", 0, "keypoints", 2, to=name), says=("joint 3 is", "not right_eye"))


def test_two_categories_of_one_id(coco: Callable[..., Any]) -> None:
    values = content()
    values["categories"].append({"id": "1", "name": "horse"})
    refused(coco, values, says=("people.json", "another category have the id 1"))


# --- numbers that are none of their field -------------------------------------------------------------------


def test_shares_of_the_picture_are_not_taken_for_pixels(
    coco: Callable[..., Any], mpii: Callable[..., Any], boxes: Callable[..., Any]
) -> None:
    joints = [0.1, 0.2, 1, 0.305, 0.4, 2] + [0, 0, 0] * 15
    refused(coco, content(person(keypoints=joints)), says=("people.json: all labelled joints lie within 1.5 pixels",))
    refused(coco, content(person(bbox=[0.1, 0.2, 0.3, 0.4])), says=("people.json: all boxes lie within",))
    refused(mpii, entry(joints=[[0.1, 0.2], [1.01, 0.4]] + [[-1, -1]] * 14), says=("valid.json: all labelled joints",))
    refused(mpii, entry(center=[0.5, 0.5]), says=("valid.json: all centres lie within",))
    refused(boxes, {"a": [[0, 0, 0.5, 1]], "b": [[0, 0, 1, 1]]}, says=("boxes.json: all boxes lie within",))


def test_what_float32_would_lose_is_no_area(coco: Callable[..., Any]) -> None:
    assert coco(content(person(area=1e-60))).area[0] == pytest.approx(0.53 * 24 * 32)


def test_one_person_in_a_corner_is_no_share(coco: Callable[..., Any]) -> None:
    corner = person(id=1, keypoints=[0.5, 0.5, 2] + [0, 0, 0] * 16, bbox=[0, 0, 1.2, 1.2])
    assert len(coco(content(corner, person()))) == 2


@pytest.mark.parametrize("scale", [0, -2.0, "0", -0.5, 1e-60])
def test_an_mpii_scale_is_above_0_or_unknown(mpii: Callable[..., Any], scale: Any) -> None:
    refused(mpii, entry(), entry(scale=scale), says=("valid.json", "'scale' of entry 1", "above 0", "-1"))


def test_labelled_people_who_are_left_out_are_counted(
    coco: Callable[..., Any], mpii: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    mpii(entry(), entry(scale=-1), entry(scale=-1.0, center=None))
    coco(content(person(id=1, bbox=[]), person(id=2, bbox=[1, 1, 0, 4]), person(id=3, bbox=[1, 1, 1e-60, 4]), person()))
    assert [record.getMessage().rsplit("/", 1)[1] for record in caplog.records if "left out" in record.message] == [
        "valid.json: people with labelled joints left out, since their scale is unknown (-1): 2",
        "people.json: people with labelled joints left out, since they have no box or one of 0 x 0: 3",
    ]


def test_an_mpii_list_where_nobody_is_left_says_why(mpii: Callable[..., Any]) -> None:
    people = [entry(scale=-1), entry(joints_vis=[0] * 16), entry(scale=-1)]
    refused(mpii, *people, says=("no person to use", "3 entries: 1 without a labelled joint, 2 of unknown scale"))
