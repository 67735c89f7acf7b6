"""Boxes of any size and place: a crop costs what lies inside the picture, and a box in a wrong unit is refused."""

from __future__ import annotations

import dataclasses
import json
import tracemalloc

import cv2
import numpy as np
import pytest
import torch

from raf_ray.data.annotations.boxes import check_boxes
from raf_ray.data.augment import NO_MARGINS, Augmentation
from raf_ray.data.batches import Batches
from raf_ray.data.crop import Margins, cut_patch
from raf_ray.data.people import People, PictureError
from raf_ray.data.pictures import PictureFiles
from raf_ray.data.shard import cut_shard
from raf_ray.errors import InputError
from raf_ray.request.people import source_people
from raf_ray.resolution import Size
from tests.test_crops import person
from tests.tiny import tiny

CPU = torch.device("cpu")
LOW = Size(64, 48)
PICTURE = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 255, (60, 80, 3), dtype=np.uint8), (0, 0), 2)


def crop(people: People, size: Size = LOW, margins: Margins = NO_MARGINS, on_bad_image: str = "stop"):
    batches = Batches(cut_shard(people, size, margins), 1, None, CPU, on_bad_image)
    return batches.collate(np.array([0]), np.random.default_rng(0))


# --- what a crop costs ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("start", "extent", "patch"),
    [((-300, -200), (700, 500), (90, 70)), ((-1, -1), (640, 480), (37, 29)), ((-600, 30), (999, 30), (333, 10)),
     ((79, 59), (400, 400), (40, 40)), ((-500, -500), (500, 500), (50, 50)), ((-501, -9), (501, 400), (13, 400)),
     ((200, 200), (300, 300), (20, 20)), ((-40, 2**40), (400, 400), (20, 20)), ((-150, -150), (300, 300), (300, 300))],
)  # fmt: skip
def test_a_large_region_is_what_it_would_be_with_all_its_black(start, extent, patch):
    """Against the plain way: a black canvas, the picture on it, reduced by OpenCV."""
    (x, y), (width, height) = start, extent
    assert width * height > 8 * PICTURE.shape[0] * PICTURE.shape[1] or height == 30
    canvas = np.zeros((height, width, 3), np.uint8)
    rows, columns = np.mgrid[: PICTURE.shape[0], : PICTURE.shape[1]]
    inside = (rows >= y) & (rows < y + height) & (columns >= x) & (columns < x + width)
    canvas[rows[inside] - y, columns[inside] - x] = PICTURE[inside]
    expected = cv2.resize(canvas, patch, interpolation=cv2.INTER_AREA) if patch != extent else canvas
    found = cut_patch(PICTURE, np.array(start), np.array(extent), np.array(patch))
    assert found.dtype == np.uint8 and found.shape == expected.shape
    assert np.abs(found.astype(int) - expected.astype(int)).max() <= 1


@pytest.mark.parametrize("times", [1, 3, 10])
def test_a_crop_costs_what_its_picture_holds_whatever_the_box(times):
    picture = np.full((600, 800, 3), 200, np.uint8)
    people = person(picture, (-400 * times, -300 * times, 800 * times, 600 * times))
    shard = cut_shard(people, Size(64, 48), Augmentation().margins(0.75))
    tracemalloc.start()
    try:
        patch = shard.patch(0)
        assert tracemalloc.get_traced_memory()[1] < 10 * picture.nbytes
    finally:
        tracemalloc.stop()
    assert patch.shape[0] < 120 and patch.any()


@pytest.mark.parametrize(
    "box", [(0, 0, 801, 60), (0, 0, 80, 601), (0, 0, 2e6, 2e6), (-1e9, 5, 2e9, 3), (0, 0, 3e38, 1)]
)
def test_a_box_of_more_than_ten_pictures_is_a_bad_picture_when_it_is_cut(box):
    people = person(PICTURE, box)
    with pytest.raises(PictureError, match=r"person 0 has a box of .* more than 10 times its picture of 80 x 60 px"):
        crop(people)
    assert crop(people, on_bad_image="skip") is None


@pytest.mark.parametrize("side", [1e-45, 1e-6, 0.3, 1.0])
@pytest.mark.parametrize("margins", [NO_MARGINS, Margins(2, 2)])
def test_a_box_of_less_than_a_pixel_shows_the_pixel_it_is_in(side, margins):
    people = person(PICTURE, (40 - side / 2, 30 - side / 2, side, side), np.full((16, 2), 40.0))
    shard = cut_shard(people, Size(64, 48), margins)
    assert max(shard.patch(0).shape[:2]) < 16 and np.isfinite(shard.scale).all()
    batch = crop(people, margins=margins)
    centre = batch.crops[0, 32, 24].numpy().astype(int)
    assert np.abs(centre - PICTURE[30, 40]).max() <= 12
    assert np.isfinite(shard.crop_to_picture(np.full((1, 16, 2), 20.0))).all()


@pytest.mark.parametrize("x", [200.0, -500.0, 1e9, -1e12, 1e30, 3e38])
def test_a_box_beside_its_picture_gives_a_black_crop_at_no_cost(x):
    people = person(PICTURE, (x, 5, 40, 60))
    tracemalloc.start()
    try:
        batch = crop(people)
        assert tracemalloc.get_traced_memory()[1] < 1e6
    finally:
        tracemalloc.stop()
    assert batch.crops.shape == (1, 64, 48, 3) and not batch.crops.any()


