"""Methods that leave clients part of the model: what stays, where they rest, and whose model is scored where."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch import nn

from raf_ray import run_federation
from raf_ray.algorithms.fedbn import FedBN
from raf_ray.algorithms.fedper import FedPer
from raf_ray.algorithms.interface import PRIVATE
from raf_ray.algorithms.local import Local
from raf_ray.errors import InputError
from raf_ray.evaluation.own import OwnModel, sizes_of_clients, states
from raf_ray.evaluation.scores import Scores, mean_scores
from raf_ray.models import build_model, head_of
from raf_ray.request.assembly import own_sizes, prepare
from raf_ray.request.plans import upsampled_sizes
from raf_ray.resolution import parse_size
from raf_ray.saved import load_run, score_run, scorer_of_run
from raf_ray.state import Layout
from raf_ray.training.traffic import traffic
from raf_ray.transforms.dp import DP
from raf_ray.transforms.half import Half
from raf_ray.transforms.int8 import Int8
from tests.quadratics import DIM, Quadratics, private_fixed_point, random_clients, shares
from tests.test_methods_run import in_process, state
from tests.tiny import tiny


class Normed(nn.Module):
    """A norm of each kind between other layers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.batch = nn.Sequential(nn.BatchNorm2d(4), nn.ReLU())
        self.group = nn.GroupNorm(2, 4)
        self.layer = nn.LayerNorm(5)
        self.head = nn.Linear(5, 2)


def private_names(algorithm, model=None) -> set[str]:
    return {entry.name for entry in Layout.of(model or Normed()).part(algorithm.is_private).entries}


# --- what stays -------------------------------------------------------------------------------------------------


def test_fedbn_leaves_clients_scale_shift_and_statistics_of_every_norm_and_nothing_else():
    of_batch = {f"batch.0.{what}" for what in ("weight", "bias", "running_mean", "running_var")}
    rest = {f"{norm}.{what}" for norm in ("group", "layer") for what in ("weight", "bias")}
    assert private_names(FedBN()) == of_batch | rest


def test_fedper_leaves_clients_the_modules_that_are_named_and_no_namesakes():
    assert private_names(FedPer()) == {"head.weight", "head.bias"}
    assert private_names(FedPer(personal=("gr", "layer"))) == {"layer.weight", "layer.bias"}


@pytest.mark.parametrize("name", ["demo", "simple_baseline", "vitpose_small"])
def test_the_default_of_fedper_is_the_head_of_every_built_in_model(name):
    model = build_model(name, 17)
    head = {id(parameter) for parameter in head_of(model).parameters()}
    found = {name for name, parameter in model.named_parameters() if id(parameter) in head}
    assert found and found == private_names(FedPer(), model) & set(dict(model.named_parameters()))


@pytest.mark.parametrize("name", ["demo", "simple_baseline", "vitpose_small"])
def test_every_built_in_models_heatmaps_are_its_heads_answer_to_its_features(name):
    model = build_model(name, 17).eval()
    images = torch.rand(2, 3, 64, 48)
    with torch.no_grad():
        torch.testing.assert_close(model(images), head_of(model)(model.features(images))[..., :16, :12])


def test_local_leaves_clients_all_of_it():
    assert private_names(Local()) == {entry.name for entry in Layout.of(Normed()).entries if entry.kind != "counters"}


def test_a_part_is_taken_out_and_put_back_where_it_was():
    layout = Layout.of(Normed())
    floats = np.arange(layout.num_floats, dtype=np.float32)
    part = layout.part(FedBN().is_private)
    taken = part.take(floats)
    by_name = {entry.name: floats[entry.start : entry.start + entry.size] for entry in layout.entries}
    np.testing.assert_array_equal(taken, np.concatenate([by_name[entry.name] for entry in part.entries]))
    changed = floats.copy()
    part.put(changed, -taken)
    assert (changed == np.where(np.isin(floats, taken), -floats, floats)).all()


# --- where they come to rest ------------------------------------------------------------------------------------


def test_fedper_rests_where_no_client_moves_its_head_and_the_mean_of_the_others_moves_is_zero():
    tasks = random_clients()
    federation = Quadratics(FedPer(personal=("first",)), tasks)
    for _ in range(60):
        federation.round()
    own, shared = private_fixed_point(tasks, shares(tasks), 0.3)
    np.testing.assert_allclose([federation.memories[c.name][PRIVATE][0] for c in federation.clients], own, atol=2e-6)
    np.testing.assert_allclose(federation.weights[1:], shared, atol=2e-6)


def test_alone_each_client_reaches_its_own_optimum_and_the_server_none():
    tasks = random_clients()
    federation = Quadratics(Local(), tasks)
    for _ in range(60):
        federation.round()
    for client, task in zip(federation.clients, tasks, strict=True):
        np.testing.assert_allclose(federation.memories[client.name][PRIVATE][:DIM], task.b, atol=1e-5)
    assert (federation.weights == 0).all()


