"""What a search shows: the table of its trials, and their plots: parallel coordinates, importance, Pareto front."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.table import Table

from raf_ray.report.figure import figure
from raf_ray.report.plots import COLOURS

FEWEST_FOR_IMPORTANCE = 8
"""Finished trials below which a forest's importances would be noise alone."""


@dataclass(frozen=True)
class TrialRow:
    """A trial as tables and plots show it."""

    number: int
    status: str
    round: int
    rounds: int
    metrics: Mapping[str, float]
    params: Mapping[str, Any]
    note: str = ""


def trials_table(rows: Sequence[TrialRow], metrics: Sequence[str], most: int = 10) -> Table:
    """The best trials (as given: best first), a column a metric and a searched key."""
    keys = list(rows[0].params)
    table = Table(
        title="Trials on val, best first", title_justify="left", caption_justify="left", box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        caption=f"{len(rows) - most} more in trials.csv" if len(rows) > most else None,
    )  # fmt: skip
    for name in ("trial", "round", *metrics, *(short_key(key, keys) for key in keys)):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows[:most]:
        table.add_row(
            str(row.number), f"{row.round}/{row.rounds}", *(points(name, row.metrics.get(name)) for name in metrics),
            *(short(value) for value in row.params.values()),
        )  # fmt: skip
    return table


def is_share(metric: str) -> bool:
    """Scores and their spread are in [0, 1] and shown in %."""
    return metric.startswith("score") or metric == "drift_spread"


def points(metric: str, value: float | None) -> str:
    """A metric's value as tables show it."""
    return f"{100 * value:.1f}" if value is not None and is_share(metric) else short(value)


def short(value: object) -> str:
    """A value in few characters."""
    if value is None:
        return "-"
    if isinstance(value, bool) or not isinstance(value, float | int):
        text = value if isinstance(value, str) else json.dumps(value)
        return text.replace('"', "").replace(" ", "")
    if value == 0 or 1e-3 <= abs(value) < 1e5:
        return f"{value:.4g}"
    return f"{value:.3g}"


def short_key(key: str, keys: Sequence[str]) -> str:
    """The key's last part, where no other key ends the same."""
    last = key.rpartition(".")[2]
    return last if sum(other.rpartition(".")[2] == last for other in keys) == 1 else key


