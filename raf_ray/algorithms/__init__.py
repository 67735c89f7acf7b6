"""FL methods, one file each; `interface.py` says what a method may do. A new file here is a new `algorithm.name`."""

from __future__ import annotations

from functools import lru_cache

from raf_ray.algorithms.interface import Algorithm
from raf_ray.plugins import classes_in


@lru_cache(maxsize=1)
def built_in() -> dict[str, type[Algorithm]]:
    """File name -> the method in it, in alphabetical order."""
    return classes_in(__name__, Algorithm)  # type: ignore[type-abstract]
