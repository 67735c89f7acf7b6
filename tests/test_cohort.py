"""Which clients train in a round: from the seed and the round alone, in the wanted mix."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from raf_ray import run_federation
from raf_ray.config import load_config
from raf_ray.errors import InputError
from raf_ray.federation.cohort import CohortSpec, draw_cohort, shared_out
from raf_ray.federation.events import RoundStarted
from tests.tiny import tiny

TIERS = ["high"] * 20 + ["mid"] * 30 + ["low"] * 50
PEOPLE = [1] * 50 + [9] * 50


@pytest.mark.parametrize("draw", ["uniform", "by_tier", "by_people"])
def test_a_cohort_is_that_many_clients_each_once_from_the_seed_and_round_alone(draw):
    spec = CohortSpec(1.0, 10, draw)
    rounds = [draw_cohort(spec, TIERS, PEOPLE, 3, index) for index in range(20)]
    assert all(len(set(drawn)) == 10 and drawn == sorted(drawn) for drawn in rounds)
    assert len({tuple(drawn) for drawn in rounds}) > 15
    assert draw_cohort(spec, TIERS, PEOPLE, 3, 7) == rounds[7] != draw_cohort(spec, TIERS, PEOPLE, 4, 7)


def test_a_share_is_at_least_one_and_everybody_in_order_where_it_is_all():
    assert len(draw_cohort(CohortSpec(0.001), TIERS, PEOPLE, 0, 0)) == 1
    assert len(draw_cohort(CohortSpec(0.37), TIERS, PEOPLE, 0, 0)) == 37
    assert draw_cohort(CohortSpec(1.0), TIERS, PEOPLE, 0, 0) == list(range(100))


def test_by_tier_each_round_has_the_same_mix():
    for index in range(30):
        drawn = draw_cohort(CohortSpec(1.0, 10, "by_tier"), TIERS, PEOPLE, 0, index)
        assert Counter(TIERS[i] for i in drawn) == {"high": 2, "mid": 3, "low": 5}


def test_by_people_a_client_of_nine_times_the_people_is_drawn_about_nine_times_as_often():
    drawn = Counter(draw_cohort(CohortSpec(1.0, 1, "by_people"), TIERS, PEOPLE, 0, i)[0] >= 50 for i in range(2000))
    assert drawn[True] / drawn[False] == pytest.approx(9, rel=0.25)


@pytest.mark.parametrize("count", [1, 7, 10, 99])
def test_largest_remainders_add_up_and_are_off_by_less_than_one(count):
    sizes = np.array([20, 30, 50, 1])
    parts = shared_out(count, sizes)
    assert parts.sum() == count and (np.abs(parts - count * sizes / sizes.sum()) < 1).all()


@pytest.mark.parametrize(("words", "says"), [
    (["federation.cohort.size=4"], "federation.cohort.size=4, but there are 3 clients"),
    (["federation.cohort.size=0"], "federation.cohort.size"),
    (["federation.cohort.size=2", "federation.participation=0.5"], "say the same; give one of them"),
    (["federation.cohort.draw=by_size"], "'by_tier'"),
])  # fmt: skip
def test_a_cohort_that_cannot_be_is_refused(words, says):
    with pytest.raises(InputError, match=says):
        load_config(overrides=words)


def test_a_run_trains_the_mix_that_was_asked_for(tmp_path):
    cohorts = []

    class Sees:
        def begin(self, prepared, folder): ...
        def end(self, folder, results): ...
        def see(self, event):
            if isinstance(event, RoundStarted):
                cohorts.append(event.cohort)

    words = ["federation.engine=in_process", "federation.clients={high: 2, low: 4}", "federation.rounds=3",
             "federation.cohort={size: 3, draw: by_tier}", "data.people_per_client=4"]  # fmt: skip
    run_federation(tiny(*words), tmp_path / "run", watchers=[Sees()])
    assert cohorts == [{"high": 1, "low": 2}] * 3
