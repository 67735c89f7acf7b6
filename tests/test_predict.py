"""Joints drawn on pictures: turned as tagged, no drawing over another, nothing written for a wrong request."""

from __future__ import annotations

import json
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import ExifTags, Image

from raf_ray import predict, run_federation
from raf_ray.cli import run_command
from tests.tiny import tiny

NOISE = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 255, (80, 60, 3), dtype=np.uint8), (0, 0), 3)


@pytest.fixture(scope="module")
def saved_run(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("saved") / "run"
    words = ("federation.engine=in_process", "federation.rounds=1", "federation.clients=[low]")
    return str(run_federation(tiny(*words), folder).folder)


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def draw(path: str, pixels: np.ndarray = NOISE) -> str:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def boxes(values: object, path: str = "boxes.json") -> list[str]:
    Path(path).write_text(values if isinstance(values, str) else json.dumps(values))
    return ["--boxes", path]


def written(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def refused(capsys, words: list[str], *says: str) -> None:
    before = written(Path.cwd())
    code = run_command(predict.main, [*words, "--output", "drawn"])
    error = capsys.readouterr().err.strip()
    assert code == 2 and error.startswith("error: ") and len(error.splitlines()) == 1, error
    for text in says:
        assert text in error
    assert written(Path.cwd()) == before and not Path("drawn").exists()


def joints_of(path: str) -> list:
    return json.loads(Path(path).read_text())["people"]


@pytest.mark.parametrize("orientation", [3, 6, 7])
def test_a_picture_is_turned_as_its_exif_says(saved_run, here, orientation):
    draw("upright.png")
    back = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE}[orientation]
    tags = Image.Exif()
    tags[ExifTags.Base.Orientation] = orientation
    for name in ("phone.png", "phone.tiff"):
        Image.fromarray(NOISE).transpose(back).save(here / name, exif=tags)
    for name in ("upright.png", "phone.png", "phone.tiff"):
        assert run_command(predict.main, [saved_run, name, "--output", name.replace(".", "-")]) == 0
    assert joints_of("phone-png/phone.joints.json") == joints_of("upright-png/upright.joints.json")
    assert joints_of("phone-tiff/phone.joints.json") == joints_of("upright-png/upright.joints.json")
    width, height = Image.open("phone-png/phone.joints.png").size
    assert width < height


def test_a_drawing_goes_by_its_pictures_name(saved_run, here, capsys):
    draw("in/a.jpg"), draw("in/b.jpg")
    assert run_command(predict.main, [saved_run, "in/a.jpg", "in/b.jpg", "--output", "drawn"]) == 0
    assert written(here / "drawn") == ["a.joints.json", "a.joints.png", "b.joints.json", "b.joints.png"]
    assert "in/a.jpg: 1 person -> drawn/a.joints.png" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("names", "drawings"),
    [(["x/a.jpg", "y/a.jpg"], ["x/a.jpg.joints", "y/a.jpg.joints"]),
     (["a.jpg", "a.png"], ["a.jpg.joints", "a.png.joints"]),
     (["x/A.jpg", "x/a.jpg", "x/c/b.jpg"], ["A.jpg.joints", "a.jpg.joints", "c/b.jpg.joints"]),
     (["../{here}/x/a.jpg", "a.jpg"], ["a.jpg.joints", "x/a.jpg.joints"])],
)  # fmt: skip
def test_pictures_of_one_name_keep_their_folders_and_endings(saved_run, here, names, drawings):
    names = [draw(name.format(here=here.name)) for name in names]
    assert run_command(predict.main, [saved_run, *names, "--output", "drawn"]) == 0
    assert written(here / "drawn") == sorted(f"{name}.{end}" for name in drawings for end in ("json", "png"))


def test_a_picture_named_twice_is_drawn_once(saved_run, here, capsys):
    draw("a.jpg")
    assert run_command(predict.main, [saved_run, "a.jpg", "./a.jpg", "--output", "drawn"]) == 0
    assert written(here / "drawn") == ["a.joints.json", "a.joints.png"]
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_a_drawing_never_replaces_a_picture(saved_run, here, capsys):
    draw("drawn.png"), draw("drawn.joints.png")
    before = Path("drawn.joints.png").read_bytes()
    assert run_command(predict.main, [saved_run, "drawn.png", "drawn.joints.png"]) == 2
    assert "would replace the picture drawn.joints.png" in capsys.readouterr().err
    assert Path("drawn.joints.png").read_bytes() == before and not Path("drawn.joints.json").exists()


