"""pfl-research's simulation of the federation that `benchmarks.bare` trains by hand.

As its documentation says for speed: a process a core through torch.distributed (torchrun), whose partial sums are
all-reduced, and clients dealt to the processes by their weights (`user_id_to_weight`).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from typing import Any

from benchmarks.peers import arguments

BEGAN = float(os.environ.setdefault("BENCHMARK_BEGAN", str(time.time())))


def work(asked: argparse.Namespace) -> None:
    import numpy as np
    import torch
    from pfl.aggregate.simulate import SimulatedBackend
    from pfl.aggregate.weighting import WeightByDatapoints
    from pfl.algorithm.base import NNAlgorithmParams
    from pfl.algorithm.federated_averaging import FederatedAveraging
    from pfl.callback.base import TrainingProcessCallback
    from pfl.data.dataset import Dataset
    from pfl.data.federated_dataset import FederatedDataset
    from pfl.data.sampling import get_user_sampler
    from pfl.hyperparam import NNTrainHyperParams
    from pfl.metrics import Metrics, Weighted
    from pfl.model.pytorch import PyTorchModel

    from benchmarks.bare import fresh, read, train

    torch.set_num_threads(1)
    clients, net = read(asked.people), fresh(asked.people)
    net.loss, net.metrics = None, None  # type: ignore[assignment]  # asked for by PyTorchModel, used by its own loop
    model = PyTorchModel(net, torch.optim.SGD, torch.optim.SGD(net.parameters(), lr=1.0))
    pixels = {i: int(client["crops"].size) for i, client in enumerate(clients)}

    def dataset(number: int) -> Dataset:
        people = len(clients[number]["crops"])
        return Dataset([np.arange(people)], user_id=number)

    sampler = get_user_sampler("minimize_reuse", list(range(len(clients))))
    users = FederatedDataset(dataset, sampler, user_id_to_weight=pixels)
    seconds: list[float] = []
    losses: list[float] = []
    first: list[float] = []

    class Averaging(FederatedAveraging):  # type: ignore[misc, type-arg]
        """Each user trains by the same function as by hand."""

        def simulate_one_user(self, model: Any, user: Any, context: Any) -> Any:
            """As inherited, but for the evaluation of each user, which the first iteration would have too."""
            self._initial_model_state = model.get_parameters(self._initial_model_state)
            statistics, metrics = self.train_one_user(self._initial_model_state, model, user, context)
            model.set_parameters(self._initial_model_state)
            return statistics, metrics

        def train_one_user(self, initial: Any, model: Any, user: Any, context: Any) -> Any:
            number, index = int(user.user_id), context.current_central_iteration
            loss = train(model.pytorch_model, clients[number], number, index, asked.levels)
            people = len(clients[number]["crops"])
            metrics = Metrics([("loss", Weighted(loss * people, people))])
            return model.get_model_difference(initial), metrics

    class Clock(TrainingProcessCallback):  # type: ignore[misc]
        def __init__(self) -> None:
            self.begin = time.perf_counter()

        def on_train_begin(self, *, model: Any) -> Metrics:
            first.append(time.time())
            self.begin = time.perf_counter()
            return Metrics()

        def after_central_iteration(
            self, aggregate_metrics: Any, model: Any, *, central_iteration: int
        ) -> tuple[bool, Any]:
            now = time.perf_counter()
            seconds.append(now - self.begin)
            self.begin = now
            values = {str(name): value for name, value in aggregate_metrics.to_simple_dict().items()}
            losses.append(float(next(value for name, value in values.items() if name.lower() == "loss")))
            return False, Metrics()

    parameters = NNAlgorithmParams(central_num_iterations=asked.rounds, evaluation_frequency=10**9,
                                   train_cohort_size=len(clients), val_cohort_size=None)  # fmt: skip
    Averaging().run(
        algorithm_params=parameters,
        backend=SimulatedBackend(training_data=users, val_data=users, postprocessors=[WeightByDatapoints()]),
        model=model,
        model_train_params=NNTrainHyperParams(local_num_epochs=1, local_learning_rate=1e-3, local_batch_size=8),
        model_eval_params=None,
        callbacks=[Clock()],
        send_metrics_to_platform=False,
    )
    if int(os.environ.get("RANK", 0)) == 0:
        from importlib.metadata import version

        settings = {"pfl": version("pfl"), "torch": torch.__version__, "processes": asked.processes,
                    "backend": "SimulatedBackend, torch.distributed (gloo)"}  # fmt: skip
        print(json.dumps({"seconds": seconds, "loss": losses, "startup_s": first[0] - BEGAN, "settings": settings}))


def main() -> None:
    asked = arguments(__doc__)
    if asked.processes > 1 and "LOCAL_RANK" not in os.environ:
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={asked.processes}",
                   "-m", "benchmarks.peers.pfl_research", *sys.argv[1:]]  # fmt: skip
        raise SystemExit(subprocess.run(command).returncode)
    work(asked)


if __name__ == "__main__":
    main()