def test_fedbn_of_a_model_without_norms_is_refused():
    with pytest.raises(InputError, match=r"algorithm\.name=fedbn: the model has no norm layers"):
        prepare(tiny("algorithm.name=fedbn", "model.name=tests.broken:NoNorm"))


@pytest.mark.parametrize(
    ("personal", "says"),
    [("[neck]", r"personal=neck names no part of the model \(its parts: down_quarter, .*head\)"),
     ("[down_quarter, down_eighth, down_sixteenth, to_eighth, merge_eighth, to_quarter, merge_quarter, head]",
      "names the whole model")],
)  # fmt: skip
def test_personal_layers_that_are_none_or_all_are_refused(personal, says):
    with pytest.raises(InputError, match=says):
        prepare(tiny("algorithm.name=fedper", f"algorithm.fedper.personal={personal}"))


# --- whose model is scored where --------------------------------------------------------------------------------


def sizes(*texts: str):
    return [parse_size(text) for text in texts]


def test_a_size_is_scored_by_who_owns_it_or_else_the_nearest_by_the_ratio_of_pixels():
    clients = [("a", parse_size("128x96")), ("b", parse_size("96x72")), ("c", parse_size("64x48"))]
    asked = sizes("160x120", "128x96", "112x84", "96x72", "80x60", "64x48", "48x36")
    found = sizes_of_clients(clients, asked, 8, {})
    # 112 / 96 = 1.167 < ... > 128 / 112 = 1.143; 96 / 80 = 1.2 < 80 / 64 = 1.25
    assert {client: [str(size) for size in own] for client, own in found.items()} == {
        "a": ["160x120", "128x96", "112x84"], "b": ["96x72", "80x60"], "c": ["64x48", "48x36"],
    }  # fmt: skip


def test_a_size_that_is_interpolated_is_scored_by_who_trained_at_the_size_that_the_model_sees():
    prepared = prepare(tiny("algorithm.name=local", "evaluation.upsample=bilinear", "evaluation.resolutions=[72x56]"))
    (to,) = [big for small, big in upsampled_sizes(prepared.config, prepared.plans).items() if str(small) == "72x56"]
    (owner,) = [client for client, scored in own_sizes(prepared).items() if parse_size("72x56") in scored]
    assert (str(to), owner) == ("96x72", "client-mid-000")
    clients = [("a", parse_size("96x72")), ("b", parse_size("64x48"))]
    to_largest = {size: parse_size("96x72") for size in sizes("64x48", "48x36")}
    found = sizes_of_clients(clients, sizes("96x72", "64x48", "48x36"), 8, to_largest)
    assert found == {"a": tuple(sizes("96x72", "48x36")), "b": tuple(sizes("64x48"))}


def test_of_two_sizes_as_near_the_larger_has_it():
    clients = [("small", parse_size("32x32")), ("large", parse_size("128x128"))]
    assert sizes_of_clients(clients, sizes("64x64"), 8, {}) == {"large": tuple(sizes("64x64")), "small": ()}


def test_the_first_clients_of_each_size_are_scored():
    clients = [(f"{size}-{i}", parse_size(size)) for i in range(3) for size in ("64x48", "32x24")]
    found = sizes_of_clients(clients, sizes("64x48", "32x24"), 2, {})
    assert set(found) == {"64x48-0", "64x48-1", "32x24-0", "32x24-1"}


def scores(**by_resolution: float) -> Scores:
    found = {name.replace("s", ""): value for name, value in by_resolution.items()}
    return Scores("val", "m", found, {size: {"nose": v} for size, v in found.items()}, 5, 0, dict.fromkeys(found, 0.5))


def test_a_size_has_the_mean_over_its_clients():
    found = mean_scores({"a": scores(s64x48=0.2), "b": scores(s64x48=0.6), "c": scores(s32x24=0.5)},
                        sizes("64x48", "32x24"))  # fmt: skip
    assert found.by_resolution == {"64x48": pytest.approx(0.4), "32x24": 0.5}
    assert found.per_joint["64x48"] == {"nose": pytest.approx(0.4)}
    assert found.by_client == {"a": {"64x48": 0.2}, "b": {"64x48": 0.6}, "c": {"32x24": 0.5}}


def test_who_is_no_client_gets_the_mean_of_the_clients_own_parts():
    layout = Layout.of(nn.Linear(2, 1))
    part = layout.part(lambda entry: entry.name == "bias")
    shared = layout.read(nn.Linear(2, 1))
    given = [OwnModel("a", (), np.array([1.0], np.float32)), OwnModel("b", (), np.array([4.0], np.float32))]
    found = {name: layout.tensors(one) for name, one in states(layout, part, shared, given).items()}
    assert {name: float(one["bias"]) for name, one in found.items()} == {"a": 1.0, "b": 4.0, None: 2.5}
    assert all(torch.equal(one["weight"], found["a"]["weight"]) for one in found.values())


