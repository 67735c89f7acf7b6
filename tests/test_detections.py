"""AP as COCO reports it: detected boxes beside given ones, held to pycocotools called by hand on what is exported."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

import raf_ray.evaluate
import raf_ray.predict
import raf_ray.run
from raf_ray.cli import run_command
from raf_ray.config import load_config
from raf_ray.data.annotations.detections import read_detections
from raf_ray.data.annotations.fields import warn_once
from raf_ray.data.sources.coco import coco_people
from raf_ray.errors import InputError
from raf_ray.export import told_of
from raf_ray.metrics.detections import oks_nms, pose_scores
from raf_ray.request.boxes import detections_of
from raf_ray.saved import load_run, score_run, skeleton_of_run
from raf_ray.tracking.mlflow import extra_metrics
from tests.exports import JOINTS, LIMBS, box_of, cvat, draw

TRAIN = "person_keypoints_train.json"

SIGMAS = np.array([0.026, 0.05, 0.05, 0.05])
"""Of tests.exports.JOINTS"""


def by_hand(annotations: Path, results: Path) -> list[float]:
    """AP, AP50, AP75, APm, APl, AR of COCO's own evaluator."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(annotations))
        evaluator = COCOeval(truth, truth.loadRes(str(results)), "keypoints")
        evaluator.params.kpt_oks_sigmas = SIGMAS
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    return [float("nan") if value < 0 else float(value) for value in evaluator.stats[:6]]


def detections(ids: Any, **changes: Any) -> list[dict[str, Any]]:
    """Boxes near those of the pictures in `ids`, and one that is wrong in each."""
    found = []
    for i in ids:
        x, y, width, height = box_of(i)
        found.append({"image_id": i + 1, "category_id": 1, "bbox": [x + 1, y - 1, width, height + 2], "score": 0.9})
        found.append({"image_id": i + 1, "category_id": 1, "bbox": [40.0, 2.0, 20.0, 30.0], "score": 0.5})
    return [one | changes for one in found]


# --- poses of detected boxes --------------------------------------------------------------------------------


def test_a_poses_score_is_the_boxs_times_that_of_its_sure_joints() -> None:
    confidence = np.array([[0.9, 0.5, 0.1], [0.1, 0.2, 0.0]])
    assert pose_scores(np.array([0.5, 1.0]), confidence) == pytest.approx([0.5 * 0.7, 0])


def loop_nms(joints: np.ndarray, scores: np.ndarray, areas: np.ndarray, pictures: np.ndarray) -> list[int]:
    """A second implementation, by pairs, as the definition reads."""

    def oks(i: int, j: int) -> float:
        terms = []
        for k, sigma in enumerate(SIGMAS):
            d2 = sum((joints[i, k, axis] - joints[j, k, axis]) ** 2 for axis in (0, 1))
            terms.append(np.exp(-d2 / (2 * (2 * sigma) ** 2 * (areas[i] + areas[j]) / 2)))
        return float(np.mean(terms))

    left, kept = sorted(range(len(joints)), key=lambda i: -scores[i]), []
    while left:
        best = left.pop(0)
        kept.append(best)
        left = [i for i in left if pictures[i] != pictures[best] or oks(i, best) <= 0.9]
    return sorted(kept)


def test_of_two_poses_of_one_person_the_surer_stays() -> None:
    rng = np.random.default_rng(0)
    base = rng.uniform(0, 60, (5, 4, 2))
    joints = np.concatenate([base, base + rng.normal(0, 0.8, base.shape), base + 0.1])
    scores, areas = rng.permutation(15) / 15, rng.uniform(300, 900, 15)
    pictures = np.tile([1, 1, 2, 2, 3], 3)
    kept = oks_nms(joints, scores, areas, pictures, SIGMAS)
    assert kept.tolist() == loop_nms(joints, scores, areas, pictures)
    assert 5 <= len(kept) < 15
    assert len(oks_nms(joints, scores, areas, np.arange(15), SIGMAS)) == 15  # each in a picture of its own


# --- the file -----------------------------------------------------------------------------------------------


@pytest.fixture
def people(tmp_path: Path) -> Any:
    cvat(tmp_path)
    return coco_people(tmp_path / "annotations/person_keypoints_val.json", tmp_path / "images/val", None)


