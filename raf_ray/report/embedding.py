"""features.png: t-SNE of each run's features, a colour a size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from raf_ray.report.figure import figure
from raf_ray.report.plots import COLOURS
from raf_ray.terminal import printable


def draw_features(path: Path, runs: Mapping[str, np.ndarray], sizes: Sequence[str]) -> None:
    """A panel a run, whose (S, N, 2) places are dots; `runs` goes by the panels' titles."""
    with figure(path, 4.2 * len(runs), 4.4, 120) as drawn:
        for axes, (title, places) in zip(drawn.subplots(1, len(runs), squeeze=False)[0], runs.items(), strict=True):
            for size, own, colour in zip(sizes, places, COLOURS * 9, strict=False):
                axes.plot(own[:, 0], own[:, 1], ".", ms=4, alpha=0.6, color=colour, label=size)
            axes.set_title(printable(title), fontsize=10)
            axes.set_xticks([])
            axes.set_yticks([])
        axes.legend(frameon=False, fontsize=9, markerscale=2)
        drawn.suptitle("t-SNE of pooled features of the same people, by resolution", fontsize=11)
