"""What bad clients do, one file each: a new file here is a new value of `attack.name`."""

from __future__ import annotations

from functools import lru_cache

from raf_ray.attacks.interface import Attack
from raf_ray.plugins import classes_in


@lru_cache(maxsize=1)
def built_in() -> dict[str, type[Attack]]:
    """File name -> the attack in it, in alphabetical order."""
    return classes_in(__name__, Attack)
