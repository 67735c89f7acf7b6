"""FL methods against closed forms on quadratics; each check is shown to fail on a known wrong version."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from raf_ray.algorithms import built_in
from raf_ray.algorithms.fedavg import FedAvg
from raf_ray.algorithms.feddyn import GRADIENT, FedDyn, H
from raf_ray.algorithms.fedprox import FedProx, Proximal
from raf_ray.algorithms.interface import WEIGHTS, LocalRule, Memory
from raf_ray.algorithms.scaffold import CONTROL, Scaffold
from raf_ray.config import load_config
from raf_ray.errors import InputError
from raf_ray.federation.aggregation import UpdateError
from raf_ray.request.method import algorithm_of
from tests.quadratics import (
    DIM,
    Quadratics,
    Vector,
    fedavg_fixed_point,
    optimum,
    private_fixed_point,
    random_clients,
    shares,
)


def run(algorithm, rounds, tasks=None, **options) -> Quadratics:
    federation = Quadratics(algorithm, tasks or random_clients(), **options)
    for _ in range(rounds):
        federation.round()
    return federation


def test_every_file_of_the_room_is_a_method_by_its_name():
    known = {"fedavg", "fedavgm", "fedadagrad", "fedadam", "fedyogi", "feddyn", "fedprox", "scaffold",
             "fedbn", "fedper", "moon", "local", "centralised", "centralised_mixed"}  # fmt: skip
    assert known <= set(built_in())


# --- FedAvg -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weighting", ["people", "equal"])
def test_fedavg_ends_at_its_biased_fixed_point(weighting):
    tasks = random_clients()
    weights = shares(tasks) if weighting == "people" else np.full(len(tasks), 1 / len(tasks))
    found = run(FedAvg(weighting), 40, tasks).weights
    np.testing.assert_allclose(found, fedavg_fixed_point(tasks, weights, 0.3), atol=2e-6)
    assert np.abs(found - optimum(tasks, weights)).max() > 1e-2


def test_with_one_local_step_fedavg_reaches_the_optimum():
    tasks = random_clients(steps=1)
    found = run(FedAvg(), 120, tasks).weights
    np.testing.assert_allclose(found, optimum(tasks, shares(tasks)), atol=5e-6)


# --- FedProx ------------------------------------------------------------------------------------------------


def check_fedprox_round(algorithm) -> None:
    """After many local steps a client is at the minimum of F_k + mu / 2 |w - w_global|^2."""
    tasks = random_clients(steps=60)
    federation = run(algorithm, 2, tasks)
    before, ups = federation.weights, federation.round()
    for client, task in zip(federation.clients, tasks, strict=True):
        want = np.linalg.solve(task.a + 0.7 * np.eye(DIM), task.a @ task.b + 0.7 * before)
        np.testing.assert_allclose(before + ups[client.name].vectors[WEIGHTS][:DIM], want, atol=1e-5)


class Aliased(Proximal):
    """w_global is the live parameter: the term is always zero."""

    def __init__(self, mu, start):
        super().__init__(mu, start)
        self._start = [parameter.detach() for parameter in self._parameters]


class WrongSign(Proximal):
    def __init__(self, mu, start):
        super().__init__(-0.3 * mu, start)  # the whole of -mu would not converge at all


def fedprox_with(rule):
    @dataclass(frozen=True)
    class Wrong(FedAvg):
        def local(self, start) -> LocalRule:
            return rule(0.7, start)

    return Wrong()


def test_fedprox_clients_minimise_the_proximal_objective():
    check_fedprox_round(FedProx(mu=0.7))


@pytest.mark.parametrize("rule", [Aliased, WrongSign])
def test_the_check_of_fedprox_finds_the_known_wrong_versions(rule):
    with pytest.raises(AssertionError):
        check_fedprox_round(fedprox_with(rule))


def test_fedprox_without_its_term_is_fedavg_to_the_bit():
    assert np.array_equal(run(FedProx(mu=0.0), 5).floats, run(FedAvg(), 5).floats)


# --- FedDyn -------------------------------------------------------------------------------------------------


def check_feddyn_optimum(algorithm) -> None:
    tasks = random_clients()
    for weighting, weights in (("people", shares(tasks)), ("equal", np.full(len(tasks), 1 / len(tasks)))):
        found = run(replace(algorithm, weighting=weighting), 80, tasks).weights
        np.testing.assert_allclose(found, optimum(tasks, weights), atol=1e-5)


@dataclass(frozen=True)
class WithoutH(FedDyn):
    """The server averages and does not correct."""

    def server_step(self, weights, mean, server, cohort):
        return weights + mean[WEIGHTS], server


@dataclass(frozen=True)
class WrongSignOfH(FedDyn):
    def server_step(self, weights, mean, server, cohort):
        after, memory = super().server_step(weights, mean, server, cohort)
        return after + 2 * memory[H] / self.alpha, memory


@dataclass(frozen=True)
class NeverLearns(FedDyn):
    """The client's gradient stays as it began: FedProx in the client, and no bias is removed."""

    def local(self, start) -> LocalRule:
        return Proximal(self.alpha, start)


