"""COCO's keypoint AP, computed by its official evaluator (pycocotools) on labels held in memory."""

from __future__ import annotations

import contextlib
import io
from typing import Any

import numpy as np

from raf_ray.metrics.interface import Labels, Metric, Regions, Score

MAX_DETECTIONS = 20
"""Detections a picture that count, the surest first (COCO)."""

LARGEST_AREA = 1e10
"""Area in pixels squared beyond which COCO's evaluator leaves a person out."""

FAR_AWAY = -1e6
"""Where a coordinate that is not finite is put: beyond any picture, so its OKS is 0."""


def oks_ap(
    predicted: np.ndarray,
    confidence: np.ndarray,
    truth: np.ndarray,
    visibility: np.ndarray,
    area: np.ndarray,
    box_xywh: np.ndarray,
    picture_id: np.ndarray,
    sigmas: np.ndarray,
    ignored: Regions | None = None,
) -> Score:
    """AP over OKS 0.50:0.05:0.95 of one detection a person, as top-down methods have on given boxes.

    `predicted` and `truth` (N, K, 2), `confidence` (N, K), `visibility` (N, K) COCO's 0, 1, 2, `area` (N,) of
    the segment, `box_xywh` (N, 4), `picture_id` (N,), `sigmas` (K,) as a share of sqrt(area); all in picture
    pixels. A detection's score is the mean confidence of its joints. `per_joint` is each joint's mean OKS
    similarity over its labels, since COCO has no AP of a joint; `extra` holds AP50, AP75, APm, APl and AR.

    People whose area is not in [0, LARGEST_AREA] do
    not count. COCO's -1 (nothing to score) is NaN; a
    prediction that is not finite is a miss. Raises ValueError where shapes differ.
    """
    people, joints = visibility.shape
    sigmas = np.asarray(sigmas, np.float64)
    shapes = [a.shape for a in (predicted, truth, confidence, area, box_xywh, picture_id, sigmas)]
    wanted = [(people, joints, 2)] * 2 + [(people, joints), (people,), (people, 4), (people,), (joints,)]
    if shapes != wanted:
        raise ValueError(f"oks_ap got shapes {shapes}, but visibility {visibility.shape} needs {wanted}")
    area = np.where(np.isnan(area), np.inf, area)
    labelled = (visibility > 0) & ((area >= 0) & (area <= LARGEST_AREA))[:, None]
    if not labelled.any():
        return Score(float("nan"), (float("nan"),) * joints, people=0, joints=0, extra=official_extra(np.full(10, -1)))

    truths = _coco_truths(truth, visibility, area, box_xywh, picture_id)
    if ignored is not None:
        truths += _coco_ignored(ignored, joints=joints, first_id=len(truths) + 1, pictures=set(picture_id.tolist()))
    results = coco_results(predicted, confidence, picture_id, confidence.mean(axis=1))
    predicted = np.where(np.isfinite(predicted), predicted, FAR_AWAY).astype(np.float64)
    stats = _coco_stats(truths, results, sigmas)
    similarity = np.where(labelled, oks_similarity(predicted, truth, area, sigmas), 0).sum(axis=0)
    labels = labelled.sum(axis=0)
    return Score(
        value=_or_nan(stats[0]),
        per_joint=tuple(float(s / n) if n else float("nan") for s, n in zip(similarity, labels, strict=True)),
        people=int(labelled.any(axis=1).sum()),
        joints=int(labels.sum()),
        extra=official_extra(stats),
    )


def official_extra(stats: np.ndarray) -> dict[str, float]:
    """AP50, AP75, APm, APl and AR of COCO's summary (10,); NaN where there is nobody to find."""
    return {name: _or_nan(stats[at]) for name, at in (("AP50", 1), ("AP75", 2), ("APm", 3), ("APl", 4), ("AR", 5))}


def oks_similarity(predicted: np.ndarray, truth: np.ndarray, area: np.ndarray, sigmas: np.ndarray) -> np.ndarray:
    """(N, K) exp(-d^2 / (2 area (2 sigma)^2)): each joint's term of the OKS (cocodataset.org)."""
    squared = ((predicted.astype(np.float64) - truth) ** 2).sum(axis=2)
    spread = 2 * (area.astype(np.float64)[:, None] + np.spacing(1)) * (2 * sigmas) ** 2
    return np.asarray(np.exp(-squared / spread))


