"""What a scoring answers: small frozen records."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np

from raf_ray.resolution import Size

if TYPE_CHECKING:
    from raf_ray.evaluation.own import OwnModel


@dataclass(frozen=True)
class Sample:
    """One person at one size, with what the model sees: for samples.png."""

    size: str
    crop: np.ndarray
    """(H, W, 3) uint8 RGB"""
    predicted: np.ndarray
    """(K, 2) float, crop pixels"""
    truth: np.ndarray
    """(K, 2) float, crop pixels"""
    labelled: np.ndarray
    """(K,) bool"""


@dataclass(frozen=True)
class Scores:
    """One model on one split at several sizes."""

    split: str
    metric: str
    by_resolution: dict[str, float]
    """Size -> score in [0, 1]; NaN where nothing could be scored."""
    per_joint: dict[str, dict[str, float]]
    """Size -> joint -> score."""
    people: int
    bad_pictures: int
    upsampled: dict[str, float]
    """Size -> share of the people who are smaller in their picture."""
    samples: tuple[Sample, ...] = ()
    extra: dict[str, dict[str, float]] = field(default_factory=dict)
    """Size -> further figures of the metric (AP50 ...)."""
    by_client: dict[str, dict[str, float]] = field(default_factory=dict)
    """Client -> size -> score of its own model, where clients have one; the others are means over them."""


class ScoreModel(Protocol):
    """Scores the state in a buffer on a split at each of `sizes`; people to draw at `sample_sizes`."""

    def __call__(
        self,
        buffer: np.ndarray,
        split: str,
        sizes: Sequence[Size],
        sample_sizes: Sequence[Size] = (),
        own: Sequence[OwnModel] = (),
    ) -> Scores:
        """With `own`, each of those models at its sizes, and the mean over them."""
