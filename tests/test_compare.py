"""Several methods from one start, in one table and one plot."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from rich.console import Console

from raf_ray.cli import run_command
from raf_ray.compare import at_equal_compute, compare, methods_of
from raf_ray.config.loading import differences
from raf_ray.errors import InputError
from raf_ray.report.tables import results_table
from raf_ray.request import assembly
from raf_ray.request.plans import expected_pixels, plan_clients
from raf_ray.run import main
from tests.tiny import WORDS, tiny

CONFIG = tiny("federation.engine=in_process")


def run(output, **options):
    settings = {"only": None, "equal_compute": False, "resume": False, "overwrite": False, "address": None}
    return compare(CONFIG, output, console=Console(quiet=True), **{**settings, **options})


def test_the_methods_differ_in_objective_and_clients_only():
    methods = methods_of(CONFIG)
    assert list(methods) == ["fedavg-high", "fedavg-mid", "fedavg-low", "fedavg-mixed", "multires-mixed", "raf-mixed",
                             "raf-plus-mixed"]  # fmt: skip
    for name, config in methods.items():
        changed = set(differences(methods["fedavg-mixed"], config))
        assert all(key.startswith("objective.") or key == "federation.clients" for key in changed), name
    assert methods["fedavg-mid"].federation.clients == ["mid"] * 3
    raf, plus = methods["raf-mixed"].objective, methods["raf-plus-mixed"].objective
    assert (raf.resize, raf.level_weights, raf.sampling) == ("nearest", "equal", "all")
    assert (plus.resize, plus.level_weights, plus.sampling) == ("matched", "area", "pair")


@pytest.mark.parametrize("method", ["fedprox", "raf_ray.algorithms.fedavgm:FedAvgM"])
def test_the_runs_of_another_fl_method_are_called_by_it(method):
    label = method.rpartition(":")[2].lower()
    methods = methods_of(tiny(f"algorithm.name={method}"))
    assert list(methods) == [f"{label}-high", f"{label}-mid", f"{label}-low", f"{label}-mixed",
                             f"multires-{label}-mixed", f"raf-{label}-mixed", f"raf-plus-{label}-mixed"]  # fmt: skip
    assert {config.algorithm.name for config in methods.values()} == {method}


def test_what_a_one_tier_reference_cannot_be_is_said_of_it(tmp_path):
    config = tiny("attack.name=noise", "attack.tier=low", "attack.share=0.3", "federation.engine=in_process")
    said = r"fedavg-high, where all clients are of one tier: attack\.tier=low: no client .*; --only leaves it out"
    with pytest.raises(InputError, match=said):
        compare(config, tmp_path / "out", only=None, equal_compute=False, resume=False, overwrite=False, address=None,
                console=Console(quiet=True))  # fmt: skip
    assert not (tmp_path / "out").exists()


def test_all_start_from_the_same_weights_and_people():
    prepared = [assembly.prepare(config) for config in methods_of(CONFIG).values()]
    for request in prepared[1:]:
        assert (request.initial == prepared[0].initial).all()
        for a, b in zip(request.data, prepared[0].data, strict=True):
            assert (a.people.person_id == b.people.person_id).all()


def test_equal_compute_gives_each_method_raf_mixeds_pixels_within_a_round():
    config = tiny("federation.rounds=40", "optimizer.schedule=steps", "optimizer.steps=[20]")
    prepared = {name: assembly.prepare(method) for name, method in methods_of(config).items()}
    requests = at_equal_compute(prepared, "raf-mixed")
    methods = {name: request.config for name, request in requests.items()}

    def pixels(config):
        return expected_pixels(config, plan_clients(config), np.full(3, 12)).sum()

    budget = pixels(methods["raf-mixed"]) * 40
    assert methods["raf-mixed"].federation.rounds == 40
    for name, config in methods.items():
        total = pixels(config) * config.federation.rounds
        assert budget - pixels(config) < total <= budget * (1 + 1e-9), name
    # 1.59 x and 1.36 x FedAvg's forward pixels, by hand from the tiers' sizes
    assert methods["fedavg-mixed"].federation.rounds == 63
    assert methods["fedavg-mixed"].optimizer.steps == [32]
    assert methods["raf-plus-mixed"].federation.rounds == 46


def test_an_objective_of_ones_own_is_not_dropped_in_silence():
    with pytest.raises(InputError, match=r"of objective\.\* only levels can be given"):
        methods_of(tiny("objective.alpha=0.7"))
    assert methods_of(tiny("objective.levels=[low]"))["raf-mixed"].objective.levels == ["low"]


def test_a_comparison_leaves_a_folder_a_run_and_fills_in_the_references(tmp_path):
    results = run(tmp_path / "out", only=["fedavg-high", "fedavg-mid", "fedavg-low", "fedavg-mixed"])
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {*results, "comparison.json", "comparison.csv", "drift.png"}
    mixed = results["fedavg-mixed"]
    expected = sum(
        results[f"fedavg-{tier}"]["by_resolution"][size] - mixed["by_resolution"][size]
        for tier, size in (("high", "128x96"), ("mid", "96x72"), ("low", "64x48"))
    )
    assert mixed["drift_to_reference"] == pytest.approx(expected / 3)
    stored = json.loads((tmp_path / "out" / "fedavg-mixed" / "results.json").read_text())
    assert stored["drift_to_reference"] == mixed["drift_to_reference"]
    again = run(tmp_path / "out", only=list(results), resume=True)
    assert again == results


def test_without_references_drift_to_reference_is_null_and_costs_are_relative(tmp_path):
    results = run(tmp_path / "out", only=["fedavg-mixed", "raf-mixed"])
    assert results["raf-mixed"]["drift_to_reference"] is None
    ratio = results["raf-mixed"]["totals"]["forward_pixels"] / results["fedavg-mixed"]["totals"]["forward_pixels"]
    levels = [128 * 96, 96 * 72, 64 * 48]
    assert ratio == pytest.approx((levels[0] + 2 * levels[1] + 3 * levels[2]) / sum(levels))
    console = Console(width=80, record=True, quiet=False, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(results_table(results, baseline="fedavg-mixed"))
    text = console.export_text()
    assert "…" not in text  # nothing is cut off on a terminal of 80 characters
    assert f"x {ratio:.2f}" in text and "fedavg" in text and "128x96*" in text


def test_the_command_prints_one_table_and_says_where_the_results_are(tmp_path, capsys):
    words = [
        *WORDS,
        "federation.engine=in_process",
        "--compare",
        "--only",
        "fedavg-mixed",
        "--output",
        str(tmp_path / "o"),
    ]
    assert run_command(main, words) == 0
    output = capsys.readouterr()
    assert output.out.count("PCK@0.2 of the torso on test (%)") == 1
    assert f"Results: {tmp_path / 'o'}" in output.out
    assert output.err == ""


def test_a_model_continues_from_a_runs_checkpoint(tmp_path):
    first = run(tmp_path / "a", only=["fedavg-mixed"])
    path = tmp_path / "a" / "fedavg-mixed" / "model.pt"
    prepared = assembly.prepare(tiny("federation.engine=in_process", f"model.checkpoint={path}"))
    state = torch.load(path, weights_only=True)["model"]
    for name, tensor in prepared.layout.tensors(prepared.initial).items():
        assert torch.equal(tensor, state[name])
    assert first
