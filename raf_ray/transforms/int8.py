"""Updates of 8 bits a weight by stochastic rounding (Alistarh et al. 2017, "QSGD", with a layer as bucket)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from pydantic.dataclasses import dataclass

from raf_ray.algorithms.interface import PARAMETERS, WEIGHTS, Memory, Vectors
from raf_ray.transforms.interface import Coding, Transform

if TYPE_CHECKING:
    from raf_ray.state import Layout

LEVELS = 127
"""On each side of zero: what 8 bits hold with their sign."""
SCALE_BYTES = 4
"""Of a layer's float32 scale."""


@dataclass(frozen=True, config=PARAMETERS)
class Int8(Transform):
    """A client's update of a layer becomes whole multiples of scale = max |u| / 127, one scale a layer.

    Each entry is rounded up with the probability by which it stands above the multiple below, else down. So its
    expectation is the entry itself, and it is off by less than one scale. Scaling by the largest magnitude and not by
    the L2 norm is the variant of the paper's experiments. A layer is an entry of the model's state: a choice, so that
    layers of large updates do not round those of small ones away.
    """

    def client(
        self, vectors: Vectors, memory: Memory, sent: Vectors, layout: Layout, rng: np.random.Generator
    ) -> tuple[Vectors, Memory]:
        update = vectors[WEIGHTS].copy()
        for entry in layout.weights:
            part = update[entry.start : entry.start + entry.size]
            part[:] = rounded(part, rng)
        return {**vectors, WEIGHTS: update}, memory

    def coding(self, coding: Coding, layout: Layout) -> Coding:
        return replace(coding, bits=8, overhead=coding.overhead + SCALE_BYTES * coding.layers)


def rounded(values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(n,) float32 -> (n,) float32 multiples of the scale, whole numbers within +-127 of them."""
    largest = float(np.abs(values).max()) if values.size else 0.0
    scale = np.float32(largest / LEVELS)
    if float(scale) * LEVELS < largest:  # rounded down: the largest value would be cut, and so be biased
        scale = np.nextafter(scale, np.float32(np.inf))
    if scale == 0:
        return values
    whole = np.floor(values.astype(np.float64) / float(scale) + rng.random(values.size))
    return np.asarray(whole.astype(np.float32) * scale)
