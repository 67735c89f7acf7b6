"""Gaussian vectors (Blanchard et al. 2017, "Machine learning with adversaries")."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass

from raf_ray.algorithms.interface import PARAMETERS, Vectors
from raf_ray.attacks.interface import Attack, with_changed


@dataclass(frozen=True, config=PARAMETERS)
class NoiseAttack(Attack):
    """In place of its update it sends N(0, std^2) for each entry, new in each round; a method's own vectors too."""

    std: Annotated[float, Field(gt=0)] = 1.0
    """Standard deviation of an entry: a choice, far beyond an honest client's update."""

    def update(self, vectors: Vectors, num_weights: int, rng: np.random.Generator) -> Vectors:
        return with_changed(vectors, num_weights, lambda own: rng.normal(0.0, self.std, own.size))
