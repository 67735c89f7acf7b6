"""Centralised training: all people in one place, at one size. A reference of the same budget, no FL."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from pydantic.dataclasses import dataclass

from raf_ray.algorithms.fedavg import FedAvg
from raf_ray.algorithms.interface import PARAMETERS, Setting

if TYPE_CHECKING:
    from raf_ray.resolution import Size


@dataclass(frozen=True, config=PARAMETERS)
class Centralised(FedAvg):
    """One place has everybody's people, as large as their pictures are, and a round is an epoch over them all."""

    pools: ClassVar[bool] = True

    size: str | None = None
    """The tier, or HxW, that all people are seen at; null: the largest of the clients'."""

    def common_tier(self, sizes: Mapping[str, Size]) -> str | None:
        return self.size or max(sizes, key=lambda tier: sizes[tier].pixels)

    def says(self, setting: Setting) -> str | None:
        return "centralised: everybody's people train in one place, at one size"
