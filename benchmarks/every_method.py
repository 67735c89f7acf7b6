"""Every FL method with and without RAF on the demo's synthetic people: ``python -m benchmarks.every_method``.

Parameters are chosen on seeds 11 to 13, by plain federations' scores on val, and judged on seeds 0 to 2, by all scores
on test. Finished runs stay below `--output` and are not run again; `--jobs` of them run at a time.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track
from rich.table import Table

from raf_ray import run_federation
from raf_ray.config import load_config

CHOOSING, JUDGING = (11, 12, 13), (0, 1, 2)
GRIDS: dict[str, Sequence[dict[str, float]]] = {
    "fedprox": [{"mu": mu} for mu in (0.001, 0.01, 0.1)],
    "fedavgm": [{"beta": beta} for beta in (0.3, 0.6, 0.9)],
    "fedadagrad": [{"server_lr": lr} for lr in (0.01, 0.03, 0.1)],
    "fedadam": [{"server_lr": lr} for lr in (0.003, 0.01, 0.03)],
    "fedyogi": [{"server_lr": lr} for lr in (0.003, 0.01, 0.03)],
    "feddyn": [{"alpha": alpha} for alpha in (0.001, 0.01, 0.1)],
    "moon": [{"mu": mu} for mu in (0.001, 0.01, 0.1)],
}
OTHERS = ("fedavg", "scaffold", "fedbn", "fedper", "local", "centralised_mixed", "centralised")
TIERS = ("128x96", "96x72", "64x48")


Asked = tuple[str, dict[str, float], int, bool, str]
"""method, parameters, seed, whether with RAF, split"""


@dataclass(frozen=True)
class Runs:
    """Runs of one size, kept in a folder."""

    output: Path
    people: int
    rounds: int
    jobs: int
    """At a time, a thread each"""

    def finish(self, asked: Sequence[Asked], title: str, console: Console) -> None:
        """Run what has not been run, some at a time."""
        with ProcessPoolExecutor(self.jobs, mp_context=get_context("spawn")) as pool:
            waiting = [pool.submit(self.results, *one) for one in asked]
            for done in track(as_completed(waiting), title, total=len(waiting), console=console):
                done.result()

    def results(self, method: str, parameters: dict[str, float], seed: int, raf: bool, split: str) -> dict[str, Any]:
        told = "".join(f"-{key}-{value:g}" for key, value in parameters.items())
        folder = self.output / f"{method}{told}-{'raf' if raf else 'plain'}-{split}-{seed}"
        words = [
            f"algorithm.name={method}", *(f"algorithm.{method}.{key}={value}" for key, value in parameters.items()),
            f"seed={seed}", f"objective.name={'mrkd' if raf else 'heatmap'}", f"evaluation.split={split}",
            f"data.people_per_client={self.people}", f"federation.rounds={self.rounds}",
            f"evaluation.every={self.rounds}", "federation.engine=in_process", "resources.threads=1",
            "tracking.mlflow=false", f"federation.checkpoint_every={self.rounds}",
        ]  # fmt: skip
        config = load_config(overrides=words)
        done = (folder / "results.json").is_file() and json.loads((folder / "results.json").read_text())
        if done and done["status"] == "completed":
            return dict(done)
        return run_federation(config, folder, overwrite=(folder / "config.yaml").is_file(), watchers=[]).values


def choose(runs: Runs, console: Console) -> dict[str, dict[str, float]]:
    """Method -> its parameters of the best mean over sizes on val; a table of all."""
    table = Table(title=f"chosen on val, seeds {CHOOSING}: mean over sizes (%)", title_justify="left")
    for name in ("method", "parameters", "mean", "seeds"):
        table.add_column(name, justify="right" if name in ("mean", "seeds") else "left")
    best: dict[str, tuple[float, dict[str, float]]] = {}
    asked = [(method, parameters) for method, grid in GRIDS.items() for parameters in grid]
    runs.finish([(*one, seed, False, "val") for one in asked for seed in CHOOSING], "choosing", console)
    for method, parameters in asked:
        scores = [mean_over_sizes(runs.results(method, parameters, seed, False, "val")) for seed in CHOOSING]
        found = statistics.mean(scores)
        table.add_row(method, _told(parameters), f"{found:.1f}", " ".join(f"{score:.1f}" for score in scores))
        if method not in best or found > best[method][0]:
            best[method] = (found, parameters)
    console.print(table)
    return {method: parameters for method, (_, parameters) in best.items()}


def judge(runs: Runs, chosen: dict[str, dict[str, float]], console: Console) -> None:
    """The table of every method, with and without RAF."""
    table = Table(title=f"on test, mean of seeds {JUDGING} (lowest to highest)", title_justify="left")
    for name in ("method", "objective", *TIERS, "worst tier", "mean of sizes", "pixels", "MB up"):
        table.add_column(name, justify="left" if name in ("method", "objective") else "right")
    base: dict[str, float] = {}
    every = [(method, raf) for method in (*OTHERS[:1], *GRIDS, *OTHERS[1:]) for raf in (False, True)]
    wanted = [(method, chosen.get(method, {}), seed, raf, "test") for method, raf in every for seed in JUDGING]
    runs.finish(wanted, "judging", console)
    for method, raf in every:
        parameters = chosen.get(method, {})
        found = [runs.results(method, parameters, seed, raf, "test") for seed in JUDGING]
        cost = {key: statistics.mean(one["totals"][key] for one in found) for key in ("forward_pixels", "mb_up")}
        base = base or cost
        told = f"{method} {_told(parameters)}".strip()
        table.add_row(
            told, "RAF" if raf else "plain",
            *(_spread([100 * one["by_resolution"][size] for one in found]) for size in TIERS),
            _spread([100 * min(one["by_resolution"][size] for size in TIERS) for one in found]),
            _spread([mean_over_sizes(one) for one in found]),
            *(f"x {cost[key] / base[key]:.2f}" for key in cost),
        )  # fmt: skip
    console.print(table)


def mean_over_sizes(results: dict[str, Any]) -> float:
    """In percent, over all test sizes"""
    return 100 * statistics.mean(results["by_resolution"].values())


def _spread(values: Sequence[float]) -> str:
    return f"{statistics.mean(values):.1f} ({min(values):.1f} to {max(values):.1f})"


def _told(parameters: dict[str, float]) -> str:
    return " ".join(f"{key}={value:g}" for key, value in parameters.items())


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.every_method", description=__doc__)
    parser.add_argument("--people", type=int, default=600, help="a client (the demo's 600)")
    parser.add_argument("--rounds", type=int, default=11, help="of each run (the demo's 11)")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, a thread each")
    parser.add_argument("--output", type=Path, default=Path("runs/every_method"))
    asked = parser.parse_args()
    console = Console(width=150)
    runs = Runs(asked.output / f"{asked.people}x{asked.rounds}", asked.people, asked.rounds, asked.jobs)
    judge(runs, choose(runs, console), console)


if __name__ == "__main__":
    main()
