"""What is done to updates on their way, one file each: a new file here is a new value of `transforms.apply`."""

from __future__ import annotations

from functools import lru_cache

from raf_ray.plugins import classes_in
from raf_ray.transforms.interface import Transform


@lru_cache(maxsize=1)
def built_in() -> dict[str, type[Transform]]:
    """File name -> the transform in it, in alphabetical order."""
    return classes_in(__name__, Transform)
