"""FedBuff: its schedule by hand and by a second simulation, its steps by a second implementation, whole runs."""

from __future__ import annotations

import csv
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch

from raf_ray import run_federation
from raf_ray.algorithms.fedbuff import FedBuff
from raf_ray.algorithms.interface import Pace
from raf_ray.devices.buffered import Bag, Schedule
from raf_ray.devices.profiles import Fleet, Rules, Work
from raf_ray.errors import InputError
from raf_ray.federation.spec import FederationSpec
from raf_ray.request.assembly import federation_spec, prepare
from raf_ray.runs.checkpoint import STATE
from raf_ray.runs.folder import RunFolder
from raf_ray.transforms.interface import Transform
from tests.quadratics import DIM, Quadratics, random_clients
from tests.tiny import StopAfter, tiny

DEVICES = "devices.profiles={high: phone, mid: camera, low: {preset: phone, gmacs_per_s: 3}}"
CLIENTS = "federation.clients=[high, high, mid, mid, low, low]"
UNSTEADY = ("algorithm.name=fedbuff", DEVICES, CLIENTS, "algorithm.fedbuff.concurrency=5", "federation.rounds=6",
            "algorithm.fedbuff.buffer=2", "data.people_per_client=8")  # fmt: skip


def fleet_of(seconds, availability=1.0, dropout=0.0) -> Fleet:
    """Devices whose whole round is computing, of 100 MACs."""
    seconds = np.array(seconds, np.float64)
    zeros, ones = np.zeros_like(seconds), np.ones_like(seconds)
    work = Work(100 * ones, 10**6, 2 * 10**6)
    return Fleet(zeros, seconds, zeros, availability * ones, dropout * ones, work, Rules())


def starts(flush) -> list[dict[int, list[int]]]:
    return [dict(wave) for wave in flush.waves]


# --- the schedule -------------------------------------------------------------------------------------


def test_by_hand_a_fast_and_a_slow_client_and_a_buffer_of_one():
    """0 takes 2 s, 1 takes 5: 0 answers at 2 and 4, 1 at 5 from the state before both, 0 at 6."""
    schedule = Schedule(fleet_of([2, 5]), 2, 1, seed=0)
    found = [schedule[i] for i in range(4)]
    assert [starts(flush) for flush in found] == [[{0: [0]}], [{1: [0]}], [{0: [1]}], [{2: [0]}]]
    assert [flush.plan.seconds for flush in found] == [2, 2, 1, 1]
    assert [flush.plan.staleness.tolist() for flush in found] == [[0], [0], [2], [1]]
    assert [flush.still for flush in found] == [{0}, {0}, {2}, {3}]


def test_by_hand_who_has_answered_from_the_newest_state_waits_for_the_next():
    """Clients of 2, 3 and 7 s. With a buffer of 3 all wait for the slowest. One of 2 is full at 3; 0 and 1 begin again,
    answer at 5 and 6, and again; 2 answers at 7 from the first state, 0 at 8."""
    all_wait = Schedule(fleet_of([2, 3, 7]), 3, 3, seed=0)
    assert [starts(all_wait[i]) for i in range(2)] == [[{0: [0, 1, 2]}], [{1: [0, 1, 2]}]]
    assert [all_wait[i].plan.seconds for i in range(2)] == [7, 7]
    schedule = Schedule(fleet_of([2, 3, 7]), 3, 2, seed=0)
    assert [starts(schedule[i]) for i in range(3)] == [[{0: [0, 1]}], [{1: [0, 1]}], [{0: [2], 2: [0]}]]
    assert [schedule[i].plan.seconds for i in range(3)] == [3, 3, 2]
    assert schedule[2].plan.staleness.tolist() == [2, 0]


def test_who_answers_twice_in_a_step_trains_in_two_waves_the_older_state_first():
    schedule = Schedule(fleet_of([3] * 2 + [10] * 20), 6, 5, seed=0)
    twice = 0
    for i in range(200):
        seen: dict[int, int] = {}
        for place, wave in enumerate(schedule[i].waves):
            for state, clients in sorted(wave.items()):
                assert len(set(clients)) == len(clients) and all(seen.get(c, -1) < state for c in clients)
                seen |= dict.fromkeys(clients, state)
                twice += place * len(clients)
    assert twice


