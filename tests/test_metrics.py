"""PCK, OKS AP and drift against numbers by hand and against COCO's evaluator, called on files."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from raf_ray.data.people import People
from raf_ray.data.skeletons import COCO17, MPII16
from raf_ray.data.sources.coco import coco_people
from raf_ray.data.sources.synthetic import synthetic_people
from raf_ray.metrics import Score
from raf_ray.metrics.drift import drift_spread, drift_to_reference
from raf_ray.metrics.interface import Regions
from raf_ray.metrics.oks import oks_ap
from raf_ray.metrics.pck import neck_reference, pck, torso_reference

# --- every metric -------------------------------------------------------------------------------------------


def torso_reference_of(people: People) -> np.ndarray:
    names = ("left_shoulder", "right_shoulder", "left_hip", "right_hip")
    return torso_reference(people.joints, people.visibility > 0, *(MPII16.joints.index(n) for n in names))


def pck_torso(people: People, predicted: np.ndarray) -> Score:
    return pck(predicted, people.joints, people.visibility > 0, torso_reference_of(people), 0.2)


def pckh(people: People, predicted: np.ndarray) -> Score:
    counted = [i for i, name in enumerate(MPII16.joints) if name not in ("pelvis", "thorax")]
    return pck(predicted, people.joints, people.visibility > 0, people.head_size, 0.5, counted)


def pckh_neck(people: People, predicted: np.ndarray) -> Score:
    neck, top = MPII16.joints.index("upper_neck"), MPII16.joints.index("head_top")
    reference = neck_reference(people.joints, people.visibility > 0, neck, top)
    return pck(predicted, people.joints, people.visibility > 0, reference, 0.5)


def oks(people: People, predicted: np.ndarray) -> Score:
    confidence = np.linspace(0.2, 0.9, len(people))[:, None] * np.ones(len(people.skeleton))
    box_xywh = np.concatenate([people.centre - people.box / 2 + 0.5, people.box], axis=1)
    return oks_ap(
        predicted,
        confidence,
        people.joints,
        people.visibility,
        people.area,
        box_xywh,
        people.picture_id,
        np.array(people.skeleton.sigmas),
    )


Metric = Callable[[People, np.ndarray], Score]
every_metric = pytest.mark.parametrize("metric", [pck_torso, pckh, pckh_neck, oks])


@pytest.fixture(scope="module")
def crowd() -> People:
    """30 synthetic people, some of whose joints lie beyond the picture and are not labelled."""
    people = synthetic_people(0, "test", np.arange(30), height=160)
    assert (people.visibility == 0).any()
    return people


@every_metric
def test_the_truth_scores_1(metric: Metric, crowd: People) -> None:
    score = metric(crowd, crowd.joints)
    assert score.value == 1.0
    assert set(score.per_joint) == {1.0}


@every_metric
def test_left_for_right_does_not_score_1(metric: Metric, crowd: People) -> None:
    assert metric(crowd, crowd.joints[:, MPII16.flip_order]).value < 0.9


@every_metric
def test_a_joint_that_is_not_labelled_never_counts(metric: Metric, crowd: People) -> None:
    predicted = crowd.joints + np.random.default_rng(0).normal(0, 8, crowd.joints.shape)
    unlabelled = crowd.visibility[:, :, None] == 0
    there, away = (metric(crowd, joints) for joints in (predicted, np.where(unlabelled, 1e4, predicted)))
    by_size = ("APm", "APl")  # COCO's evaluator measures a detection's size by all its joints
    assert {k: v for k, v in away.extra.items() if k not in by_size} == {
        k: v for k, v in there.extra.items() if k not in by_size
    }
    assert (away.value, away.per_joint, away.people) == (there.value, there.per_joint, there.people)


@every_metric
def test_a_prediction_that_is_not_finite_is_a_miss(metric: Metric, crowd: People) -> None:
    assert metric(crowd, np.full_like(crowd.joints, np.nan)).value == 0.0


@every_metric
def test_without_any_label_there_is_no_score(metric: Metric, crowd: People) -> None:
    nobody = People(**(vars(crowd) | {"visibility": np.zeros_like(crowd.visibility)}))
    score = metric(nobody, crowd.joints)
    assert math.isnan(score.value) and all(math.isnan(value) for value in score.per_joint)
    assert (score.people, score.joints) == (0, 0)


# --- PCK ----------------------------------------------------------------------------------------------------


def errors(*distances: list[float]) -> tuple[np.ndarray, np.ndarray]:
    """(N, K) distances -> predictions that lie so far from the truth, and the truth."""
    truth = np.random.default_rng(0).uniform(0, 100, (len(distances), len(distances[0]), 2)).round()
    return truth + np.array(distances)[:, :, None] * (0.6, 0.8), truth


def test_pck_by_hand() -> None:
    """Limits are 5 and 10 px; the third person has no reference, and two joints have no label."""
    predicted, truth = errors([4.9, 5.1, 0], [9.9, 10.1, 99], [0, 0, 0], [0, 0, 0])
    labelled = np.array([[1, 1, 1], [1, 1, 0], [1, 1, 1], [1, 1, 1]], bool)
    score = pck(predicted, truth, labelled, np.array([10.0, 20.0, np.nan, -1.0]), 0.5)
    assert score == Score(value=3 / 5, per_joint=(1.0, 0.0, 1.0), people=2, joints=5)


def test_pck_includes_its_limit() -> None:
    truth = np.zeros((1, 1, 2))
    score = pck(truth + np.array([3.0, 4.0]), truth, np.ones((1, 1), bool), np.array([10.0]), 0.5)
    assert score.value == 1.0


def test_the_mean_weighs_a_joint_by_its_labels_as_mpii_does() -> None:
    """Joint 0 has three labels, all found; joint 1 has one, missed: 3 / 4 and not (1 + 0) / 2."""
    predicted, truth = errors([0, 9], [0, 9], [0, 9])
    labelled = np.array([[1, 1], [1, 0], [1, 0]], bool)
    assert pck(predicted, truth, labelled, np.full(3, 10.0), 0.5).value == 0.75


@pytest.mark.parametrize("counted", [[0, 2], np.array([True, False, True])], ids=["indices", "mask"])
def test_joints_outside_the_mean_are_still_scored_each(counted: list[int] | np.ndarray) -> None:
    predicted, truth = errors([0, 9, 0], [0, 9, 9])
    score = pck(predicted, truth, np.ones((2, 3), bool), np.full(2, 10.0), 0.5, counted)
    assert score == Score(value=3 / 4, per_joint=(1.0, 0.0, 0.5), people=2, joints=4)


def test_pck_refuses_arrays_of_different_people() -> None:
    with pytest.raises(ValueError, match=r"\(N, K, 2\)"):
        pck(np.zeros((3, 2, 2)), np.zeros((2, 2, 2)), np.ones((2, 2), bool), np.ones(2), 0.5)


def test_the_torso_is_the_mean_of_the_diagonals_that_are_labelled() -> None:
    """Joints: left and right shoulder, left and right hip. Diagonals are 50 and 30 px."""
    person = [[40.0, 0.0], [0.0, 0.0], [0.0, 30.0], [0.0, 30.0]]
    labelled = [[1, 1, 1, 1], [0, 1, 1, 1], [1, 1, 0, 1], [0, 1, 0, 1]]
    lengths = torso_reference(np.array([person] * 4), np.array(labelled, bool), 0, 1, 2, 3)
    np.testing.assert_allclose(lengths, [40, 30, 50, np.nan])


def test_the_neck_reference_needs_both_ends() -> None:
    truth = np.array([[[0.0, 0.0], [3.0, 4.0]]] * 3)
    labelled = np.array([[1, 1], [1, 0], [0, 1]], bool)
    np.testing.assert_allclose(neck_reference(truth, labelled, 0, 1), [5, np.nan, np.nan])


def test_pck_needs_numpy_only() -> None:
    code = (
        "import sys, raf_ray.metrics.pck, raf_ray.metrics.drift\n"
        "print([m for m in ('torch', 'cv2', 'ray', 'raf_ray.data') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# --- OKS AP -------------------------------------------------------------------------------------------------


def official_stats(annotation_file: Path, results: list[dict[str, object]], folder: Path) -> np.ndarray:
    """COCO's summary of a result file, as on its web site."""
    (folder / "results.json").write_text(json.dumps(results))
    truth = COCO(str(annotation_file))
    evaluator = COCOeval(truth, truth.loadRes(str(folder / "results.json")), "keypoints")
    evaluator.evaluate()
    evaluator.accumulate()
    evaluator.summarize()
    return np.asarray(evaluator.stats)


