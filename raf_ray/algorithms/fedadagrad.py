"""FedAdagrad (Reddi et al. 2021, "Adaptive federated optimization", algorithm 2)."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass

from raf_ray.algorithms.fedopt import FedOpt
from raf_ray.algorithms.interface import PARAMETERS


@dataclass(frozen=True, config=PARAMETERS)
class FedAdagrad(FedOpt):
    """v <- v + m^2: steps shrink from round to round."""

    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Momentum of the mean update; the paper's experiments have none with this method."""

    def second_moment(self, v: np.ndarray, square: np.ndarray) -> np.ndarray:
        return v + square
