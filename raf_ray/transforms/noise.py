"""Gaussian noise on a round's mean (Sun et al. 2019, "Can you really backdoor federated learning?", with `clip`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass

from raf_ray.algorithms.interface import PARAMETERS, WEIGHTS, Cohort, Memory, Vectors
from raf_ray.transforms.interface import Transform

if TYPE_CHECKING:
    from raf_ray.state import Layout


@dataclass(frozen=True, config=PARAMETERS)
class Noise(Transform):
    """Independent noise N(0, std^2) on the mean update of the weights, frozen ones not. No privacy is accounted for."""

    std: Annotated[float, Field(gt=0)] = 0.001
    """Standard deviation for each weight."""

    def server(
        self, mean: Vectors, memory: Memory, cohort: Cohort, layout: Layout, rng: np.random.Generator
    ) -> tuple[Vectors, Memory]:
        noisy, count = mean[WEIGHTS].copy(), layout.count("weights")
        noise = rng.normal(0.0, self.std, count)
        layout.spare_frozen(noise)
        noisy[:count] += noise
        return {**mean, WEIGHTS: noisy}, memory