def test_feddyn_reaches_the_optimum_that_fedavg_misses():
    check_feddyn_optimum(FedDyn(alpha=1.0))


@pytest.mark.parametrize("wrong", [FedAvg(), WithoutH(alpha=1.0), WrongSignOfH(alpha=1.0), NeverLearns(alpha=1.0)])
def test_the_check_of_feddyn_finds_wrong_versions(wrong):
    with pytest.raises((AssertionError, UpdateError)):
        check_feddyn_optimum(wrong)


def test_feddyn_clients_minimise_the_dynamic_objective_and_learn_their_gradient_there():
    tasks = random_clients(steps=60)
    federation = run(FedDyn(alpha=0.7), 2, tasks)
    before, own = federation.weights, {n: m[GRADIENT].copy() for n, m in federation.memories.items()}
    ups = federation.round()
    for client, task in zip(federation.clients, tasks, strict=True):
        want = np.linalg.solve(task.a + 0.7 * np.eye(DIM), task.a @ task.b + own[client.name] + 0.7 * before)
        np.testing.assert_allclose(before + ups[client.name].vectors[WEIGHTS][:DIM], want, atol=1e-5)
        gradient = task.a @ (want - task.b)
        np.testing.assert_allclose(federation.memories[client.name][GRADIENT], gradient, atol=1e-5)


def test_h_stays_the_mean_of_the_clients_gradients_whoever_trains():
    federation = Quadratics(FedDyn("equal", alpha=0.5), random_clients())
    for cohort in ([0, 1, 2, 3], [0, 2], [3], [1, 2]):
        federation.round(cohort)
        mean = sum(memory[GRADIENT].astype(np.float64) for memory in federation.memories.values()) / 4
        np.testing.assert_allclose(federation.server.memory[H], mean, atol=1e-6)


# --- SCAFFOLD -----------------------------------------------------------------------------------------------


def check_scaffold_optimum(algorithm) -> None:
    tasks = random_clients()
    equal = np.full(len(tasks), 1 / len(tasks))
    found = run(algorithm, 80, tasks).weights
    np.testing.assert_allclose(found, optimum(tasks, equal), atol=1e-5)


@pytest.mark.parametrize("option", ["I", "II"])
def test_scaffold_reaches_the_optimum_that_fedavg_misses(option):
    check_scaffold_optimum(Scaffold("equal", option=option))


@dataclass(frozen=True)
class StartsAsWeights(Scaffold):
    """Public code's fault: control variates begin as the model's weights, and the server's stays there."""

    def init_server(self, layout) -> Memory:
        return {CONTROL: np.ones(layout.count("weights"))}


@dataclass(frozen=True)
class WrongSignOfCorrection(Scaffold):
    def send(self, server):
        return {CONTROL: -super().send(server)[CONTROL]}


@pytest.mark.parametrize("wrong", [FedAvg("equal"), StartsAsWeights("equal"), WrongSignOfCorrection("equal")])
def test_the_check_of_scaffold_finds_the_known_wrong_versions(wrong):
    with pytest.raises((AssertionError, UpdateError)):  # the wrong sign drives the weights beyond all bounds
        check_scaffold_optimum(wrong)


@pytest.mark.parametrize("option", ["I", "II"])
def test_corrections_sum_to_zero_at_full_equal_participation(option):
    federation = Quadratics(Scaffold("equal", option=option), random_clients())
    for _ in range(6):
        federation.round()
        own = [memory[CONTROL].astype(np.float64) for memory in federation.memories.values()]
        np.testing.assert_allclose(sum(federation.control - c for c in own), 0, atol=2e-6)
        assert np.abs(own).max() > 0.1


def test_controls_start_at_zero_so_the_first_round_is_fedavgs():
    assert np.array_equal(run(Scaffold("equal"), 1).floats, run(FedAvg("equal"), 1).floats)


def test_option_one_is_the_gradient_at_the_global_weights():
    federation = run(Scaffold("equal", option="I"), 3)
    before = federation.weights
    federation.round()
    for client, task in zip(federation.clients, federation.tasks, strict=True):
        np.testing.assert_allclose(federation.memories[client.name][CONTROL], task.a @ (before - task.b), atol=1e-5)


def test_option_two_under_plain_sgd_is_the_papers_formula():
    federation = run(Scaffold("equal", option="II"), 3)
    server = federation.control.copy()
    own = {name: memory[CONTROL].copy() for name, memory in federation.memories.items()}
    ups = federation.round()
    for client, task in zip(federation.clients, federation.tasks, strict=True):
        moved = ups[client.name].vectors[WEIGHTS][:DIM].astype(np.float64)
        want = own[client.name] - server - moved / (task.steps * federation.lr)
        np.testing.assert_allclose(federation.memories[client.name][CONTROL], want, atol=2e-5)