def test_boxes_are_people_in_the_pictures_of_others(people: Any, tmp_path: Path) -> None:
    (tmp_path / "boxes.json").write_text(json.dumps(detections([8, 6])))
    found = read_detections(tmp_path / "boxes.json", people)
    assert found.people.picture_id.tolist() == [9, 9, 7, 7] and found.scores.tolist() == [0.9, 0.5, 0.9, 0.5]
    assert found.people.box[0].tolist() == [32, 42] and found.people.centre[0].tolist() == [9 + 16 - 0.5, 3 + 21 - 0.5]
    assert (found.people.picture(2) == people.picture(0)).all()


def test_of_several_categories_people_are_read_and_unknown_images_are_counted(
    people: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    warn_once.cache_clear()
    values = detections([6]) + detections([7], category_id=3) + detections([6], image_id=55)
    (tmp_path / "boxes.json").write_text(json.dumps(values))
    assert read_detections(tmp_path / "boxes.json", people).people.picture_id.tolist() == [7, 7]
    assert "2 of 6 detections" in caplog.text and "such as 55" in caplog.text


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"a": 1}, "must be a list of detections"),
        (detections([6], image_id=55), "such as 55, are unknown there"),
        (detections([6], bbox=[1, 2, 3]), "'bbox' of detection 0 must be 4 finite numbers"),
        ([{"image_id": 7, "bbox": [1, 2, 3, 4]}], "detection 0 has no 'score'"),
        (detections([6], bbox=[0.1, 0.1, 0.5, 0.5]), "shares of the pictures"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_file_of_boxes_that_cannot_be_used(people: Any, tmp_path: Path, content: Any, says: str) -> None:
    (tmp_path / "boxes.json").write_text(json.dumps(content))
    with pytest.raises(InputError) as caught:
        read_detections(tmp_path / "boxes.json", people)
    assert says in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["evaluation.metric=pck_torso_0.2"], "set evaluation.metric=oks_ap"),
        (["data.name=synthetic"], "synthetic has no pictures"),
        (["data.test_people=2"], "set data.test_people=null"),
        ([], "nowhere.json does not exist"),
    ],
)
def test_boxes_that_do_not_go_with_the_request(people: Any, tmp_path: Path, words: list[str], says: str) -> None:
    base = ["data.name=coco", f"data.root={tmp_path}", "data.test_people=null", "evaluation.metric=oks_ap",
            "evaluation.boxes=nowhere.json"]  # fmt: skip
    with pytest.raises(InputError, match=r"evaluation\.boxes") as caught:
        detections_of(load_config(overrides=[*base, *words]), {"test": people})
    assert says in str(caught.value)


# --- from end to end ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on 6 cats of category 3, scored on 3 by their own and by detected boxes."""
    folder = tmp_path_factory.mktemp("detections")
    cvat(folder / "export")
    for i in (20, 21):
        draw(folder / "export/images/val" / f"{i}.png", i)
    file = folder / "export/annotations/person_keypoints_val.json"
    content = json.loads(file.read_text())
    content["images"] += [
        {"id": i + 1, "file_name": f"{i}.png"} for i in (20, 21)
    ]  # nobody in one, a crowd in the other
    crowd = {"id": 99, "image_id": 22, "category_id": 1, "bbox": [0, 0, 64, 48], "area": 3072, "iscrowd": 1,
             "num_keypoints": 0, "keypoints": [0] * 12}  # fmt: skip
    content["annotations"].append(crowd)
    for path, values in ((file, content), (train := file.with_name(TRAIN), json.loads(train.read_text()))):
        for one in values["annotations"]:
            one["category_id"] = 3
        values["categories"][0]["id"] = 3
        path.write_text(json.dumps(values))
    others = detections([6], category_id=1)
    boxes = detections([*range(6, 9), 20, 21], score=0.9, category_id=3)
    (folder / "boxes.json").write_text(json.dumps(boxes + others))
    words = ["data.name=coco", f"data.root={folder / 'export'}", "federation.clients=[low]", "federation.rounds=1",
             "model.name=tests.exports:guess", "optimizer.lr=1e-9",
             "federation.engine=in_process", "data.people_per_client=4", "data.val_people=null",
             "data.test_people=null", "data.val_fraction=0.2", "evaluation.metric=oks_ap", "optimizer.batch_size=2",
             "evaluation.resolutions=[64x48]", f"evaluation.boxes={folder / 'boxes.json'}", "tracking.mlflow=false",
             "resources.dashboard=false"]  # fmt: skip
    assert run_command(raf_ray.run.main, [*words, "--output", str(folder / "run")]) == 0
    return folder