def simulated(seconds: list[float], buffer: int, flushes: int) -> list[list[tuple[int, int]]]:
    """(client, state) of each step's answers in order, by small ticks of a clock: all clients at work, none is lost."""
    begun: dict[int, tuple[float, int]] = dict.fromkeys(range(len(seconds)), (0.0, 0))
    answered_from: dict[int, int] = {}
    found, now, state, buffered = [], 0.0, 0, []
    order = {client: client for client in begun}  # of starts, for answers of the same moment
    count = len(begun)
    while len(found) < flushes:
        now += 0.5
        due = sorted((c for c, (at, _) in begun.items() if at + seconds[c] == now), key=order.__getitem__)
        for client in due:
            buffered.append((client, begun[client][1]))
            answered_from[client] = begun.pop(client)[1]
            if len(buffered) == buffer:
                found.append(buffered)
                buffered, state = [], state + 1
            idle = [c for c in range(len(seconds)) if c not in begun and answered_from[c] < state]
            for one in idle:
                begun[one], order[one] = (now, state), count
                count += 1
    return found


@pytest.mark.parametrize("buffer", [1, 2, 3, 5])
def test_a_second_simulation_by_ticks_of_a_clock_finds_the_same(buffer):
    seconds = [1.5, 2.0, 3.5, 8.0, 21.5]
    schedule = Schedule(fleet_of(seconds), 5, buffer, seed=3)
    for index, expected in enumerate(simulated(seconds, buffer, 30)):
        flush = schedule[index]
        pairs = [(c, state) for wave in flush.waves for state, clients in wave.items() for c in clients]
        assert sorted(pairs) == sorted(expected), index


@pytest.mark.parametrize(("concurrency", "buffer", "dropout"), [(1, 1, 0.0), (4, 4, 0.3), (10, 3, 0.6), (30, 30, 0.2)])
def test_never_more_at_work_than_asked_nobody_twice_and_from_a_state_but_once(concurrency, buffer, dropout):
    rng = np.random.default_rng(0)
    fleet = fleet_of(rng.lognormal(size=30), rng.uniform(0.2, 1, 30), dropout)
    schedule = Schedule(fleet, concurrency, buffer, seed=1)
    answered, lost = set(), 0
    for index in range(200):
        flush = schedule[index]
        pairs = [(c, state) for wave in flush.waves for state, clients in wave.items() for c in clients]
        assert len(pairs) == buffer and not answered & set(pairs)
        answered |= set(pairs)
        states = {state for _, state in pairs}
        assert max(states) <= index and (index == 0 or states <= {index} | schedule[index - 1].still)
        assert len(schedule._trips) <= concurrency
        at_work = [trip.client for trip in schedule._trips]
        assert len(at_work) == len(set(at_work))
        plan = flush.plan
        assert len(plan.asked) == buffer + plan.dropped and plan.late == 0 and plan.seconds >= 0
        lost += plan.dropped
        np.testing.assert_allclose(plan.mb_up.sum(), 2.0 * buffer)
        assert (plan.busy_s <= fleet.seconds[plan.asked]).all() and (plan.macs <= 100).all()
    trips = 200 * buffer + lost
    assert abs(lost / trips - dropout) < 4 * np.sqrt(dropout * (1 - dropout) / trips) + 1e-9


def test_it_is_the_same_however_it_is_asked_and_another_by_another_seed():
    fleet = fleet_of(np.random.default_rng(0).lognormal(size=20), 0.5, 0.2)
    one, other, third = (Schedule(fleet, 6, 3, seed) for seed in (0, 0, 1))
    other[25]
    assert all(starts(one[i]) == starts(other[i]) and one[i].still == other[i].still for i in range(25))
    assert any(starts(one[i]) != starts(third[i]) for i in range(25))


def test_work_begins_in_proportion_to_availability():
    availability = np.array([1.0] * 50 + [0.25] * 50)
    schedule = Schedule(fleet_of(np.ones(100), availability), 2, 1, seed=0)
    began = np.concatenate([schedule[i].plan.asked for i in range(4000)])
    rare = (began >= 50).mean()
    assert abs(rare - 0.2) < 4 * np.sqrt(0.2 * 0.8 / 4000)


def test_a_bag_gives_what_is_in_it():
    bag, there, rng = Bag(50), set(range(50)), np.random.default_rng(0)
    for _ in range(1000):
        client = int(rng.integers(50))
        (bag.remove if client in there else bag.add)(client)
        there ^= {client}
        assert {bag[i] for i in range(len(bag))} == there


# --- the step -----------------------------------------------------------------------------------------


def flushed(method: FedBuff, tasks, seconds, flushes: int) -> np.ndarray:
    """Weights after so many steps, by this project's server, clients and schedule."""
    federation = Quadratics(method, tasks)
    pace = method.pace(len(tasks))
    schedule = Schedule(fleet_of(seconds), pace.concurrency, pace.buffer, seed=0)
    downs = {0: federation.server.down()}
    for index in range(flushes):
        flush = schedule[index]
        pairs = [(state, c) for wave in flush.waves for state, clients in wave.items() for c in clients]
        total = federation.server.round([(f"c{c}", tasks[c].people) for _, c in pairs])
        for state, c in pairs:
            up, _, _ = federation.clients[c].train(downs[state], state, None)
            total.add(up, [up.client], method.discount(index - state))
        federation.server.step(total)
        downs[index + 1] = federation.server.down()
    return federation.weights


