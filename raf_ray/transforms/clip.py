"""Norm clipping (McMahan et al. 2018, "Learning differentially private recurrent language models", flat clipping)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass

from raf_ray.algorithms.interface import PARAMETERS, WEIGHTS, Memory, Vectors
from raf_ray.transforms.interface import Coding, Transform

if TYPE_CHECKING:
    from raf_ray.state import Layout

SLACK = 2.0**-22
"""By which a clipped vector is shorter than it may be: four times float32's rounding, which so cannot lengthen it."""
FACTOR_BYTES = 4
"""Of the float32 factor that goes beside values which were coded before they were clipped."""


@dataclass(frozen=True, config=PARAMETERS)
class Clip(Transform):
    """A client's update of the weights u becomes u min(1, norm / |u|), so that no client moves the mean farther."""

    norm: Annotated[float, Field(gt=0)] = 1.0
    """Largest L2 norm of a client's update; rounds.csv's `update_norm_TIER` shows what they are."""

    def client(
        self, vectors: Vectors, memory: Memory, sent: Vectors, layout: Layout, rng: np.random.Generator
    ) -> tuple[Vectors, Memory]:
        clipped = vectors[WEIGHTS].copy()
        shorten(clipped[: layout.count("weights")], self.norm)
        return {**vectors, WEIGHTS: clipped}, memory

    def coding(self, coding: Coding, layout: Layout) -> Coding:
        return scaled(coding, 1)


def shorten(part: np.ndarray, norm: float) -> float:
    """Shorten (n,) float32 in place to an L2 norm of at most `norm`; the norm that it had, summed in float64."""
    values = part.astype(np.float64)
    length = float(np.linalg.norm(values))
    if not length <= norm:  # NaN stays NaN, which the sum refuses
        part[:] = values * (norm / length * (1 - SLACK))
    return length


def scaled(coding: Coding, factors: int) -> Coding:
    """The coding of values that are then multiplied by so many factors: shorter than float32, they go beside them."""
    if coding.bits >= 32 or not coding.values:
        return coding
    return replace(coding, overhead=coding.overhead + factors * FACTOR_BYTES)
