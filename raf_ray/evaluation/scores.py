"""What a scoring answers: small frozen records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np

from raf_ray.evaluation.own import OwnModel
from raf_ray.resolution import Size


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
    results: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """Size -> detections in COCO's result form, where they were asked to be kept."""
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


def mean_scores(by_client: Mapping[str, Scores], sizes: Sequence[Size]) -> Scores:
    """One record of all: at each size the mean over the clients scored there, each weighing the same."""
    every = list(by_client.values())
    at = {str(size): [scores for scores in every if str(size) in scores.by_resolution] for size in sizes}
    return replace(
        every[0],
        by_resolution={size: float(np.mean([s.by_resolution[size] for s in found])) for size, found in at.items()},
        per_joint={size: _mean([s.per_joint[size] for s in found]) for size, found in at.items()},
        extra={size: _mean([s.extra[size] for s in found]) for size, found in at.items() if size in found[0].extra},
        upsampled={size: found[0].upsampled[size] for size, found in at.items()},
        bad_pictures=max(scores.bad_pictures for scores in every),
        samples=tuple(sample for scores in every for sample in scores.samples),
        results={},
        by_client={client: dict(scores.by_resolution) for client, scores in by_client.items()},
    )


def _mean(figures: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Name -> the mean over records of the same names."""
    return {name: float(np.mean([one[name] for one in figures])) for name in figures[0]}
