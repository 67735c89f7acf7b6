"""DP-FedAvg: the sampling that is accounted for is the one that runs, clips and noise are as told, epsilon is right."""

from __future__ import annotations

import csv
import io
import json
import math
import sys

import dp_accounting
import numpy as np
import pytest
import torch
from dp_accounting.pld import PLDAccountant
from rich.console import Console
from scipy.optimize import brentq
from scipy.stats import binom, norm

from raf_ray import run_federation
from raf_ray.algorithms.fedavg import FedAvg
from raf_ray.algorithms.interface import WEIGHTS, Cohort
from raf_ray.config import load_config
from raf_ray.errors import InputError, RunError
from raf_ray.federation.cohort import CohortSpec, draw_cohort
from raf_ray.federation.server import Server, init_memory
from raf_ray.models import build_model
from raf_ray.report.tables import results_table
from raf_ray.request.assembly import federation_spec, prepare
from raf_ray.state import Entry, Layout
from raf_ray.training.exchange import Up
from raf_ray.transforms.dp import DP, NORM, WITHIN
from raf_ray.transforms.epsilon import epsilon
from raf_ray.transforms.interface import Setting
from tests.spread import trained
from tests.tiny import StopAfter, tiny

LAYOUT = Layout((Entry("a", (30, 10), "weights", 0), Entry("b", (200,), "weights", 300)))
COUNT = 500
RNG = np.random.default_rng(0)
DP_WORDS = ("transforms.apply=[dp]", "algorithm.weighting=equal")
POISSON = (*DP_WORDS, "federation.cohort.draw=poisson", "federation.participation=0.4",
           "federation.clients={high: 1, low: 4}", "data.people_per_client=4", "federation.engine=in_process",
           "transforms.dp.clip=0.05", "transforms.dp.noise_multiplier=0.7", "transforms.dp.clipping=adaptive",
           "transforms.dp.count_noise=0.5")  # fmt: skip


def setting(draw="poisson", clients=100, expected=10.0) -> Setting:
    return Setting(FedAvg("equal"), (DP(),), LAYOUT, clients, expected, draw, is_mean=True, devices=False)


def update_of(length: float, seed: int = 0) -> np.ndarray:
    values = np.random.default_rng(seed).normal(size=COUNT)
    return (values * length / np.linalg.norm(values)).astype(np.float32)


def length_of(values: np.ndarray) -> float:
    return float(np.linalg.norm(values.astype(np.float64)))


# --- sampling -----------------------------------------------------------------------------------------


def drawn(spec: CohortSpec, clients: int, rounds: int) -> np.ndarray:
    """(rounds, clients) bool"""
    found = np.zeros((rounds, clients), bool)
    for index in range(rounds):
        found[index, draw_cohort(spec, ["t"] * clients, [1] * clients, 5, index)] = True
    return found


def is_poisson(found: np.ndarray, q: float) -> bool:
    """Whether counts are those of independent draws with probability q, each within exact binomial bounds.

    Of each client over the rounds, of each pair of clients together, and of rounds that drew nobody; the bounds
    hold all at once but for one time in a million (union bound).
    """
    rounds, clients = found.shape
    pairs = clients * (clients - 1) // 2
    tail = 1e-6 / (2 * (clients + pairs + 1))

    def within(counts: np.ndarray, p: float) -> bool:
        low, high = binom.ppf(tail, rounds, p), binom.isf(tail, rounds, p)
        return bool(((counts >= low) & (counts <= high)).all())

    together = found.T.astype(np.int64) @ found
    apart = together[np.triu_indices(clients, 1)]
    empty = int((found.sum(1) == 0).sum())
    return within(np.diag(together), q) and within(apart, q * q) and within(np.array([empty]), (1 - q) ** clients)


def test_a_poisson_cohort_is_drawn_as_the_accountant_assumes():
    clients, rounds, q = 8, 4000, 0.25
    assert is_poisson(drawn(CohortSpec(q, draw="poisson"), clients, rounds), q)
    assert not is_poisson(drawn(CohortSpec(q), clients, rounds), q), "a cohort of a fixed size would fail"
    assert not is_poisson(drawn(CohortSpec(q * 1.2, draw="poisson"), clients, rounds), q)
    same_for_all = np.repeat(np.random.default_rng(0).random((rounds, 1)) < q, clients, 1)
    assert not is_poisson(same_for_all, q), "and one where clients depend on each other"