def test_clients_that_sit_out_keep_their_control_and_the_server_moves_by_their_share():
    federation = run(Scaffold("equal"), 2)
    server, memories = federation.control.copy(), {n: m[CONTROL].copy() for n, m in federation.memories.items()}
    ups = federation.round(cohort=[0, 2])
    assert np.array_equal(federation.memories["c1"][CONTROL], memories["c1"])
    moved = sum(ups[name].vectors[CONTROL].astype(np.float64) for name in ("c0", "c2")) / 2
    np.testing.assert_allclose(federation.control, server + 2 / 4 * moved, atol=1e-9)


def test_under_adamw_the_control_is_the_mean_raw_gradient():
    tasks = random_clients(steps=1)
    federation = Quadratics(Scaffold("equal"), tasks, optimizer="adamw", lr=0.01)
    before = federation.weights
    federation.round()
    for client, task in zip(federation.clients, tasks, strict=True):
        np.testing.assert_allclose(federation.memories[client.name][CONTROL], task.a @ (before - task.b), atol=1e-5)


# --- what the engine does for every method ----------------------------------------------------------------------


def test_statistics_are_averaged_and_never_stepped():
    found = run(Scaffold("equal", server_lr=0.5), 4)
    passes = 4 * 5  # each client's own count of its batches, whose mean every client then goes on from
    assert found.floats[DIM:].tolist() == [float(passes)]


@dataclass(frozen=True)
class KeepsFirst(FedAvg):
    def is_private(self, entry) -> bool:
        return entry.name == "first"


def test_private_entries_stay_with_their_client():
    tasks = random_clients()
    federation = run(KeepsFirst(), 60, tasks)
    own, shared = private_fixed_point(tasks, shares(tasks), 0.3)
    assert federation.weights[0] == 0
    np.testing.assert_allclose(federation.weights[1:], shared, atol=2e-6)
    found = [federation.memories[client.name]["private"][0] for client in federation.clients]
    np.testing.assert_allclose(found, own, atol=2e-6)


# --- a person's own -----------------------------------------------------------------------------------------------


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """The documentation's example as the module `mine` of a working directory."""
    text = (Path(__file__).parents[1] / "docs" / "methods.md").read_text(encoding="utf-8")
    code = text.split("```python\n")[1].split("```")[0]
    assert len(code.splitlines()) <= 40
    (tmp_path / "mine.py").write_text(code, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    sys.modules.pop("mine", None)


def test_the_documented_example_steps_with_momentum(mine):
    config = load_config(overrides=["algorithm.name=mine:Nesterov", "algorithm.parameters={beta: 0.5}"])
    tasks = random_clients()
    federation = Quadratics(algorithm_of(config), tasks)
    weights, velocity = federation.weights, np.zeros(DIM)
    for _ in range(3):
        before = federation.weights
        ups = federation.round()
        mean = sum(
            p * ups[c.name].vectors[WEIGHTS][:DIM] for p, c in zip(shares(tasks), federation.clients, strict=True)
        )
        velocity = 0.5 * velocity + mean
        weights = before + mean + 0.5 * velocity
        np.testing.assert_allclose(federation.weights, weights, atol=1e-6)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["algorithm.name=mine:Nesterov", "algorithm.parameters={bta: 1}"], "algorithm.parameters do not fit"),
        (["algorithm.name=mine:np"], "gives"),
        (["algorithm.name=raf_ray.algorithms.interface:LocalRule", "algorithm.weighting=equal"], "takes no weighting"),
        (["algorithm.name=raf_ray.algorithms.interface:LocalRule"], "gives LocalRule, not a raf_ray.algorithms"),
        (["algorithm.name=mine:Nothing"], "has no 'Nothing'"),
    ],
)
def test_what_is_no_method_is_named(words, says, mine):
    with pytest.raises(InputError, match=says):
        algorithm_of(load_config(overrides=words))


def test_a_method_of_ones_own_weighs_as_the_config_says(mine):
    config = load_config(overrides=["algorithm.name=mine:Nesterov", "algorithm.weighting=equal"])
    assert algorithm_of(config).weight(WEIGHTS, 70) == 1.0


def test_parameters_of_a_built_in_method_are_in_its_own_section():
    with pytest.raises(InputError, match=r"those of fedprox are algorithm\.fedprox\.\*$"):
        load_config(overrides=["algorithm.name=fedprox", "algorithm.parameters={mu: 1}"])


# --- moments --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "momentum"), [("sgd", 0.9), ("adamw", 0.0)])
def test_kept_moments_make_two_rounds_of_a_lone_client_one_long_training(name, momentum):
    task = random_clients(1, steps=4)[0]
    federation = Quadratics(FedAvg(), [task], optimizer=name, momentum=momentum, lr=0.05, reset=False)
    for _ in range(2):
        federation.round()
    model = Vector()
    plain = (
        torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
        if name == "sgd"
        else torch.optim.AdamW(model.parameters(), lr=0.05, weight_decay=0.0)
    )
    for _ in range(8):
        plain.zero_grad()
        task.step(model, 0, np.random.default_rng(0)).loss.backward()
        plain.step()
    np.testing.assert_allclose(federation.weights, model().detach().numpy(), atol=1e-6)
