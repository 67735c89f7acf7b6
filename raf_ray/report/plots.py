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
    columns = max(len(row) for row in rows)
    with figure(path, 1.5 * columns + 0.6, 2.0 * len(rows), 110) as drawn:
        _draw_rows(drawn.subplots(len(rows), columns, squeeze=False), rows, skeleton)
        drawn.suptitle("predicted limbs (left red, right blue), true joints as rings", fontsize=9)


def _draw_rows(grid: np.ndarray, rows: Sequence[Sequence[Sample]], skeleton: Skeleton) -> None:
    for cells, row in zip(grid, rows, strict=True):
        for cell in cells:
            cell.axis("off")
        for cell, sample in zip(cells, row, strict=False):
            cell.imshow(sample.crop, interpolation="nearest")
            draw_joints(cell, sample.predicted, skeleton, shown=sample.labelled)
            truth = sample.truth[sample.labelled]
            cell.plot(truth[:, 0], truth[:, 1], "o", ms=3, markerfacecolor="none", markeredgecolor="white", mew=0.7)
            cell.set_xlim(-0.5, sample.crop.shape[1] - 0.5)
            cell.set_ylim(sample.crop.shape[0] - 0.5, -0.5)
        cells[0].set_title(row[0].size, fontsize=9, loc="left")


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


def draw_joints(axes: Any, joints: np.ndarray, skeleton: Skeleton, shown: np.ndarray, width: float = 1.2) -> None:
    """Limbs and joints (K, 2) on matplotlib axes; left red, right blue, the rest yellow."""

    def colour(*names: str) -> str:
        sides = {name.split("_")[0] for name in names}
        return "#ff4040" if sides == {"left"} else "#40a0ff" if sides == {"right"} else "#ffd040"

    for a, b in skeleton.limb_indices:
        if shown[a] and shown[b]:
            axes.plot(joints[[a, b], 0], joints[[a, b], 1], "-", lw=width,
                      color=colour(skeleton.joints[a], skeleton.joints[b]))  # fmt: skip
    for k, name in enumerate(skeleton.joints):
        if shown[k]:
            axes.plot(*joints[k], ".", ms=2.5 * width, color=colour(name))
