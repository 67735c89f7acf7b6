"""Which of several results no other beats, where there is more than one metric."""

from __future__ import annotations

from collections.abc import Sequence


def unbeaten(points: Sequence[Sequence[float]], modes: Sequence[str]) -> list[int]:
    """Indices of the points that no other beats: is as good as in every metric and better in one.

    Args:
        points: the metrics' values of each trial.
        modes: `max` or `min` for each metric.
    """
    gains = [[value if mode == "max" else -value for value, mode in zip(p, modes, strict=True)] for p in points]
    return [
        i
        for i, mine in enumerate(gains)
        if not any(other != mine and all(b >= a for a, b in zip(mine, other, strict=True)) for other in gains)
    ]
