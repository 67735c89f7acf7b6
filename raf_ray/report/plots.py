"""drift.png and samples.png."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from raf_ray.data.skeletons import Skeleton
from raf_ray.evaluation.scores import Sample
from raf_ray.metrics import title_of
from raf_ray.metrics.drift import drift_spread
from raf_ray.report.figure import figure
from raf_ray.resolution import parse_size
from raf_ray.runs.tables import Scoring
from raf_ray.terminal import printable

GAP = 0.06
"""Between people of samples.png, in widths of one"""
COLOURS = ("#4878a8", "#d1495b", "#2e8b57", "#8e6bb0", "#b8860b", "#5f6b73", "#c06c2b")


def draw_drift(path: Path, runs: Mapping[str, Mapping[str, Any]]) -> None:
    """The drift curve of each run: score against test resolution; its trained tiers are filled markers."""
    with figure(path, 7.6, 4.6, 120) as drawn:
        _draw_curves(drawn.add_subplot(), runs)


def _draw_curves(axes: Any, runs: Mapping[str, Mapping[str, Any]]) -> None:
    sizes: dict[str, int] = {}
    for results, colour in zip(runs.values(), COLOURS * 9, strict=False):
        scores = {s: v for s, v in results["by_resolution"].items() if v is not None}
        sizes.update({s: parse_size(s).height for s in scores})
        ordered = sorted(scores, key=lambda s: parse_size(s).height)
        heights = [parse_size(s).height for s in ordered]
        values = [100 * scores[s] for s in ordered]
        only_one_tier = len(results["train_resolutions"]) == 1
        axes.plot(heights, values, color=colour, label="run", linestyle="--" if only_one_tier else "-", lw=1.8)
        trained = [s in results["train_resolutions"] for s in ordered]
        for filled in (True, False):
            chosen = [i for i, t in enumerate(trained) if t == filled]
            axes.plot([heights[i] for i in chosen], [values[i] for i in chosen], "o", color=colour, ms=6,
                      markerfacecolor=colour if filled else "white")  # fmt: skip
    ticks = sorted(sizes, key=lambda s: sizes[s])
    axes.set_xscale("log")
    axes.set_xticks([sizes[s] for s in ticks], ticks, rotation=30)
    axes.minorticks_off()
    first = next(iter(runs.values()))
    axes.set_xlabel("test resolution (filled: trained)")
    axes.set_ylabel(f"{title_of(first['metric'])} on {first['split']} (%)")
    axes.grid(alpha=0.3)
    axes.set_ylim(bottom=0)
    axes.set_title("Resolution drift: one model, tested at many sizes")
    legend = axes.legend(frameon=False, fontsize=9)
    for label, name in zip(legend.get_texts(), runs, strict=False):
        label.set_text(printable(name))  # here, since a legend leaves out labels that begin with _


def draw_rounds(path: Path, scores: Sequence[Scoring], trained: Sequence[str]) -> None:
    """Scores at the trained sizes by round, and their drift spread: of held-out people and of those trained on."""
    with figure(path, 10.0, 4.2, 120) as drawn:
        left, right = drawn.subplots(1, 2, width_ratios=(3, 2))
        for split, style in (("val", "-"), ("train", "--")):
            own = sorted((one for one in scores if one.split == split), key=lambda one: one.round)
            rounds = [one.round for one in own]
            for size, colour in zip(trained, COLOURS * 9, strict=False):
                values = [100 * one.by_resolution[size] for one in own]
                left.plot(rounds, values, style, color=colour, marker=".", label=f"{size} on {split}")
            spreads = [100 * drift_spread({size: one.by_resolution[size] for size in trained}) for one in own]
            right.plot(rounds, spreads, style, color="#333333", marker=".", label=f"on {split}")
        left.set_ylabel(f"{title_of(scores[0].metric)} (%)")
        left.set_title("Scores: held-out people (solid), people trained on (dashed)", fontsize=10)
        right.set_title("Drift spread: best minus mean over tiers (points)", fontsize=10)
        for axes in (left, right):
            axes.set_xlabel("round")
            axes.set_ylim(bottom=0)
            axes.grid(alpha=0.3)
            axes.legend(frameon=False, fontsize=8)


def draw_samples(path: Path, samples: Sequence[Sample], skeleton: Skeleton) -> None:
    """People at each tier: the predicted limbs (left red, right blue), true joints as white rings."""
    sizes = list(dict.fromkeys(sample.size for sample in samples))
    if not sizes:
        return
    rows = [[s for s in samples if s.size == size] for size in sizes]
    with figure(path, 1.5 * max(map(len, rows)) + 0.6, 2.0 * len(rows), 110) as drawn:
        _draw_rows(drawn.add_subplot(), rows, skeleton)
        drawn.suptitle("predicted limbs (left red, right blue), true joints as rings", fontsize=9)


def _draw_rows(axes: Any, rows: Sequence[Sequence[Sample]], skeleton: Skeleton) -> None:
    """All in one pair of axes, where every person is a unit wide: eighteen pairs took five times as long."""
    from matplotlib.patches import Rectangle

    axes.axis("off")
    axes.set_aspect("equal")
    top = 0.0
    for row in rows:
        height, width = row[0].crop.shape[:2]
        axes.text(0, top - 0.02, row[0].size, fontsize=9, va="bottom")
        for place, sample in enumerate(row):
            corner, tall = np.array([place * (1 + GAP), top]), height / width
            cell = Rectangle(tuple(corner), 1, tall, transform=axes.transData, visible=False)
            axes.add_patch(cell)
            left, right = corner[0], corner[0] + 1
            axes.imshow(sample.crop, extent=(left, right, top + tall, top), interpolation="nearest")
            predicted, truth = (corner + (joints + 0.5) / width for joints in (sample.predicted, sample.truth))
            drawn = draw_joints(axes, predicted, skeleton, shown=sample.labelled)
            drawn += axes.plot(*truth[sample.labelled].T, "o", ms=3, markerfacecolor="none", markeredgecolor="white",
                               mew=0.7)  # fmt: skip
            for artist in drawn:
                artist.set_clip_path(cell)
        top += height / width + 3 * GAP
    axes.set_xlim(0, max(map(len, rows)) * (1 + GAP) - GAP)
    axes.set_ylim(top - 3 * GAP, -3 * GAP)


def draw_people(path: Path, picture: np.ndarray, joints: np.ndarray, skeleton: Skeleton) -> None:
    """A picture (H, W, 3) with the joints (N, K, 2) of its people: at its own size, but from 400 to 16384 px wide or
    high, since Matplotlib draws nothing larger than 65535."""
    height, width = picture.shape[:2]
    scale = min(max(1.0, 400 / max(height, width)), 16384 / max(height, width))
    wide, high = (max(1.0, side * scale) / 100 for side in (width, height))
    with figure(path, wide, high, 100, layout=None) as drawn:
        axes = drawn.add_axes((0, 0, 1, 1))
        axes.axis("off")
        axes.imshow(picture, aspect="auto")
        for person in joints:
            draw_joints(axes, person, skeleton, np.ones(len(person), bool), width=2.5)
        axes.set_xlim(-0.5, width - 0.5)
        axes.set_ylim(height - 0.5, -0.5)


def draw_joints(axes: Any, joints: np.ndarray, skeleton: Skeleton, shown: np.ndarray, width: float = 1.2) -> list[Any]:
    """Limbs and joints (K, 2) on matplotlib axes; left red, right blue, the rest yellow. What was drawn."""
    from matplotlib.collections import LineCollection

    def colour(*names: str) -> str:
        sides = {name.split("_")[0] for name in names}
        return "#ff4040" if sides == {"left"} else "#40a0ff" if sides == {"right"} else "#ffd040"

    limbs = [(a, b) for a, b in skeleton.limb_indices if shown[a] and shown[b]]
    named, places = skeleton.joints, np.flatnonzero(shown)
    lines = LineCollection(
        [joints[[a, b]] for a, b in limbs], colors=[colour(named[a], named[b]) for a, b in limbs], linewidths=width,
        capstyle="projecting",
    )  # fmt: skip
    axes.add_collection(lines, autolim=False)
    dots = axes.scatter(*joints[places].T, s=(1.25 * width) ** 2, c=[colour(named[k]) for k in places], zorder=2)
    return [lines, dots]