# --- refused before the start -----------------------------------------------------------------------------


def own(box, joints=None, read=None) -> People:
    people = person(PICTURE, box, joints)
    return people if read is None else dataclasses.replace(people, read=read)


@pytest.mark.parametrize("box", [(0, 0, 0, 5), (0, 0, 5, -1), (0, 0, np.nan, 5), (np.inf, 0, 5, 5), (0, 0, 5, np.inf)])
def test_a_box_that_is_none_is_refused_by_name(box):
    with pytest.raises(InputError, match=r"^mine: person 0 has a box of .* sides must be numbers above 0"):
        check_boxes(own(box), "mine")


def test_a_box_far_larger_than_its_joints_is_compared_with_the_picture():
    check_boxes(own((0, 0, 800, 600)), "mine")
    with pytest.raises(InputError) as caught:
        check_boxes(own((0, 0, 801, 600)), "mine", "mend it")
    assert str(caught.value) == (
        "mine: person 0 has a box of 801 x 600 px, more than 10 times its picture of 80 x 60 px (picture 0); mend it"
    )


def test_a_huge_box_is_refused_even_where_its_joints_are_as_far_apart():
    joints = np.linspace(0, 1e6, 32).reshape(16, 2)
    with pytest.raises(InputError, match="more than 10 times"):
        check_boxes(own((0, 0, 1e6, 1e6), joints), "mine")


def test_no_picture_is_looked_at_for_a_usual_box():
    def read(_row: int) -> np.ndarray:
        raise AssertionError

    check_boxes(own((0, 0, 600, 600), read=read), "mine")
    check_boxes(own((0, 0, 3000, 3000), np.linspace(0, 900, 32).reshape(16, 2), read), "mine")


def test_a_reader_of_ones_own_that_fails_is_left_to_say_so_itself():
    def read(_row: int) -> np.ndarray:
        raise FileNotFoundError

    check_boxes(own((0, 0, 5000, 5000), read=read), "mine")


def test_the_size_in_the_file_stands_in_where_the_picture_is_missing(tmp_path):
    def files(width: int, height: int) -> PictureFiles:
        return PictureFiles((str(tmp_path / "none.jpg"),), "a.json", np.array([[width, height]]))

    check_boxes(own((0, 0, 500, 500), read=files(100, 100)), "a.json")
    check_boxes(own((0, 0, 500, 500), read=files(0, 0)), "a.json")
    with pytest.raises(InputError, match=r"100 x 40 px .*none\.jpg"):
        check_boxes(own((0, 0, 500, 500), read=files(100, 40)), "a.json")


def test_a_wrong_size_in_the_file_does_not_condemn_a_box(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), PICTURE)
    files = PictureFiles((str(tmp_path / "a.png"),), "a.json", np.array([[1, 1]]))
    check_boxes(own((0, 0, 70, 50), read=files), "a.json")


def coco(folder, box) -> list[str]:
    from tests.test_bad_input import coco as write

    annotation = {"id": 7, "image_id": 1, "category_id": 1, "bbox": box, "area": 9, "iscrowd": 0, "num_keypoints": 17,
                  "keypoints": [20, 30, 2] * 17}  # fmt: skip
    return ["data.name=coco", f"data.root={write(folder, annotations=[annotation])}"]


def mpii(folder, scale) -> list[str]:
    (folder / "annot").mkdir(parents=True)
    (folder / "images").mkdir()
    cv2.imwrite(str(folder / "images" / "a.jpg"), PICTURE)
    joints = np.linspace(1, 50, 32).reshape(16, 2).tolist()
    entry = {"image": "a.jpg", "center": [30, 30], "scale": scale, "joints": joints, "joints_vis": [1] * 16}
    (folder / "annot" / "train.json").write_text(json.dumps([entry]))
    return ["data.name=mpii", f"data.root={folder}"]


def test_coco_boxes_are_refused_with_file_person_and_sizes(tmp_path):
    with pytest.raises(InputError) as caught:
        source_people(tiny(*coco(tmp_path, [0, 0, 2e6, 60])), "train")
    message = str(caught.value)
    assert "person_keypoints_train2017.json: person 7 has a box of 2e+06 x 60 px" in message
    assert "picture of 60 x 80 px" in message and "1.jpg" in message


@pytest.mark.parametrize("scale", [60, 4.5])
def test_an_mpii_scale_in_pixels_is_refused_with_its_unit(tmp_path, scale):
    with pytest.raises(InputError) as caught:
        source_people(tiny(*mpii(tmp_path, scale)), "train")
    message = str(caught.value)
    assert "train.json: person 0 has a box of" in message and "picture of 80 x 60 px" in message
    assert "a.jpg" in message and "scale is the person's height in pixels / 200" in message


def far_off(root: str | None, split: str) -> People:
    return own((0, 0, 5000, 5000))


def test_a_source_of_ones_own_is_checked_too():
    with pytest.raises(InputError, match=r"data\.name=tests\.test_boxes:far_off, split test: person 0 has a box"):
        source_people(tiny("data.name=tests.test_boxes:far_off"), "test")
