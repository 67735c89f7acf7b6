"""Aggregators against hand-worked numbers and plain second implementations; what they withstand and what not."""

from __future__ import annotations

import itertools
import math
import statistics

import numpy as np
import pytest
import torch

from raf_ray import run_federation
from raf_ray.aggregators import built_in
from raf_ray.aggregators.interface import ENTRIES, Aggregator, OneByOne, chunks
from raf_ray.aggregators.krum import Krum
from raf_ray.aggregators.mean import Mean
from raf_ray.aggregators.median import Median
from raf_ray.aggregators.norm_clipping import NormClipping
from raf_ray.aggregators.trimmed_mean import TrimmedMean
from raf_ray.algorithms.fedavg import FedAvg
from raf_ray.algorithms.feddyn import FedDyn
from raf_ray.algorithms.interface import WEIGHTS
from raf_ray.algorithms.scaffold import CONTROL, Scaffold
from raf_ray.attacks.sign_flip import SignFlip
from raf_ray.config import load_config
from raf_ray.config.help import key_lines
from raf_ray.errors import InputError, RunError
from raf_ray.federation.aggregation import ExactSum, UpdateError
from raf_ray.federation.collected import Collected
from raf_ray.federation.host import Host, Turn
from raf_ray.federation.server import Server
from raf_ray.request.assembly import federation_spec, prepare
from raf_ray.request.parts import aggregator_of
from raf_ray.state import Layout
from raf_ray.training.attacked import Attacked
from raf_ray.training.exchange import Down, Up
from tests.quadratics import DIM, Quadratic, Quadratics, Vector, optimum, random_clients
from tests.spread import trained
from tests.test_deaths import Kills
from tests.tiny import StopAfter, tiny

ROBUST = {
    "median": Median(), "trimmed_mean": TrimmedMean(share=0.2), "krum": Krum(bad=1), "multi-Krum": Krum(bad=1, keep=3),
    "norm_clipping": NormClipping(),
}  # fmt: skip


def combined(aggregator: OneByOne, *updates: object, shares: object = None, num_weights: int | None = None):
    """(n,) of the vector `weights` of clients that sent these."""
    vectors = [np.atleast_1d(np.asarray(update, np.float32)) for update in updates]
    weighed = np.ones(len(vectors)) if shares is None else np.asarray(shares, float)
    return aggregator.combine({WEIGHTS: vectors}, {WEIGHTS: weighed}, num_weights or vectors[0].size)[WEIGHTS]


