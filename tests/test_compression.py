"""Compressed updates: rounding bounds that hold for every value, expectations, what is never lost, bytes by hand."""

from __future__ import annotations

import csv
import math

import numpy as np
import pytest
import torch

from raf_ray import run_federation
from raf_ray.algorithms.fedavg import FedAvg
from raf_ray.algorithms.interface import WEIGHTS
from raf_ray.errors import InputError, RunError
from raf_ray.request.assembly import federation_spec, prepare
from raf_ray.state import Entry, Layout
from raf_ray.transforms.clip import Clip
from raf_ray.transforms.half import Half
from raf_ray.transforms.int8 import Int8
from raf_ray.transforms.interface import Coding
from raf_ray.transforms.topk import RESIDUAL, TopK
from tests.quadratics import Quadratics, fedavg_fixed_point, random_clients, shares
from tests.spread import trained
from tests.tiny import StopAfter, tiny

LAYOUT = Layout((Entry("a", (600,), "weights", 0), Entry("b", (400,), "weights", 600),
                 Entry("mean", (24,), "statistics", 1000)))  # fmt: skip
WEIGHT_COUNT = 1000


def update_of(seed: int = 0) -> np.ndarray:
    """Magnitudes from 1e-6 to 1e2, and statistics that no transform may touch."""
    rng = np.random.default_rng(seed)
    return (rng.normal(size=1024) * 10.0 ** rng.uniform(-6, 2, 1024)).astype(np.float32)


def sent_by(transform, update, memory=None, seed=0):
    vectors, kept = transform.client({WEIGHTS: update}, memory or {}, {}, LAYOUT, np.random.default_rng(seed))
    return vectors[WEIGHTS], kept


class Constant:
    """A generator whose every draw is one number."""

    def __init__(self, value: float) -> None:
        self.value = value

    def random(self, count: int) -> np.ndarray:
        return np.full(count, self.value)


@pytest.mark.parametrize("transform", [Half("fp16"), Half("bf16"), Int8(), TopK(share=0.1), Clip(norm=1.0)])
def test_norm_statistics_go_as_they_are_and_nothing_is_changed_in_place(transform):
    update = update_of()
    before = update.copy()
    sent, _ = sent_by(transform, update)
    np.testing.assert_array_equal(sent[WEIGHT_COUNT:], before[WEIGHT_COUNT:])
    np.testing.assert_array_equal(update, before)
    assert sent.dtype == np.float32 and not np.array_equal(sent[:WEIGHT_COUNT], before[:WEIGHT_COUNT])


@pytest.mark.parametrize(("name", "dtype", "bits"), [("fp16", torch.float16, 11), ("bf16", torch.bfloat16, 8)])
def test_half_rounds_as_torch_does_and_is_off_by_half_a_unit_of_the_last_bit(name, dtype, bits):
    update = update_of()
    # Half-way cases between neighbours, which go to the even one.
    update[:4] = np.float32([1 + 2.0**-bits, 1 + 3 * 2.0**-bits, -1 - 2.0**-bits, 2 + 2 * 2.0**-bits])
    sent, kept = sent_by(Half(name), update)
    expected = torch.from_numpy(update[:WEIGHT_COUNT]).to(dtype).float().numpy()
    np.testing.assert_array_equal(sent[:WEIGHT_COUNT], expected)
    assert sent[:4].tolist() == [1, 1 + 4 * 2.0**-bits, -1, 2] and kept == {}
    normal = np.abs(update[:WEIGHT_COUNT]) >= 2.0**-14  # below it binary16 has fewer bits
    error = np.abs(sent[:WEIGHT_COUNT].astype(np.float64) - update[:WEIGHT_COUNT])[normal]
    assert (error <= 2.0**-bits * np.abs(update[:WEIGHT_COUNT][normal])).all()


@pytest.mark.parametrize(("name", "largest", "beyond"), [("fp16", 65519.0, 65520.0), ("bf16", 3.38e38, 3.4e38)])
def test_a_value_that_half_cannot_hold_fails_in_a_sentence(name, largest, beyond):
    update = np.zeros(1024, np.float32)
    update[7] = largest
    assert np.isfinite(sent_by(Half(name), update)[0]).all()
    update[7] = -beyond
    with pytest.raises(RunError, match=rf"which {name} cannot hold; (set transforms.half.format=bf16|lower optimizer)"):
        sent_by(Half(name), update)