@pytest.fixture(scope="module")
def fedbn(tmp_path_factory):
    """A finished run of two clients of one tier and one of another."""
    path = tmp_path_factory.mktemp("fedbn") / "run"
    in_process(path, "algorithm.name=fedbn", "federation.clients=[mid,mid,low]", "evaluation.resolutions=[48x36]")
    return path


def test_results_are_the_clients_own_models_scores_again(fedbn):
    values = json.loads((fedbn / "results.json").read_text())
    again = {}
    for client in ("client-mid-000", "client-mid-001", "client-low-000"):
        scorer, asked = scorer_of_run(load_run(fedbn, client=client))
        again[client] = scorer.score("test", asked).by_resolution
    mid = [again[f"client-mid-00{i}"]["96x72"] for i in range(2)]
    assert values["by_resolution"] == {
        "96x72": pytest.approx(np.mean(mid)),
        "64x48": again["client-low-000"]["64x48"],
        "48x36": again["client-low-000"]["48x36"],
    }
    assert values["by_client"]["client-mid-001"] == {"96x72": mid[1]}
    found, _ = score_run(load_run(fedbn))
    assert (found.by_resolution, found.by_client) == (values["by_resolution"], values["by_client"])


def test_model_files_share_all_but_the_norms(fedbn):
    models = [torch.load(path, weights_only=True)["model"] for path in sorted(fedbn.glob("model-client-*.pt"))]
    assert len(models) == 3
    layout = Layout.of(load_run(fedbn).model)
    for entry in layout.entries:
        alike = all(torch.equal(models[0][entry.name], model[entry.name]) for model in models[1:])
        assert alike == (not entry.norm), entry.name
        expected = torch.stack([model[entry.name].double() for model in models]).mean(0)
        torch.testing.assert_close(state(fedbn)[entry.name].double(), expected, atol=1e-6, rtol=0)


def test_what_stays_is_not_counted_as_sent(fedbn):
    values = json.loads((fedbn / "results.json").read_text())
    layout = Layout.of(load_run(fedbn).model)
    shared = sum(entry.size for entry in layout.entries if not entry.norm)
    assert values["totals"]["mb_up"] == pytest.approx(2 * 3 * shared * 4 / 1e6)


def test_a_client_that_has_not_trained_is_scored_by_what_the_server_has(tmp_path):
    words = ("algorithm.name=local", "federation.participation=0.3", "federation.rounds=1")
    values = in_process(tmp_path / "run", *words).values
    fresh = in_process(tmp_path / "fresh", "optimizer.lr=1e-30", "federation.rounds=1", "objective.name=heatmap").values
    trained = {"high": "128x96", "mid": "96x72", "low": "64x48"}
    before = {size: fresh["by_resolution"][size] for size in trained.values()}
    untrained = [s for t, s in trained.items() if t not in values["cost_by_tier"]]
    assert len(untrained) == 2
    assert all(values["by_resolution"][size] == before[size] for size in untrained)


def test_on_ray_they_are_scored_to_the_same_bits(tmp_path, fedbn, ray_cluster):
    words = ("algorithm.name=fedbn", "federation.clients=[mid,mid,low]", "evaluation.resolutions=[48x36]")
    found = run_federation(tiny(*words, "resources.clients_per_actor=2"), tmp_path / "run").values
    here = json.loads((fedbn / "results.json").read_text())
    assert found["by_client"] == here["by_client"]
    assert (tmp_path / "run" / "scores.csv").read_text() == (fedbn / "scores.csv").read_text()


def test_own_models_are_removed_with_the_run_that_replaces_theirs(tmp_path):
    path = tmp_path / "run"
    in_process(path, "algorithm.name=local", "federation.rounds=1")
    assert len(list(path.glob("model-*.pt"))) == 3
    in_process(path, "federation.rounds=1", overwrite=True)
    assert not list(path.glob("model-*.pt"))


def test_samples_are_drawn_again_by_the_clients_models(tmp_path, fedbn):
    (fedbn / "samples.png").unlink()
    in_process(fedbn, "algorithm.name=fedbn", "federation.clients=[mid,mid,low]", "evaluation.resolutions=[48x36]",
               resume=True)  # fmt: skip
    assert (fedbn / "samples.png").stat().st_size > 10_000


def test_a_client_without_a_model_of_its_own_is_named(fedbn):
    with pytest.raises(InputError, match=r"no model-client-high-000\.pt in it; the first clients of a size"):
        load_run(fedbn, client="client-high-000")


@pytest.mark.parametrize("name", ["int8", "dp"])
def test_what_a_coding_adds_to_a_layer_is_counted_of_the_layers_that_are_sent(name):
    model = build_model("demo", 17, 0)
    layout = Layout.of(model)
    chain = [Int8()] if name == "int8" else [Half(), DP(clipping="per_layer")]
    bits, sent = 8 if name == "int8" else 16, [e for e in layout.weights if not e.name.startswith("head.")]
    assert traffic(Local(), chain, model, layout)[1] == 0
    assert traffic(FedPer(), chain, model, layout)[1] == sum(e.size for e in sent) * bits // 8 + 4 * len(sent)