def draw_parallel(path: Path, rows: Sequence[TrialRow], metric: str) -> None:
    """A line a trial across an axis for each searched key, to its score; trials that were stopped are thin and grey."""
    keys = list(rows[0].params)
    with figure(path, max(6.0, 1.5 * (len(keys) + 1)), 4.2, 120) as drawn:
        axes = drawn.add_subplot()
        columns = [_Axis([row.params[key] for row in rows]) for key in keys]
        factor = 100 if is_share(metric) else 1
        columns.append(_Axis([factor * row.metrics.get(metric, math.nan) for row in rows]))
        finished = [row.metrics[metric] for row in rows if row.status == "finished"]
        low, high = (min(finished), max(finished)) if finished else (0.0, 1.0)
        colours = _colours()
        for i, row in reversed(list(enumerate(rows))):  # the best on top
            heights = [column.position[i] for column in columns]
            if row.status == "finished":
                share = (row.metrics[metric] - low) / (high - low) if high > low else 1.0
                axes.plot(range(len(columns)), heights, color=colours(share), lw=1.6, alpha=0.9)
            elif metric in row.metrics:
                axes.plot(range(len(columns)), heights, color="0.75", lw=0.7)
        for x, column in enumerate(columns):
            axes.axvline(x, color="0.4", lw=0.8)
            for height, text in column.ticks:
                axes.text(x - 0.03, height, text, fontsize=7, ha="right", va="center",
                          bbox={"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 1})  # fmt: skip
        axes.set_xticks(range(len(columns)), [*(short_key(key, keys) for key in keys), _named(metric)], fontsize=8)
        axes.set_yticks([])
        axes.set_xlim(-0.5, len(columns) - 0.8)
        axes.set_ylim(-0.06, 1.06)
        for side in axes.spines.values():
            side.set_visible(False)
        axes.set_title(f"{len(finished)} finished trials, by {metric} (grey: stopped early)", fontsize=10)


class _Axis:
    """One vertical axis: where each value lies between 0 and 1, and its ticks."""

    def __init__(self, values: Sequence[Any]) -> None:
        if all(isinstance(v, int | float) and not isinstance(v, bool) for v in values):
            numbers = np.array(values, float)
            known = numbers[np.isfinite(numbers)]
            low, high = (known.min(), known.max()) if len(known) else (0.0, 1.0)
            log = bool(low > 0 and high / low > 20)
            scale = np.log if log else (lambda x: x)
            span = (scale(high) - scale(low)) or 1.0
            self.position = [float((scale(v) - scale(low)) / span) if high > low else 0.5 for v in numbers]
            middle = math.sqrt(low * high) if log else (low + high) / 2
            shown = [low, middle, high] if high > low else [low]
            self.ticks = [(float((scale(v) - scale(low)) / span) if high > low else 0.5, f"{v:.3g}") for v in shown]
            return
        names = sorted({short(value) for value in values})
        at = {name: (i + 0.5) / len(names) for i, name in enumerate(names)}
        self.position = [at[short(value)] for value in values]
        self.ticks = [(height, name) for name, height in at.items()]


def importance(rows: Sequence[TrialRow], metric: str) -> dict[str, tuple[float, float]]:
    """Key -> (mean, standard deviation) of the drop in a random forest's R^2 when the key's values are shuffled.

    Of finished trials alone; {} where there are too few. Breiman 2001; scikit-learn's permutation_importance.
    """
    rows = [row for row in rows if row.status == "finished"]
    if len(rows) < FEWEST_FOR_IMPORTANCE:
        return {}
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.inspection import permutation_importance

    keys = list(rows[0].params)
    columns, owners = [], []
    for key in keys:
        values = [row.params[key] for row in rows]
        if all(isinstance(v, int | float) and not isinstance(v, bool) for v in values):
            columns.append(np.array(values, float))
            owners.append(key)
            continue
        for name in sorted({short(value) for value in values}):
            columns.append(np.array([float(short(value) == name) for value in values]))
            owners.append(key)
    inputs = np.stack(columns, axis=1)
    scores = np.array([row.metrics[metric] for row in rows])
    forest = RandomForestRegressor(200, random_state=0, min_samples_leaf=2).fit(inputs, scores)
    found = permutation_importance(forest, inputs, scores, n_repeats=20, random_state=0)
    drops = {key: found.importances[[o == key for o in owners]].sum(axis=0) for key in keys}
    return {key: (float(drop.mean()), float(drop.std())) for key, drop in drops.items()}


def draw_importance(path: Path, shares: Mapping[str, tuple[float, float]], metric: str, trials: int) -> None:
    """Bars of `importance`, the largest on top."""
    ordered = sorted(shares, key=lambda key: shares[key][0])
    with figure(path, 6.0, 1.2 + 0.34 * len(ordered), 120) as drawn:
        axes = drawn.add_subplot()
        axes.barh(
            ordered, [shares[key][0] for key in ordered], xerr=[shares[key][1] for key in ordered],
            color=COLOURS[0], ecolor="0.4", height=0.6,
        )  # fmt: skip
        axes.axvline(0, color="0.4", lw=0.8)
        axes.set_xlabel(f"drop of a forest's R^2 for {metric} when the key is shuffled")
        axes.set_title(f"What mattered, over {trials} finished trials", fontsize=10)
        axes.tick_params(labelsize=8)


def draw_pareto(path: Path, rows: Sequence[TrialRow], front: Sequence[int], metrics: Sequence[str]) -> None:
    """The first metric against the second; the trials of the front are joined and numbered."""
    with figure(path, 6.4, 4.4, 120) as drawn:
        axes = drawn.add_subplot()
        y, x = metrics[:2]
        rows = [row for row in rows if row.status == "finished"]
        on = sorted((row for row in rows if row.number in front), key=lambda row: row.metrics[x])
        off = [row for row in rows if row.number not in front]

        def at(chosen: Sequence[TrialRow], metric: str) -> list[float]:
            return [(100 if is_share(metric) else 1) * row.metrics[metric] for row in chosen]

        axes.plot(at(off, x), at(off, y), "o", color="0.7", ms=5, label="beaten")
        axes.plot(at(on, x), at(on, y), "o-", color=COLOURS[1], ms=6, label="Pareto front")
        places: dict[tuple[float, float], list[str]] = {}
        for row, place in zip(on, zip(at(on, x), at(on, y), strict=True), strict=True):
            places.setdefault(place, []).append(str(row.number))
        for place, numbers in places.items():
            axes.annotate(", ".join(numbers), place, textcoords="offset points", xytext=(5, 5), fontsize=8)
        axes.set_xlabel(_named(x))
        axes.set_ylabel(f"{_named(y)} on val")
        axes.grid(alpha=0.3)
        axes.legend(frameon=False, fontsize=9)
        axes.set_title(f"{y} against {x}: {len(on)} of {len(rows)} trials are not beaten", fontsize=10)


def _named(metric: str) -> str:
    return f"{metric} (%)" if is_share(metric) else metric


def _colours() -> Any:
    from matplotlib import colormaps

    return colormaps["viridis_r"]
