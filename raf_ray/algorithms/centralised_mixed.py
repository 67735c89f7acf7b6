"""Centralised training at each owner's own tier. A reference of the same budget, no FL."""

from __future__ import annotations

from typing import ClassVar

from pydantic.dataclasses import dataclass

from raf_ray.algorithms.fedavg import FedAvg
from raf_ray.algorithms.interface import PARAMETERS, Setting


@dataclass(frozen=True, config=PARAMETERS)
class CentralisedMixed(FedAvg):
    """One place has everybody's people, each at its owner's tier, and a round is an epoch over them all."""

    pools: ClassVar[bool] = True

    def says(self, setting: Setting) -> str | None:
        return "centralised_mixed: everybody's people train in one place, each at its owner's tier"
