"""Scores against bad clients, by aggregator: ten clients of synthetic people at one size, for two cores."""

from __future__ import annotations

import statistics
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import cache
from multiprocessing import get_context
from pathlib import Path

from rich.table import Table

from raf_ray import run_federation
from raf_ray.config import load_config
from raf_ray.data.people import People
from raf_ray.federation.backend import InProcessBackend
from raf_ray.federation.driver import Federation
from raf_ray.federation.events import Failed, Finished
from raf_ray.request.assembly import federation_spec, prepare
from raf_ray.request.people import load_data, splits_of
from raf_ray.request.plans import plan_clients
from raf_ray.runs.folder import RunFolder
from raf_ray.training.clients import Owned, OwnedPeople

SIZE = "48x36"
COMMON = (
    "objective.name=heatmap", "data.val_people=20", "data.test_people=100", f"evaluation.resolutions=[{SIZE}]",
    "optimizer.batch_size=8", "federation.engine=in_process", "tracking.mlflow=false", "resources.threads=1",
)  # fmt: skip
WARM = (f"federation.clients=[{SIZE}]", "data.people_per_client=400", "federation.rounds=20", "evaluation.every=20")
"""One client alone, so that ten need few rounds: from fresh weights they learn little in as much time."""
BASE = (
    f"federation.clients={{{SIZE}: 10}}", "data.people_per_client=24", "federation.rounds=5",
    "federation.checkpoint_every=5", "evaluation.every=5", "optimizer.lr=3e-3",
)  # fmt: skip
AGGREGATORS = {
    "mean": ("aggregation.name=mean",),
    "median": ("aggregation.name=median",),
    "trimmed mean, 0.4": ("aggregation.name=trimmed_mean", "aggregation.trimmed_mean.share=0.4"),
    "Krum, f = 3": ("aggregation.name=krum", "aggregation.krum.bad=3"),
    "multi-Krum, f = 3, m = 6": ("aggregation.name=krum", "aggregation.krum.bad=3", "aggregation.krum.keep=6"),
    "norm clipping": ("aggregation.name=norm_clipping",),
}
"""f = 3 is the most that ten clients allow Krum."""
ATTACKS = ("sign_flip", "noise", "label_shift")
SHARES = (0.1, 0.2, 0.3, 0.4)
PROCESSES = 2


@dataclass(frozen=True)
class Case:
    """A federation of the table."""

    aggregator: str
    attack: str | None
    share: float
    seed: int

    def words(self, start: Path) -> list[str]:
        attack = [] if self.attack is None else [f"attack.name={self.attack}", f"attack.share={self.share}"]
        return [*COMMON, *BASE, *AGGREGATORS[self.aggregator], *attack, f"seed={self.seed}",
                f"model.checkpoint={start}"]  # fmt: skip


@cache
def people_of(seed: int) -> tuple[Owned, dict[str, People]]:
    """The people of all cases of a seed, whose pictures are drawn once a process."""
    config = load_config(overrides=[*COMMON, *BASE, f"seed={seed}"])
    owned, held_out = load_data(config, plan_clients(config), splits_of(config))
    assert isinstance(owned, OwnedPeople)
    kept = {split: replace(people, read=cache(people.read)) for split, people in held_out.items()}
    return replace(owned, people=replace(owned.people, read=cache(owned.people.read))), kept


def score(case: Case, start: Path) -> float:
    """PCK on the test people after the last round; 0 where the run failed, as a model is lost that is not finite."""
    config = load_config(overrides=case.words(start))
    prepared = prepare(config, lambda *_: people_of(case.seed), check_pictures=False)
    spec = federation_spec(prepared, "attacks")
    with tempfile.TemporaryDirectory() as place:
        folder = RunFolder(Path(place) / "run")
        folder.create("", False)
        for event in Federation(spec, lambda recall: InProcessBackend(spec), folder).run():
            if isinstance(event, Failed):
                return 0.0
            if isinstance(event, Finished):
                return float(event.results["by_resolution"][SIZE])
    raise AssertionError("a federation ends with Failed or Finished")


def warm(seed: int, folder: Path) -> Path:
    """A model that one client has trained, and says so."""
    results = run_federation(load_config(overrides=[*COMMON, *WARM, f"seed={seed}"]), folder)
    print(f"seed {seed} starts from {results.by_resolution[SIZE]:.3f}", file=sys.stderr, flush=True)
    return results.folder / "model.pt"


def scores(seeds: Sequence[int]) -> dict[Case, float]:
    """Of every case; those without bad clients are trained once for all attacks."""
    cases = [Case(aggregator, None, 0.0, seed) for seed in seeds for aggregator in AGGREGATORS]
    cases += [Case(aggregator, attack, share, seed) for seed in seeds for attack in ATTACKS for share in SHARES
              for aggregator in AGGREGATORS]  # fmt: skip
    found = {}
    with tempfile.TemporaryDirectory() as place, ProcessPoolExecutor(PROCESSES, get_context("spawn")) as pool:
        start = {seed: warm(seed, Path(place) / str(seed)) for seed in seeds}
        for case, one in zip(cases, pool.map(score, cases, [start[case.seed] for case in cases]), strict=True):
            found[case] = one
            print(f"{len(found)} of {len(cases)}: {case}: {one:.3f}", file=sys.stderr, flush=True)
    return found


def attacks(seeds: Sequence[int] = (0,)) -> Table:
    """PCK in percent by aggregator and attack, against the share of bad clients; means over seeds."""
    found = scores(seeds)
    title = f"attacks: PCK at {SIZE} in %, 10 clients, 5 rounds, seeds {', '.join(map(str, seeds))}"
    table = Table(title=title, title_justify="left")
    for column in ("attack", "aggregator", "0 %", *(f"{share:.0%}".replace("%", " %") for share in SHARES)):
        table.add_column(column, justify="left" if column in ("attack", "aggregator") else "right")
    for attack in ATTACKS:
        for aggregator in AGGREGATORS:
            cases = [(None, 0.0), *((attack, share) for share in SHARES)]
            means = [statistics.mean(found[Case(aggregator, *case, seed)] for seed in seeds) for case in cases]
            table.add_row(attack, aggregator, *(f"{100 * mean:.1f}" for mean in means))
    return table
