"""The flat state and the exact sum over clients."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from raf_ray.algorithms.fedavg import FedAvg
from raf_ray.federation.aggregation import ExactSum, UpdateError, to_fixed_point
from raf_ray.federation.state import Layout


def small_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Linear(5, 2))


def test_a_buffer_gives_back_the_state_dict_bit_for_bit():
    model = small_model()
    model(torch.randn(2, 3, 7, 7))
    layout = Layout.of(model)
    buffer = layout.read(model)
    for name, tensor in layout.tensors(buffer).items():
        assert torch.equal(tensor, model.state_dict()[name]), name


def test_writing_a_read_only_buffer_loads_it_and_does_not_alias_it():
    model, other = small_model(), small_model()
    layout = Layout.of(model)
    buffer = layout.read(model)
    buffer.setflags(write=False)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(1)
    layout.write(buffer, other)
    with torch.no_grad():
        other[0].weight.add_(1)
    assert torch.equal(layout.tensors(buffer)["0.weight"], model.state_dict()["0.weight"])


def test_kinds_tell_weights_statistics_and_counters_apart():
    kinds = {entry.name: entry.kind for entry in Layout.of(small_model()).entries}
    assert kinds["1.weight"] == "weights"
    assert kinds["1.running_var"] == "statistics"
    assert kinds["1.num_batches_tracked"] == "counters"


def test_a_counter_beyond_float32_stays_exact():
    model = small_model()
    model[1].num_batches_tracked.fill_(2**31 + 1)
    layout = Layout.of(model)
    assert layout.counters(layout.read(model)).tolist() == [2**31 + 1]


def test_half_precision_weights_are_refused():
    with pytest.raises(ValueError, match="float16; weights must be float32"):
        Layout.of(nn.Linear(2, 2).half())


def updates(count: int = 5, size: int = 1000):
    rng = np.random.default_rng(1)
    return [(rng.normal(0, 10.0 ** rng.integers(-6, 2), size)).astype(np.float32) for _ in range(count)]


def test_the_sum_does_not_depend_on_who_arrives_first():
    found = updates()
    sums = []
    for order in itertools.islice(itertools.permutations(range(5)), 20):
        total = ExactSum(1000)
        for i in order:
            total.add(found[i], np.array([i]))
        sums.append((total.total.tobytes(), total.counters.tolist()))
    assert len(set(map(str, sums))) == 1
    assert sums[0][1] == [4]


@pytest.mark.parametrize("groups", [[[0, 1, 2, 3, 4]], [[0, 3], [1, 2, 4]], [[4], [3], [2], [1], [0]]])
def test_the_sum_does_not_depend_on_who_shares_an_actor(groups):
    found = updates()
    alone = ExactSum(1000)
    for update in found:
        alone.add(update, np.zeros(1, np.int64))
    together = ExactSum(1000)
    for group in groups:
        partial = ExactSum(1000)
        for i in group:
            partial.add(found[i], np.zeros(1, np.int64))
        together.add_partial(partial)
    assert np.array_equal(alone.total, together.total)


def test_the_mean_is_exact_to_the_fixed_points_resolution():
    found = updates()
    total = ExactSum(1000)
    for update in found:
        total.add(update, np.zeros(0, np.int64))
    expected = np.sum([u.astype(np.float64) for u in found], axis=0)
    assert np.abs(total.mean() - expected).max() <= 5 * 2.0**-41


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_non_finite_update_is_refused_and_leaves_the_sum_alone(bad):
    total = ExactSum(3)
    with pytest.raises(UpdateError, match="NaN or Inf"):
        total.add(np.array([1, bad, 2], np.float32), np.zeros(0, np.int64))
    assert total.total.tolist() == [0, 0, 0]


def test_overflow_is_an_error():
    with pytest.raises(UpdateError, match="too large"):
        to_fixed_point(np.array([1e8], np.float32))
    total = ExactSum(1)
    large = np.array([4e6], np.float32)
    total.add(large, np.zeros(0, np.int64))
    with pytest.raises(UpdateError, match="overflows"):
        for _ in range(4):
            total.add(large, np.zeros(0, np.int64))


def test_fedavg_by_people_and_with_equal_weights():
    assert FedAvg("people").client_shares([100, 300]) == [0.25, 0.75]
    assert FedAvg("equal").client_shares([100, 300]) == [0.5, 0.5]


def test_fedavg_is_the_weighted_mean_of_the_clients_models():
    state = np.array([1.0, -2.0], np.float32)
    clients = [np.array([2.0, 0.0], np.float32), np.array([5.0, -4.0], np.float32)]
    method = FedAvg("people")
    total = ExactSum(2)
    for local, share in zip(clients, method.client_shares([10, 30]), strict=True):
        total.add((local - state) * np.float32(share), np.zeros(0, np.int64))
    assert method.server_step(state, total.mean()).tolist() == [4.25, -3.0]
