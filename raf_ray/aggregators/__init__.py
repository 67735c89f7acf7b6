"""How a round's updates become one, one file each: a new file here is a new value of `aggregation.name`."""

from __future__ import annotations

from functools import lru_cache

from raf_ray.aggregators.interface import Aggregator
from raf_ray.plugins import classes_in


@lru_cache(maxsize=1)
def built_in() -> dict[str, type[Aggregator]]:
    """File name -> the aggregator in it, in alphabetical order."""
    return classes_in(__name__, Aggregator)
