"""The section of tasks; its names are those of the files of their room."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from raf_ray.config.section import ImportPath, Section
from raf_ray.plugins import names_in

if TYPE_CHECKING:
    TaskName = str
else:
    TaskName = Literal[*names_in("raf_ray.tasks")]


class TaskConfig(Section):
    """What is learnt of people."""

    name: TaskName | ImportPath = "pose"
    """`pose` (joints by heatmaps), `classification` (seen from front or back), or `package.module:Class`."""
