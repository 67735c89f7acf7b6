"""Norm clipping (McMahan et al. 2018, "Learning differentially private recurrent language models", flat clipping)."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass

from raf_ray.algorithms.interface import PARAMETERS, WEIGHTS, Memory, Vectors
from raf_ray.transforms.interface import Transform


@dataclass(frozen=True, config=PARAMETERS)
class Clip(Transform):
    """A client's update of the weights u becomes u min(1, norm / |u|), so that no client moves the mean farther."""

    norm: Annotated[float, Field(gt=0)] = 1.0
    """Largest L2 norm of a client's update; rounds.csv's `update_norm_TIER` shows what they are."""

    def client(
        self, vectors: Vectors, memory: Memory, num_weights: int, rng: np.random.Generator
    ) -> tuple[Vectors, Memory]:
        update = vectors[WEIGHTS]
        length = float(np.linalg.norm(update[:num_weights].astype(np.float64)))
        if length <= self.norm:
            return vectors, memory
        clipped = update.copy()
        clipped[:num_weights] *= np.float32(self.norm / length)
        return {**vectors, WEIGHTS: clipped}, memory
