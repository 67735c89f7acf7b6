"""Gaussian noise on a round's mean (Sun et al. 2019, "Can you really backdoor federated learning?", with `clip`)."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass

from raf_ray.algorithms.interface import PARAMETERS, WEIGHTS, Cohort, Vectors
from raf_ray.transforms.interface import Transform


@dataclass(frozen=True, config=PARAMETERS)
class Noise(Transform):
    """The mean update of the weights gets independent noise N(0, std^2). No privacy is accounted for."""

    std: Annotated[float, Field(gt=0)] = 0.001
    """Standard deviation for each weight."""

    def server(self, mean: Vectors, cohort: Cohort, num_weights: int, rng: np.random.Generator) -> Vectors:
        noisy = mean[WEIGHTS].copy()
        noisy[:num_weights] += rng.normal(0.0, self.std, num_weights)
        return {**mean, WEIGHTS: noisy}