def by_hand(tasks, seconds, flushes, buffer, lr, eta, exponent, equal, wrong: str = "") -> np.ndarray:
    """Algorithm 1 in float64, with the simulation by ticks for its order; `wrong`: a known mistake."""
    weights = {0: np.zeros(DIM)}
    for index, answers in enumerate(simulated(seconds, buffer, flushes)):
        shares = np.array([1.0 if equal else tasks[c].people for c, _ in answers])
        discounts = np.array([(1 + index - state) ** -exponent for _, state in answers])
        step = np.zeros(DIM)
        for (c, state), share, discount in zip(answers, shares / shares.sum(), discounts, strict=True):
            w = weights[state].copy()
            for _ in range(tasks[c].steps):
                w -= lr * tasks[c].a @ (w - tasks[c].b)
            start = weights[index] if wrong == "against the newest state" else weights[state]
            step += share * discount * (w - start)
        if wrong == "discounts made up for":
            step /= (shares / shares.sum()) @ discounts
        weights[index + 1] = weights[index] + eta * step
    return weights[flushes]


@pytest.mark.parametrize("equal", [True, False])
@pytest.mark.parametrize("buffer", [1, 2, 4])
def test_its_steps_are_the_papers(buffer, equal):
    tasks, seconds = random_clients(5), [1.5, 2.0, 3.5, 8.0, 21.5]
    method = FedBuff(weighting="equal" if equal else "people", buffer=buffer, server_lr=0.7, staleness_exponent=0.5)
    found = flushed(method, tasks, seconds, 25)
    asked = (tasks, seconds, 25, buffer, 0.3, 0.7, 0.5, equal)
    np.testing.assert_allclose(found, by_hand(*asked), atol=2e-5)
    for wrong in ("against the newest state", "discounts made up for"):
        assert np.abs(found - by_hand(*asked, wrong=wrong)).max() > 1e-3


def test_discounts_are_the_papers_and_none_without_an_exponent():
    assert FedBuff().discount(3) == 0.5 and FedBuff().discount(0) == 1.0
    assert FedBuff(staleness_exponent=0).discount(7) == 1.0
    assert FedBuff().pace(3) == Pace(3, 2) and FedBuff().pace(1) == Pace(1, 1)
    assert FedBuff().pace(500) == Pace(500, 10) and FedBuff(concurrency=8).pace(500) == Pace(8, 4)


class OverExpected(Transform):
    """A sum over the clients that a round draws, as DP-FedAvg's."""

    over_expected = True


# --- whole runs ---------------------------------------------------------------------------------------


def in_process(path: Path, *words: str, **options):
    return run_federation(tiny("federation.engine=in_process", *words), path, **options)


def state(folder: Path) -> torch.Tensor:
    saved = torch.load(folder / "model.pt", weights_only=True)["model"]
    return torch.cat([tensor.flatten().double() for tensor in saved.values()])


def rows(folder: Path) -> list[dict[str, str]]:
    with open(folder / "rounds.csv", encoding="utf-8") as file:
        times = {"seconds", "wait_seconds", "people_per_s"}
        return [{key: value for key, value in row.items() if key not in times} for row in csv.DictReader(file)]


def spec_of(*words: str) -> FederationSpec:
    return federation_spec(prepare(tiny("federation.engine=in_process", *words)), "run")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return in_process(tmp_path_factory.mktemp("whole") / "run", *UNSTEADY)


def test_a_run_trains_what_the_schedule_says(whole):
    spec = spec_of(*UNSTEADY)
    seen = defaultdict(int)
    for index, row in enumerate(rows(whole.folder)):
        work = spec.work(index)
        plan = work.plan
        assert float(row["virtual_s"]) == round(plan.seconds, 6)
        assert float(row["staleness"]) == pytest.approx(plan.staleness.mean())
        assert [int(row[name]) for name in ("asked", "answered", "dropped", "late")] == [
            len(plan.asked), 2, plan.dropped, 0]  # fmt: skip
        assert int(row["people"]) == 16
        tiers = {spec.clients[i].tier for i in work.clients}
        assert {tier for tier in spec.clients.tier_names if row[f"update_norm_{tier}"]} == tiers
        seen[plan.staleness.max()] += 1
    assert max(seen) >= 2, "some answers are old"


def test_discounts_reach_the_model(whole, tmp_path):
    """Against a run of the same clients and order whose discounts are others."""
    other = in_process(tmp_path / "other", *UNSTEADY, "algorithm.fedbuff.staleness_exponent=0")
    assert not torch.equal(state(whole.folder), state(other.folder))