def test_rounds_are_independent_of_each_other():
    """A client in two rounds one after the other: q^2, within exact binomial bounds of disjoint pairs of rounds."""
    found = drawn(CohortSpec(0.3, draw="poisson"), 10, 4000)
    both = int((found[0::2] & found[1::2]).sum())
    assert binom.ppf(1e-7, 20_000, 0.09) <= both <= binom.isf(1e-7, 20_000, 0.09)


def test_with_probability_one_all_are_drawn_and_a_size_is_refused():
    assert draw_cohort(CohortSpec(1.0, draw="poisson"), ["t"] * 9, [1] * 9, 0, 0) == list(range(9))
    with pytest.raises(InputError, match=r"federation.cohort.size: poisson draws each client"):
        load_config(overrides=["federation.cohort={size: 2, draw: poisson}"])


# --- epsilon ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("q", "z", "rounds"), [
    (0.1, 1.0, 100), pytest.param(0.01, 0.8, 300, marks=pytest.mark.slow), (0.5, 3.0, 20),
])  # fmt: skip
def test_epsilon_of_poisson_cohorts_is_just_above_that_of_another_accountant(q, z, rounds):
    """Privacy loss distributions are exact but for their grid; Renyi divergences bound it from above, by 35 % here."""
    event = dp_accounting.PoissonSampledDpEvent(q, dp_accounting.GaussianDpEvent(z))
    other = PLDAccountant().compose(event, rounds).get_epsilon(1e-5)
    ours = epsilon(z, 1e-5, rounds, setting(clients=1000, expected=1000 * q))
    assert other <= ours <= 1.35 * other
    unsampled = PLDAccountant().compose(dp_accounting.GaussianDpEvent(z), rounds).get_epsilon(1e-5)
    assert ours < unsampled, "without the sampling it would be found"


def exact_gaussian(sigma: float, delta: float) -> float:
    """Epsilon of one Gaussian mechanism of sensitivity 1 in closed form (Balle and Wang 2018, theorem 8)."""

    def excess(eps: float) -> float:
        a, b = 1 / (2 * sigma), eps * sigma
        return float(norm.cdf(a - b) - math.exp(eps) * norm.cdf(-a - b)) - delta

    return float(brentq(excess, 0.0, 200.0))


@pytest.mark.parametrize(("draw", "z", "rounds"), [("poisson", 5.0, 30), ("uniform", 2.0, 1), ("by_tier", 8.0, 200)])
def test_where_all_take_part_epsilon_is_the_gaussian_mechanisms(draw, z, rounds):
    """T releases of multiplier z are one of z / sqrt(T), in closed form; the Renyi bound stands a little above."""
    exact = exact_gaussian(z / math.sqrt(rounds), 1e-5)
    ours = epsilon(z, 1e-5, rounds, setting(draw, clients=50, expected=50.0))
    assert exact <= ours <= 1.2 * exact


def test_a_fixed_cohort_is_accounted_for_clients_that_are_replaced():
    """Replacing one moves the clipped sum by 2 S: half the multiplier. Sampling helps: less than with all."""
    ours = epsilon(4.0, 1e-5, 50, setting("uniform", 100, 10.0))
    event = dp_accounting.SampledWithoutReplacementDpEvent(100, 10, dp_accounting.GaussianDpEvent(2.0))
    accountant = dp_accounting.rdp.RdpAccountant(neighboring_relation=dp_accounting.NeighboringRelation.REPLACE_ONE)
    library = accountant.compose(event, 50).get_epsilon(1e-5)
    assert library <= ours * (1 + 1e-9) and ours <= 1.05 * library
    assert ours < exact_gaussian(2 / math.sqrt(50), 1e-5)
    assert ours > 1.5 * epsilon(4.0, 1e-5, 50, setting("poisson", 100, 10.0)), "the whole multiplier would be found"


# --- clipping and noise -------------------------------------------------------------------------------