def ap_of_results(labels: Labels, results: list[dict[str, Any]]) -> dict[str, float]:
    """AP and its further figures (`official_extra`) of any detections in the labelled people's pictures.

    Whatever category they name, they are of what is labelled.
    """
    results = [{**one, "category_id": 1} for one in results]
    area = np.where(np.isnan(labels.area), np.inf, labels.area)
    truths = _coco_truths(labels.joints, labels.visibility, area, labels.box_xywh, labels.picture_id)
    if labels.ignored is not None:
        pictures = set(labels.picture_id.tolist()) | {one["image_id"] for one in results}
        joints = len(labels.joint_names)
        truths += _coco_ignored(labels.ignored, joints=joints, first_id=len(truths) + 1, pictures=pictures)
    stats = _coco_stats(truths, results, labels.sigmas) if results else np.zeros(10)
    return {"AP": _or_nan(stats[0]), **official_extra(stats)}


def _coco_truths(
    truth: np.ndarray, visibility: np.ndarray, area: np.ndarray, box_xywh: np.ndarray, picture_id: np.ndarray
) -> list[dict[str, Any]]:
    """COCO annotations. Ids start at 1, since the evaluator takes a match with id 0 for none."""
    keypoints = np.concatenate([truth, visibility[:, :, None]], axis=2).astype(np.float64)
    return [
        {
            "id": i + 1,
            "image_id": int(picture_id[i]),
            "category_id": 1,
            "keypoints": keypoints[i].ravel().tolist(),
            "num_keypoints": int((visibility[i] > 0).sum()),
            "bbox": box_xywh[i].tolist(),
            "area": float(area[i]),
            "iscrowd": 0,
        }
        for i in range(len(keypoints))
    ]


def _coco_ignored(ignored: Regions, *, joints: int, first_id: int, pictures: set[int]) -> list[dict[str, Any]]:
    """COCO annotations of ignored regions, in the pictures that are scored."""
    return [
        {
            "id": first_id + i,
            "image_id": int(ignored.picture_id[i]),
            "category_id": 1,
            "keypoints": [0.0] * (3 * joints),
            "num_keypoints": 0,
            "bbox": ignored.box_xywh[i].tolist(),
            "area": float(ignored.area[i]),
            "iscrowd": int(ignored.crowd[i]),
        }
        for i in range(len(ignored.picture_id))
        if int(ignored.picture_id[i]) in pictures
    ]


def coco_results(
    predicted: np.ndarray, confidence: np.ndarray, picture_id: np.ndarray, scores: np.ndarray, category_id: int = 1
) -> list[dict[str, Any]]:
    """COCO's result form of N detections with joints (N, K, 2), their confidences (N, K), and scores (N,).

    What is not finite lies FAR_AWAY. Category 1 is COCO's person.
    """
    predicted = np.where(np.isfinite(predicted), predicted, FAR_AWAY).astype(np.float64)
    keypoints = np.concatenate([predicted, confidence[:, :, None]], axis=2).astype(np.float64)
    return [
        {
            "image_id": int(picture_id[i]),
            "category_id": category_id,
            "keypoints": keypoints[i].ravel().tolist(),
            "score": float(scores[i]),
        }
        for i in range(len(keypoints))
    ]


def _coco_stats(truths: list[dict[str, Any]], detections: list[dict[str, Any]], sigmas: np.ndarray) -> np.ndarray:
    """(10,) COCO's summary: AP, AP50, AP75, AP medium, AP large, then the same of AR."""
    from pycocotools.coco import COCO  # late: the config reads the metrics' names
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        ground_truth = COCO()
        ground_truth.dataset = {
            "info": {},
            "images": [{"id": i} for i in sorted({one["image_id"] for one in [*truths, *detections]})],
            "categories": [{"id": 1, "name": "person"}],
            "annotations": truths,
        }
        ground_truth.createIndex()
        evaluator = COCOeval(ground_truth, ground_truth.loadRes(detections), "keypoints")
        evaluator.params.kpt_oks_sigmas = sigmas
        evaluator.params.maxDets = [MAX_DETECTIONS]
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    return np.asarray(evaluator.stats)


def _or_nan(value: float) -> float:
    return float(value) if value >= 0 else float("nan")


def _measure(labels: Labels, predicted: np.ndarray, confidence: np.ndarray) -> Score:
    return oks_ap(
        predicted,
        confidence,
        labels.joints,
        labels.visibility,
        labels.area,
        labels.box_xywh,
        labels.picture_id,
        labels.sigmas,
        labels.ignored,
    )


def _can_score(labels: Labels) -> bool:
    counted = (labels.area >= 0) & (labels.area <= LARGEST_AREA)
    return bool(labels.labelled[counted].any())


METRICS = (
    Metric(
        "oks_ap",
        "OKS AP",
        f"a labelled joint and an area of at most {LARGEST_AREA:.0e} pixels squared",
        _measure,
        can_score=_can_score,
    ),
)