def test_the_figures_are_those_of_cocos_evaluator_on_what_is_exported(run: Path) -> None:
    truth = run / "export/annotations/person_keypoints_val.json"
    values = json.loads((run / "run/results.json").read_text())
    figures = {name: float("nan") if value is None else value for name, value in values["extra"]["64x48"].items()}
    for words, end in ((["evaluation.boxes=null"], ""), ([], "_boxes")):
        out = run / f"out{end}.json"
        command = [str(run / "run"), *words, "--detections", str(out), "--json"]
        assert run_command(raf_ray.evaluate.main, command) == 0
        figures["AP"] = values["by_resolution"]["64x48"]
        names = [f"{name}{end}" for name in ("AP", "AP50", "AP75", "APm", "APl", "AR")]
        assert 0.1 < figures[f"AP{end}"] < figures[f"AP50{end}"]
        assert [figures[name] for name in names] == pytest.approx(by_hand(truth, out), abs=1e-9, nan_ok=True)
    given, detected = (json.loads((run / name).read_text()) for name in ("out.json", "out_boxes.json"))
    assert len(given) == 3 and 3 <= len(detected) <= 10
    assert {one["image_id"] for one in detected} == {7, 8, 9, 21, 22}
    assert {one["category_id"] for one in given + detected} == {3}


# --- labels that go out with the model ----------------------------------------------------------------------


def test_a_run_keeps_its_joints_limbs_and_category(run: Path) -> None:
    saved = load_run(run / "run")
    skeleton = skeleton_of_run(saved)
    assert (skeleton.name, skeleton.joints, skeleton.sigmas) == ("cat", tuple(JOINTS), tuple(SIGMAS))
    assert skeleton.limbs == tuple((JOINTS[a - 1], JOINTS[b - 1]) for a, b in LIMBS)
    told = told_of(saved, None)
    assert told["limbs"] == [[a - 1, b - 1] for a, b in LIMBS]
    assert (told["flip_pairs"], told["category_id"]) == ([[1, 2]], 3)


def test_predict_draws_the_files_own_limbs_and_names_its_category(run: Path, tmp_path: Path) -> None:
    picture = run / "export/images/val/6.png"
    for folder, file in (("new", run / "run"), ("old", older(run / "run", tmp_path / "old_run"))):
        words = ["--output", str(tmp_path / folder), "--coco", str(tmp_path / f"{folder}.json")]
        assert run_command(raf_ray.predict.main, [str(file), str(picture), *words]) == 0
    (new,), (old,) = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("new", "old"))
    assert (new.pop("category_id"), old.pop("category_id")) == (3, 1) and new == old
    drawn, without = ((tmp_path / name / "6.joints.png").read_bytes() for name in ("new", "old"))
    assert drawn != without


def older(run: Path, to: Path) -> Path:
    """The run as it was saved before models kept their people's labels."""
    shutil.copytree(run, to)
    values = torch.load(to / "model.pt", weights_only=True)
    del values["labels"]
    torch.save(values, to / "model.pt")
    return to


def test_labels_of_a_damaged_model_are_refused(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run / "run", tmp_path / "run")
    values = torch.load(run / "run/model.pt", weights_only=True)
    values["labels"]["skeleton"]["sigmas"] = (0.05,) * 3
    torch.save(values, tmp_path / "run/model.pt")
    with pytest.raises(InputError, match=r"model\.pt is damaged \(labels\.skeleton.*4 joints but 3 sigmas"):
        load_run(tmp_path / "run")


def test_a_run_is_scored_by_its_own_record_of_the_same_joints(run: Path, tmp_path: Path) -> None:
    found = older(run / "run", tmp_path / "wide")
    values = torch.load(run / "run/model.pt", weights_only=True)
    values["labels"]["skeleton"]["sigmas"] = (10.0,) * 4
    torch.save(values, found / "model.pt")
    scores, people = score_run(load_run(found, ["evaluation.boxes=null"]))
    assert people.skeleton.sigmas == (10.0,) * 4 and scores.by_resolution["64x48"] == pytest.approx(1)


def test_further_figures_are_metrics_of_mlflow(run: Path) -> None:
    values = json.loads((run / "run/results.json").read_text())
    metrics = extra_metrics(values)
    assert {"test/AP50/64x48", "test/AP_boxes/64x48", "test/AR_boxes/64x48"} <= set(metrics)
    assert extra_metrics({"split": "test", "extra": {"64x48": {"Mean@0.1": 0.5, "APl": None}}}) == {
        "test/Mean_0.1/64x48": 0.5
    }
