"""The table at the end of a run or a comparison."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.table import Table

from raf_ray.federation.accounting import TOTALS
from raf_ray.metrics import title_of

HAVE_ROWS = (*TOTALS, "virtual_hours")
"""Totals that have rows of their own, or none"""


def results_table(runs: Mapping[str, Mapping[str, Any]], baseline: str | None = None) -> Table:
    """A column a run: score by test resolution, both drift numbers, and what it cost. Seven fit 80 characters.

    Costs are relative to `baseline` where it is among the runs, else absolute.
    """
    first = next(iter(runs.values()))
    own = any(results.get("by_client") for results in runs.values())
    sizes = list(dict.fromkeys(size for results in runs.values() for size in results["by_resolution"]))
    trained = {size for results in runs.values() for size in results["train_resolutions"]}
    table = Table(
        title=f"{title_of(first['metric'])} on {first['split']} (%)",
        caption="* trained. spread: best minus mean over a run's trained tiers.\n"
        "to ref.: one-tier federations at their own tier minus this one, mean."
        + ("\nclients' own models: mean over those of the size, or else of the nearest one." if own else ""),
        caption_justify="left",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        min_width=70,
    )
    table.add_column("test at", no_wrap=True)
    for name in runs:
        table.add_column("\n".join(name.rsplit("-", 1)), justify="right", no_wrap=True)
    every = list(runs.values())
    for size in sizes:
        star = "*" if size in trained else ""
        table.add_row(f"{size}{star}", *(_points(r["by_resolution"].get(size)) for r in every))
    _add_extra(table, every, [size for size in sizes if size in trained][:1])
    table.add_section()
    table.add_row("spread", *(_points(results["drift_spread"]) for results in every))
    table.add_row("to ref.", *(_points(results["drift_to_reference"]) for results in every))
    table.add_section()
    table.add_row("rounds", *(str(results["rounds"]) for results in every))
    for name in dict.fromkeys(name for results in every for name in results["totals"] if name not in HAVE_ROWS):
        table.add_row(name, *(_figure(results["totals"].get(name)) for results in every))
    base = runs.get(baseline) if baseline and len(runs) > 1 else None
    if base is None:
        table.add_row("Gpixels", *(f"{results['totals']['forward_pixels'] / 1e9:.2f}" for results in every))
        table.add_row("seconds", *(f"{results['totals']['seconds']:.0f}" for results in every))
    else:
        for title, key in (("pixels", "forward_pixels"), ("time", "seconds")):
            table.add_row(title, *(f"x {results['totals'][key] / base['totals'][key]:.2f}" for results in every))
    if any("virtual_hours" in results["totals"] for results in every):
        table.add_row("virtual h", *(_hours(results["totals"].get("virtual_hours")) for results in every))
    if any("virtual_hours_to_target" in results for results in every):
        table.add_row("h to target", *(_hours(results.get("virtual_hours_to_target")) for results in every))
    return table


def _add_extra(table: Table, every: Sequence[Mapping[str, Any]], sizes: Sequence[str]) -> None:
    """Rows of the metric's further figures (AP50 ...) at these sizes."""
    for size in sizes:
        figures = [(results.get("extra") or {}).get(size, {}) for results in every]
        names = list(dict.fromkeys(name for one in figures for name in one))
        if names:
            table.add_section()
        for name in names:
            table.add_row(f"{name} {size}", *(_points(one.get(name)) for one in figures))


def upsampled_lines(results: Mapping[str, Any]) -> Sequence[str]:
    """Sentences on what a reader of the scores must know: upsampled people, pictures left out."""
    lines = []
    to = results.get("upsampled_test_to") or {}
    if to:
        told = ", ".join(f"{size} to {other}" for size, other in to.items())
        lines.append(f"Test images interpolated before the model: {told}.")
    shares = {tier: share for tier, share in results.get("upsampled_train", {}).items() if share > 0}
    if shares:
        told = ", ".join(f"{tier} {100 * share:.0f} %" for tier, share in shares.items())
        lines.append(f"Training people smaller in their picture than the tier (upsampled): {told}.")
    bad = sum(cost.get("bad_pictures", 0) for cost in results.get("cost_by_tier", {}).values())
    bad += results.get("bad_test_pictures", 0)
    if bad:
        lines.append(f"People left out because their picture could not be read: {bad:.0f}.")
    return lines


def _hours(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _points(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"
