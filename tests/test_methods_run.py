"""Methods in whole federations: what clients keep survives a resume, and Ray gives the bits of one process."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import cloudpickle
import numpy as np
import pytest
import torch

from raf_ray import run_federation
from raf_ray.errors import RunError
from raf_ray.request import assembly
from tests.tiny import SMALL, StopAfter, tiny

SCAFFOLD = ("algorithm.name=scaffold", "federation.rounds=3")
KEPT = {
    "controls": SCAFFOLD,
    "controls and moments, some clients a round": (
        *SCAFFOLD, "optimizer.reset_each_round=false", "federation.participation=0.6", "federation.rounds=4",
    ),
    "gradients, some clients a round": (
        "algorithm.name=feddyn", "federation.participation=0.6", "federation.rounds=4",
    ),
    "last models, some clients a round": (
        "algorithm.name=moon", "federation.participation=0.6", "federation.rounds=4",
    ),
    "norms, some clients a round": (
        "algorithm.name=fedbn", "federation.participation=0.6", "federation.rounds=4",
    ),
    "moments of the server": ("algorithm.name=fedyogi", "federation.rounds=3"),
    "from the full gradient, an SGD's momentum": (
        *SCAFFOLD, "algorithm.scaffold.option=I", "optimizer.name=sgd", "optimizer.reset_each_round=false",
    ),
}  # fmt: skip


def in_process(path: Path, *words: str, **options):
    return run_federation(tiny("federation.engine=in_process", *words), path, **options)


def stopped(path: Path, done: int, *words: str) -> Path:
    with pytest.raises(RuntimeError, match="stopped by the test"):
        in_process(path, *words, watchers=[StopAfter(done)])
    return path


def state(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "model.pt", weights_only=True)["model"]


def same(one: Path, other: Path) -> bool:
    a, b = state(one), state(other)
    return all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A finished run with SCAFFOLD, 3 rounds."""
    path = tmp_path_factory.mktemp("whole") / "run"
    in_process(path, *SCAFFOLD)
    return path


@pytest.mark.parametrize("kept", KEPT)
def test_a_stopped_run_goes_on_with_what_its_clients_kept(kept, tmp_path):
    words = (*SMALL, *KEPT[kept])
    in_process(tmp_path / "whole", *words)
    stopped(tmp_path / "part", 2, *words)
    in_process(tmp_path / "part", *words, resume=True)
    assert same(tmp_path / "whole", tmp_path / "part")


def test_without_what_its_clients_kept_it_would_be_another_run(whole, tmp_path):
    part = stopped(tmp_path / "part", 2, *SCAFFOLD)
    for path in (part / "clients").iterdir():
        with np.load(path) as content:
            zeros = {name: np.zeros_like(values) for name, values in content.items()}
        np.savez(path, **zeros)
    in_process(part, *SCAFFOLD, resume=True)
    assert not same(whole, part)


def test_the_folder_holds_one_file_a_client_of_the_last_round_it_trained(whole):
    names = {path.name for path in (whole / "clients").iterdir()}
    assert names == {f"client-{tier}-000-3.npz" for tier in ("high", "mid", "low")}


def test_a_method_that_keeps_nothing_leaves_no_folder_and_overwriting_takes_it_away(tmp_path):
    path = tmp_path / "run"
    in_process(path, *SCAFFOLD, "federation.rounds=1")
    assert (path / "clients").is_dir()
    in_process(path, "federation.rounds=1", overwrite=True)
    assert not (path / "clients").exists()


def test_a_damaged_memory_is_named(tmp_path):
    part = stopped(tmp_path / "part", 2, *SCAFFOLD)
    damaged = next((part / "clients").iterdir())
    damaged.write_bytes(damaged.read_bytes()[:100])
    with pytest.raises(RunError, match=damaged.name):
        in_process(part, *SCAFFOLD, resume=True)


def test_scaffold_sends_twice_as_much_and_says_so(whole, tmp_path):
    plain = in_process(tmp_path / "plain", "federation.rounds=3").values
    totals = json.loads((whole / "results.json").read_text())["totals"]
    assert totals["mb_up"] == pytest.approx(2 * plain["totals"]["mb_up"], rel=0.01)
    assert totals["mb_down"] == pytest.approx(2 * plain["totals"]["mb_down"], rel=0.01)


def test_what_actors_are_sent_holds_no_config():
    """A config's classes would be named in the pickle."""
    prepared = assembly.prepare(tiny(*SCAFFOLD, "data.augment=true"))
    spec = assembly.federation_spec(prepared, "run")
    sent = {
        "client": spec.clients.open,
        "scorer": spec.make_scorer,
        "driver": spec,
    }
    named = {what: b"raf_ray.config" in cloudpickle.dumps(part) for what, part in sent.items()}
    assert named == dict.fromkeys(sent, False)
    assert b"raf_ray.config" in cloudpickle.dumps(prepared.config)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_a_compiled_model_trains_to_the_same_but_for_rounding_under_the_same_names(tmp_path):
    words = ("model.name=tests.broken:OneConv", "federation.rounds=1", "optimizer.name=sgd")
    in_process(tmp_path / "plain", *words)
    in_process(tmp_path / "compiled", *words, "resources.compile=true")
    plain, compiled = state(tmp_path / "plain"), state(tmp_path / "compiled")
    assert plain.keys() == compiled.keys()
    assert all(torch.allclose(plain[name], compiled[name], atol=1e-5) for name in plain)