@pytest.fixture
def coco_val(shared_data: Path) -> tuple[People, Path]:
    file = shared_data / "coco" / "annotations" / "person_keypoints_val2017.json"
    return coco_people(file, shared_data / "coco" / "val2017", COCO17), file


def test_oks_ap_is_the_official_evaluators_on_the_whole_file(coco_val: tuple[People, Path], tmp_path: Path) -> None:
    """Errors grow with the person, and confidences are random, so that AP, AP50, AP75 and AR all differ.

    The official side reads the file as it is, with its crowds and people without joints.
    """
    people, file = coco_val
    rng = np.random.default_rng(0)
    share = rng.uniform(0, 0.09, (len(people), 1, 1))
    noise = rng.normal(0, 1, people.joints.shape) * share * np.sqrt(people.area)[:, None, None]
    predicted = (people.joints + noise).astype(np.float64)
    confidence = rng.uniform(0, 1, (len(people), 17))
    box_xywh = np.concatenate([people.centre - people.box / 2 + 0.5, people.box], axis=1)
    results: list[dict[str, object]] = [
        {
            "image_id": int(people.picture_id[i]),
            "category_id": 1,
            "keypoints": np.c_[predicted[i], confidence[i]].ravel().tolist(),
            "score": float(confidence[i].mean()),
        }
        for i in range(len(people))
    ]
    stats = official_stats(file, results, tmp_path)
    given = (predicted, confidence, people.joints, people.visibility, people.area, box_xywh, people.picture_id)
    regions = people.ignored
    assert regions is not None and regions.crowd.any() and not regions.crowd.all()
    ignored = Regions(regions.picture_id, regions.box_xywh, regions.area, regions.crowd)
    score = oks_ap(*given, np.array(COCO17.sigmas), ignored)
    assert len(set(stats[:6].round(5))) == 6
    assert [score.value, *score.extra.values()] == pytest.approx(stats[:6], abs=1e-6)
    assert list(score.extra) == ["AP50", "AP75", "APm", "APl", "AR"]
    assert (score.people, score.joints) == (142, int((people.visibility > 0).sum()))
    assert oks_ap(*given, np.array(COCO17.sigmas)).value < score.value  # nothing is forgiven


