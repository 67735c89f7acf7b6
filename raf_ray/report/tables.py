"""The table at the end of a run or a comparison."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from raf_ray.report.plots import METRIC_NAMES


def results_table(runs: Mapping[str, Mapping[str, Any]], baseline: str | None = None) -> Table:
    """A row a run: score by test resolution, both drift numbers, and what it cost.

    Costs are relative to `baseline` where it is among the runs, else absolute.
    """
    first = next(iter(runs.values()))
    sizes = list(dict.fromkeys(size for results in runs.values() for size in results["by_resolution"]))
    trained = {size for results in runs.values() for size in results["train_resolutions"]}
    table = Table(
        title=f"{METRIC_NAMES.get(first['metric'], first['metric'])} on {first['split']} (%), by test resolution",
        caption="* trained. spread: best minus mean over trained tiers. to ref.: one-tier federations' scores "
        "at their own tier minus this one's, mean.",
        caption_justify="left",
        title_justify="left",
    )
    table.add_column("run", no_wrap=True)
    for size in sizes:
        table.add_column(f"{size}{'*' if size in trained else ''}", justify="right")
    base = runs.get(baseline) if baseline else None
    relative = base is not None and len(runs) > 1
    for title in ("spread", "to ref.", "rounds"):
        table.add_column(title, justify="right")
    table.add_column("pixels" if relative else "Gpixels", justify="right")
    table.add_column("time" if relative else "s", justify="right")
    for name, results in runs.items():
        scores = [_points(results["by_resolution"].get(size)) for size in sizes]
        drift = [_points(results["drift_spread"]), _points(results["drift_to_reference"])]
        totals = results["totals"]
        if relative:
            assert base is not None
            cost = [f"x {totals[key] / base['totals'][key]:.2f}" for key in ("forward_pixels", "seconds")]
        else:
            cost = [f"{totals['forward_pixels'] / 1e9:.2f}", f"{totals['seconds']:.0f}"]
        table.add_row(name, *scores, *drift, str(results["rounds"]), *cost)
    return table


def upsampled_lines(results: Mapping[str, Any]) -> Sequence[str]:
    """Sentences on what a reader of the scores must know: upsampled people, pictures left out."""
    lines = []
    shares = {tier: share for tier, share in results.get("upsampled_train", {}).items() if share > 0}
    if shares:
        told = ", ".join(f"{tier} {100 * share:.0f} %" for tier, share in shares.items())
        lines.append(f"Training people smaller in their picture than the tier (upsampled): {told}.")
    bad = sum(cost.get("bad_pictures", 0) for cost in results.get("cost_by_tier", {}).values())
    bad += results.get("bad_test_pictures", 0)
    if bad:
        lines.append(f"People left out because their picture could not be read: {bad:.0f}.")
    return lines


def _points(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"
