"""Top-1 accuracy: the share of people whose likeliest class is their own, each class weighing the same."""

from __future__ import annotations

import numpy as np

from raf_ray.metrics.interface import Score

TITLES = {"top1": "Top-1 accuracy, mean of the classes"}


def top1(predicted: np.ndarray, truth: np.ndarray, counted: np.ndarray, classes: int) -> Score:
    """Mean over the classes that there are of top-1 accuracy on each one's people (Brodersen et al. 2010: balanced).

    So a model that always tells the commonest class is at chance. `per_joint` is of each class.

    Args:
        predicted, truth: (N,) class numbers.
        counted: (N,) bool.

    Raises ValueError where shapes differ.
    """
    if not predicted.shape == truth.shape == counted.shape or predicted.ndim != 1:
        raise ValueError(f"top1 got shapes {predicted.shape}, {truth.shape} and {counted.shape}, which must be (N,)")
    right = predicted == truth
    own = [counted & (truth == one) for one in range(classes)]
    of_class = tuple(float(right[who].mean()) if who.any() else float("nan") for who in own)
    return Score(
        value=float(np.nanmean(of_class)) if counted.any() else float("nan"),
        per_joint=of_class,
        people=int(counted.sum()),
        joints=int(counted.sum()),
    )
