"""Each client alone: what it would have without the federation, at the same budget. A reference, no FL."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic.dataclasses import dataclass

from raf_ray.algorithms.fedavg import FedAvg
from raf_ray.algorithms.interface import PARAMETERS

if TYPE_CHECKING:
    from raf_ray.state import Entry


@dataclass(frozen=True, config=PARAMETERS)
class Local(FedAvg):
    """Nothing is ever averaged: each client goes on from its own last weights, and sends none."""

    def is_private(self, entry: Entry) -> bool:
        return True
