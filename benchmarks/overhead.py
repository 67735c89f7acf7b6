"""What a round costs beyond training, against the copies that no engine can do without."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.figures import Section
from raf_ray.algorithms.fedavg import FedAvg
from raf_ray.cluster.connect import connect, disconnect
from raf_ray.cluster.shares import ActorShares, HostShare
from raf_ray.evaluation.scores import Scores
from raf_ray.federation.cohort import CohortSpec
from raf_ray.federation.engines import OnRay
from raf_ray.federation.events import Failed
from raf_ray.federation.spec import Clients, FederationSpec, HostsSpec, RoundsSpec
from raf_ray.resolution import Size
from raf_ray.runs.folder import RunFolder
from raf_ray.state import Entry, Layout
from raf_ray.training.exchange import Down, Receipt, Up, Workplace

SETTINGS = ((300_000, 3), (300_000, 16), (24_300_000, 3), (24_300_000, 16), (90_000_000, 3))
"""Parameters (demo, ViTPose-S, ViTPose-B), hosts. 90M x 16 is left out: 5.8 GB of updates at once, and their sum."""
QUICK = ((300_000, 2),)
ROUNDS = 6
SIZE = Size(64, 48)


@dataclass
class Idle:
    """A client that loads the state it is given, and answers with an update at once."""

    name: str
    count: int
    cached_mb: float = 0.0

    def train(self, down: Down, round_index: int, memory: object) -> tuple[Up, Receipt, dict[str, np.ndarray]]:
        begin = time.perf_counter()
        model = np.empty(self.count, np.float32)
        model[:] = down.state.view(np.float32)[: self.count]
        model *= 0.001
        receipt = Receipt(
            self.name, 1, time.perf_counter() - begin, 0, 0.0, {}, {}, 0.0, 0, 0.0, 0.0, 0.0, False, "cpu"
        )
        return Up(self.name, down.version, {"weights": model}, np.zeros(0, np.int64)), receipt, {}


@dataclass(frozen=True)
class OpenIdle:
    count: int

    def __call__(self, number: int, place: Workplace) -> Idle:
        return Idle(f"client-all-{number:03d}", self.count)


@dataclass(frozen=True)
class Unscored:
    def __call__(self, gpu: bool) -> Any:
        return self.score

    def score(
        self, state: np.ndarray, split: str, sizes: Sequence[Size], samples: Sequence[Size], own: Sequence[Any] = ()
    ) -> Scores:
        return Scores(split, "none", {str(size): 0.0 for size in sizes}, {}, 1, 0, {})


def save_nothing(buffer: np.ndarray, path: Path) -> None:
    path.write_bytes(b"")


def federation(count: int, hosts: int) -> FederationSpec:
    names = np.array([f"client-all-{i:03d}" for i in range(hosts)])
    layout = Layout((Entry("w", (count,), "weights", 0),))
    rounds = RoundsSpec(0, ROUNDS, CohortSpec(1.0), False, ROUNDS, ROUNDS, (SIZE,), (SIZE,), "val", (SIZE,), (SIZE,))
    each = np.ones(hosts, np.int64)
    return FederationSpec(
        clients=Clients(names, ("all",), np.zeros(hosts, int), each, each.astype(float), OpenIdle(count)),
        make_scorer=Unscored(), algorithm=FedAvg("people"), transforms=(), layout=layout,
        initial=np.ones(layout.num_bytes, np.uint8), rounds=rounds, hosts=HostsSpec(10.0, 0, 60.0),
        facts={"name": "overhead"}, save_model=save_nothing,
    )  # fmt: skip


def engine_seconds(count: int, hosts: int) -> list[float]:
    """Of each round but the first."""
    spec = federation(count, hosts)
    shares = ActorShares((HostShare(0.05),) * hosts, 0.05)
    with tempfile.TemporaryDirectory(prefix="raf-ray-benchmark-") as place:
        folder = RunFolder(Path(place) / "run")
        folder.create("", False)
        for event in OnRay(shares).run(spec, folder, None):
            if isinstance(event, Failed):
                raise RuntimeError(event.message)
        return [float(row["seconds"]) for row in folder.read_rows("rounds.csv")][1:]


def copies_seconds(count: int, hosts: int) -> list[float]:
    """The same bytes by plain actors: one put, a copy out of it each, a new array each up, a float sum."""
    import ray

    @ray.remote(num_cpus=0.05)
    class Copies:
        def round(self, state: np.ndarray) -> np.ndarray:
            model = np.empty(len(state), np.float32)
            model[:] = state
            model *= 0.001
            return model

    @ray.remote(num_cpus=0.05)
    class Server:
        def rounds(self, actors: list[Any], count: int, rounds: int) -> list[float]:
            state, found = np.ones(count, np.float32), []
            for _ in range(rounds):
                begin = time.perf_counter()
                reference, total = ray.put(state), np.zeros(count, np.float32)
                pending = [actor.round.remote(reference) for actor in actors]
                while pending:
                    ready, pending = ray.wait(pending, timeout=600)
                    total += ray.get(ready[0])
                state = state + total / len(actors)
                found.append(time.perf_counter() - begin)
            return found

    actors = [Copies.remote() for _ in range(hosts)]
    server = Server.remote()
    try:
        found: list[float] = ray.get(server.rounds.remote(actors, count, ROUNDS))
    finally:
        for actor in (*actors, server):
            ray.kill(actor)
    return found[1:]


def overhead(quick: bool = False) -> Section:
    import ray.cloudpickle

    import benchmarks.overhead as here

    ray.cloudpickle.register_pickle_by_value(here)  # actors need not find this file
    section = Section("overhead", "a round of clients that train nothing, over the same copies by plain Ray actors and "
                      "a float sum that depends on the order; taking turns")  # fmt: skip
    connect("local", dashboard=False)
    try:
        for count, hosts in QUICK if quick else SETTINGS:
            pairs, ours, least = [], [], []
            for _ in range(2 if quick or count > 50e6 else 3):
                ours.append(statistics.median(engine_seconds(count, hosts)))
                least.append(statistics.median(copies_seconds(count, hosts)))
                pairs.append(ours[-1] / least[-1])
            name = f"{count / 1e6:.1f}M x {hosts}"
            section.ratio(f"{name}: engine / copies", pairs, "at most", 1.5)
            section.add(f"{name}: ms a round, copies", f"{1e3 * statistics.median(ours):.0f}, "
                        f"{1e3 * statistics.median(least):.0f}")  # fmt: skip
    finally:
        disconnect()
    return section
