"""Flower's simulation of the federation that `benchmarks.bare` trains by hand.

As its guide to simulations says for speed: the Ray backend with a core a client, so that as many clients run at once
as there are cores; arrays and not models on the wire; what a client needs made once a process; no evaluation.
"""

from __future__ import annotations

import json
import os
import time
from functools import lru_cache
from typing import Any

BEGAN = time.time()
os.environ["RAY_ADDRESS"] = "local"  # whatever cluster runs beside

import numpy as np  # noqa: E402
import torch  # noqa: E402
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict  # noqa: E402
from flwr.clientapp import ClientApp  # noqa: E402
from flwr.serverapp import Grid, ServerApp  # noqa: E402
from flwr.serverapp.strategy import FedAvg  # noqa: E402
from flwr.simulation import run_simulation  # noqa: E402

from benchmarks.peers import arguments  # noqa: E402

PEOPLE, LEVELS = "BENCHMARK_PEOPLE", "BENCHMARK_LEVELS"
"""Environment variables by which the processes of clients learn what to train"""


@lru_cache(maxsize=1)
def workplace(path: str) -> tuple[torch.nn.Module, list[dict[str, Any]]]:
    from benchmarks.bare import fresh, read

    torch.set_num_threads(1)
    return fresh(path), read(path)


def train(message: Message, context: Context) -> Message:
    from benchmarks.bare import train as train_client

    model, clients = workplace(os.environ[PEOPLE])
    arrays = message.content["arrays"].to_numpy_ndarrays()
    names = list(model.state_dict())
    model.load_state_dict({name: torch.from_numpy(a) for name, a in zip(names, arrays, strict=True)})
    number = int(context.node_config["partition-id"])
    index = int(message.content["config"]["server-round"]) - 1
    loss = train_client(model, clients[number], number, index, int(os.environ[LEVELS]))
    people = len(clients[number]["crops"])
    content = RecordDict({
        "arrays": ArrayRecord([value.numpy() for value in model.state_dict().values()]),
        "metrics": MetricRecord({"num-examples": people, "loss": loss}),
    })  # fmt: skip
    return Message(content=content, reply_to=message)


class Timed(FedAvg):
    """Federated averaging that notes when rounds begin and end."""

    def __init__(self, clients: int) -> None:
        super().__init__(fraction_train=1.0, fraction_evaluate=0.0, min_train_nodes=clients, min_evaluate_nodes=0,
                         min_available_nodes=clients)  # fmt: skip
        self.seconds: list[float] = []
        self.losses: list[float] = []
        self.first = 0.0

    def configure_train(self, server_round: int, *words: Any, **more: Any) -> Any:
        self.begin = time.perf_counter()
        self.first = self.first or time.time()
        return super().configure_train(server_round, *words, **more)

    def aggregate_train(self, server_round: int, replies: Any) -> Any:
        arrays, metrics = super().aggregate_train(server_round, replies)
        self.seconds.append(time.perf_counter() - self.begin)
        self.losses.append(float(metrics["loss"]))
        return arrays, metrics


def main() -> None:
    from benchmarks.bare import fresh
    from benchmarks.peers.flower import train as train_by_name  # not of __main__, which actors do not have

    asked = arguments(__doc__)
    os.environ.update({PEOPLE: asked.people, LEVELS: str(asked.levels)})

    file = np.load(asked.people)
    clients = sum(name.startswith("tier_") for name in file)
    strategy = Timed(clients)
    client_app, server_app = ClientApp(), ServerApp()
    client_app.train()(train_by_name)

    @server_app.main()
    def serve(grid: Grid, context: Context) -> None:
        start = ArrayRecord([value.numpy() for value in fresh(asked.people).state_dict().values()])
        strategy.start(grid=grid, initial_arrays=start, num_rounds=asked.rounds, train_config=ConfigRecord())

    resources = {"num_cpus": 1, "num_gpus": 0.0}
    config = {"client_resources": resources, "init_args": {"num_cpus": asked.processes}}
    run_simulation(server_app=server_app, client_app=client_app, num_supernodes=clients, backend_config=config)
    from importlib.metadata import version

    settings = {"flwr": version("flwr"), "ray": version("ray"), "torch": torch.__version__, "backend": "ray",
                "client_resources": resources, "cores": asked.processes}  # fmt: skip
    print(json.dumps({"seconds": strategy.seconds, "loss": strategy.losses, "startup_s": strategy.first - BEGAN,
                      "settings": settings}))  # fmt: skip


if __name__ == "__main__":
    main()