def sent_by(transform: DP, update: np.ndarray, sent=None):
    return transform.client({WEIGHTS: update}, {}, sent or {}, LAYOUT, RNG)[0]


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("clipping", ["flat", "per_layer", "adaptive"])
def test_no_update_is_longer_than_the_clip_norm_to_the_last_bit(clipping, seed):
    """float32's rounding alone would make about half of them longer."""
    bound = float(np.random.default_rng(seed).uniform(0.01, 3))
    transform = DP(clip=bound, clipping=clipping)
    sent = transform.send(transform.init_server(LAYOUT))
    bound = float(sent[NORM][0]) if sent else bound
    for length in (1.0001 * bound, 2 * bound, 1e6 * bound):
        clipped = sent_by(transform, update_of(length, seed), sent)[WEIGHTS]
        assert bound * (0.7 if clipping == "per_layer" else 1 - 1e-6) < length_of(clipped) <= bound
        if clipping == "per_layer":
            assert length_of(clipped[:300]) <= bound / math.sqrt(2) and length_of(clipped[300:]) <= bound / math.sqrt(2)
    short = update_of(bound / 2, seed)
    np.testing.assert_array_equal(sent_by(transform, short, sent)[WEIGHTS], short)


@pytest.mark.parametrize("clipping", ["flat", "per_layer", "adaptive"])
def test_frozen_parameters_send_nothing_and_get_no_noise_and_the_others_have_the_whole_norm(clipping):
    layout = Layout((Entry("a", (300,), "weights", 0, frozen=True), Entry("b", (200,), "weights", 300)))
    transform = DP(clip=0.5, clipping=clipping, count_noise=1.0)
    memory = transform.init_server(layout)
    sent, _ = transform.client({WEIGHTS: update_of(9.0)}, {}, transform.send(memory), layout, RNG)
    assert not sent[WEIGHTS][:300].any() and length_of(sent[WEIGHTS][300:]) == pytest.approx(0.5, rel=1e-5)
    stepped, _ = transform.server({WEIGHTS: np.zeros(COUNT)}, memory, Cohort(6, 100, 8.0), layout, RNG)
    assert not stepped[WEIGHTS][:300].any() and stepped[WEIGHTS][300:].all()


def half_frozen(joints: int) -> torch.nn.Module:
    model = build_model("demo", joints)
    next(model.parameters()).requires_grad_(False)
    return model


def test_a_run_leaves_a_frozen_layer_as_it_is(tmp_path):
    words = ("federation.engine=in_process", "model.name=tests.test_dp:half_frozen", *DP_WORDS)
    for rounds in (1, 2):
        run_federation(tiny(*words, f"federation.rounds={rounds}"), tmp_path / str(rounds))
    one, two = (torch.load(tmp_path / name / "model.pt", weights_only=True)["model"] for name in ("1", "2"))
    frozen = next(name for name, _ in half_frozen(16).named_parameters())
    assert [name for name in one if torch.equal(one[name], two[name])] == [frozen]


def test_a_clipped_update_keeps_its_direction():
    update = update_of(7.0)
    np.testing.assert_allclose(sent_by(DP(clip=2.0), update)[WEIGHTS], update * (2 / 7), rtol=1e-5)


@pytest.mark.parametrize(("clipping", "count_noise", "multiplier"), [
    ("flat", None, 1.5), ("per_layer", None, 1.5), ("adaptive", 1.0, (1.5**-2 - 2.0**-2) ** -0.5),
])  # fmt: skip
def test_the_mean_is_the_sum_over_the_expected_cohort_with_noise_of_its_standard_deviation(
    clipping, count_noise, multiplier
):
    layout = Layout((Entry("w", (400_000,), "weights", 0),))
    transform = DP(clip=0.5, noise_multiplier=1.5, clipping=clipping, count_noise=count_noise)
    mean = {WEIGHTS: np.full(400_000, 0.25)}
    memory = transform.init_server(layout)
    stepped, _ = transform.server(mean, memory, Cohort(6, 100, 8.0), layout, np.random.default_rng(3))
    noise = stepped[WEIGHTS] - 0.25 * 6 / 8
    std = multiplier * 0.5 / 8
    assert noise.std() == pytest.approx(std, rel=0.005) and abs(noise.mean()) < 5 * std / math.sqrt(400_000)
    assert set(stepped) == {WEIGHTS} and (mean[WEIGHTS] == 0.25).all()


def test_the_two_releases_of_adaptive_clipping_cost_together_what_is_accounted_for():
    """Multipliers of independent Gaussian releases of one record compose as z^-2 = z1^-2 + z2^-2; the count's
    sensitivity is 1/2."""
    transform = DP(noise_multiplier=0.8, clipping="adaptive", count_noise=0.6)
    together = (transform.update_noise(10) ** -2 + (0.6 / 0.5) ** -2) ** -0.5
    assert together == pytest.approx(0.8) and transform.update_noise(10) > 0.8


