"""The centralised references: one place trains on everybody's people, at one size or each at its owner's tier."""

from __future__ import annotations

import csv
import json
from collections import Counter

import numpy as np
import pytest

from raf_ray import run_federation
from raf_ray.errors import InputError
from raf_ray.request.assembly import prepare
from raf_ray.request.needs import needs_of
from raf_ray.training.pool import PooledTask
from tests.quadratics import random_clients
from tests.test_methods_run import in_process, same
from tests.tiny import StopAfter, tiny

MIXED = ("algorithm.name=centralised_mixed", "federation.rounds=3")


def test_an_epoch_has_every_owners_batches_once_in_an_order_drawn_anew():
    tasks = random_clients(3, steps=4)
    for task in tasks:
        task.people = 7  # 4 batches of 2
    pool = PooledTask(tasks, batch_size=2)
    orders = [list(pool.epoch(np.random.default_rng(seed))) for seed in range(3)]
    for order in orders:
        assert Counter(owner for owner, _ in order) == {0: 4, 1: 4, 2: 4}
        for owner in range(3):
            assert [batch for of, batch in order if of == owner] == [0, 1, 2, 3]
    assert orders[0] != orders[1] != orders[2]
    assert len(pool) == 21


def test_an_owner_with_fewer_readable_people_than_expected_ends_early():
    tasks = random_clients(2, steps=2)
    for task in tasks:
        task.people = 6  # says 3 batches of 2, has 2
    order = list(PooledTask(tasks, batch_size=2).epoch(np.random.default_rng(0)))
    assert Counter(owner for owner, _ in order) == {0: 2, 1: 2}


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    path = tmp_path_factory.mktemp("mixed") / "run"
    in_process(path, *MIXED)
    return path


def test_each_at_its_tier_costs_what_the_federation_costs(mixed, tmp_path):
    here = json.loads((mixed / "results.json").read_text())
    federation = in_process(tmp_path / "fedavg", "federation.rounds=3").values
    assert here["totals"]["forward_pixels"] == federation["totals"]["forward_pixels"]
    assert here["train_people"] == federation["train_people"] == {"high": 12, "mid": 12, "low": 12}
    assert here["train_resolutions"] == federation["train_resolutions"]
    with open(mixed / "rounds.csv") as file:
        rows = list(csv.DictReader(file))
    assert [row["people"] for row in rows] == ["36"] * 3
    assert all(float(row[f"gt_{size}"]) > 0 for row in rows for size in ("128x96", "96x72", "64x48"))


def test_one_place_sends_one_update_a_round(mixed):
    values = json.loads((mixed / "results.json").read_text())
    assert values["totals"]["mb_up"] == pytest.approx(3 * values["parameters"] * 4 / 1e6)
    assert list(values["cost_by_tier"]) == ["pool"]


def test_on_ray_and_after_a_resume_it_is_the_same_bits(mixed, tmp_path, ray_cluster):
    run_federation(tiny(*MIXED, "resources.cpus_per_client=0.2"), tmp_path / "ray")
    assert same(mixed, tmp_path / "ray")
    with pytest.raises(RuntimeError, match="stopped by the test"):
        in_process(tmp_path / "part", *MIXED, watchers=[StopAfter(2)])
    in_process(tmp_path / "part", *MIXED, resume=True)
    assert same(mixed, tmp_path / "part")


@pytest.mark.parametrize(("words", "size"), [((), "128x96"), (("algorithm.centralised.size=mid",), "96x72"),
                                             (("algorithm.centralised.size=80x60",), "80x60")])  # fmt: skip
def test_at_one_size_everybodys_people_are_seen_at_it_whatever_their_owners(words, size, tmp_path):
    words = ("algorithm.name=centralised", "objective.name=heatmap", "federation.rounds=1", *words)
    values = in_process(tmp_path / "run", *words).values
    height, width = map(int, size.split("x"))
    assert values["totals"]["forward_pixels"] == 36 * height * width
    assert values["train_resolutions"] == [size]


def test_its_people_are_those_of_the_federation():
    people = [prepare(tiny(f"algorithm.name={name}")) for name in ("fedavg", "centralised", "centralised_mixed")]
    first, *others = ([own.people.person_id.tolist() for own in prepared.data] for prepared in people)
    assert all(other == first for other in others)


def test_one_actor_asks_for_the_largest_share_of_any_tier():
    config = tiny("algorithm.name=centralised_mixed", "resources.gpus_per_client={high: 0.5, mid: 0.2, low: 0.1}")
    prepared = prepare(config)
    (need,) = needs_of(config, prepared.plans, prepared.data.counts, None)
    pixels = 12 * (3 * 64 * 48 + 2 * 96 * 72 + 128 * 96)
    assert (need.clients, need.gpus, need.cpus, need.cost) == (1, 0.5, "auto", pixels)


@pytest.mark.parametrize(
    ("words", "says"),
    [(["algorithm.name=centralised", "algorithm.centralised.size=hgih"], r"algorithm\.centralised\.size.*hgih"),
     (["algorithm.name=centralised_mixed", "resources.profile={client: client-high-000, round: 1}"],
      r"no client 'client-high-000' \(clients: client-pool-000\)"),
     (["algorithm.name=centralised_mixed", "federation.cohort.draw=poisson", "federation.participation=0.3"],
      r"federation\.cohort\.draw=poisson: centralised_mixed trains in one place")],
)  # fmt: skip
def test_what_there_is_not_is_named(words, says):
    with pytest.raises(InputError, match=says):
        prepare(tiny(*words))


def test_a_share_of_clients_that_a_round_would_draw_is_told_to_have_no_part_in_it():
    told = prepare(tiny("algorithm.name=centralised_mixed", "federation.participation=0.4")).notes
    assert any("warning: centralised_mixed trains on everybody's people in each round" in note for note in told)
    assert not any("in each round" in note for note in prepare(tiny("algorithm.name=centralised_mixed")).notes)
