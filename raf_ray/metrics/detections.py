"""What becomes of detected boxes' poses before COCO's AP: scores times joints, and one pose a person (OKS-NMS).

Both as in the official top-down tools (Papandreou et al. 2017, section 2.3; HRNet).
"""

from __future__ import annotations

import numpy as np

from raf_ray.metrics.oks import oks_similarity

SURE = 0.2
"""Confidence above which a joint counts in a pose's score (HRNet, MMPose)."""

SAME = 0.9
"""OKS above which two poses are of one person (HRNet, MMPose)."""


def pose_scores(box_scores: np.ndarray, confidence: np.ndarray) -> np.ndarray:
    """(M,) a box's score (M,) times the mean confidence (M, K) of its joints above SURE; 0 where none is."""
    sure = confidence > SURE
    mean = np.where(sure, confidence, 0).sum(axis=1) / np.maximum(sure.sum(axis=1), 1)
    return np.asarray(box_scores * mean, np.float64)


def oks_nms(
    joints: np.ndarray, scores: np.ndarray, areas: np.ndarray, picture_id: np.ndarray, sigmas: np.ndarray
) -> np.ndarray:
    """(n,) ascending indices of the poses that stay: of two with an OKS above SAME in one picture, the surer.

    `joints` (M, K, 2), `scores` (M,), `areas` (M,) of the boxes in pixels squared, `picture_id` (M,), `sigmas` (K,).
    The OKS of two poses takes the mean of their areas.
    """
    kept: list[int] = []
    of_picture: dict[int, list[int]] = {}
    for i in np.argsort(-scores, kind="stable").tolist():
        rivals = of_picture.setdefault(int(picture_id[i]), [])
        if rivals:
            area = (areas[rivals].astype(np.float64) + areas[i]) / 2
            oks = oks_similarity(joints[rivals], joints[i], area, sigmas).mean(axis=1)
            if (oks > SAME).any():
                continue
        rivals.append(i)
        kept.append(i)
    return np.sort(np.array(kept, np.int64))