@pytest.mark.parametrize("start", [1.0, 300.0])
def test_adaptive_clipping_comes_to_the_quantile_of_known_norms(start):
    """100 clients with norms 1 to 100, all in each round: 30 % of them are within 30."""
    transform = DP(clip=start, clipping="adaptive", quantile=0.3, noise_multiplier=0.5, count_noise=1.0)
    server = Server(FedAvg("equal"), LAYOUT, 100, np.zeros(LAYOUT.num_bytes, np.uint8),
                    init_memory(FedAvg("equal"), [transform], LAYOUT), transforms=[transform])  # fmt: skip
    path = []
    for _ in range(200):
        down = server.down()
        sent = {name.removeprefix("transform.0."): values for name, values in down.vectors.items()}
        total = server.round([(f"c{i}", 1) for i in range(100)])
        for i in range(100):
            total.add(Up(f"c{i}", 0, sent_by(transform, update_of(1.0 + i, i), sent), np.zeros(0, np.int64)), [f"c{i}"])
        server.step(total)
        path.append(float(server.memory[f"transform.0.{NORM}"][0]))
    assert np.median(path[120:]) == pytest.approx(30, rel=0.1)


def test_whether_a_client_was_within_the_norm_is_what_it_tells():
    transform = DP(clipping="adaptive")
    for length, told in ((0.9, 0.5), (1.1, -0.5)):
        vectors = sent_by(transform, update_of(length), {NORM: np.array([1.0], np.float32)})
        assert vectors[WITHIN].tolist() == [told]


# --- whole rounds -------------------------------------------------------------------------------------


def server_of(transforms, start: float = 1.0) -> Server:
    state = np.zeros(LAYOUT.num_bytes, np.uint8)
    LAYOUT.floats(state)[:] = start
    algorithm = FedAvg("equal")
    return Server(algorithm, LAYOUT, 20, state, init_memory(algorithm, transforms, LAYOUT), transforms=transforms,
                  expected=2.0)  # fmt: skip


def test_a_round_of_nobody_is_a_step_of_noise_alone_and_without_dp_changes_nothing():
    private, plain = server_of([DP(clip=0.5)]), server_of([])
    for server in (private, plain):
        server.step(server.round([]))
        assert server.version == 1
    assert (LAYOUT.floats(plain.state) == 1).all()
    noise = LAYOUT.floats(private.state).astype(np.float64) - 1
    assert noise.std() == pytest.approx(0.5 / 2, rel=0.15) and (noise != 0).all()


def test_how_many_were_drawn_does_not_scale_one_clients_part():
    """One client's update of norm S moves the step by S / (q N), whether it is drawn alone or with seven others."""
    quiet = DP(clip=1.0, noise_multiplier=1e-9)
    for cohort in (1, 8):
        steps = []
        for length in (0.0, 1.0):
            server = server_of([quiet], 0.0)
            total = server.round([(f"c{i}", 1) for i in range(cohort)])
            for i in range(cohort):
                update = update_of(length if i == 0 else 1.0, i)
                total.add(Up(f"c{i}", 0, sent_by(quiet, update), np.zeros(0, np.int64)), [f"c{i}"])
            server.step(total)
            steps.append(LAYOUT.floats(server.state).astype(np.float64))
        assert np.linalg.norm(steps[1] - steps[0]) == pytest.approx(1 / 2.0, rel=1e-5)


def test_a_client_that_fails_adds_nothing_and_leaves_the_others_parts_as_they_are():
    """With on_client_failure=drop the plain mean is over those who answered: one client's failure moves all parts."""
    steps = {}
    for name, transforms in (("dp", [DP(clip=1.0, noise_multiplier=1e-9)]), ("plain", [])):
        server = server_of(transforms, 0.0)
        total = server.round([(f"c{i}", 1) for i in range(4)])
        updates = [update_of(1.0, i) for i in range(3)]
        for i, update in enumerate(updates):
            total.add(Up(f"c{i}", 0, {WEIGHTS: update}, np.zeros(0, np.int64)), [f"c{i}"])
        server.step(total)
        steps[name] = LAYOUT.floats(server.state)
    np.testing.assert_allclose(steps["dp"], np.sum(updates, 0) / 2.0, atol=1e-6)
    np.testing.assert_allclose(steps["plain"], np.sum(updates, 0) / 3, atol=1e-6)