# --- boxes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keys", [["x/a.jpg", "y/a.jpg"], ["./x/a.jpg", "y//a.jpg"], ["x/a.jpg", "y/a.jpg", "a.jpg"]])
def test_boxes_go_by_the_path_as_given(saved_run, here, keys):
    draw("x/a.jpg"), draw("y/a.jpg")
    listed = boxes(dict(zip(keys, ([[0, 0, 30, 40]] * n for n in (1, 2, 3)), strict=False)))
    assert run_command(predict.main, [saved_run, "x/a.jpg", "y/a.jpg", *listed, "--output", "drawn"]) == 0
    assert [len(joints_of(f"drawn/{folder}/a.jpg.joints.json")) for folder in "xy"] == [1, 2]


def test_boxes_go_by_the_bare_name_where_one_picture_has_it(saved_run, here, capsys):
    draw("x/a.jpg"), draw("y/a.jpg")
    listed = boxes({"a.jpg": [[0, 0, 30, 40]] * 2})
    assert run_command(predict.main, [saved_run, "x/a.jpg", *listed, "--output", "one"]) == 0
    assert len(joints_of("one/a.joints.json")) == 2
    refused(capsys, [saved_run, "x/a.jpg", "y/a.jpg", *listed], "'a.jpg' may mean 'x/a.jpg' or 'y/a.jpg'")


@pytest.mark.parametrize("listed", [{}, {"b.jpg": [[0, 0, 9, 9]]}])
def test_a_picture_without_boxes_stops_all(saved_run, here, capsys, listed):
    draw("a.jpg"), draw("b.jpg")
    refused(capsys, [saved_run, "b.jpg", "x/../a.jpg", *boxes(listed)], "has no entry")


BAD_BOXES = [
    '{"a.jpg": [[0, 0, NaN, 5]]}', '{"a.jpg": [[0, 0, 5, Infinity]]}', '{"a.jpg": [[0, 0, 5, 1e400]]}',
    '{"a.jpg": [[0, 0, 5, 1' + "0" * 400 + ']]}', '{"a.jpg": [[1e39, 0, 5, 5]]}', '{"a.jpg": [[0, 0, true, 5]]}',
    '{"a.jpg": [[0, 0, "x", 5]]}', '{"a.jpg": [[0, 0, 0, 5]]}', '{"a.jpg": [0, 0, 5, 5]}', '{"a.jpg": []}', "[]", "3",
    '{"a.jpg": {"0": [0, 0, 5, 5]}}', "[" * 100_000,
]  # fmt: skip


@pytest.mark.parametrize("text", BAD_BOXES, ids=lambda text: text[:30])
def test_boxes_that_are_none_are_refused(saved_run, here, capsys, text):
    draw("a.jpg")
    refused(capsys, [saved_run, "a.jpg", *boxes(text)], "--boxes")


@pytest.mark.parametrize(
    ("box", "says"),
    [([0, 0, 2e6, 2e6], "a box of 2e+06 x 2e+06 px, more than 10 times its picture of 60 x 80 px"),
     ([0, 0, 601, 5], "more than 10 times"), ([60, 0, 5, 5], "outside its picture of 60 x 80 px"),
     ([-5, 0, 5, 5], "outside its picture"), ([0, 1e9, 5, 5], "outside its picture")],
)  # fmt: skip
def test_a_box_that_cannot_be_a_persons_is_refused_with_its_picture(saved_run, here, capsys, box, says):
    draw("a.jpg"), draw("b.jpg")
    refused(capsys, [saved_run, "b.jpg", "a.jpg", *boxes({"b.jpg": [[0, 0, 9, 9]], "a.jpg": [box]})], "a.jpg", says)


