"""Label flipping (Tolpegin et al. 2020, "Data poisoning attacks against federated learning systems"), for joints.

There a class is labelled as another one. A keypoint's class is which joint it is, so here joints are labelled as
others, all by the same rule, and the places that are labelled stay places of joints.
"""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass

from raf_ray.algorithms.interface import PARAMETERS
from raf_ray.attacks.interface import Attack


@dataclass(frozen=True, config=PARAMETERS)
class LabelShift(Attack):
    """Every joint k of its people is labelled where joint k + steps is, in the skeleton's order, round its end.

    It trains on those labels, and sends what that gives.
    """

    steps: Annotated[int, Field(gt=0)] = 1
    """Places in the skeleton's order: 1 labels each joint as the one before it."""

    def fault(self, joints: int) -> str | None:
        if self.steps % joints:
            return None
        return f"attack.label_shift.steps={self.steps} leads each of {joints} joints to itself; choose another number"

    def labels(
        self, joints: np.ndarray, visibility: np.ndarray, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        return np.roll(joints, -self.steps, axis=1), np.roll(visibility, -self.steps, axis=1)
