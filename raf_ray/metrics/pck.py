"""PCK: the percentage of correct keypoints, with the reference lengths that its variants measure by.

PCKh@0.5 (Andriluka et al. 2014) measures by the head box, its stand-in by neck to head top, PCK@0.2
(Yang and Ramanan 2013) by the torso. Values are shares in [0, 1].
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from raf_ray.metrics.interface import Labels, Metric, Score


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


def pckh(
    predicted: np.ndarray,
    truth: np.ndarray,
    labelled: np.ndarray,
    head_size: np.ndarray,
    joint_names: Sequence[str],
    threshold: float = 0.5,
) -> Score:
    """PCKh: `pck` by the head box, its mean without pelvis and thorax (Andriluka et al. 2014).

    `head_size` (N,) is 0.6 x the head box's diagonal in pixels; NaN leaves a person out. `joint_names`: K, of which
    "pelvis" and "thorax" are known by name. Raises ValueError where shapes differ.
    """
    counted = np.array([name not in NOT_IN_THE_MEAN for name in joint_names])
    return pck(predicted, truth, labelled, head_size, threshold, counted)


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


# --- values of evaluation.metric ------------------------------------------------------------------------

NECK = (("upper_neck", "neck"), ("head_top",))
TORSO = (("left_shoulder",), ("right_shoulder",), ("left_hip",), ("right_hip",))
NOT_IN_THE_MEAN = ("pelvis", "thorax")
"""Joints that PCKh's mean leaves out (Andriluka et al. 2014)."""

GROUPS = {"Head": ("head_top",)} | {
    part.title(): (f"left_{part}", f"right_{part}") for part in ("shoulder", "elbow", "wrist", "hip", "knee", "ankle")
}
"""Columns of MPII's tables beside the mean (HRNet: Head is the head top alone)."""


def _indices(labels: Labels, wanted: Sequence[Sequence[str]]) -> list[int]:
    found = [labels.joint(*names) for names in wanted]
    return [index for index in found if index is not None]


def _lacks_joints(wanted: Sequence[Sequence[str]]) -> Callable[[Labels], str | None]:
    def lacks(labels: Labels) -> str | None:
        missing = next((names for names in wanted if labels.joint(*names) is None), None)
        if missing is None:
            return None
        return (
            f"evaluation.metric: it needs the joint {' or '.join(missing)}, which skeleton {labels.skeleton} lacks; "
            "choose another metric"
        )

    return lacks


def _lacks_heads(labels: Labels) -> str | None:
    if np.isfinite(labels.head_size).any():
        return None
    return (
        "evaluation.metric=pckh_0.5 needs head boxes (annot/gt_valid.mat), which these data lack; "
        "pckh_neck_0.5 measures by neck and head top"
    )


def _pckh(labels: Labels, predicted: np.ndarray, confidence: np.ndarray) -> Score:
    score, strict = (
        pckh(predicted, labels.joints, labels.labelled, labels.head_size, labels.joint_names, alpha)
        for alpha in (0.5, 0.1)
    )
    return replace(score, extra={"Mean@0.1": strict.value, **_groups(labels, score.per_joint)})


def _groups(labels: Labels, per_joint: Sequence[float]) -> dict[str, float]:
    """Group -> the mean of its joints' PCKh, as MPII's tables and HRNet have it; NaN where one has no label."""
    found = {}
    for group, names in GROUPS.items():
        index = [labels.joint(name) for name in names]
        if None not in index:
            found[group] = float(np.mean([per_joint[i] for i in index if i is not None]))
    return found


def _pckh_neck(labels: Labels, predicted: np.ndarray, confidence: np.ndarray) -> Score:
    length = neck_reference(labels.joints, labels.labelled, *_indices(labels, NECK))
    return pck(predicted, labels.joints, labels.labelled, length, 0.5)


def _pck_torso(labels: Labels, predicted: np.ndarray, confidence: np.ndarray) -> Score:
    length = torso_reference(labels.joints, labels.labelled, *_indices(labels, TORSO))
    return pck(predicted, labels.joints, labels.labelled, length, 0.2)


METRICS = (
    Metric(
        "pckh_0.5", "PCKh@0.5", "a head box above 0 and a labelled joint other than pelvis and thorax", _pckh,
        _lacks_heads,
    ),
    Metric(
        "pckh_neck_0.5", "PCK@0.5 of neck to head top", "labels of neck and head top at two places", _pckh_neck,
        _lacks_joints(NECK),
    ),
    Metric(
        "pck_torso_0.2", "PCK@0.2 of the torso", "labels of a shoulder and the opposite hip at two places", _pck_torso,
        _lacks_joints(TORSO),
    ),
)  # fmt: skip
