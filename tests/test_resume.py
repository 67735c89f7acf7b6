"""A run that was stopped, anywhere and however often, ends with the files of one that was not: all but times."""

from __future__ import annotations

import csv
import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from raf_ray.config import Config, load_config, write_yaml
from raf_ray.errors import InputError
from raf_ray.experiment.run import check_output
from raf_ray.federation.accounting import TOTALS
from raf_ray.federation.engines import InProcess
from raf_ray.federation.spec import FederationSpec
from raf_ray.request import assembly
from raf_ray.runs.folder import RunFolder

WORDS = (
    "data.name=tests.broken:partly_unreadable", "data.on_bad_image=skip", "data.skeleton=mpii16", "data.val_people=6",
    "data.people_per_client=8", "data.test_people=6", "resolution.tiers={high: 64x48, mid: 48x36, low: 32x24}",
    "federation.clients=[high, mid, mid, mid, low]", "federation.participation=0.5", "federation.rounds=3",
    "federation.engine=in_process", "optimizer.batch_size=4", "evaluation.resolutions=[40x32]", "evaluation.every=1",
    "tracking.mlflow=false", "seed=1", "model.name=tests.broken:OneConv",
)  # fmt: skip
TIMES = {"seconds", "wait_seconds", "people_per_s", "peak_memory_mb"}


def config_of(*words: str) -> Config:
    return load_config(overrides=[*WORDS, *words])


def spec_of(prepared) -> FederationSpec:
    return assembly.federation_spec(prepared, "run")


def train(prepared, folder: Path, stop_at: int | None = None, resume: bool = False) -> int:
    """Run, or go on with the run in `folder`, to its end or to the event number `stop_at`; the events seen."""
    run = RunFolder(folder)
    checkpoint = None
    if resume:
        check_output(folder, prepared.config, resume=True, overwrite=False)
        checkpoint = spec_of(prepared).last_checkpoint(run)
    else:
        run.create(write_yaml(prepared.config), overwrite=False)
    count = 0
    events = InProcess().run(spec_of(prepared), run, checkpoint)
    for count, event in enumerate(events, 1):
        if count == stop_at:
            events.close()  # as a kill: nothing more is written
            break
        assert not hasattr(event, "message"), event.message
    return count


def without_times(value):
    if isinstance(value, dict):
        return {key: without_times(item) for key, item in value.items() if key not in TIMES}
    return value


def told(folder: Path) -> dict:
    """All that a run folder tells of the run, but times and the folder's own name."""
    tables = {}
    for name in ("rounds.csv", "scores.csv"):
        with open(folder / name, encoding="utf-8") as file:
            tables[name] = [without_times(row) for row in csv.DictReader(file)]
    results = without_times(json.loads((folder / "results.json").read_text()))
    saved = torch.load(folder / "model.pt", weights_only=True)
    return {**tables, "results": {**results, "name": ""}, "model": {k: v.tolist() for k, v in saved["model"].items()}}


KINDS = {
    "one size": ["objective.name=heatmap"],
    "kept moments": ["optimizer.reset_each_round=false"],
    "sampled levels, augmented": ["objective.sampling=pair", "data.augment=true", "federation.local_epochs=2"],
    "rare checkpoints": ["federation.checkpoint_every=2", "evaluation.every=2"],
    "final scores on val": ["evaluation.split=val"],
    "final scores on val at other sizes": ["evaluation.split=val", "evaluation.round_sizes=all"],
    "nobody waits for whole rounds": [
        "algorithm.name=fedbuff", "devices.profiles={high: phone, mid: camera, low: phone}", "transforms.apply=[topk]",
        "federation.participation=1", "federation.rounds=4",
    ],
    "training people scored too": ["evaluation.train_people=7", "evaluation.every=2"],
    "all take part": ["federation.participation=1"],
}  # fmt: skip


FREE = (
    ["data.cache_mb=0", "federation.checkpoint_every=2"],
    ["resources.cpus_per_client=0.5", "tracking.experiment=other"],
    ["data.cache_mb=0.05", "federation.engine=ray"],
    [],
)
"""Words that a resume may change."""


