"""PCK: the percentage of correct keypoints, with the reference lengths that its variants measure by.

PCKh@0.5 (Andriluka et al. 2014) measures by the head box, its stand-in by neck to head top, PCK@0.2
(Yang and Ramanan 2013) by the torso. Values are shares in [0, 1].
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from raf_ray.metrics.score import Score


def pck(
    predicted: np.ndarray,
    truth: np.ndarray,
    labelled: np.ndarray,
    reference: np.ndarray,
    threshold: float,
    counted_joints: Sequence[int] | np.ndarray | None = None,
) -> Score:
    """Share of labelled joints predicted within (or at) `threshold` x the person's reference length.

    `predicted` and `truth` (N, K, 2) in the same pixels, `labelled` (N, K) bool, `reference` (N,) in those
    pixels. People whose reference is not finite or not positive are left out. The value is the mean over labelled
    joints, not over joint names (MPII's official "Mean" weighs joints by their number), of `counted_joints`
    (indices or a (K,) bool mask; None: all; PCKh leaves out pelvis and thorax); `per_joint` is of every
    joint. A prediction that is not finite is a miss. Raises ValueError where shapes differ.
    """
    people, joints = labelled.shape
    if not predicted.shape == truth.shape == (people, joints, 2) or reference.shape != (people,):
        raise ValueError(
            f"predicted {predicted.shape}, truth {truth.shape}, labelled {labelled.shape} and reference "
            f"{reference.shape} must be (N, K, 2), (N, K, 2), (N, K) and (N,)"
        )
    with np.errstate(invalid="ignore"):
        measured = (reference > 0) & np.isfinite(reference)
        distance = np.linalg.norm(predicted.astype(np.float64) - truth, axis=2)
        near = distance <= threshold * reference.astype(np.float64)[:, None]
    judged = labelled.astype(bool) & measured[:, None]
    correct = (near & judged).sum(axis=0)
    labels = judged.sum(axis=0)

    counted = np.zeros(joints, bool)
    counted[slice(None) if counted_joints is None else list(counted_joints)] = True
    total = int(labels[counted].sum())
    return Score(
        value=int(correct[counted].sum()) / total if total else float("nan"),
        per_joint=tuple(int(c) / int(n) if n else float("nan") for c, n in zip(correct, labels, strict=True)),
        people=int(judged[:, counted].any(axis=1).sum()),
        joints=total,
    )


def torso_reference(
    truth: np.ndarray,
    labelled: np.ndarray,
    left_shoulder: int,
    right_shoulder: int,
    left_hip: int,
    right_hip: int,
) -> np.ndarray:
    """(N,) mean of the distances from each shoulder to the opposite hip.

    Where only one of the two is labelled at both ends it stands alone; NaN where neither is. `truth` (N, K,
    2), `labelled` (N, K) bool, then the joints' indices.
    """
    diagonals = np.stack(
        [
            _labelled_distance(truth, labelled, left_shoulder, right_hip),
            _labelled_distance(truth, labelled, right_shoulder, left_hip),
        ]
    )
    known = np.isfinite(diagonals)
    length = np.where(known, diagonals, 0).sum(axis=0)
    return np.where(known.any(axis=0), length / np.maximum(known.sum(axis=0), 1), np.nan)


def neck_reference(truth: np.ndarray, labelled: np.ndarray, neck: int, head_top: int) -> np.ndarray:
    """(N,) distance from neck to head top, for sets without head boxes; NaN where either is unlabelled."""
    return _labelled_distance(truth, labelled, neck, head_top)


def _labelled_distance(truth: np.ndarray, labelled: np.ndarray, a: int, b: int) -> np.ndarray:
    """(N,) distance between joints a and b; NaN where one of them is not labelled."""
    distance = np.linalg.norm(truth[:, a].astype(np.float64) - truth[:, b], axis=1)
    return np.where(labelled[:, a].astype(bool) & labelled[:, b].astype(bool), distance, np.nan)
