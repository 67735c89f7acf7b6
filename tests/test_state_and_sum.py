"""The flat state and the exact sum over clients."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from raf_ray.algorithms.fedavg import FedAvg
from raf_ray.federation.aggregation import PARALLEL, ExactSum, UpdateError, Weigher, to_fixed_point
from raf_ray.federation.server import Server
from raf_ray.state import Layout
from raf_ray.training.exchange import Up


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


def test_a_layout_knows_which_parameters_are_frozen():
    model = small_model()
    model[0].requires_grad_(False)
    assert [entry.name for entry in Layout.of(model).entries if entry.frozen] == ["0.weight", "0.bias"]


def test_a_counter_beyond_float32_stays_exact():
    model = small_model()
    model[1].num_batches_tracked.fill_(2**31 + 1)
    layout = Layout.of(model)
    assert layout.counters(layout.read(model)).tolist() == [2**31 + 1]


def test_half_precision_weights_are_refused():
    with pytest.raises(ValueError, match="float16; weights must be float32"):
        Layout.of(nn.Linear(2, 2).half())


ALL = {"weights": 0.2}
"""A fifth each."""


def updates(count: int = 5, size: int = 1000) -> list[Up]:
    rng = np.random.default_rng(1)
    vectors = [(rng.normal(0, 10.0 ** rng.integers(-6, 2), size)).astype(np.float32) for _ in range(count)]
    return [Up(f"c{i}", 0, {"weights": vector}, np.array([i])) for i, vector in enumerate(vectors)]


def up(*values: float) -> Up:
    return Up("c", 0, {"weights": np.array(values, np.float32)}, np.zeros(0, np.int64))


def test_the_mean_does_not_depend_on_who_arrives_first():
    found = updates()
    means = []
    for order in itertools.islice(itertools.permutations(range(5)), 20):
        total = ExactSum()
        for i in order:
            total.add(found[i], ALL)
        means.append((total.mean()["weights"].tobytes(), total.counters.tolist()))
    assert len(set(map(str, means))) == 1
    assert means[0][1] == [4]


@pytest.mark.parametrize("groups", [[[0, 1, 2, 3, 4]], [[0, 3], [1, 2, 4]], [[4], [3], [2], [1], [0]]])
def test_the_mean_does_not_depend_on_who_shares_an_actor(groups):
    found = updates()
    alone = ExactSum()
    for update in found:
        alone.add(update, ALL)
    together = ExactSum()
    for group in groups:
        partial = ExactSum()
        for i in group:
            partial.add(found[i], ALL)
        together.merge(partial)
    assert np.array_equal(alone.mean()["weights"], together.mean()["weights"])
    assert together.clients == 5


def test_several_threads_and_their_edges_make_the_sum_of_plain_numpy():
    rng, size = np.random.default_rng(0), PARALLEL + 7
    vectors = [rng.normal(size=size).astype(np.float32) for _ in range(3)]
    total, part = ExactSum(threads=3), ExactSum()
    for vector, into in zip(vectors, (total, part, part), strict=True):
        into.add(Up("c", 0, {"weights": vector}, np.zeros(0, np.int64)), {"weights": 1 / 3})
    total.merge(part)
    expected = sum(np.rint(vector.astype(np.float64) * (1 / 3 * 2.0**40)).astype(np.int64) for vector in vectors)
    assert np.array_equal(total.sums["weights"].total, expected)
    assert np.array_equal(total.mean()["weights"], expected / (3 * round(2**40 / 3)))


@pytest.mark.parametrize(("size", "kind"), [(1e-6, np.int32), (1.0, np.int64)])
def test_a_partial_sum_goes_in_half_the_bytes_where_it_fits_and_is_the_same(size, kind):
    rng = np.random.default_rng(0)
    ups = [Up(str(i), 0, {"weights": (size * rng.normal(size=100)).astype(np.float32)}, np.zeros(0, np.int64))
           for i in range(6)]  # fmt: skip
    parts = [ExactSum(), ExactSum()]
    whole, merged = ExactSum(), ExactSum()
    for i, up in enumerate(ups):
        parts[i % 2].add(up, {"weights": 1 / 6})
        whole.add(up, {"weights": 1 / 6})
    for part in parts:
        sent = part.narrowed()
        assert sent.sums["weights"].total.dtype == kind
        merged.merge(sent)
    assert (merged.sums["weights"].total == whole.sums["weights"].total).all()
    assert merged.sums["weights"].total.dtype == np.int64


def test_the_mean_is_exact_to_the_fixed_points_resolution():
    found = updates()
    total = ExactSum()
    for update in found:
        total.add(update, ALL)
    expected = np.mean([u.vectors["weights"].astype(np.float64) for u in found], axis=0)
    # Half a unit a client, and the weights' own rounding, which the sum of the rounded weights all but takes back.
    assert np.abs(total.mean()["weights"] - expected).max() <= 5 * 2.0**-41 + 1e-10


def test_a_weight_costs_the_vector_no_bits():
    value = np.array([np.float32(1) + np.float32(2**-23)], np.float32)
    fixed, _ = to_fixed_point(value, 1 / 3)
    assert fixed[0] == round(float(value[0]) * (2.0**40 / 3))


def test_the_mean_is_of_those_who_answered():
    total = ExactSum()
    total.add(up(4.0), {"weights": 0.25})
    total.add(up(8.0), {"weights": 0.25})  # the other half of the cohort never does
    assert total.mean()["weights"].tolist() == [6.0]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_non_finite_update_is_refused_and_leaves_the_sum_alone(bad):
    total = ExactSum()
    total.add(up(1, 1, 1), ALL)
    with pytest.raises(UpdateError, match="NaN or Inf"):
        total.add(up(1, bad, 2), ALL)
    assert total.mean()["weights"].tolist() == [1, 1, 1] and total.clients == 1


def test_overflow_is_an_error():
    with pytest.raises(UpdateError, match="too large"):
        to_fixed_point(np.array([1e8], np.float32))
    total = ExactSum()
    with pytest.raises(UpdateError, match="overflows"):
        for _ in range(5):
            total.add(up(4e6), {"weights": 1.0})


def test_fedavg_weighs_by_people_or_equally():
    assert Weigher(FedAvg("people"), np.array([100, 300])).share("weights", 300) == 0.75
    assert Weigher(FedAvg("equal"), np.array([100, 300])).share("weights", 300) == 0.5


def test_fedavg_is_the_weighted_mean_of_the_clients_models():
    model = nn.Linear(2, 1, bias=False)
    layout = Layout.of(model)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, -2.0]]))
    server = Server(FedAvg("people"), layout, 2, layout.read(model), {})
    total = server.round([("a", 10), ("b", 30)])
    for name, local in (("a", [2.0, 0.0]), ("b", [5.0, -4.0])):
        update = np.array(local, np.float32) - np.array([1.0, -2.0], np.float32)
        total.add(Up(name, 0, {"weights": update}, np.zeros(0, np.int64)), [name])
    server.step(total)
    assert layout.floats(server.state).tolist() == [4.25, -3.0] and server.version == 1