def test_int8_is_off_by_less_than_a_layers_scale_and_has_at_most_255_values_a_layer():
    update = update_of()
    sent, _ = sent_by(Int8(), update)
    for part in (slice(0, 600), slice(600, 1000)):
        scale = float(np.abs(update[part]).max()) / 127
        assert (np.abs(sent[part].astype(np.float64) - update[part]) < scale * (1 + 1e-5)).all()
        whole = sent[part].astype(np.float64) / scale
        np.testing.assert_allclose(whole, np.round(whole), atol=1e-4)
        assert np.abs(whole).max() < 127.001


def test_the_expectation_of_int8_is_the_update_itself():
    """Over u in [0, 1), floor(x + u) has the mean x. m equidistant u give it to within 1 / m, whatever x."""
    update, grid = update_of(), 400
    total = np.zeros(WEIGHT_COUNT)
    for i in range(grid):
        (vectors, _) = Int8().client({WEIGHTS: update}, {}, {}, LAYOUT, Constant((i + 0.5) / grid))
        total += vectors[WEIGHTS][:WEIGHT_COUNT]
    scale = np.repeat([np.abs(update[:600]).max() / 127, np.abs(update[600:1000]).max() / 127], [600, 400])
    assert (np.abs(total / grid - update[:WEIGHT_COUNT]) < scale * (1 / grid + 1e-5)).all()
    nearest = np.round(update[:WEIGHT_COUNT] / scale) * scale  # the wrong version: it is biased by up to half a scale
    assert (np.abs(nearest - update[:WEIGHT_COUNT]) > 0.2 * scale).any()


def test_int8_draws_anew_for_each_entry_from_the_clients_own_stream():
    update = np.full(1024, 0.5, np.float32)
    update[0] = update[600] = 127.0
    runs = np.stack([sent_by(Int8(), update, seed=seed)[0][1:600] for seed in range(200)])
    assert set(np.unique(runs)) == {0.0, 1.0}
    # Fair coins: 199 * 599 draws, 5 standard deviations; each entry and each round by itself.
    assert abs(runs.mean() - 0.5) < 5 * 0.5 / math.sqrt(runs.size)
    assert abs(runs.mean(1) - 0.5).max() < 5 * 0.5 / math.sqrt(599) and (runs[0] != runs[1]).any()
    np.testing.assert_array_equal(sent_by(Int8(), update, seed=3)[0], sent_by(Int8(), update, seed=3)[0])


@pytest.mark.parametrize("values", [np.zeros(1024), np.full(1024, 1e-45), np.full(1024, -3e38)])
def test_int8_takes_layers_of_zeros_and_of_the_smallest_and_largest_numbers(values):
    sent, _ = sent_by(Int8(), values.astype(np.float32))
    np.testing.assert_allclose(sent, values.astype(np.float32), rtol=1e-6)


def test_topk_sends_the_largest_and_of_equal_ones_the_first():
    update = np.zeros(1024, np.float32)
    update[[5, 10, 20, 30]] = [3, -7, 3, 3]
    sent, kept = sent_by(TopK(share=0.003), update)
    assert np.flatnonzero(sent[:WEIGHT_COUNT]).tolist() == [5, 10, 20] and sent[10] == -7
    assert np.flatnonzero(kept[RESIDUAL]).tolist() == [30]


def test_what_topk_has_sent_and_its_residual_add_up_to_the_updates():
    """In whole numbers, of which float32 sums are exact."""
    rng = np.random.default_rng(1)
    updates = rng.integers(-1000, 1000, (20, 1024)).astype(np.float32)
    sent, memory = np.zeros(WEIGHT_COUNT, np.float32), {}
    for update in updates:
        part, memory = sent_by(TopK(share=0.05), update, memory)
        assert np.count_nonzero(part[:WEIGHT_COUNT]) <= 50
        sent += part[:WEIGHT_COUNT]
    np.testing.assert_array_equal(sent + memory[RESIDUAL], updates[:, :WEIGHT_COUNT].sum(0))
    assert np.abs(memory[RESIDUAL]).max() > 1000, "something waited for more than a round"
    without, nothing = sent_by(TopK(share=0.05, error_feedback=False), updates[0])
    assert nothing == {} and not np.array_equal(without, updates[0])


