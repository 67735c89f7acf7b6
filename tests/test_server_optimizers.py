"""FedAvgM, FedAdagrad, FedAdam and FedYogi: the first steps by hand, and that known wrong versions are found."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from raf_ray.algorithms.fedadagrad import FedAdagrad
from raf_ray.algorithms.fedadam import FedAdam
from raf_ray.algorithms.fedavg import FedAvg
from raf_ray.algorithms.fedavgm import FedAvgM
from raf_ray.algorithms.fedopt import FIRST, SECOND, FedOpt
from raf_ray.algorithms.fedyogi import FedYogi
from raf_ray.algorithms.interface import WEIGHTS
from raf_ray.config import load_config
from raf_ray.errors import InputError
from tests.quadratics import DIM, Quadratics, fedavg_fixed_point, random_clients, shares

TAU = 0.05
"""Large enough that an error in its place shows."""


def steps_of(algorithm, count: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """The mean update, worked out from what the clients sent, and the server's step of each round."""
    tasks = random_clients()
    federation = Quadratics(algorithm, tasks)
    found = []
    for _ in range(count):
        before, ups = federation.weights, federation.round()
        sent = [ups[client.name].vectors[WEIGHTS][:DIM] for client in federation.clients]
        found.append((shares(tasks) @ np.array(sent, np.float64), federation.weights - before))
    return found


def check_first_steps(algorithm, beta1: float, second) -> None:
    """`second(v, m)` is the next v, written out for this check alone."""
    m, v = np.zeros(DIM), np.full(DIM, TAU**2)
    for mean, step in steps_of(algorithm, 3):
        m = beta1 * m + (1 - beta1) * mean
        v = np.array([second(float(a), float(b)) for a, b in zip(v, m, strict=True)])
        np.testing.assert_allclose(step, 0.1 * m / (v**0.5 + TAU), atol=2e-6)


def yogi(v: float, m: float) -> float:
    return v - 0.4 * m**2 if v > m**2 else v + 0.4 * m**2


WAYS = {
    "adagrad": (FedAdagrad, 0.0, lambda v, m: v + m**2, {}),
    "adagrad with momentum": (FedAdagrad, 0.9, lambda v, m: v + m**2, {}),
    "adam": (FedAdam, 0.9, lambda v, m: 0.6 * v + 0.4 * m**2, {"beta2": 0.6}),
    "yogi": (FedYogi, 0.5, yogi, {"beta2": 0.6}),
}


@pytest.mark.parametrize("way", WAYS)
def test_the_first_steps_are_the_papers(way):
    kind, beta1, second, more = WAYS[way]
    check_first_steps(kind(beta1=beta1, tau=TAU, server_lr=0.1, **more), beta1, second)


@dataclass(frozen=True)
class StartsAtZero(FedAdam):
    """The second moment begins at zero and not at tau squared."""

    def init_server(self, layout):
        return {**super().init_server(layout), SECOND: np.zeros(layout.count("weights"))}


@dataclass(frozen=True)
class Corrected(FedAdam):
    """Adam's correction of the first moment, which the paper has not."""

    def init_server(self, layout):
        return {**super().init_server(layout), "round": np.zeros(1)}

    def server_step(self, weights, mean, server, cohort):
        after, memory = super().server_step(weights, mean, server, cohort)
        count = server["round"] + 1
        return weights + (after - weights) / (1 - self.beta1**count), {**memory, "round": count}


@dataclass(frozen=True)
class RawSquare(FedAdam):
    """The second moment of the round's mean and not of the first moment."""

    def server_step(self, weights, mean, server, cohort):
        m = self.beta1 * server[FIRST] + (1 - self.beta1) * mean[WEIGHTS]
        v = self.second_moment(server[SECOND], mean[WEIGHTS] ** 2)
        return weights + self.server_lr * m / (np.sqrt(v) + self.tau), {FIRST: m, SECOND: v}


@dataclass(frozen=True)
class Downhill(FedAdam):
    """The mean update taken for a gradient, and gone against."""

    def server_step(self, weights, mean, server, cohort):
        return super().server_step(weights, {WEIGHTS: -mean[WEIGHTS]}, server, cohort)


@pytest.mark.parametrize("wrong", [StartsAtZero, Corrected, RawSquare, Downhill, FedYogi])
def test_the_check_finds_wrong_versions(wrong):
    _, beta1, second, more = WAYS["adam"]
    with pytest.raises(AssertionError):
        check_first_steps(wrong(beta1=beta1, tau=TAU, server_lr=0.1, **more), beta1, second)


def test_what_they_share_is_no_method_by_itself():
    with pytest.raises(TypeError, match="abstract"):
        FedOpt()
    with pytest.raises(InputError, match="fedopt"):
        load_config(overrides=["algorithm.name=fedopt"])


def test_fedavgm_steps_along_the_sum_of_past_updates():
    found = steps_of(FedAvgM(beta=0.5, server_lr=0.7), 3)
    velocity = np.zeros(DIM)
    for mean, step in found:
        velocity = 0.5 * velocity + mean
        np.testing.assert_allclose(step, 0.7 * velocity, atol=1e-6)


def test_fedavgm_without_momentum_is_fedavg_to_the_bit():
    one, other = (Quadratics(algorithm, random_clients()) for algorithm in (FedAvgM(beta=0.0), FedAvg()))
    for _ in range(5):
        one.round()
        other.round()
        assert np.array_equal(one.floats, other.floats)


@pytest.mark.parametrize(
    ("algorithm", "rounds", "near"),
    [(FedAvgM(beta=0.5), 150, 5e-6), (FedYogi(server_lr=0.3, tau=0.1), 400, 1e-3),
     (FedAdagrad(server_lr=0.3, tau=0.1), 400, 1e-3)],
    ids=["fedavgm", "fedyogi", "fedadagrad"],
)  # fmt: skip
def test_a_server_that_steps_otherwise_ends_where_fedavg_ends(algorithm, rounds, near):
    """They come to rest where the mean update is zero, which is FedAvg's biased fixed point."""
    tasks = random_clients()
    federation = Quadratics(algorithm, tasks)
    for _ in range(rounds):
        federation.round()
    np.testing.assert_allclose(federation.weights, fedavg_fixed_point(tasks, shares(tasks), 0.3), atol=near)
