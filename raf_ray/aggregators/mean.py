"""The weighted mean (McMahan et al. 2017): what every method was made for, and what one bad client can move at will."""

from __future__ import annotations

from pydantic.dataclasses import dataclass

from raf_ray.aggregators.interface import Aggregator
from raf_ray.algorithms.interface import PARAMETERS


@dataclass(frozen=True, config=PARAMETERS)
class Mean(Aggregator):
    """Weighted by the method. Hosts add up their clients' updates in exact fixed point, and the server adds sums."""
