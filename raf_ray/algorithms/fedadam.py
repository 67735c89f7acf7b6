"""FedAdam (Reddi et al. 2021, "Adaptive federated optimization", algorithm 2)."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass

from raf_ray.algorithms.fedopt import FedOpt
from raf_ray.algorithms.interface import PARAMETERS


@dataclass(frozen=True, config=PARAMETERS)
class FedAdam(FedOpt):
    """v <- beta2 v + (1 - beta2) m^2: old updates are forgotten."""

    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.99
    """Memory of the second moment."""

    def second_moment(self, v: np.ndarray, square: np.ndarray) -> np.ndarray:
        return self.beta2 * v + (1 - self.beta2) * square