@pytest.mark.parametrize("words", KINDS.values(), ids=KINDS)
def test_whatever_a_run_tells_is_equal_after_several_stops_and_changes_of_free_keys(words, tmp_path):
    prepared = assembly.prepare(config_of(*words))
    train(prepared, tmp_path / "whole")
    expected = told(tmp_path / "whole")
    assert expected["results"]["status"] == "completed"
    assert sum(cost["bad_pictures"] for cost in expected["results"]["cost_by_tier"].values()) > 0
    folder, session = tmp_path / "stopped", 0
    while not (folder / "results.json").exists() or RunFolder(folder).results()["status"] != "completed":
        own = prepared if session == 0 else assembly.prepare(config_of(*words, *FREE[session % len(FREE)]))
        train(own, folder, stop_at=4 + 6 * session, resume=session > 0)
        session += 1
    assert session > 2
    assert told(folder) == expected


def test_whatever_a_run_tells_is_equal_after_a_stop_at_any_event(tmp_path):
    words = ("optimizer.reset_each_round=false",)
    prepared = assembly.prepare(config_of(*words))
    events = train(prepared, tmp_path / "whole")
    expected = told(tmp_path / "whole")
    for stop in range(1, events + 1):
        train(prepared, tmp_path / str(stop), stop)
        train(prepared, tmp_path / str(stop), resume=True)
        assert told(tmp_path / str(stop)) == expected, stop


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """A run that was stopped after its first checkpoint, and what it was asked for."""
    prepared = assembly.prepare(config_of("optimizer.reset_each_round=false"))
    folder = tmp_path_factory.mktemp("runs") / "stopped"
    train(prepared, folder, stop_at=6)
    return prepared, folder


@pytest.fixture
def run(stopped, tmp_path):
    prepared, folder = stopped
    shutil.copytree(folder, tmp_path / "run")
    return prepared, tmp_path / "run"


def load(run):
    prepared, folder = run
    return spec_of(prepared).last_checkpoint(RunFolder(folder))


def test_a_checkpoint_holds_all_that_the_account_tells(run):
    checkpoint = load(run)
    assert checkpoint.round == 1
    assert set(checkpoint.account) == {"totals", "costs", "bad"} and sum(checkpoint.account["bad"].values()) > 0


CHECKPOINTS = {
    "a list": (lambda values: [1, 2], "it is no checkpoint"),
    "a tensor": (lambda values: torch.zeros(3), "it is no checkpoint"),
    "a state dict": (lambda values: {"model": torch.zeros(3)}, "it is no checkpoint"),
    "of an earlier version": (
        lambda values: {**{k: v for k, v in values.items() if k != "account"}, "totals": {}, "costs": {}},
        "it holds no 'account', as one of another version of raf-ray",
    ),
    "of a later version": (lambda values: {**values, "more": 1}, "it holds a 'more', as one of another version"),
    "of no round": (lambda values: {**values, "round": "first"}, "its round is 'first', of 3 rounds"),
    "of a round beyond the last": (lambda values: {**values, "round": 99}, "its round is 99, of 3 rounds"),
    "of another model": (lambda values: {**values, "buffer": values["buffer"][8:]}, "its state is not the"),
    "of floats": (lambda values: {**values, "buffer": values["buffer"].float()}, "its state is not the"),
    "of no state": (lambda values: {**values, "buffer": "none"}, "its state is not the"),
    "with NaN": (lambda values: {**values, "buffer": torch.full_like(values["buffer"], 255)}, "its state holds NaN"),
    "of other clients": (lambda values: {**values, "clients": {"client-top-000": 1}}, "its clients are others"),
    "of a list of clients": (lambda values: {**values, "clients": [1]}, "its clients are others"),
    "of a later round's clients": (
        lambda values: {**values, "clients": {"client-mid-000": 99}}, "its clients are of no round of it"),
    "with a method's memory that is none": (
        lambda values: {**values, "server": {"control": 3}}, "what its method keeps is no vectors"),
    "without an account": (lambda values: {**values, "account": 3}, "it holds no totals"),
    "with another account": (lambda values: {**values, "account": {"totals": {}}}, "its totals are not those"),
    "with a text for a number": (
        lambda values: {**values, "account": {**values["account"], "totals": {"seconds": "1"}}},
        "its totals are no numbers",
    ),
    "with a list for a mapping": (
        lambda values: {**values, "account": {**values["account"], "costs": [1]}}, "its totals are no mappings"),
    "with NaN in its costs": (
        lambda values: {**values, "account": {**values["account"], "totals": dict.fromkeys(TOTALS, float("nan"))}},
        "its totals are no numbers",
    ),
    "with another tier's costs": (
        lambda values: {**values, "account": {**values["account"], "costs": {"top": {}}}}, "its totals are not those"),
    "with another client's pictures": (
        lambda values: {**values, "account": {**values["account"], "bad": {"top": 1}}}, "its counts of pictures"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "says"), CHECKPOINTS.values(), ids=CHECKPOINTS)