def run(path, *words, **options):
    return run_federation(tiny(*words), path, **options)


def rows(folder) -> list[dict[str, str]]:
    with open(folder / "rounds.csv", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def state(folder) -> torch.Tensor:
    saved = torch.load(folder / "model.pt", weights_only=True)["model"]
    return torch.cat([values.flatten().double() for values in saved.values()])


ROUNDS = "federation.rounds=4"
SMALL = ("federation.clients=[low]", "resolution.tiers={low: 64x48}", "evaluation.resolutions=[64x48]")


def cohorts(seed: int, rounds: int) -> list[int]:
    return [len(draw_cohort(CohortSpec(0.4, draw="poisson"), ["t"] * 5, [1] * 5, seed, i)) for i in range(rounds)]


@pytest.fixture(scope="module")
def seed():
    """Of a run in whose second or third of 4 rounds nobody is drawn, but somebody in the first."""
    return next(s for s in range(500) if (sizes := cohorts(s, 4))[0] and 0 in sizes[1:3])


@pytest.fixture(scope="module")
def whole(tmp_path_factory, seed):
    return run(tmp_path_factory.mktemp("whole") / "run", *POISSON, ROUNDS, f"seed={seed}")


def test_epsilon_is_told_after_each_round_in_the_results_and_in_the_table(whole):
    event = dp_accounting.PoissonSampledDpEvent(0.4, dp_accounting.GaussianDpEvent(0.7))
    told = rows(whole.folder)
    for done in (1, 4):
        other = PLDAccountant().compose(event, done).get_epsilon(1e-5)
        assert other <= float(told[done - 1]["epsilon"]) <= 1.4 * other
    totals = json.loads((whole.folder / "results.json").read_text())["totals"]
    assert repr(totals["epsilon"]) == told[-1]["epsilon"] and totals["delta"] == 1e-5
    assert float(told[0]["clip_norm"]) != 0.05 != float(told[1]["clip_norm"])
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(results_table({"run": whole.values}))
    shown = console.export_text()
    assert any(line.split() == ["epsilon", f"{totals['epsilon']:.4g}"] for line in shown.splitlines())


def test_a_round_of_nobody_is_counted_like_any_other(whole, seed):
    sizes = cohorts(seed, 4)
    told = rows(whole.folder)
    assert [int(row["people"]) == 0 for row in told] == [size == 0 for size in sizes]
    nobody = told[sizes.index(0)]
    assert (nobody["loss"], float(nobody["mb_up"]), nobody["update_norm_low"]) == ("", 0.0, "")
    assert float(nobody["epsilon"]) > float(told[sizes.index(0) - 1]["epsilon"])


def test_a_round_of_nobody_without_dp_leaves_the_model_as_it_was(seed, tmp_path):
    words = (*(word for word in POISSON if not word.startswith("transforms.")), f"seed={seed}")
    empty = cohorts(seed, 4).index(0)
    before = run(tmp_path / "before", *words, f"federation.rounds={empty}", "optimizer.schedule=constant").folder
    after = run(tmp_path / "after", *words, f"federation.rounds={empty + 1}", "optimizer.schedule=constant").folder
    assert torch.equal(state(before), state(after)) and len(rows(after)) == empty + 1


def test_a_resume_after_any_round_gives_the_same_bits_clip_norms_and_epsilon(whole, seed, tmp_path):
    words = [*POISSON, ROUNDS, f"seed={seed}"]
    for done in (1, 2, 3):
        with pytest.raises(RuntimeError, match="stopped by the test"):
            run(tmp_path / "part", *words, watchers=[StopAfter(done)], resume=done > 1)
    part = run(tmp_path / "part", *words, resume=True)
    assert torch.equal(state(part.folder), state(whole.folder))
    for name in ("epsilon", "clip_norm", "loss"):
        assert [row[name] for row in rows(part.folder)] == [row[name] for row in rows(whole.folder)]


def test_hosts_give_the_same_bits_where_nobody_is_drawn_too(whole, seed, tmp_path):
    trained(federation_spec(prepare(tiny(*POISSON, ROUNDS, f"seed={seed}")), "run"), tmp_path / "run", hosts=2)
    assert torch.equal(state(tmp_path / "run"), state(whole.folder))


def test_mlflow_gets_epsilon_of_every_round(seed, tmp_path):
    import mlflow

    from raf_ray.experiment.watching import watchers_for

    config = tiny(*POISSON, "federation.rounds=2", f"seed={seed}", "tracking.mlflow=true", "tracking.log_model=false",
                  f"tracking.uri=sqlite:///{tmp_path}/mlflow.db")  # fmt: skip
    folder = run_federation(config, tmp_path / "run", watchers=watchers_for(config, Console(file=sys.stderr))).folder
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    (found,) = client.search_runs([client.get_experiment_by_name("raf-ray").experiment_id])
    logged = {metric.step: metric.value for metric in client.get_metric_history(found.info.run_id, "epsilon")}
    assert logged == {int(row["round"]): float(row["epsilon"]) for row in rows(folder)}


# --- what is refused ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("words", "says"), [
    (["algorithm.weighting=people"], r"dp: the accountant needs clients of equal weight.*algorithm.weighting=equal"),
    (["federation.cohort.draw=by_tier", "federation.participation=0.5"], r"draw=by_tier is a sampling that the acc"),
    (["federation.cohort.draw=by_people", "federation.participation=0.5"], r"draw=by_people is a sampling that the"),
    (["algorithm.name=scaffold"], r"dp: the method sends control beside the update"),
    (["transforms.apply=[dp, clip]"], r"dp: it must be the last of transforms.apply"),
    (["transforms.apply=[noise, dp]"], r"dp: no other transform may change the round's mean"),
    (["transforms.apply=[dp, dp]"], r"dp: no other transform may change the round's mean"),
    (["transforms.dp.delta=0.4"], r"transforms.dp.delta=0.4 is not below 1 / 3 clients"),
    (["transforms.dp.clipping=adaptive"], r"count has noise of 0.15.*set transforms.dp.count_noise above 0.5"),
    (["model.name=simple_baseline", *SMALL], r"norms gather .*running_mean.*take a model with GroupNorm"),
    (["model.name=simple_baseline", *SMALL, "algorithm.name=fedbn"], r"norms gather .*num_batches_tracked"),
    (["aggregation.name=median"], r"dp: the accountant knows of sums.*set aggregation.name=mean"),
    (["devices.profiles={high: phone, mid: phone, low: phone}"], r"dp: devices decide who answers.*set devices=null"),
    (["transforms.dp.noise_multiplier=0"], r"transforms.dp.noise_multiplier"),
])  # fmt: skip
def test_what_the_accountant_cannot_answer_for_is_refused_in_a_sentence_before_anything_starts(words, says):
    with pytest.raises(InputError, match=says) as error:
        prepare(tiny(*DP_WORDS, *words))
    assert "\n" not in str(error.value)


