"""Sign flipping (Li et al. 2019, "RSA: Byzantine-robust stochastic aggregation methods")."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass

from raf_ray.algorithms.interface import PARAMETERS, Vectors
from raf_ray.attacks.interface import Attack, with_changed


@dataclass(frozen=True, config=PARAMETERS)
class SignFlip(Attack):
    """It trains as the others do, and sends -scale x what it would have sent, a method's own vectors too."""

    scale: Annotated[float, Field(gt=0)] = 4.0
    """Times its own update. 4 is a choice: one in five then brings the mean of updates that are alike to zero."""

    def update(self, vectors: Vectors, num_weights: int, rng: np.random.Generator) -> Vectors:
        return with_changed(vectors, num_weights, lambda own: own * np.float32(-self.scale))