def test_with_a_buffer_of_all_it_is_fedavg_to_the_bit(tmp_path):
    words = (
        "devices.profiles={high: workstation, mid: {preset: camera, availability: 1, dropout: 0}, low: workstation}",
        "federation.rounds=3",
    )
    buffered = in_process(tmp_path / "fedbuff", *words, "algorithm.name=fedbuff", "algorithm.fedbuff.buffer=3")
    plain = in_process(tmp_path / "fedavg", *words)
    assert torch.equal(state(buffered.folder), state(plain.folder))
    assert {row["staleness"] for row in rows(buffered.folder)} == {"0.0"}


@pytest.mark.parametrize("done", [1, 3, 4])
def test_a_stopped_run_goes_on_to_the_same_bits_from_the_states_that_clients_are_at(done, whole, tmp_path):
    with pytest.raises(RuntimeError, match="stopped by the test"):
        in_process(tmp_path / "part", *UNSTEADY, watchers=[StopAfter(done)])
    again = in_process(tmp_path / "part", *UNSTEADY, resume=True)
    assert torch.equal(state(again.folder), state(whole.folder)) and rows(again.folder) == rows(whole.folder)


def test_a_checkpoint_without_an_older_state_or_with_a_wrong_one_is_no_checkpoint_of_the_run(tmp_path):
    spec = spec_of(*UNSTEADY)
    done = next(i + 1 for i in range(5) if spec.work(i).still)
    with pytest.raises(RuntimeError, match="stopped by the test"):
        in_process(tmp_path / "part", *UNSTEADY, watchers=[StopAfter(done + 1)])
    path = tmp_path / "part" / "checkpoint.pt"
    saved = torch.load(path, weights_only=True)
    assert set(saved["older"]) == spec.work(saved["round"] - 1).still != set()
    good = RunFolder(tmp_path / "part")
    assert spec.last_checkpoint(good) is not None
    first = min(saved["older"])
    for older, says in [
        ({}, "not those that clients are at"), ({first: {}}, "its state is not the"), ([], "of no round"),
        ({first: {STATE: torch.zeros(3)}}, "its state is not the"), ({99: saved["older"][first]}, "of no round"),
        ({first: 3}, "no vectors"),
    ]:  # fmt: skip
        torch.save({**saved, "older": older}, path)
        with pytest.raises(InputError, match=says):
            spec.last_checkpoint(good)


def test_on_ray_and_after_a_stop_what_clients_keep_follows_them_through_late_answers(tmp_path, ray_cluster):
    """Top-k's rest, and an optimiser's moments: of a client's last answer, whatever step that went into."""
    words = (*UNSTEADY, "transforms.apply=[topk]", "transforms.topk.share=0.1", "optimizer.reset_each_round=false",
             "evaluation.train_people=5")  # fmt: skip
    one = in_process(tmp_path / "one", *words)
    with pytest.raises(RuntimeError, match="stopped by the test"):
        in_process(tmp_path / "part", *words, watchers=[StopAfter(4)])
    again = in_process(tmp_path / "part", *words, resume=True)
    on_ray = run_federation(tiny(*words, "resources.clients_per_actor=3"), tmp_path / "ray")
    for other in (again, on_ray):
        assert torch.equal(state(one.folder), state(other.folder)) and rows(one.folder) == rows(other.folder)
        assert (one.folder / "scores.csv").read_text() == (other.folder / "scores.csv").read_text()


@pytest.mark.parametrize(("words", "says"), [
    (["devices=null"], r"goes by the virtual clock; say what devices .*high: phone"),
    (["algorithm.fedbuff.concurrency=7"], "7 clients cannot be at work, there are 6"),
    (["algorithm.fedbuff.buffer=7"], "a buffer of 7 updates never fills with 6 clients"),
    (["federation.participation=0.5"], "draws no cohort of a round"),
    (["federation.cohort.size=2"], "draws no cohort of a round"),
    (["federation.cohort.draw=by_tier"], "draws no cohort of a round"),
    (["devices.deadline_s=9"], "devices.deadline_s: algorithm.name=fedbuff waits for no round"),
    (["aggregation.name=median"], "ranks updates of one state"),
    (["resources.profile={client: client-high-000, round: 1}"], "traces a round, which"),
    (["transforms.apply=[dp]", "federation.cohort.draw=poisson"], "devices decide who answers"),
    (["transforms.apply=[tests.test_buffered:OverExpected]"], "counts on the clients that a round draws"),
], ids=lambda value: value[0] if isinstance(value, list) else "")  # fmt: skip
def test_what_does_not_go_with_it_is_said_before_anything_starts(words, says):
    with pytest.raises(InputError, match=says):
        prepare(tiny("federation.engine=in_process", *UNSTEADY, *words))