@pytest.mark.parametrize("box", [[0, 0, 600, 800], [-200, -300, 400, 600], [5, 5, 0.5, 0.5], [59, 79, 0.01, 4]])
def test_a_box_at_the_edge_of_sense_is_predicted(saved_run, here, box):
    draw("a.jpg")
    assert run_command(predict.main, [saved_run, "a.jpg", *boxes({"a.jpg": [box]}), "--output", "drawn"]) == 0
    assert np.isfinite([list(one.values()) for one in joints_of("drawn/a.joints.json")]).all()


# --- pictures ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["none.jpg", "text.jpg", "folder", "a\0b.jpg", "a\ud800.jpg", "", "x" * 300])
def test_a_picture_that_cannot_be_read_stops_all(saved_run, here, capsys, name):
    draw("a.jpg")
    Path("text.jpg").write_text("no picture")
    Path("folder").mkdir()
    refused(capsys, [saved_run, "a.jpg", name])


def test_a_name_that_cannot_be_printed_is_escaped(saved_run, here, capsys):
    draw("a.jpg")
    odd = os.fsdecode(b"\xff.jpg")
    os.rename("a.jpg", odd)
    assert run_command(predict.main, [saved_run, odd, "--output", "drawn"]) == 0
    assert r"'\udcff.jpg': 1 person" in capsys.readouterr().out


@pytest.mark.parametrize("shape", [(1, 1), (70_000, 3), (2, 20_000)])
def test_pictures_of_odd_shapes_are_drawn(saved_run, here, shape):
    draw("a.png", np.full((*shape, 3), 120, np.uint8))
    assert run_command(predict.main, [saved_run, "a.png", "--output", "drawn"]) == 0
    assert max(Image.open("drawn/a.joints.png").size) <= 16_384


# --- folders, videos and COCO's forms -----------------------------------------------------------------------


def coco_annotations() -> dict:
    return {
        "images": [{"id": 70, "file_name": "a.jpg"}, {"id": 9, "file_name": "b.jpg"}],
        "annotations": [{"image_id": 70, "bbox": [0, 0, 30, 40]}, {"image_id": 70, "bbox": [20, 30, 30, 40]},
                        {"image_id": 70, "bbox": [0, 0, 60, 80], "iscrowd": 1}],
    }  # fmt: skip


def test_a_folder_stands_for_its_pictures(saved_run, here, capsys):
    draw("in/b.png"), draw("in/a.jpg")
    Path("in/notes.txt").write_text("no picture")
    Path("empty").mkdir()
    refused(capsys, [saved_run, "empty"], "a folder without a picture or video in it")
    assert run_command(predict.main, [saved_run, "in", "--output", "drawn"]) == 0
    assert written(here / "drawn") == ["a.joints.json", "a.joints.png", "b.joints.json", "b.joints.png"]


def test_boxes_of_coco_annotations_and_the_people_as_coco_results(saved_run, here):
    draw("in/a.jpg"), draw("in/b.jpg")
    words = [saved_run, "in", *boxes(coco_annotations()), "--output", "drawn", "--coco", "found.json"]
    assert run_command(predict.main, words) == 0
    found = json.loads(Path("found.json").read_text())
    assert [(one["image_id"], one["file_name"], one["bbox"]) for one in found] == [
        (70, "a.jpg", [0, 0, 30, 40]), (70, "a.jpg", [20, 30, 30, 40])
    ]  # fmt: skip
    by_name = joints_of("drawn/a.joints.json")
    for one, person in zip(found, by_name, strict=True):
        triples = np.array(one["keypoints"]).reshape(-1, 3)
        assert triples.tolist() == list(person.values())
        assert one["score"] == pytest.approx(triples[:, 2].mean(), abs=1e-6)
    assert joints_of("drawn/b.joints.json") == []


def test_cocos_own_evaluator_takes_them(saved_run, here):
    from pycocotools.coco import COCO

    draw("a.jpg")
    words = [saved_run, "a.jpg", *boxes(coco_annotations()), "--output", "drawn", "--coco", "found.json"]
    assert run_command(predict.main, words) == 0
    truth = COCO()
    truth.dataset = {**coco_annotations(), "categories": [{"id": 1, "name": "person"}]}
    for place, entry in enumerate(truth.dataset["annotations"], 1):
        entry.update(id=place, category_id=1, iscrowd=0, area=1.0, keypoints=[0] * 48, num_keypoints=0)
    truth.createIndex()
    assert len(truth.loadRes("found.json").anns) == 2


