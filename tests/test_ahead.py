"""Batches made on a thread are the batches made by turns."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch

from raf_ray.data.ahead import made_ahead
from raf_ray.data.augment import Augmentation
from raf_ray.data.batches import Batches
from raf_ray.data.crop import Margins
from raf_ray.data.shard import cut_shard
from raf_ray.data.sources.synthetic import synthetic_people
from raf_ray.objectives import build_objective
from raf_ray.resolution import Size
from raf_ray.training.pyramid import PyramidTask


def task(ahead: bool | None, sampling: str) -> PyramidTask:
    shard = cut_shard(synthetic_people(0, "train", np.arange(21), 160.0), Size(64, 48), Margins(2, 2))
    return PyramidTask(
        Batches(shard, 4, Augmentation(), torch.device("cpu")),
        levels=(Size(64, 48), Size(48, 36), Size(32, 24)),
        level_weights=(1.0, 1.0, 1.0),
        sampling=sampling,
        own_share=0.5,
        objective=build_objective("mrkd", {}),
        bf16=False,
        ahead=ahead,
    )


@pytest.mark.parametrize("sampling", ["all", "pair", "random"])
def test_what_is_drawn_is_the_same_whoever_makes_the_batches(sampling):
    by_turns, ahead = (
        [batch for rng in [np.random.default_rng(3)] for _ in range(2) for batch in task(how, sampling).epoch(rng)]
        for how in (None, True)
    )
    assert len(by_turns) == len(ahead) == 12
    for one, other in zip(by_turns, ahead, strict=True):
        assert one.levels == other.levels and np.array_equal(one.person_id, other.person_id)
        assert torch.equal(one.crops, other.crops) and torch.equal(one.joints, other.joints)
        assert torch.equal(one.weights, other.weights)


def test_one_is_made_while_the_one_before_is_used():
    made = [threading.Event() for _ in range(3)]

    def make(number: int) -> int:
        made[number].set()
        return number

    for number in made_ahead(iter([lambda n=n: make(n) for n in range(3)])):
        if number < 2:
            assert made[number + 1].wait(10)
        assert not any(event.is_set() for event in made[number + 2 :])


def test_threads_make_as_many_at_a_time_and_in_order():
    together = threading.Barrier(3, timeout=10)

    def make(number: int) -> tuple[int, int]:
        together.wait()  # broken, and so an error, where fewer than three are made at a time
        return number, torch.get_num_threads()

    within = torch.get_num_threads()
    makes = (lambda n=n: make(n) for n in range(9))
    assert list(made_ahead(makes, threads=3)) == [(number, within) for number in range(9)]


def test_what_making_raises_is_raised_where_the_batch_is_asked_for():
    def fails() -> int:
        raise OSError("gone")

    batches = made_ahead(iter([lambda: 0, fails, lambda: 2]))
    assert next(batches) == 0
    with pytest.raises(OSError, match="gone"):
        next(batches)
    assert list(made_ahead(iter([]))) == []