def one_person(distance: float, area: float = 2500.0, sigma: float = 0.1) -> Score:
    """One joint, `distance` px off: OKS = exp(-d^2 / (2 area (2 sigma)^2))."""
    truth = np.array([[[50.0, 50.0]]])
    return oks_ap(
        truth + np.array([distance, 0]),
        np.ones((1, 1)),
        truth,
        np.full((1, 1), 2),
        np.array([area]),
        np.array([[0, 0, 50, 50]]),
        np.array([1]),
        np.array([sigma]),
    )


def test_oks_by_hand() -> None:
    """d = 2 sigma sqrt(area) = 10 gives OKS exp(-1/2) = 0.607, found at thresholds 0.50, 0.55 and 0.60."""
    score = one_person(10.0)
    assert score.per_joint == pytest.approx([math.exp(-0.5)])
    assert score.value == pytest.approx(0.3)
    nan = float("nan")  # an area of 2500 is medium (32^2 to 96^2)
    expected = {"AP50": 1.0, "AP75": 0.0, "APm": 0.3, "APl": nan, "AR": 0.3}
    assert dict(score.extra) == pytest.approx(expected, nan_ok=True)


def test_an_unsure_wrong_guess_costs_less_than_a_sure_one(crowd: People) -> None:
    """AP ranks by confidence: the confidence of person i grows with i."""
    away = np.zeros((len(crowd), 1, 1))
    away[0] = 500
    unsure_is_wrong = oks(crowd, crowd.joints + away)
    sure_is_wrong = oks(crowd, crowd.joints + away[::-1])
    assert sure_is_wrong.value < unsure_is_wrong.value < 1


def test_oks_ap_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    one_person(1.0)
    assert capsys.readouterr() == ("", "")


def test_oks_ap_refuses_arrays_of_different_people(crowd: People) -> None:
    with pytest.raises(ValueError, match="shapes"):
        oks(crowd, crowd.joints[1:])


# --- drift --------------------------------------------------------------------------------------------------


def test_the_spread_is_best_minus_mean() -> None:
    assert drift_spread({"high": 0.9, "mid": 0.6, "low": 0.3}) == pytest.approx(0.3)
    assert drift_spread({"high": 0.4}) == 0.0


def test_the_drift_to_references_is_the_mean_gap_to_the_one_tier_federations() -> None:
    references = {"high": 0.8, "mid": 0.8, "low": 0.7, "sup_high": 0.1}
    gap = drift_to_reference({"high": 0.9, "mid": 0.6, "low": 0.4}, references)
    assert gap == pytest.approx((-0.1 + 0.2 + 0.3) / 3)


def test_a_missing_reference_leaves_the_drift_unknown() -> None:
    assert drift_to_reference({"high": 0.9, "low": 0.4}, {"high": 0.8}) is None


def test_drift_needs_a_tier() -> None:
    with pytest.raises(ValueError, match="at least one"):
        drift_spread({})


# --- alone --------------------------------------------------------------------------------------------------


def test_the_example_of_the_docs_prints_what_it_says():
    """In a process that has numpy alone: neither torch nor Ray is needed."""
    text = (Path(__file__).parents[1] / "docs" / "metrics.md").read_text(encoding="utf-8")
    code = text.split("```python\n")[1].split("```")[0]
    script = "import sys; sys.modules['torch'] = sys.modules['ray'] = sys.modules['cv2'] = None\n" + code
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    pck_line, pckh_line, ap_line = ran.stdout.splitlines()
    assert float(pck_line) == pytest.approx(2 / 3)
    assert pckh_line == "0.5 (1.0, 1.0, 0.0)" and ap_line == "0.0 0.0"
    terms = [math.exp(-(d**2) / (2 * 400 * 0.2**2)) for d in (5, 0, 12)]
    assert sum(terms) / 3 == pytest.approx(0.49, abs=0.005)


def test_a_length_of_nobody_and_shapes_that_do_not_fit():
    from raf_ray import metrics

    truth, labelled = np.zeros((2, 3, 2)), np.ones((2, 3), bool)
    assert math.isnan(metrics.pckh(truth, truth, labelled, np.full(2, np.nan), ["a", "b", "c"]).value)
    with pytest.raises(ValueError, match="must be"):
        metrics.pck(truth, truth[:1], labelled, np.ones(2), 0.5)
