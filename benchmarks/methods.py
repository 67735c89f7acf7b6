"""What an FL method costs beside FedAvg: a whole round in one process, in pairs side by side."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass, field

from benchmarks.figures import Section, interval
from raf_ray.config import load_config
from raf_ray.federation.backend import Group, InProcessBackend
from raf_ray.federation.server import Server
from raf_ray.request.assembly import federation_spec, prepare
from raf_ray.request.method import algorithm_of

GOALS = {"fedprox": 0.9, "scaffold": 0.9, "feddyn": 0.9}
"""People/s as a share of FedAvg's: within 10 %"""
OTHERS = ("fedavgm", "fedadam", "fedbn", "fedper", "local", "moon")
PEOPLE, PAIRS = 200, 9


@dataclass
class Rounds:
    """One method's federation, a round at a time."""

    name: str
    people: int
    index: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        config = load_config(
            overrides=[
                f"algorithm.name={self.name}", f"data.people_per_client={self.people}", "data.val_people=2",
                "data.test_people=2", "objective.name=heatmap", "federation.engine=in_process", "resources.threads=2",
            ]
        )  # fmt: skip
        spec = federation_spec(prepare(config), self.name)
        method = algorithm_of(config)
        self._backend = InProcessBackend(spec)
        self._server = Server(method, spec.layout, 3, spec.initial, method.init_server(spec.layout))
        self._cohort = [spec.clients[number] for number in range(3)]

    def seconds(self) -> float:
        begin = time.perf_counter()
        total = self._server.round([(client.name, client.people) for client in self._cohort])
        down = self._backend.publish(self._server.down())
        for answer in self._backend.train([Group(down, self.index, self._cohort, total.weigher)]):
            total.add(answer.total, [receipt.client for receipt in answer.receipts])
        self._server.step(total)
        self.index += 1
        return time.perf_counter() - begin


def methods(quick: bool) -> Section:
    people, pairs = (8, 2) if quick else (PEOPLE, PAIRS)
    section = Section(
        "methods",
        f"the demo with plain heatmaps, 3 clients x {people} people, a round in one process; people/s beside FedAvg's, "
        f"{pairs} pairs side by side",
    )
    plain = Rounds("fedavg", people)
    plain.seconds()
    for name in (*GOALS, *OTHERS):
        method = Rounds(name, people)
        method.seconds()
        ratios = [plain.seconds() / method.seconds() for _ in range(pairs)]
        if name in GOALS:
            section.ratio(f"{name} / fedavg", ratios, "at least", GOALS[name])
        else:
            low, high = interval(ratios)
            section.add(f"{name} / fedavg", f"{statistics.median(ratios):.2f} ({low:.2f} to {high:.2f})")
    section.notes.append(
        "MOON's two further models go forward only: beside a forward pass and a backward pass of twice its cost they "
        "would leave 3 / 5 of the pace."
    )
    return section
