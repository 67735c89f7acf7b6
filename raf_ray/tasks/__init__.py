"""What is learnt of people, one file each; `interface.py` says what a task decides.

A file here with `NAMES` and one `Task` is a new value of `task.name`.
"""

from __future__ import annotations

import importlib
import inspect

from raf_ray.plugins import names_in
from raf_ray.tasks.interface import Task


def built_in(name: str) -> Task:
    """The task of a file here. Raises ValueError where none names it."""
    files = names_in(__name__)
    if name not in files:
        raise ValueError(f"no built-in task is called '{name}'")
    module = importlib.import_module(f"{__name__}.{files[name]}")
    kinds = (value for _, value in inspect.getmembers(module, inspect.isclass) if value.__module__ == module.__name__)
    return next(kind for kind in kinds if issubclass(kind, Task))()


__all__ = ["Task", "built_in"]
