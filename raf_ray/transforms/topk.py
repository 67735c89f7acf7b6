"""Updates of their largest entries alone, with error feedback.

Stich et al. 2018, "Sparsified SGD with memory"; Karimireddy et al. 2019, "Error feedback fixes SignSGD and other
gradient compression schemes", algorithm 2. Here an update is a client's whole round.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass

from raf_ray.algorithms.interface import PARAMETERS, WEIGHTS, Memory, Vectors
from raf_ray.transforms.interface import Coding, Setting, Transform

if TYPE_CHECKING:
    from raf_ray.state import Layout

RESIDUAL = "residual"
"""(num_weights,) float32 in a client's memory: what it has not sent yet."""
POSITION_BYTES = 4
"""Of an entry's position, a 32-bit number: a choice, plain and without an entropy code."""


@dataclass(frozen=True, config=PARAMETERS)
class TopK(Transform):
    """Of a client's update u and its residual e, the `share` of entries of u + e with the largest magnitudes is sent.

    What is not sent is the next residual, so that nothing is lost: what a client has sent and its residual add up to
    its updates. A client that is not drawn keeps its residual as it is.
    """

    share: Annotated[float, Field(gt=0, le=1)] = 0.1
    """Of the weights, rounded down; 0.1 is a choice, the papers go down to 0.001."""
    error_feedback: bool = True
    """Keep what was not sent for the next round; without it small entries may never be sent."""

    def requires(self, setting: Setting) -> str | None:
        weights = setting.layout.count("weights")
        if self._kept(weights) < 1:
            return f"transforms.topk.share={self.share:g} of {weights} weights is less than one of them; raise it"
        return None

    def client(
        self, vectors: Vectors, memory: Memory, sent: Vectors, layout: Layout, rng: np.random.Generator
    ) -> tuple[Vectors, Memory]:
        count = layout.count("weights")
        whole = vectors[WEIGHTS][:count]
        if RESIDUAL in memory:
            whole = whole + memory[RESIDUAL]
        chosen = largest(whole, self._kept(count))
        update = vectors[WEIGHTS].copy()
        update[:count] = np.where(chosen, whole, 0)
        kept = {RESIDUAL: np.where(chosen, np.float32(0), whole)} if self.error_feedback else {}
        return {**vectors, WEIGHTS: update}, kept

    def coding(self, coding: Coding, layout: Layout) -> Coding:
        kept = self._kept(layout.count("weights"))
        if kept >= coding.values:  # of a sparser update, or of all: no shorter
            return coding
        return replace(coding, values=kept, overhead=coding.overhead + POSITION_BYTES * kept)

    def _kept(self, weights: int) -> int:
        return int(self.share * weights)


def largest(values: np.ndarray, count: int) -> np.ndarray:
    """(n,) bool, true at the `count` largest magnitudes; of equal ones the first, so that all machines agree."""
    sizes = np.abs(values)
    if count >= sizes.size:
        return np.ones(sizes.shape, bool)
    least = np.partition(sizes, sizes.size - count)[sizes.size - count]
    chosen = sizes > least
    ties = np.flatnonzero(sizes == least)
    chosen[ties[: count - int(chosen.sum())]] = True
    return np.asarray(chosen)
