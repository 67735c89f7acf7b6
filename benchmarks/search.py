"""What a search costs over its federations, and what trials save by sharing their pixels."""

from __future__ import annotations

import io
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from raf_ray.cluster.connect import connect, disconnect
from raf_ray.data.packed import pack
from raf_ray.data.shard import cut_shard
from raf_ray.experiment.run import run_prepared
from raf_ray.request.assembly import prepare
from raf_ray.request.people import augmentation_of
from raf_ray.search.display import SearchDisplay
from raf_ray.search.spec import Search, check_search
from raf_ray.search.study import prepare_search, run_search
from raf_ray.training.spec import margins_of

TRIALS, REPEATS = 4, 3

SEARCH = {
    "base": {
        "data": {"people_per_client": 100, "val_people": 50, "test_people": 4},
        "federation": {"rounds": 3},
        "evaluation": {"every": 3, "resolutions": ["128x96", "64x48"]},
        "tracking": {"mlflow": False},
        "resources": {"dashboard": False},
    },
    "param_space": {"objective.alpha": {"uniform": [0.2, 0.9]}},
    "num_samples": TRIALS,
    "max_concurrent_trials": 1,
}


def tune() -> Table:
    """The same federations one after the other, alone and under Tune, side by side; the winner's test not counted."""
    table = Table(title="tune: federations of 3 clients, one at a time, seconds", title_justify="left")
    for column in ("engine", "alone", "first trial adds", "each further adds", f"of {TRIALS} trials"):
        table.add_column(column, justify="left" if column == "engine" else "right")
    connect("local", dashboard=False)
    try:
        for engine in ("in_process", "ray"):
            base = {**SEARCH["base"], "federation": {"rounds": 3, "engine": engine}}  # type: ignore[dict-item]
            whole = check_search("overhead", {**SEARCH, "base": base})
            one = check_search("overhead", {**SEARCH, "base": base, "num_samples": 1})
            alone, first, further = [], [], []
            with tempfile.TemporaryDirectory() as folder:
                for repeat in range(REPEATS):
                    each = _alone(whole, Path(folder) / f"alone{repeat}") / TRIALS
                    single = _search(one, Path(folder) / f"one{repeat}")
                    every = _search(whole, Path(folder) / f"whole{repeat}")
                    alone.append(each)
                    first.append(single - each)
                    further.append((every - single) / (TRIALS - 1) - each)
            added = statistics.median(first) + (TRIALS - 1) * statistics.median(further)
            share = added / (TRIALS * statistics.median(alone))
            cells = [f"{statistics.median(alone):.2f}", *(f"{statistics.median(x):+.2f}" for x in (first, further))]
            table.add_row(engine, *cells, f"{100 * share:+.0f} %")
    finally:
        disconnect()
    return table


def _alone(search: Search, folder: Path) -> float:
    assert search.planned is not None
    begin = time.perf_counter()
    for number, params in enumerate(search.planned):
        request = prepare(search.trial_config(params))
        run_prepared(request, folder / str(number), resume=False, overwrite=False, address=None, watchers=[])
    return time.perf_counter() - begin


def _search(search: Search, folder: Path) -> float:
    request = prepare_search(search, folder, resume=False, overwrite=False)
    show = partial(SearchDisplay, Console(file=io.StringIO()), TRIALS, search.metrics)
    answer = run_search(request, address=None, display=show, say=print, warn=print)
    return float(answer.values["seconds"])


def shared_data() -> Table:
    """A trial's pixels: cut from the pictures again, or taken from what the first trial left on the node."""
    import ray

    table = Table(
        title="shared_data: pixels of one client, 600 people at 128x96, for one more trial", title_justify="left"
    )
    for column in ("pixels", "s a trial", "MB a trial"):
        table.add_column(column, justify="left" if column == "pixels" else "right")
    search = check_search("shared_data", {**SEARCH, "base": {**SEARCH["base"], "data": {"people_per_client": 600}}})  # type: ignore[dict-item]
    assert search.planned is not None
    request = prepare(search.trial_config(search.planned[0]))
    plan, people = request.plans[0], request.data[0].people
    assert people is not None
    shard = cut_shard(people, plan.size, margins_of(augmentation_of(request.config), plan.size))
    connect("local", dashboard=False)
    try:
        packed = pack(shard, "stop")
        reference = ray.put(packed)

        def cut() -> None:
            pack(shard, "stop")

        def take() -> None:
            taken = ray.get(reference).unpack(0)
            np.add.reduce([int(taken.read(i)[0, 0, 0]) for i in range(len(taken))])

        for name, work, size in (
            ("cut from pictures", cut, packed.pixels.nbytes),
            ("taken from the node's store", take, 0),
        ):
            times = []
            for _ in range(5):
                begin = time.perf_counter()
                work()
                times.append(time.perf_counter() - begin)
            table.add_row(name, f"{statistics.median(times):.4f}", f"{size / 1e6:.1f}")
    finally:
        disconnect()
    return table