def test_compression_may_come_before_it():
    prepare(tiny(*DP_WORDS, "transforms.apply=[topk, int8, dp]"))
    prepare(tiny(*DP_WORDS, "algorithm.name=feddyn"))


def test_a_vector_that_a_method_did_not_say_it_sends_fails_the_client():
    with pytest.raises(RunError, match="it sends control too, which dp does not protect"):
        DP().client({WEIGHTS: update_of(1.0), "control": update_of(1.0)}, {}, {}, LAYOUT, RNG)


def test_without_the_library_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "dp_accounting", None)
    with pytest.raises(InputError, match=r"pip install 'raf-ray\[dp\]'"):
        prepare(tiny(*DP_WORDS))
    prepare(tiny("transforms.apply=[clip]"))


def test_the_method_is_told_of_the_expected_cohort_alone():
    """FedDyn's server counts clients: how many were drawn must not show in the model."""
    told = []

    class Tells(FedAvg):
        def server_step(self, weights, mean, server, cohort):
            told.append(cohort.answered)
            return super().server_step(weights, mean, server, cohort)

    for transforms in ([DP()], []):
        server = Server(Tells("equal"), LAYOUT, 20, np.zeros(LAYOUT.num_bytes, np.uint8), {}, transforms=transforms,
                        expected=2.0)  # fmt: skip
        total = server.round([("c", 1)])
        total.add(Up("c", 0, {WEIGHTS: update_of(1.0)}, np.zeros(0, np.int64)), ["c"])
        server.step(total)
    assert told == [2.0, 1]
