"""Checkpoints that others publish: how each layout is known by its names, and what these are called here.

One file a layout, each with a `LAYOUT`. Names of entries are those of the layout's public code.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache

from torch import Tensor

Entries = Mapping[str, Tensor]


@dataclass(frozen=True)
class Layout:
    """One way to name a model's entries."""

    title: str
    """What a user calls it"""
    is_seen: Callable[[Entries], bool]
    """Whether a file's names are of this layout"""
    to_own: Callable[[Entries], dict[str, Tensor]]
    """A file's entries by the names that they have here; those without a counterpart keep theirs"""
    ours: bool = False
    """Whether a model here may have the same names"""


@cache
def known() -> tuple[Layout, ...]:
    """Every layout of this room, in the files' order."""
    modules = (importlib.import_module(f"{__name__}.{info.name}") for info in pkgutil.iter_modules(__path__))
    return tuple(module.LAYOUT for module in modules)


def renamed(entries: Entries, rules: Mapping[str, str]) -> dict[str, Tensor]:
    """Entries whose names begin as the first fitting rule says, with that beginning replaced."""

    def name_of(name: str) -> str:
        for old, new in rules.items():
            if name.startswith(old):
                return new + name.removeprefix(old)
        return name

    return {name_of(name): value for name, value in entries.items()}