def random_updates(count: int, size: int, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [(rng.normal(0, 10.0 ** rng.integers(-3, 2), size)).astype(np.float32) for _ in range(count)]


def test_every_file_of_the_room_is_an_aggregator_by_its_name():
    assert set(built_in()) >= {"mean", "median", "trimmed_mean", "krum", "norm_clipping"}


# --- Median and trimmed mean -----------------------------------------------------------------------------------


def test_the_median_of_odd_and_even_numbers_of_clients():
    assert combined(Median(), [1, 9], [100, 7], [5, 8]).tolist() == [5, 8]
    assert combined(Median(), 1, 100, 4, 2).tolist() == [3]
    assert combined(Median(), 7).tolist() == [7]


@pytest.mark.parametrize(("share", "values", "expected"), [
    (0.2, [100, 0, 6, 1, 2], 3.0),  # one of five at each end
    (0.4, [100, 0, 6, 1, 2], 2.0),  # two
    (0.25, [100, 1, 4, 2], 3.0),
    (0.2, [0, 1, 100], 1.0),  # 0.6 of a client is one: rounded down nobody would be cut
])  # fmt: skip
def test_the_trimmed_mean_cuts_its_share_rounded_up_at_each_end(share, values, expected):
    assert combined(TrimmedMean(share=share), *values).tolist() == [expected]


def test_a_share_that_binary_makes_a_little_too_large_cuts_no_more():
    assert math.ceil(0.07 * 100) == 8
    values = [0] * 7 + [1] + [2] * 85 + [3] * 7
    assert combined(TrimmedMean(share=0.07), *values)[0] == (1 + 2 * 85) / 86
    assert combined(TrimmedMean(share=0.08), *values)[0] == 2


@pytest.mark.parametrize("clients", [1, 2, 5, 8, 11])
def test_median_and_trimmed_mean_are_those_of_plain_python(clients):
    updates = random_updates(clients, 50, clients)
    rows = [[float(update[i]) for update in updates] for i in range(50)]
    assert combined(Median(), *updates).tolist() == [statistics.median(row) for row in rows]
    if clients > 2:
        cut = -(-clients // 5)
        kept = [sorted(row)[cut : clients - cut] for row in rows]
        expected = [math.fsum(row) / len(row) for row in kept]
        np.testing.assert_allclose(combined(TrimmedMean(share=0.2), *updates), expected, rtol=1e-14, atol=1e-15)


def test_vectors_longer_than_a_chunk_are_combined_to_their_ends():
    size = ENTRIES // 5 * 2 + 7
    assert len(list(chunks(size, 5))) == 3
    updates = random_updates(5, size)
    assert np.array_equal(combined(Median(), *updates), np.median(np.stack(updates).astype(float), axis=0))
    spread = np.stack(updates).astype(float)
    distances = ((spread[:, None] - spread[None]) ** 2).sum(axis=2)
    scores = np.sort(distances, axis=1)[:, 1:3].sum(axis=1)
    assert np.array_equal(combined(Krum(bad=1), *updates), updates[int(scores.argmin())])
    lengths = np.linalg.norm(spread, axis=1)
    clipped = spread * np.minimum(1, np.median(lengths) / lengths)[:, None]
    np.testing.assert_allclose(combined(NormClipping(), *updates), clipped.mean(axis=0), rtol=1e-9, atol=1e-12)


# --- Krum --------------------------------------------------------------------------------------------------------

ON_A_LINE = (0, 1, 2.5, 4, 100)
"""With f = 1 two neighbours count: 0 has 1 + 6.25, 1 has 1 + 2.25, 2.5 has 2.25 + 2.25, 4 has 2.25 + 9."""


@pytest.mark.parametrize(("keep", "expected"), [(1, 1.0), (2, 1.75), (3, 3.5 / 3), (4, 7.5 / 4)])
def test_krum_takes_the_client_whose_two_nearest_are_nearest_and_multi_krum_the_next_too(keep, expected):
    assert combined(Krum(bad=1, keep=keep), *ON_A_LINE)[0] == pytest.approx(expected, rel=1e-15)


def plain_krum(updates, bad: int, keep: int, neighbours: int | None = None, first: int = 1):
    """By the paper's words, in Python's own numbers. `first`: 0 counts a client among its own neighbours."""
    scores = []
    for i, own in enumerate(updates):
        away = sorted(sum((float(a) - float(b)) ** 2 for a, b in zip(own, other, strict=True)) for other in updates)
        count = len(updates) - bad - 2 if neighbours is None else neighbours
        scores.append((sum(away[first : first + count]), i))
    chosen = [i for _, i in sorted(scores)[:keep]]
    return [sum(float(updates[i][j]) for i in chosen) / keep for j in range(len(updates[0]))]


@pytest.mark.parametrize(("clients", "bad", "keep"), [(3, 0, 1), (5, 1, 1), (7, 2, 3), (9, 3, 6), (11, 4, 2)])
def test_krum_is_that_of_plain_python(clients, bad, keep):
    for seed in range(10):
        updates = [u * 0.1 + 1 for u in random_updates(clients, 6, seed)]
        np.testing.assert_allclose(
            combined(Krum(bad=bad, keep=keep), *updates), plain_krum(updates, bad, keep), rtol=1e-12
        )


def test_known_wrong_versions_of_krum_choose_others():
    line = [[value] for value in ON_A_LINE]
    assert plain_krum(line, 1, 1) == [1.0]
    assert plain_krum(line, 1, 1, first=0) == [0.0], "a client that counts itself among its neighbours"
    assert plain_krum([[0], [1], [2.2], [8], [9], [9.5], [10.1]], 1, 1, neighbours=5) != plain_krum(
        [[0], [1], [2.2], [8], [9], [9.5], [10.1]], 1, 1, neighbours=2
    ), "the number of neighbours matters"


def test_krums_ties_go_to_the_first_client():
    assert combined(Krum(bad=1), 0, 1, 3, 4, 100).tolist() == [1]
    assert combined(Krum(bad=1), 4, 3, 1, 0, 100).tolist() == [3]


def test_small_distances_between_large_updates_are_not_lost():
    """|a|^2 + |b|^2 - 2 ab has nothing left of them."""
    large = 1e6 + np.array(ON_A_LINE[:4]) / 8
    assert combined(Krum(bad=1), *large, 0)[0] == large[1]


def test_krum_ranks_by_weights_and_gives_the_chosen_clients_statistics_and_own_vectors():
    updates = [np.array([value, 7 - i], np.float32) for i, value in enumerate(ON_A_LINE)]
    controls = [np.array([10.0 * i], np.float32) for i in range(5)]
    found = Krum(bad=1).combine({WEIGHTS: updates, CONTROL: controls}, {}, 1)
    assert found[WEIGHTS].tolist() == [1, 6] and found[CONTROL].tolist() == [10]


# --- Norm clipping -----------------------------------------------------------------------------------------------


def test_norm_clipping_shortens_what_is_longer_than_the_median():
    found = combined(NormClipping(), [3, 4], [6, 8], [0, 20])  # lengths 5, 10, 20
    np.testing.assert_allclose(found, [3, 22 / 3], rtol=1e-12)
    found = combined(NormClipping(times=1.5), [3, 4], [6, 8], [0, 20], shares=[1, 2, 1])
    np.testing.assert_allclose(found, [15 / 4, 35 / 4], rtol=1e-12)


def test_norm_clipping_clips_statistics_and_own_vectors_at_their_own_medians():
    updates = [np.array([1, 2], np.float32), np.array([1, 4], np.float32), np.array([1, 60], np.float32)]
    controls = [np.array([value], np.float32) for value in (-5, 5, 500)]
    each = np.ones(3)
    found = NormClipping().combine({WEIGHTS: updates, CONTROL: controls}, {WEIGHTS: each, CONTROL: each}, 1)
    np.testing.assert_allclose(found[WEIGHTS], [1, 10 / 3], rtol=1e-12)
    np.testing.assert_allclose(found[CONTROL], [5 / 3], rtol=1e-12)


def test_norm_clipping_of_nothing_but_zeros_is_zero():
    assert combined(NormClipping(), [0, 0], [0, 0], [0, 5]).tolist() == [0, 0]


# --- What they withstand -----------------------------------------------------------------------------------------

HONEST = [np.float32([1 + i / 16, -2 - i / 8]) for i in range(11)]
FAR = np.float32([1e6, 1e6])


def moved(aggregator: Aggregator, bad: int) -> float:
    """How far the result lies outside of what honest clients sent, of 11 clients whose last `bad` send `FAR`."""
    updates = [*HONEST[: 11 - bad], *[FAR] * bad]
    if isinstance(aggregator, OneByOne):
        found = combined(aggregator, *updates)
    else:
        total = ExactSum()
        for update in updates:
            total.add(Up("c", 0, {WEIGHTS: update}, np.zeros(0, np.int64)), {WEIGHTS: 1 / 11})
        found = total.mean()[WEIGHTS]
    honest = np.stack(HONEST[: 11 - bad])
    return float(np.maximum(honest.min(axis=0) - found, found - honest.max(axis=0)).max())


@pytest.mark.parametrize(("aggregator", "withstands"), [
    (Median(), 5), (TrimmedMean(share=0.1), 2), (TrimmedMean(share=0.3), 4), (Krum(bad=4), 5),
    (Krum(bad=2, keep=9), 2),
])  # fmt: skip
def test_up_to_its_bound_an_aggregator_stays_among_the_honest_and_beyond_it_is_moved(aggregator, withstands):
    """Krum's proof ends at f = 4 of 11; identical clients far off are still the fewer at 5, and the more at 6."""
    assert aggregator.fault(11) is None
    assert all(moved(aggregator, bad) <= 0 for bad in range(withstands + 1))
    assert moved(aggregator, withstands + 1) > 1e4


def test_the_mean_is_moved_by_one():
    assert moved(Mean(), 0) <= 0 and moved(Mean(), 1) > 9e4


def test_norm_clipping_bounds_what_a_minority_adds_by_the_median_norm_and_no_more_than_that():
    def shift(bad: int, size: float) -> float:
        clean = combined(NormClipping(), *HONEST)
        return float(np.linalg.norm(combined(NormClipping(), *HONEST[: 11 - bad], *[FAR * size] * bad) - clean))

    median = statistics.median(float(np.linalg.norm(update)) for update in HONEST)
    assert all(0.1 < shift(bad, 1) < 2 * median for bad in (1, 3, 5))
    assert shift(5, 1e6) == pytest.approx(shift(5, 1), rel=1e-6), "how loud they are does not matter"
    assert shift(6, 1) > 1e5


# --- In the engine -----------------------------------------------------------------------------------------------

LAYOUT = Layout.of(Vector())


def server_of(aggregator: Aggregator) -> Server:
    return Server(FedAvg("people"), LAYOUT, 7, LAYOUT.read(Vector()), {}, aggregator=aggregator)


def ups_of(count: int = 7, seed: int = 0) -> list[Up]:
    updates = random_updates(count, LAYOUT.num_floats, seed)
    return [Up(f"c{i}", 0, {WEIGHTS: update}, np.zeros(0, np.int64)) for i, update in enumerate(updates)]


def state_after(aggregator: Aggregator, groups) -> bytes:
    """The server's state after a round whose updates come in these groups, each from one host."""
    server, ups = server_of(aggregator), ups_of()
    total = server.round([(up.client, 10 + 5 * i) for i, up in enumerate(ups)])
    for group in groups:
        if len(group) == 1 and total.weigher.streams:
            total.add(ups[group[0]], [ups[group[0]].client])
            continue
        part = type(total.total)()
        for i in group:
            part.add(ups[i], total.weigher.shares(ups[i], total.people[ups[i].client]))
        total.add(part.narrowed(), [ups[i].client for i in group])
    server.step(total)
    return server.state.tobytes()


GROUPS = (
    [[i] for i in range(7)],
    [[6], [2, 0], [5, 4, 3], [1]],
    [[3, 1, 6, 0, 2, 5, 4]],
    [[i] for i in range(6, -1, -1)],
)


@pytest.mark.parametrize("aggregator", [Mean(), *ROBUST.values()], ids=["mean", *ROBUST])
def test_neither_who_comes_first_nor_who_shares_a_host_changes_a_bit(aggregator):
    assert len({state_after(aggregator, groups) for groups in GROUPS}) == 1


def test_summed_in_the_order_of_arrival_the_bits_would_differ():
    updates = random_updates(7, 200)
    orders = itertools.islice(itertools.permutations(range(7)), 0, 5000, 500)
    found = {combined(NormClipping(), *(updates[i] for i in order)).tobytes() for order in orders}
    assert len(found) > 1


@pytest.mark.parametrize("aggregator", [Median(), TrimmedMean(share=0.2), Krum(bad=0), Krum(bad=0, keep=2),
                                        NormClipping()])  # fmt: skip
def test_of_clients_that_send_the_same_each_is_the_mean_to_the_bit(aggregator):
    """Of values that fixed point holds as they are, and weights that add up to one in binary."""
    update = (np.random.default_rng(0).integers(-(2**20), 2**20, LAYOUT.num_floats) / 2**16).astype(np.float32)
    states = []
    for one in (aggregator, Mean()):
        server = server_of(one)
        total = server.round([(f"c{i}", 10) for i in range(4)])
        for i in range(4):
            total.add(Up(f"c{i}", 0, {WEIGHTS: update}, np.zeros(0, np.int64)), [f"c{i}"])
        server.step(total)
        states.append(LAYOUT.floats(server.state).tolist())
    assert states[0] == states[1] == update.tolist()


def test_hosts_add_up_for_the_mean_and_send_each_update_in_float32_for_the_others():
    prepared = prepare(tiny())
    clients = federation_spec(prepared, "run").clients
    host = Host(clients.open, 100.0)
    turns = [Turn(clients[i].name, i, clients[i].people) for i in range(2)]
    for aggregator, kind in ((Mean(), ExactSum), (Median(), Collected)):
        weigher = server_of(aggregator).round([(turn.client, turn.people) for turn in turns]).weigher
        trained, _ = host.train(Down(0, prepared.initial, {}), 0, turns, [None, None], weigher, False)
        assert type(trained.total) is kind and trained.total.clients == 2 and not trained.failures
    assert [(up.client, up.vectors[WEIGHTS].dtype) for up in trained.total.ups] == [
        (turn.client, np.float32) for turn in turns
    ]


def test_counters_take_the_maximum_and_what_is_not_finite_is_refused():
    total = Collected()
    total.add(Up("a", 0, {WEIGHTS: np.ones(2, np.float32)}, np.array([3, 1])), {})
    total.add(Up("b", 0, {WEIGHTS: np.ones(2, np.float32)}, np.array([2, 5])), {})
    assert total.counters.tolist() == [3, 5] and Collected().counters is None
    with pytest.raises(UpdateError, match="NaN or Inf"):
        total.add(Up("c", 0, {WEIGHTS: np.array([1, np.nan], np.float32)}, np.array([0, 0])), {})
    assert total.clients == 2


@pytest.mark.parametrize("name", ["median", "trimmed_mean", "krum", "multi-Krum"])
@pytest.mark.parametrize("algorithm", [FedAvg(), Scaffold(), FedDyn(alpha=0.5)])
def test_with_one_bad_client_among_four_alike_a_method_reaches_their_optimum(algorithm, name):
    task = random_clients(1)[0]
    assert reached(algorithm, ROBUST[name], task) == pytest.approx(optimum([task], np.ones(1)), abs=1e-4)


@pytest.mark.parametrize("algorithm", [FedAvg(), Scaffold(), FedDyn(alpha=0.5)])
def test_with_the_mean_it_does_not(algorithm):
    task = random_clients(1)[0]
    with np.errstate(all="ignore"):
        try:
            found = reached(algorithm, Mean(), task)
        except (UpdateError, RunError):  # beyond all bounds
            return
    assert np.abs(found - optimum([task], np.ones(1))).max() > 1


def reached(algorithm, aggregator: Aggregator, task: Quadratic) -> np.ndarray:
    federation = Quadratics(algorithm, [task] * 5)
    federation.server.aggregator = aggregator
    federation.clients[2].transforms = (Attacked(SignFlip(scale=10)),)
    for _ in range(60):
        federation.round()
    return federation.weights


def test_scaffolds_control_moves_by_the_median_of_its_changes():
    federation = Quadratics(Scaffold(), random_clients(5))
    federation.server.aggregator = Median()
    federation.round()
    before = federation.control.copy()
    ups = federation.round(cohort=[0, 2, 3])
    changes = np.stack([up.vectors[CONTROL].astype(float) for up in ups.values()])
    assert np.array_equal(federation.control, before + 3 / 5 * np.median(changes, axis=0))


def test_statistics_take_the_aggregators_value_too():
    federation = Quadratics(FedAvg(), random_clients(3))
    federation.server.aggregator = Median()
    for client, steps in zip(federation.clients, (1, 4, 50), strict=True):
        client.task.steps = steps
    federation.round()
    assert federation.floats[DIM] == 4  # each step adds one


# --- Whole federations -------------------------------------------------------------------------------------------

FIVE = ("federation.clients={high: 1, mid: 2, low: 2}", "data.people_per_client=8", "evaluation.every=3",
        "federation.rounds=3")  # fmt: skip
ASKED = {
    "median": ("aggregation.name=median",),
    "trimmed_mean": ("aggregation.name=trimmed_mean",),
    "krum": ("aggregation.name=krum", "aggregation.krum.keep=2"),
    "norm_clipping": ("aggregation.name=norm_clipping",),
}
ALL = (*FIVE, *ASKED["krum"], "algorithm.name=scaffold", "attack.name=noise", "optimizer.reset_each_round=false",
       "transforms.apply=[clip, noise]")  # fmt: skip


def state(folder) -> torch.Tensor:
    saved = torch.load(folder / "model.pt", weights_only=True)["model"]
    return torch.cat([values.flatten().double() for values in saved.values()])


def in_process(path, *words, **options):
    return run_federation(tiny("federation.engine=in_process", *words), path, **options)


@pytest.mark.parametrize("name", ASKED)
def test_however_clients_are_spread_over_hosts_the_bits_are_the_same(name, tmp_path):
    config = tiny("federation.engine=in_process", *FIVE, *ASKED[name], "attack.name=sign_flip", "federation.rounds=2")
    spec = federation_spec(prepare(config), "run")
    alone, two = (trained(spec, tmp_path / str(hosts), hosts) for hosts in (None, 2))
    assert all(torch.equal(alone[name], two[name]) for name in alone)
    mean = tiny("federation.engine=in_process", *FIVE, "attack.name=sign_flip", "federation.rounds=2")
    averaged = trained(federation_spec(prepare(mean), "run"), tmp_path / "mean", None)
    assert any((averaged[name] != alone[name]).any() for name in alone)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return in_process(tmp_path_factory.mktemp("whole") / "run", *ALL).folder


def test_a_resume_gives_the_same_bits(whole, tmp_path):
    with pytest.raises(RuntimeError, match="stopped by the test"):
        in_process(tmp_path / "part", *ALL, watchers=[StopAfter(2)])
    in_process(tmp_path / "part", *ALL, resume=True)
    assert torch.equal(state(tmp_path / "part"), state(whole))


def test_on_ray_with_a_host_that_dies_in_a_round_the_bits_are_the_same(whole, ray_cluster, tmp_path):
    kills = Kills({9: "host-000"})
    run_federation(tiny(*ALL, "resources.clients_per_actor=3"), tmp_path / "run", watchers=[kills])
    assert kills.killed == ["host-000"]
    assert torch.equal(state(tmp_path / "run"), state(whole))


def test_a_round_in_which_too_few_answered_ends_the_run_with_a_sentence(tmp_path):
    words = ("aggregation.name=krum", "federation.clients={high: 3, low: 2}", "federation.on_client_failure=drop",
             "objective.name=tests.broken:fails_at_low")  # fmt: skip
    with pytest.raises(RunError, match=r"what round 1 brought cannot be combined: with bad=1 it needs 5 clients .* 3;"):
        in_process(tmp_path / "run", *words)


@pytest.mark.parametrize("words", [
    ["federation.cohort.draw=poisson", "federation.participation=0.7", "federation.clients={high: 3, low: 6}"],
    ["devices.profiles={high: workstation, low: phone}", "federation.clients={high: 3, low: 6}"],
])  # fmt: skip
def test_a_round_that_devices_or_a_draw_leave_too_small_is_refused_before_anything_starts(words):
    asked = tiny("aggregation.name=krum", "federation.rounds=40", *words)
    with pytest.raises(InputError, match=r"krum: by \S+ round \d+ is too small: with bad=1 it needs 5 clients .* has"):
        prepare(asked)
    prepare(tiny("aggregation.name=median", "federation.rounds=40", *words))


# --- Config ------------------------------------------------------------------------------------------------------


class Largest(OneByOne):
    def combine(self, updates, shares, num_weights):
        return {name: np.max(np.stack(vectors), axis=0).astype(float) for name, vectors in updates.items()}


def test_they_are_made_from_the_config_with_its_parameters():
    words = {"krum": ["aggregation.krum.bad=3", "aggregation.krum.keep=2"],
             "trimmed_mean": ["aggregation.trimmed_mean.share=0.1"]}  # fmt: skip
    made = {
        name: aggregator_of(load_config(overrides=[*words.get(name, []), f"aggregation.name={name}"]))
        for name in built_in()
    }
    assert made["krum"] == Krum(bad=3, keep=2) and made["trimmed_mean"] == TrimmedMean(share=0.1)
    assert made["mean"] == Mean() == aggregator_of(load_config()) and made["median"] == Median()
    own = aggregator_of(load_config(overrides=["aggregation.name=tests.test_aggregators:Largest"]))
    assert type(own).__name__ == "Largest"


def test_the_help_tells_each_key():
    told = "\n".join(key_lines())
    assert "aggregation.name: mean|" not in told and "aggregation.name: krum|mean|median|norm_clipping|" in told
    for key in ("aggregation.krum.bad: int = 1", "aggregation.trimmed_mean.share: float = 0.2",
                "aggregation.norm_clipping.times: float = 1.0"):  # fmt: skip
        assert key in told


@pytest.mark.parametrize(("words", "says"), [
    (["aggregation.name=krumm"], "'krum'"),
    (["aggregation.trimmed_mean.share=0.5"], "aggregation.trimmed_mean.share"),
    (["aggregation.krum.bad=-1"], "aggregation.krum.bad"),
    (["aggregation.name=tests.test_aggregators:tiny"], "gives Config, not a raf_ray.aggregators.interface.Aggregator"),
    (["aggregation.name=krum"], r"aggregation.name=krum: with bad=1 it needs 5 clients a round and has 3; lower"),
    (["aggregation.name=krum", "federation.clients={low: 9}", "federation.participation=0.5"], "needs 5 .* has 4;"),
    (["aggregation.name=krum", "federation.clients={low: 5}", "aggregation.krum.keep=5"], r"keep=5 of 5 .* bad=1 out"),
    (["aggregation.name=trimmed_mean", "federation.clients=[low, low]"], r"cuts 1 values .* keeps none of 2 clients'"),
])  # fmt: skip
def test_what_cannot_be_is_refused_in_a_sentence_before_anything_starts(words, says):
    with pytest.raises(InputError, match=says) as error:
        prepare(tiny(*words))
    assert "\n" not in str(error.value)
