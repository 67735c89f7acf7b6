"""What a metric answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Score:
    """A metric over N people with K joints."""

    value: float
    """In [0, 1]; NaN where nothing was counted."""
    per_joint: tuple[float, ...]
    """K values in [0, 1], each over that joint's labels; NaN where it has none."""
    people: int
    """People who counted."""
    joints: int
    """Labelled joints that counted."""
    extra: Mapping[str, float] = field(default_factory=dict)
    """Further official numbers of the metric, by name."""
