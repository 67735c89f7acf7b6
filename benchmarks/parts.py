"""Single parts of the engine by hand: batches, the exact sum, a state down and updates up."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from rich.table import Table

from raf_ray.data.augment import Augmentation, apply, compose, draw_affines
from raf_ray.data.batches import Batch, render_pyramid
from raf_ray.data.shard import cut_shard
from raf_ray.data.skeletons import MPII16
from raf_ray.data.sources.synthetic import synthetic_people
from raf_ray.data.warp import warp_grid_sample, warp_opencv
from raf_ray.federation.aggregation import ExactSum
from raf_ray.federation.server import THREADS
from raf_ray.resolution import Size
from raf_ray.training.exchange import Up

VITPOSE_S = 24_300_000
"""Parameters of ViTPose-S, the paper's model."""


def median_seconds(work: Callable[[], object], times: int = 7) -> float:
    work()
    found = []
    for _ in range(times):
        begin = time.perf_counter()
        work()
        found.append(time.perf_counter() - begin)
    return statistics.median(found)


def batches() -> Table:
    """Person -> crop, pyramid and targets, on one core."""
    torch.set_num_threads(1)
    table = Table(title="batches: one core, 32 people each", title_justify="left")
    for column in ("step", "ms a person", "people/s"):
        table.add_column(column, justify="left" if column == "step" else "right")

    def row(name: str, seconds: float, people: int) -> None:
        table.add_row(name, f"{1e3 * seconds / people:.3f}", f"{people / seconds:.0f}")

    people = synthetic_people(0, "train", np.arange(200), 160.0)
    row("draw a synthetic person (160 px)", median_seconds(lambda: [people.picture(i) for i in range(200)], 3), 200)
    shard = cut_shard(people, Size(128, 96), Augmentation().margins(0.75))
    row("draw and cut at 128x96, margins for augmentation",
        median_seconds(lambda: [shard.patch(i) for i in range(200)], 3), 200)  # fmt: skip

    size = Size(256, 192)
    large = cut_shard(synthetic_people(0, "train", np.arange(32), 300.0), size, Augmentation().margins(0.75), 1000)
    patches = [large.patch(i) for i in range(32)]
    maps = large.to_crop(np.arange(32))
    joints = apply(maps, large.joints)
    rng = np.random.default_rng(0)
    drawn, _ = draw_affines(Augmentation(), joints, large.visibility > 0, size, MPII16, rng)
    both = compose(drawn, maps)
    levels = [size, Size(192, 144), Size(128, 96)]
    cpu = torch.device("cpu")
    points = torch.tensor(apply(drawn, joints), dtype=torch.float32)

    def finish(crops: torch.Tensor) -> None:
        render_pyramid(Batch(crops, points, torch.ones(32, 16), np.arange(32)), levels)

    row("crop 256x192, warpAffine a person", median_seconds(lambda: warp_opencv(patches, both, size)), 32)
    row("crop 256x192, one grid_sample", median_seconds(lambda: warp_grid_sample(patches, both, size, cpu)), 32)
    row(
        "crop + pyramid of 3 + targets, warpAffine",
        median_seconds(lambda: finish(warp_opencv(patches, both, size))),
        32,
    )
    row("crop + pyramid of 3 + targets, grid_sample",
        median_seconds(lambda: finish(warp_grid_sample(patches, both, size, cpu))), 32)  # fmt: skip
    return table


def exact_sum() -> Table:
    """The server's work on one update of ViTPose-S's size, against the float sum it replaces."""
    update = np.random.default_rng(0).normal(0, 1e-3, VITPOSE_S).astype(np.float32)
    up, weights, floats = Up("one", 0, {"weights": update}, np.zeros(0, np.int64)), {"weights": 1 / 3}, update.copy()
    part = ExactSum()
    part.add(up, weights)
    table = Table(title=f"sum: one update of {VITPOSE_S / 1e6:.1f}M entries", title_justify="left")
    table.add_column("step")
    table.add_column("ms", justify="right")
    table.add_row("float32 sum (depends on the order)", f"{1e3 * median_seconds(lambda: floats.__iadd__(update)):.0f}")
    for threads in dict.fromkeys((1, THREADS)):
        total = ExactSum(threads=threads)
        adds = median_seconds(lambda total=total: total.add(up, weights))  # type: ignore[misc]
        merges = median_seconds(lambda total=total: total.merge(part))  # type: ignore[misc]
        table.add_row(f"an update: weigh, round, add to int64; threads: {threads}", f"{1e3 * adds:.0f}")
        table.add_row(f"a partial sum of int64; threads: {threads}", f"{1e3 * merges:.0f}")
    return table


def transport() -> Table:
    """A state of ViTPose-S's size down to 3 actors and back, on a private Ray cluster."""
    import ray

    from raf_ray.cluster.connect import connect, disconnect

    connect("local", dashboard=False)

    @ray.remote(num_cpus=0.3)
    class Echo:
        def __init__(self) -> None:
            self.update = np.zeros(VITPOSE_S, np.float32)

        def down(self, state: np.ndarray) -> float:
            return float(state[-1])

        def up(self) -> Up:
            return Up("echo", 0, {"weights": self.update}, np.zeros(0, np.int64))

    actors = [Echo.remote() for _ in range(3)]
    state = np.zeros(VITPOSE_S, np.float32)

    def down() -> None:
        reference = ray.put(state)
        ray.get([actor.down.remote(reference) for actor in actors])

    def up() -> None:
        total = ExactSum()
        pending = [actor.up.remote() for actor in actors]
        while pending:
            ready, pending = ray.wait(pending, timeout=60)
            total.add(ray.get(ready[0]), {"weights": 1 / 3})

    table = Table(title=f"transport: {VITPOSE_S / 1e6:.1f}M float32, 3 actors", title_justify="left")
    table.add_column("step")
    table.add_column("ms", justify="right")
    table.add_row("broadcast: one put, three reads", f"{1e3 * median_seconds(down, 5):.0f}")
    table.add_row("three updates up, summed on arrival", f"{1e3 * median_seconds(up, 5):.0f}")
    disconnect()
    return table
