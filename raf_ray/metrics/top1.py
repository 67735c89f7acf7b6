"""Top-1 accuracy: the share of people whose likeliest class is their own."""

from __future__ import annotations

import numpy as np

from raf_ray.metrics.interface import Score

TITLES = {"top1": "Top-1 accuracy"}


def top1(predicted: np.ndarray, truth: np.ndarray, counted: np.ndarray, classes: int) -> Score:
    """Share of the counted people whose `predicted` class is the `truth`; `per_joint` is of each class's own people.

    Args:
        predicted, truth: (N,) class numbers.
        counted: (N,) bool.

    Raises ValueError where shapes differ.
    """
    if not predicted.shape == truth.shape == counted.shape or predicted.ndim != 1:
        raise ValueError(f"top1 got shapes {predicted.shape}, {truth.shape} and {counted.shape}, which must be (N,)")
    right = (predicted == truth) & counted
    of_class = [counted & (truth == one) for one in range(classes)]
    return Score(
        value=int(right.sum()) / int(counted.sum()) if counted.any() else float("nan"),
        per_joint=tuple(int(right[own].sum()) / int(own.sum()) if own.any() else float("nan") for own in of_class),
        people=int(counted.sum()),
        joints=int(counted.sum()),
    )