def test_with_error_feedback_fedavg_comes_to_its_fixed_point_and_without_it_stalls():
    """One of three weights a round. Clients disagree at the fixed point, so each one's residual cycles there, with an
    amplitude in proportion to the learning rate: the mean over cycles is the point itself."""
    tasks, lr = random_clients(), 0.02
    expected = fedavg_fixed_point(tasks, shares(tasks), lr)
    off = {}
    for feedback in (True, False):
        own = Quadratics(FedAvg("people"), tasks, lr=lr, transforms=(TopK(share=0.34, error_feedback=feedback),))
        path = []
        for _ in range(240):
            own.round()
            path.append(own.weights)
        off[feedback] = np.abs(np.mean(path[140:], axis=0) - expected).max()
    assert off[True] < 0.005 and off[False] > 0.2


@pytest.mark.parametrize(("chain", "size"), [
    ([], 1000 * 4),
    ([Half()], 1000 * 2),
    ([Int8()], 1000 + 2 * 4),
    ([TopK(share=0.0505)], 50 * (4 + 4)),
    ([TopK(share=1.0)], 1000 * 4),
    ([TopK(share=0.05), Int8()], 50 * (1 + 4) + 2 * 4),
    ([TopK(share=0.05), Half()], 50 * (2 + 4)),
    ([TopK(share=0.05), TopK(share=0.1)], 50 * (4 + 4)),
    ([Clip()], 1000 * 4),
    ([Int8(), Clip()], 1000 + 2 * 4 + 4),
])  # fmt: skip
def test_bytes_by_hand(chain, size):
    coding = Coding(WEIGHT_COUNT, layers=2)
    for transform in chain:
        coding = transform.coding(coding, LAYOUT)
    assert coding.num_bytes == size


def test_a_share_of_less_than_one_weight_is_refused_before_anything_starts():
    with pytest.raises(InputError, match=r"transforms.topk.share=1e-09 of \d+ weights is less than one of them"):
        prepare(tiny("transforms.apply=[topk]", "transforms.topk.share=1e-9"))


CHAIN = ("transforms.apply=[topk, int8, half]", "transforms.topk.share=0.02", "federation.rounds=3",
         "federation.clients={high: 1, low: 3}", "data.people_per_client=4")  # fmt: skip


def run(path, *words, **options):
    return run_federation(tiny(*words), path, **options).folder


def state(folder) -> torch.Tensor:
    saved = torch.load(folder / "model.pt", weights_only=True)["model"]
    return torch.cat([values.flatten().double() for values in saved.values()])


def rows(folder) -> list[dict[str, str]]:
    with open(folder / "rounds.csv", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return run(tmp_path_factory.mktemp("whole") / "run", *CHAIN, "federation.engine=in_process")


def test_a_rounds_megabytes_are_what_would_be_sent(whole):
    layout = prepare(tiny(*CHAIN)).layout
    kept = int(0.02 * layout.count("weights"))
    client = kept * (2 + 4) + 4 * len(layout.weights) + 4 * layout.count("statistics") + 8 * layout.num_counters
    assert [float(row["mb_up"]) for row in rows(whole)] == [pytest.approx(4 * client / 1e6, abs=1e-6)] * 3
    assert float(rows(whole)[0]["mb_down"]) == pytest.approx(4 * layout.num_bytes / 1e6, abs=1e-6)


def test_several_clients_a_host_give_the_same_bits(whole, tmp_path):
    trained(federation_spec(prepare(tiny(*CHAIN)), "run"), tmp_path / "run", hosts=2)
    assert torch.equal(state(tmp_path / "run"), state(whole))


def test_a_resume_gives_the_same_bits(whole, tmp_path):
    words = [*CHAIN, "federation.engine=in_process"]
    with pytest.raises(RuntimeError, match="stopped by the test"):
        run(tmp_path / "part", *words, watchers=[StopAfter(2)])
    assert torch.equal(state(run(tmp_path / "part", *words, resume=True)), state(whole))
