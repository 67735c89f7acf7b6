"""``python -m benchmarks.same_bits CHECKOUT [CHECKOUT]``: do two checkouts give the same results, bit for bit?

Runs the same tiny federations in both, in one process each, and compares model.pt tensor by tensor and
results.json value by value, times and versions aside. A change that only moves code must print `same` everywhere;
for one that means to change bits the table shows how far the weights moved.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

TINY = (
    "data.people_per_client=12", "data.val_people=6", "data.test_people=6", "federation.rounds=2",
    "evaluation.every=1", "optimizer.batch_size=4", "tracking.mlflow=false", "federation.engine=in_process",
)  # fmt: skip
CASES: dict[str, tuple[str, ...]] = {
    "RAF": (),
    "RAF, augmented": ("data.augment=true",),
    "RAF+": ("objective.level_weights=area", "objective.resize=matched", "objective.sampling=pair"),
    "half of four clients": ("federation.clients={high: 2, low: 2}", "federation.participation=0.5",
                             "federation.rounds=4"),
    "kept moments": ("optimizer.reset_each_round=false", "optimizer.clip=0.1"),
    "batch norm": ("model.name=simple_baseline", "federation.clients=[low, low]", "federation.rounds=1",
                   "evaluation.resolutions=[64x48]"),
}  # fmt: skip
APART = ("seconds", "people_per_s", "peak_memory_mb", "versions", "machine", "name")
"""Keys of results.json that differ between two runs of one checkout."""


def run(checkout: Path, words: tuple[str, ...], output: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """A federation by a checkout's own code: (tensors of model.pt, results.json)."""
    environment = {**os.environ, "PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "raf_ray.run", *TINY, *words, "--output", str(output)]
    done = subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{checkout}: {done.stderr.strip() or done.stdout.strip()}")
    model = torch.load(output / "model.pt", weights_only=True)["model"]
    return model, json.loads((output / "results.json").read_text(encoding="utf-8"))


def differing(one: Any, other: Any, key: str = "") -> Iterator[str]:
    """Dotted keys whose values differ, but for APART."""
    if key.rpartition(".")[2] in APART:
        return
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        for name in dict.fromkeys((*one, *other)):
            yield from differing(one.get(name, ...), other.get(name, ...), f"{key}.{name}" if key else name)
    elif one != other:
        yield key


def distance(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> str:
    if one.keys() != other.keys():
        return "other entries"
    if all(torch.equal(one[name], other[name]) for name in one):
        return "same"
    furthest = max(float((one[name].double() - other[name].double()).abs().max()) for name in one)
    return f"differs by up to {furthest:.2g}"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.same_bits", description=__doc__)
    parser.add_argument("checkouts", nargs="+", type=Path, metavar="CHECKOUT", help="one is compared with this one")
    given = [path.resolve() for path in parser.parse_args().checkouts]
    if len(given) > 2:
        parser.error("two checkouts at most")
    pair = (given[0], given[1] if len(given) == 2 else Path(__file__).resolve().parents[1])
    table = Table(title=f"{pair[0]} against {pair[1]}", title_justify="left")
    for column in ("federation", "model.pt", "results.json"):
        table.add_column(column)
    with tempfile.TemporaryDirectory() as place:
        for number, (name, words) in enumerate(CASES.items()):
            (model, results), (other_model, other_results) = (
                run(checkout, words, Path(place) / f"{number}-{side}") for side, checkout in enumerate(pair)
            )
            keys = list(differing(results, other_results))
            shown = "same" if not keys else f"{len(keys)} keys differ: {', '.join(keys[:3])}"
            table.add_row(name, distance(model, other_model), shown)
    Console(markup=False).print(table)


if __name__ == "__main__":
    main()
