"""What a metric is: a name, what people must have for it, and how joints are measured by it. Numpy only."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Score:
    """A metric over N people with K joints."""

    value: float
    """In [0, 1]; NaN where nothing was counted."""
    per_joint: tuple[float, ...]
    """K values in [0, 1], each over that joint's labels; NaN where it has none."""
    people: int
    """People who counted."""
    joints: int
    """Labelled joints that counted."""
    extra: Mapping[str, float] = field(default_factory=dict)
    """Further official numbers of the metric, by name."""


@dataclass(frozen=True)
class Regions:
    """M regions of pictures where a wrong detection is forgiven (COCO's crowds and unlabelled people)."""

    picture_id: np.ndarray
    """(M,) int64"""
    box_xywh: np.ndarray
    """(M, 4) float64, picture pixels"""
    area: np.ndarray
    """(M,) float64"""
    crowd: np.ndarray
    """(M,) bool"""


@dataclass(frozen=True)
class Labels:
    """What is known of N people with K joints, in picture pixels."""

    skeleton: str
    """Name of the list of joints"""
    joint_names: tuple[str, ...]
    sigmas: np.ndarray
    """(K,) COCO's, as a share of sqrt(area)"""
    joints: np.ndarray
    """(N, K, 2)"""
    visibility: np.ndarray
    """(N, K) COCO's 0, 1, 2"""
    area: np.ndarray
    """(N,) of the segment"""
    box_xywh: np.ndarray
    """(N, 4)"""
    head_size: np.ndarray
    """(N,) NaN where there is no head box"""
    picture_id: np.ndarray
    """(N,)"""
    ignored: Regions | None = None

    @property
    def labelled(self) -> np.ndarray:
        """(N, K) bool"""
        return self.visibility > 0

    def joint(self, *names: str) -> int | None:
        """Index of the first of `names` that there is."""
        return next((self.joint_names.index(name) for name in names if name in self.joint_names), None)


@dataclass(frozen=True)
class Metric:
    """One value of `evaluation.metric`."""

    name: str
    title: str
    """As tables and plots show it"""
    needs: str
    """What a person must have to be scored by it"""
    measure: Callable[[Labels, np.ndarray, np.ndarray], Score]
    """The score of (N, K, 2) joints in picture pixels with (N, K) confidences"""
    lacks: Callable[[Labels], str | None] = lambda labels: None
    """A sentence where the people as a whole cannot be scored by it, whoever they are"""
    can_score: Callable[[Labels], bool] | None = None
    """Whether the labels of at least one person are enough; None: whether the truth itself is scored"""

    def is_enough(self, labels: Labels) -> bool:
        """Whether at least one person can be scored."""
        if self.can_score is not None:
            return self.can_score(labels)
        return self.measure(labels, labels.joints, np.ones(labels.visibility.shape, np.float32)).joints > 0