def test_boxes_of_coco_results_go_by_the_pictures_number_and_their_score(saved_run, here):
    draw("000000000042.jpg")
    results = [{"image_id": 42, "bbox": [0, 0, 30, 40], "score": score} for score in (0.9, 0.5, 0.1)]
    words = [saved_run, "000000000042.jpg", *boxes(results), "--least-score", "0.5", "--coco", "found.json"]
    assert run_command(predict.main, [*words, "--output", "drawn"]) == 0
    assert [one["image_id"] for one in json.loads(Path("found.json").read_text())] == [42, 42]


@pytest.mark.parametrize(
    ("values", "says"),
    [({"images": [], "annotations": [{"image_id": 1, "bbox": [0, 0, 3, 4]}]}, "of image 1, which 'images' does not"),
     ({"images": [{"id": 1}], "annotations": []}, "no 'file_name'"), ({"images": 3, "annotations": []}, "a list"),
     ([{"image_id": 1, "bbox": [0, 0, 3, 4]}], "no 'score'"), ([{"bbox": [0, 0, 3, 4]}], "no 'image_id'"),
     ([{"image_id": 5, "bbox": [0, 0, 3, 4], "score": 1}], "no entry for any of the pictures, such as 'a.jpg'")],
)  # fmt: skip
def test_coco_boxes_that_are_none_are_refused(saved_run, here, capsys, values, says):
    draw("a.jpg")
    refused(capsys, [saved_run, "a.jpg", *boxes(values)], says)


def film(path: str, frames: int) -> list[np.ndarray]:
    pictures = [np.roll(NOISE, 4 * frame, axis=1) for frame in range(frames)]
    writer = cv2.VideoWriter(path, cv2.VideoWriter.fourcc(*"MJPG"), 10, (60, 80))
    for picture in pictures:
        writer.write(cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    writer.release()
    return pictures


def test_a_video_is_drawn_and_each_frames_joints_are_what_a_picture_of_it_gives(saved_run, here, capsys):
    film("clip.avi", 3)
    capture = cv2.VideoCapture("clip.avi")
    for frame in range(3):
        cv2.imwrite(f"{frame}.png", capture.read()[1])
    words = [saved_run, "clip.avi", "0.png", "1.png", "2.png", "--output", "drawn", "--coco", "found.json"]
    assert run_command(predict.main, words) == 0
    assert "clip.avi: 3 frames -> drawn/clip.joints.mp4" in capsys.readouterr().out
    in_video = json.loads(Path("drawn/clip.joints.json").read_text())
    in_pictures = json.loads(Path("found.json").read_text())
    assert [one["image_id"] for one in in_video] == [one["image_id"] for one in in_pictures] == [0, 1, 2]
    assert [one["keypoints"] for one in in_video] == [one["keypoints"] for one in in_pictures]
    copy = cv2.VideoCapture("drawn/clip.joints.mp4")
    assert copy.get(cv2.CAP_PROP_FRAME_COUNT) == 3 and copy.read()[1].shape == (80, 60, 3)
    assert not [name for name in written(here / "drawn") if name.startswith(".")]


def test_what_is_no_video_is_refused(saved_run, here, capsys):
    Path("clip.mp4").write_text("no video")
    refused(capsys, [saved_run, "clip.mp4"], "cannot be read as a video")
    refused(capsys, [saved_run, "none.mp4"], "does not exist")
    film("good.avi", 1)
    refused(capsys, [saved_run, "good.avi", "--coco", "found.json"], "--coco is of pictures")


def test_limbs_on_a_frame_lie_on_its_joints():
    from raf_ray.data.skeletons import Skeleton
    from raf_ray.report.frames import draw_frame

    two = Skeleton("two", ("left_hip", "left_knee"), (0.1, 0.1), (("left_hip", "left_knee"),))
    drawn = draw_frame(np.zeros((40, 40, 3), np.uint8), np.array([[[5, 20], [35, 20]]], float), two)
    assert drawn[20, 5:36, 0].min() > 200 and drawn[30:].max() == 0
