"""Where people come from: one file a source.

A file here with `NAMES` and `read(asked, split) -> People` is new values of `data.name`; `synthetic` draws its people.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass

from raf_ray.data.annotations.layouts import FileSplit
from raf_ray.data.people import People
from raf_ray.data.skeletons import Skeleton
from raf_ray.plugins import names_in

__all__ = ["Asked", "FileSplit", "read_source"]


@dataclass(frozen=True)
class Asked:
    """What the config says of a data set's files."""

    root: str
    annotations: Mapping[FileSplit, str] | None
    """Below the root; None: the official layout"""
    images: Mapping[FileSplit, str] | None
    skeleton: Skeleton | None
    """Of sets whose form leaves it open; None: the files' own"""
    category: str | None = None
    """Whom to read of files with several categories; None: the one that has joints"""


def read_source(name: str, asked: Asked, split: FileSplit) -> People:
    """All people of a data set's split, their boxes checked. Raises InputError for what is wrong with its files."""
    people: People = importlib.import_module(f"{__name__}.{names_in(__name__)[name]}").read(asked, split)
    return people
