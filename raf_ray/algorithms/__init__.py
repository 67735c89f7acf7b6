"""FL methods, one file each; `interface.py` says what a method may do. A new file here is a new `algorithm.name`."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from raf_ray.algorithms.interface import Algorithm


@lru_cache(maxsize=1)
def built_in() -> dict[str, type[Algorithm]]:
    """File name -> the method in it, in alphabetical order."""
    found: dict[str, type[Algorithm]] = {}
    for module_info in pkgutil.iter_modules(__path__):
        module = importlib.import_module(f"{__name__}.{module_info.name}")
        for _, value in inspect.getmembers(module, inspect.isclass):
            if issubclass(value, Algorithm) and value.__module__ == module.__name__ and not inspect.isabstract(value):
                found[module_info.name] = value
    return found


def parameters_of(method: type[Algorithm]) -> Mapping[str, Any]:
    """Parameter name -> its pydantic field."""
    return dict(getattr(method, "__pydantic_fields__", {}))
