"""The virtual clock: plans of rounds by hand, draws within exact bounds, and whole runs that keep to them."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from rich.console import Console
from scipy.stats import binom

from raf_ray import run, run_federation
from raf_ray.cli import run_command
from raf_ray.config import load_config, write_yaml
from raf_ray.devices.account import VirtualAccount, hours_to
from raf_ray.devices.clock import Trips, draw_trips, plan_round
from raf_ray.devices.profiles import PRESETS, Fleet, Profile, Rules, Work, make_fleet
from raf_ray.errors import InputError
from raf_ray.federation.cohort import CohortSpec, draw_cohort, plan_cohort
from raf_ray.federation.events import Noted
from raf_ray.report.tables import results_table
from raf_ray.request.assembly import federation_spec, prepare
from tests.tiny import WORDS, StopAfter, tiny

UNSTEADY = (
    "devices.profiles={high: {preset: workstation, availability: 0.6}, mid: {preset: camera, availability: 0.5}, "
    "low: {preset: phone, dropout: 0.3}}",
    "devices.target=0.01", "federation.rounds=6", "seed=5",
)  # fmt: skip
"""Three clients of whom a round may have any, or nobody."""
TIMES = {"seconds", "wait_seconds", "people_per_s"}


def fleet_of(gmacs: list[float], rules: Rules, **changes) -> Fleet:
    """Clients of 1 GMAC/s that take 1 s down, 3 s a forward GMAC and 2 s up."""
    kind = Profile(gmacs_per_s=1.0, mbit_down=8.0, mbit_up=4.0, **changes)
    work = Work(np.array(gmacs) * 1e9, bytes_down=10**6, bytes_up=10**6)
    return make_fleet([kind], np.zeros(len(gmacs), int), work, rules, seed=0)


def first(there: np.ndarray, count: int) -> list[int]:
    return there[:count].tolist()


def trips_of(fleet: Fleet, there=None, lost=None) -> Trips:
    count = len(fleet.seconds)
    lost_s = np.full(count, np.inf)
    for client, at in (lost or {}).items():
        lost_s[client] = at
    return Trips(np.ones(count, bool) if there is None else np.array(there), fleet.seconds, lost_s)


def in_process(path, *words, **options):
    return run_federation(tiny("federation.engine=in_process", *words), path, **options)


def state(folder) -> torch.Tensor:
    saved = torch.load(folder / "model.pt", weights_only=True)["model"]
    return torch.cat([values.flatten().double() for values in saved.values()])


def rows(folder) -> list[dict[str, str]]:
    with open(folder / "rounds.csv", encoding="utf-8") as file:
        return [{key: cell for key, cell in row.items() if key not in TIMES} for row in csv.DictReader(file)]


# --- a round's plan, by hand --------------------------------------------------------------------------


def test_a_trip_is_the_state_down_three_forward_passes_and_the_update_up():
    fleet = fleet_of([1.0, 2.0], Rules())
    assert (fleet.down_s.tolist(), fleet.compute_s.tolist(), fleet.up_s.tolist()) == ([1, 1], [3, 6], [2, 2])


def test_the_first_to_answer_are_taken_and_all_others_cost_what_they_did_until_then():
    """Trips of 6, 9, 12 and 15 s; the fastest is lost at 2.5 s, half through its training."""
    fleet = fleet_of([1.0, 2.0, 3.0, 4.0], Rules(over_select=2.0))
    plan = plan_round(fleet, trips_of(fleet, lost={0: 2.5}), 2, first)
    assert plan.asked.tolist() == [0, 1, 2, 3] and plan.answered.tolist() == [1, 2]
    assert (plan.seconds, plan.dropped, plan.late) == (12.0, 1, 1)
    assert plan.busy_s.tolist() == [2.5, 9.0, 12.0, 12.0]
    assert plan.macs == pytest.approx([0.5e9, 2e9, 3e9, 4e9 * 11 / 12])
    assert (plan.mb_down.tolist(), plan.mb_up.tolist()) == ([1, 1, 1, 1], [0, 1, 1, 0])


def test_the_deadline_cuts_who_is_late():
    fleet = fleet_of([1.0, 2.0, 3.0, 4.0], Rules(over_select=2.0, deadline_s=10.0))
    plan = plan_round(fleet, trips_of(fleet, lost={0: 0.5}), 2, first)
    assert plan.answered.tolist() == [1]
    assert (plan.seconds, plan.dropped, plan.late) == (10.0, 1, 2)
    assert plan.macs == pytest.approx([0, 2e9, 3e9, 4e9 * 9 / 12]) and plan.mb_down.tolist() == [0.5, 1, 1, 1]


def test_who_answers_at_the_deadline_itself_is_in_time():
    fleet = fleet_of([1.0], Rules(deadline_s=6.0))
    assert plan_round(fleet, trips_of(fleet), 1, first).answered.tolist() == [0]
    fleet = fleet_of([1.0], Rules(deadline_s=np.nextafter(6.0, 0)))
    assert plan_round(fleet, trips_of(fleet), 1, first).answered.tolist() == []


def test_without_a_deadline_a_round_ends_when_nobody_is_left_to_wait_for():
    fleet = fleet_of([1.0, 2.0], Rules())
    assert plan_round(fleet, trips_of(fleet, lost={1: 8.5}), 2, first).seconds == 8.5
    assert plan_round(fleet, trips_of(fleet, lost={1: 2.5}), 2, first).seconds == 6.0
    both = plan_round(fleet, trips_of(fleet, lost={0: 2.5, 1: 3.5}), 2, first)
    assert (both.seconds, both.dropped, both.late, len(both.answered)) == (3.5, 2, 0, 0)


def test_a_round_for_which_nobody_is_there_takes_the_time_to_the_next_try():
    fleet = fleet_of([1.0, 2.0], Rules(retry_s=7.0))
    plan = plan_round(fleet, trips_of(fleet, there=[False, False]), 2, first)
    assert (plan.seconds, len(plan.asked), len(plan.answered)) == (7.0, 0, 0)


def test_of_equals_the_lower_number_is_first():
    fleet = fleet_of([1.0, 1.0, 1.0], Rules(over_select=3.0))
    plan = plan_round(fleet, trips_of(fleet), 1, lambda there, count: [2, 1, 0])
    assert plan.answered.tolist() == [0]


@pytest.mark.parametrize(("goal", "factor", "asked"), [(10, 1.3, 13), (10, 1.0, 10), (3, 1.3, 4), (1, 1.3, 2)])
def test_so_many_more_are_asked_than_are_wanted_rounded_up(goal, factor, asked):
    fleet = fleet_of([1.0] * 50, Rules(over_select=factor))
    plan = plan_round(fleet, trips_of(fleet), goal, first)
    assert (len(plan.asked), len(plan.answered)) == (asked, goal)


def test_over_selection_takes_the_fastest_of_those_asked():
    rng = np.random.default_rng(0)
    fleet = fleet_of(rng.uniform(1, 9, 40).tolist(), Rules(over_select=2.0))
    plan = plan_round(fleet, trips_of(fleet), 10, lambda there, count: rng.choice(there, count, replace=False))
    assert plan.answered.tolist() == sorted(plan.asked.tolist(), key=lambda i: fleet.seconds[i])[:10]
    assert plan.seconds == fleet.seconds[plan.answered].max() < fleet.seconds[plan.asked].max()


# --- draws --------------------------------------------------------------------------------------------


def within(count: int, trials: int, probability: float) -> bool:
    """Inside the exact bounds that a count of `trials` leaves once in a million."""
    low, high = binom.interval(1 - 1e-6, trials, probability)
    return low <= count <= high


def test_clients_are_there_and_are_lost_as_often_as_their_devices_say():
    fleet = fleet_of([1.0] * 5000, Rules(), availability=0.3, dropout=0.1)
    one, other = draw_trips(fleet, 3, 0), draw_trips(fleet, 3, 1)
    lost = np.isfinite(one.lost_s)
    assert within(one.there.sum(), 5000, 0.3) and within(lost.sum(), 5000, 0.1)
    assert within((one.there & other.there).sum(), 5000, 0.09), "rounds are independent"
    assert within((one.there & lost).sum(), 5000, 0.03), "and so are being there and being lost"
    assert within((one.lost_s[lost] < fleet.seconds[lost] / 4).sum(), int(lost.sum()), 0.25)
    assert not within(one.there.sum(), 5000, 0.4), "the bounds tell 0.3 from 0.4"


def test_draws_are_of_the_seed_and_the_round_alone():
    fleet = fleet_of([1.0] * 100, Rules(), availability=0.5)
    again, later, other = (draw_trips(fleet, *of).there.tolist() for of in ((3, 7), (3, 8), (4, 7)))
    assert draw_trips(fleet, 3, 7).there.tolist() == again and again != later and again != other


def test_devices_of_one_kind_differ_by_log_normal_factors_of_the_seed():
    kind, work = replace(PRESETS["phone"], spread=0.5), Work(np.full(4001, 1e9), 10**6, 10**6)

    def made(seed: int, spread: float) -> Fleet:
        return make_fleet([replace(kind, spread=spread)], np.zeros(4001, int), work, Rules(), seed)

    same = made(0, 0.0)
    factors = np.log(same.compute_s / made(0, 0.5).compute_s)
    assert len(np.unique(same.seconds)) == 1
    # Of 4001 normal draws the mean is within 6 sigma / sqrt(n), the deviation within 6 sigma / sqrt(2 n).
    assert abs(factors.mean()) < 6 * 0.5 / 4001**0.5 and abs(factors.std() - 0.5) < 6 * 0.5 / 8002**0.5
    assert np.corrcoef(factors, np.log(same.up_s / made(0, 0.5).up_s))[0, 1] < 6 / 4001**0.5
    assert (made(0, 0.5).compute_s == made(0, 0.5).compute_s).all()
    assert (made(1, 0.5).compute_s != made(0, 0.5).compute_s).any()


@pytest.mark.parametrize("draw", ["uniform", "by_tier", "by_people"])
def test_where_all_are_there_the_cohort_is_the_one_of_no_devices(draw):
    tiers, people = np.array(["high"] * 20 + ["low"] * 30), np.arange(1, 51)
    fleet, spec = fleet_of([1.0] * 50, Rules(over_select=1.0)), CohortSpec(1.0, 12, draw)
    for index in range(20):
        work = plan_cohort(spec, fleet, tiers, people, 3, index)
        drawn, plan = work.clients, work.plan
        assert drawn == draw_cohort(spec, tiers, people, 3, index) == sorted(plan.answered.tolist())


def test_a_cohort_is_drawn_from_those_that_are_there():
    tiers, people = np.array(["high"] * 20 + ["low"] * 30), np.ones(50, int)
    fleet = fleet_of([1.0] * 50, Rules(over_select=1.5), availability=0.5)
    for index in range(20):
        work = plan_cohort(CohortSpec(1.0, 8), fleet, tiers, people, 3, index)
        drawn, plan = work.clients, work.plan
        assert draw_trips(fleet, 3, index).there[plan.asked].all()
        assert (len(plan.asked), len(drawn)) == (12, 8)


# --- whole runs ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return in_process(tmp_path_factory.mktemp("whole") / "run", *UNSTEADY)


def test_only_those_train_who_answer_on_the_clock(whole):
    spec = federation_spec(prepare(tiny(*UNSTEADY)), "run")
    names = spec.clients.tier_names
    for index, row in enumerate(rows(whole.folder)):
        work = spec.work(index)
        drawn, plan = work.clients, work.plan
        assert {tier for tier in names if row[f"update_norm_{tier}"]} == {spec.clients[i].tier for i in drawn}
        assert float(row["virtual_s"]) == round(plan.seconds, 6)
        assert [int(row[name]) for name in ("asked", "answered", "dropped", "late")] == [
            len(plan.asked), len(drawn), plan.dropped, plan.late]  # fmt: skip
        assert int(row["people"]) == 12 * len(drawn)
    counts = [int(row["answered"]) for row in rows(whole.folder)]
    assert 0 in counts and len(set(counts)) > 2, "the run has lost rounds, and rounds of several sizes"


def test_the_clock_of_a_run_is_the_sum_of_its_rounds(whole):
    seconds = [float(row["virtual_s"]) for row in rows(whole.folder)]
    assert whole.values["totals"]["virtual_hours"] == pytest.approx(sum(seconds) / 3600, rel=1e-12)
    for direction in ("down", "up"):
        by_tier = [cost[f"virtual_mb_{direction}"] for cost in whole.values["cost_by_tier"].values()]
        assert sum(by_tier) == pytest.approx(sum(float(row[f"virtual_mb_{direction}"]) for row in rows(whole.folder)))


def test_a_stopped_run_goes_on_to_the_same_bits_and_clock(whole, tmp_path):
    with pytest.raises(RuntimeError, match="stopped by the test"):
        in_process(tmp_path / "part", *UNSTEADY, watchers=[StopAfter(3)])
    again = in_process(tmp_path / "part", *UNSTEADY, resume=True)
    assert torch.equal(state(again.folder), state(whole.folder)) and rows(again.folder) == rows(whole.folder)
    for name in ("virtual_hours_to_target", "by_resolution"):
        assert again.values[name] == whole.values[name]
    assert told(again.values) == told(whole.values)


def told(values) -> list:
    """What is on the clock."""
    by_tier = [{k: v for k, v in cost.items() if "virtual" in k} for cost in values["cost_by_tier"].values()]
    return [values["totals"]["virtual_hours"], *by_tier]


class Notes:
    """What a run noted."""

    def __init__(self):
        self.notes = []

    def begin(self, prepared, folder): ...
    def end(self, folder, results): ...
    def see(self, event):
        if isinstance(event, Noted):
            self.notes.append(event.message)


def test_ray_gives_the_same_bits_and_clock_as_this_process(whole, ray_cluster, tmp_path):
    words = ["resources.clients_per_actor=2", "resources.cpus_per_client=0.2"]
    record = Notes()
    found = run_federation(tiny(*UNSTEADY, *words), tmp_path / "ray", watchers=[record])
    assert record.notes == [], "Ray's metrics bear a round without a loss"
    assert torch.equal(state(found.folder), state(whole.folder)) and rows(found.folder) == rows(whole.folder)
    assert told(found.values) == told(whole.values)


def test_devices_that_are_always_there_change_nothing_but_what_is_told(tmp_path):
    plain = in_process(tmp_path / "plain")
    devices = "devices.profiles={high: workstation, mid: workstation, low: workstation}"
    timed = in_process(tmp_path / "timed", devices)
    assert torch.equal(state(plain.folder), state(timed.folder)) and plain.by_resolution == timed.by_resolution
    for one, other in zip(rows(plain.folder), rows(timed.folder), strict=True):
        assert {k: v for k, v in other.items() if k in one} == one
        assert set(other) - set(one) == {"virtual_s", "asked", "answered", "dropped", "late", "virtual_mb_down",
                                         "virtual_mb_up"}  # fmt: skip
    assert not any("virtual" in key for key in [*plain.values, *plain.values["totals"]])
    assert "virtual" not in json.dumps(plain.values)


def test_a_run_that_nobody_answers_keeps_its_state_and_its_clock_goes_on(tmp_path):
    words = ["federation.clients=[low]", "devices.retry_s=30", "devices.target=1", "federation.rounds=2",
             "devices.profiles={low: {preset: phone, availability: 1e-9}}"]  # fmt: skip
    prepared = prepare(tiny(*words))
    found = in_process(tmp_path / "run", *words)
    initial = torch.cat([v.flatten().double() for v in prepared.layout.tensors(prepared.initial).values()])
    assert torch.equal(state(found.folder), initial)
    assert found.values["totals"]["virtual_hours"] == 60 / 3600 and found.values["cost_by_tier"] == {}
    assert [(row["loss"], row["people"], row["asked"]) for row in rows(found.folder)] == [("", "0", "0")] * 2
    assert found.values["virtual_hours_to_target"] is None and found.values["status"] == "completed"


def test_a_tier_whose_work_is_lost_is_told_with_what_it_cost(tmp_path):
    words = ["federation.rounds=1", "devices.deadline_s=1", "federation.clients=[high, low]",
             "devices.profiles={high: workstation, low: {preset: workstation, gmacs_per_s: 0.01}}"]  # fmt: skip
    low = in_process(tmp_path / "run", *words).values["cost_by_tier"]["low"]
    assert (low["people"], low["people_per_s"], low["forward_macs"], low["virtual_mb_up"]) == (0, 0, 0, 0)
    assert low["virtual_hours"] == 1 / 3600
    assert 0 < low["virtual_macs"] < 0.01e9 / 3 and low["virtual_mb_down"] > 0


@pytest.mark.parametrize("words", [
    ["algorithm.name=fedavg"], ["algorithm.name=feddyn"], ["algorithm.name=fedadam"],
    ["algorithm.name=scaffold", "algorithm.scaffold.option=I", "transforms.apply=[clip, noise]"],
], ids=lambda words: words[0])  # fmt: skip
def test_planned_traffic_is_what_clients_then_send(words, tmp_path):
    devices = "devices.profiles={high: workstation, mid: workstation, low: workstation}"
    for row in rows(in_process(tmp_path / "run", devices, *words).folder):
        assert (row["virtual_mb_down"], row["virtual_mb_up"]) == (row["mb_down"], row["mb_up"])


def test_a_profiled_client_must_answer_in_its_round():
    words = [*UNSTEADY, "federation.engine=in_process"]
    spec = federation_spec(prepare(tiny(*words)), "run")
    lost = next(index for index in range(6) if 0 not in spec.work(index).clients)
    with pytest.raises(InputError, match=f"client-high-000 does not train in round {lost + 1} .*, devices"):
        prepare(tiny(*words, f"resources.profile={{client: client-high-000, round: {lost + 1}}}"))


# --- a score's hours ----------------------------------------------------------------------------------


def test_hours_to_a_target_end_with_the_first_round_that_reaches_it():
    clock = [{"round": str(i), "virtual_s": "1800"} for i in range(1, 7)]
    scored = [(2, 0.3), (4, 0.5), (6, 0.4)]
    assert [hours_to(target, scored, clock) for target in (0.0, 0.3, 0.31, 0.5, 0.51)] == [1.0, 1.0, 2.0, 2.0, None]


def test_the_hours_to_a_target_are_of_the_scores_on_val(whole):
    with open(whole.folder / "scores.csv", encoding="utf-8") as file:
        scores = [row for row in csv.DictReader(file) if row["split"] == "val"]
    means = {}
    for row in scores:
        means.setdefault(int(row["round"]), []).append(float(row["value"]))
    reached = min(done for done, values in means.items() if sum(values) / 3 >= 0.01)
    hours = sum(float(row["virtual_s"]) for row in rows(whole.folder)[:reached]) / 3600
    assert whole.values["virtual_hours_to_target"] == pytest.approx(hours) and reached < 6


def test_the_end_table_tells_hours_and_hours_to_the_target(whole):
    def table(**changes) -> str:
        text = io.StringIO()
        Console(file=text, width=100).print(results_table({"mine": {**whole.values, **changes}}))
        return text.getvalue()

    hours, target = whole.values["totals"]["virtual_hours"], whole.values["virtual_hours_to_target"]
    assert f"virtual h {hours:>0.3g}".split() == next(
        line.split() for line in table().splitlines() if "virtual h" in line
    )
    assert next(line.split()[-1] for line in table().splitlines() if "to target" in line) == f"{target:.3g}"
    assert "virtual_hours" not in table()
    assert next(
        line.split()[-1] for line in table(virtual_hours_to_target=None).splitlines() if "to target" in line
    ) == "-"  # fmt: skip


# --- what is kept -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("state", "says"), [
    (3, "its virtual clock is none"),
    ({"seconds": 1.0}, "its virtual clock is none"),
    ({"seconds": float("nan"), "costs": {}}, "are no numbers"),
    ({"seconds": 1.0, "costs": {"top": dict.fromkeys(("virtual_s", "virtual_macs", "virtual_mb_down", "virtual_mb_up"),
                                                     0.0)}}, "not those of these clients"),
    ({"seconds": 1.0, "costs": {"low": {}}}, "not those of these clients"),
])  # fmt: skip
def test_a_checkpoints_clock_that_is_none_is_refused(state, says):
    with pytest.raises(ValueError, match=says):
        VirtualAccount(np.zeros(1, int), ("low",)).restore(state)


# --- what may be asked --------------------------------------------------------------------------------

GOOD = "devices.profiles={high: workstation, mid: camera, low: phone}"


@pytest.mark.parametrize(("words", "says"), [
    (["devices.profiles={high: workstation, mid: camera, low: phne}"], "low: unknown preset 'phne'; did you mean 'pho"),
    (["devices.profiles={low: {preset: phne}}"], "devices.profiles.low: unknown preset 'phne'; did you mean 'phone'?"),
    (["devices.profiles={low: {preset: phone, mbit_up: -3}}"], "devices.profiles.low.mbit_up: input should be greater"),
    (["devices.profiles={low: {preset: phone, mbitup: 3}}"], "low: unknown key 'mbitup'; did you mean 'mbit_up'?"),
    (["devices.profiles={low: {mbit_up: 3, mbit_down: 3}}"], "devices.profiles.low: give gmacs_per_s too, or a preset"),
    (["devices.profiles={low: {preset: phone, dropout: 1}}"], "devices.profiles.low.dropout: input should be less"),
    (["devices.profiles={low: {preset: phone, availability: 0}}"], "low.availability: input should be greater than 0"),
    (["devices.profiles={}"], "devices.profiles: name a device for each tier"),
    (["devices.over_select=1.3"], "devices.profiles: field required"),
    (["devices=phone"], "devices: "),
    ([GOOD, "devices.over_select=0.9"], "devices.over_select: input should be greater than or equal to 1"),
    ([GOOD, "devices.profiles.lwo=phone"], "there is no tier or client 'lwo'; did you mean 'low'?"),
    ([GOOD, "devices.profiles.client-low-001=phone"], "no tier or client 'client-low-001'; did you mean 'client-low-0"),
    (["devices.profiles={high: phone, mid: phone}"], "devices.profiles names no device for tier 'low', which has cli"),
    ([GOOD, "devices.deadline_s=1e-6"], "devices.deadline_s=1e-06: no client can answer in that; the fastest, client-"),
    ([GOOD, "devices.deadline_s=-1"], "devices.deadline_s: input should be greater than 0"),
    ([GOOD, "devices.target=50"], "devices.target: input should be less than or equal to 1"),
    ([GOOD, "devices.profils.low=phone"], "unknown key 'devices.profils'; did you mean 'devices.profiles'?"),
])  # fmt: skip
def test_what_cannot_be_is_refused_in_a_sentence(words, says, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = run_command(run.main, [*WORDS, "federation.engine=in_process", *words])
    error = capsys.readouterr().err.strip()
    assert code == 2 and says in error, error
    assert len(error.splitlines()) == 1 and "Traceback" not in error and not list(tmp_path.iterdir())


def test_a_tier_that_can_never_answer_is_told_before_the_start():
    notes = prepare(tiny(GOOD, "devices.deadline_s=0.1")).notes
    assert sum("can answer within devices.deadline_s=0.1" in note for note in notes) == 2  # camera and phone
    assert "no client of tier mid can answer" in " ".join(notes)


def test_a_client_may_have_a_device_of_its_own():
    words = ["federation.clients={low: 3}", "devices.profiles={low: phone, client-low-001: camera}"]
    fleet = prepare(tiny(*words)).fleet
    assert fleet.availability.tolist() == [PRESETS["phone"].availability, PRESETS["camera"].availability,
                                           PRESETS["phone"].availability]  # fmt: skip


def test_the_resolved_config_gives_itself_back(tmp_path):
    config = load_config(overrides=[GOOD, "devices.profiles.low={preset: phone, mbit_up: 2}", "devices.target=0.5"])
    (tmp_path / "config.yaml").write_text(write_yaml(config))
    assert load_config(file=tmp_path / "config.yaml") == config
    assert config.devices.profiles["low"].given == {"mbit_up": 2.0}


def test_a_run_stops_nothing_where_its_method_cannot_say_what_it_sends(tmp_path):
    words = ["algorithm.name=tests.test_devices:Silent"]
    with pytest.raises(InputError, match=r"devices: algorithm.name=.*Silent cannot say what it sends .*none at all"):
        prepare(tiny(GOOD, *words))
    assert prepare(tiny(*words)).fleet is None


def Silent():
    from raf_ray.algorithms.fedavg import FedAvg

    class Never(FedAvg):
        def local(self, start):
            raise ValueError("none at all")

    return Never()