def test_a_checkpoint_that_is_not_this_runs_is_refused_in_a_sentence(change, says, run):
    path = run[1] / "checkpoint.pt"
    torch.save(change(torch.load(path, weights_only=True)), path)
    with pytest.raises(InputError) as error:
        load(run)
    assert f"{path} is not this run's: {says}" in str(error.value)
    assert "start again with --overwrite" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("content", [b"", b"\0" * 100, b"text", pickle.dumps(print, protocol=2), b"PK\x03\x04cut"])
def test_a_damaged_checkpoint_is_refused_in_a_sentence(content, run):
    (run[1] / "checkpoint.pt").write_bytes(content)
    with pytest.raises(
        InputError, match=r"checkpoint.pt cannot be read \(\w+\); start again with --overwrite"
    ) as error:
        load(run)
    assert "\n" not in str(error.value)


def test_moments_that_fit_no_optimiser_end_the_run_with_the_clients_name(run):
    prepared, folder = run
    path = next((folder / "clients").iterdir())
    name = path.stem.rpartition("-")[0]
    with np.load(path) as kept:
        cut = {key: values[:2] for key, values in kept.items()}
    np.savez(path, **cut)
    events = list(InProcess().run(spec_of(prepared), RunFolder(folder), load(run)))
    assert events[-1].status == "failed"
    assert f"client {name}" in events[-1].message and "start again with --overwrite" in events[-1].message


TABLES = {
    b"": "does not hold the rounds 1 to 1 once each",
    b"\xff\xfe\x00\x00\x01": "is no UTF-8 text",
    b"round,loss\n1,\xfc\n": "is no UTF-8 text",
    b"loss\n3\n": "does not hold the rounds 1 to 1 once each",
    b"round,loss\n2,0.1\n": "does not hold the rounds 1 to 1 once each",
    b"round,loss\n1,0.1\n1,0.1\n": "does not hold the rounds 1 to 1 once each",
    b"round,loss\n1,high\n": "is damaged at round 1, loss",
    b"round,loss\n1\n": "is damaged at round 1, loss",
    b"round,loss\n1,2,3\n": "is damaged at round 1, its end",
    b'round,loss\n1,"' + b"2" * 200_000 + b"\n": "is damaged",
    b"\0\0\0\0": "does not hold the rounds 1 to 1 once each",
}


@pytest.mark.parametrize(("content", "says"), TABLES.items(), ids=range(len(TABLES)))
def test_a_damaged_table_of_rounds_is_refused_before_the_run_goes_on(content, says, run):
    (run[1] / "rounds.csv").write_bytes(content)
    with pytest.raises(InputError) as error:
        load(run)
    assert "rounds.csv" in str(error.value) and says in str(error.value)
    assert "put back the one that the run wrote" in str(error.value) or "save it as UTF-8" in str(error.value)


@pytest.mark.parametrize("content", [b"round,split\n1,\xfc\n", b"round,split,value\n1,val,high\n", b"round,value\n1\n"])
def test_a_damaged_table_of_scores_is_refused_before_the_run_goes_on(content, run):
    (run[1] / "scores.csv").write_bytes(content)
    with pytest.raises(InputError, match=r"scores\.csv"):
        load(run)


def test_a_half_written_last_line_is_dropped_and_rounds_after_the_checkpoint_too(run):
    folder = RunFolder(run[1])
    whole = (folder / "rounds.csv").read_text()
    for more in ("2,0.1,0.2\n3,x\n", "1", "2,0", "\0\0\0"):
        (folder / "rounds.csv").write_text(whole + more)
        load(run)
        folder.cut_rows_after("rounds.csv", 1)
        assert (folder / "rounds.csv").read_text() == whole


RESULTS = (b"[1]", b"3", b"null", b"{}", b'{"status": 3}', b"\xff\xfe", b"", b"[" * 9999, b'{"status": "run')


@pytest.mark.parametrize("content", RESULTS)
def test_damaged_results_are_refused_in_a_sentence(content, run):
    prepared, folder = run
    (folder / "results.json").write_bytes(content)
    with pytest.raises(InputError, match=r"results file .*results\.json ") as error:
        check_output(folder, prepared.config, resume=True, overwrite=False)
    assert "\n" not in str(error.value) and len(str(error.value)) < 400 + len(str(folder))
    RunFolder(folder).mark_ended("failed", "the end")  # keeps quiet: it is said at the end of another error
