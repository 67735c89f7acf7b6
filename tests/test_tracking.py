"""MLflow: what a run logs, and that a server that is away costs neither the run nor its record."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from raf_ray.cli import run_command
from raf_ray.config.loading import config_hash, flatten, load_config
from raf_ray.errors import InputError
from raf_ray.federation.events import RoundFinished
from raf_ray.runs.folder import RunFolder
from raf_ray.track import main as track
from raf_ray.tracking.mlflow import Log, SearchTracker, log_afterwards
from raf_ray.tracking.outbox import RECORDS, Outbox
from raf_ray.tracking.store import check_uri, prepare_store
from raf_ray.tracking.system_metrics import sample
from tests.tracking_helpers import CLOCKED, client_of, config_of, history, pretend, run, runs_of, stub_server


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """An undisturbed run, logged to the default local store."""
    folder = tmp_path_factory.mktemp("tracking") / "runs" / "mine"
    results, warnings = run(folder)
    assert warnings == []
    uri = f"sqlite:///{folder.parent / 'mlflow.db'}"
    (found,) = runs_of(uri)
    return folder, results, uri, found


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A local store, made once."""
    return prepare_store(None, tmp_path_factory.mktemp("store"))


# --- what is logged -----------------------------------------------------------------------------------


def test_a_run_has_the_configs_own_names_as_parameters(finished):
    _, _, _, found = finished
    assert found.info.status == "FINISHED" and found.info.run_name == "mine"
    assert found.data.params == {key: str(value) for key, value in flatten(config_of()).items()}


def test_every_round_and_every_scoring_is_logged_at_its_round(finished):
    folder, results, uri, found = finished
    rows = RunFolder(folder).read_rows("rounds.csv")
    points = {(key, step): value for key, step, value in history(uri, found.info.run_id)}
    for row in rows:
        for name, text in row.items():
            if text and name not in ("round", *CLOCKED):
                assert points.pop((name, int(row["round"]))) == pytest.approx(float(text))
    for row in RunFolder(folder).read_rows("scores.csv"):
        assert points.pop((f"{row['split']}/{row['metric']}/{row['resolution']}", int(row["round"]))) == float(
            row["value"]
        )
    scores = [results.by_resolution[size] for size in ("128x96", "96x72", "64x48")]
    assert points.pop(("test/drift_spread", 2)) == pytest.approx(max(scores) - sum(scores) / 3)
    assert points.pop(("drift_spread", 2)) == results.values["drift_spread"]
    assert set(points) == {("val/drift_spread", 1), ("val/drift_spread", 2)}


def test_a_run_is_labelled_with_its_config_seed_tiers_and_folder(finished):
    folder, _, _, found = finished
    tags = found.data.tags
    assert tags["raf_ray.config_hash"] == config_hash(config_of()) and tags["raf_ray.seed"] == "0"
    assert tags["raf_ray.tiers"] == "high 128x96, mid 96x72, low 64x48"
    assert tags["run_folder"] == str(folder.resolve())


def test_the_code_is_labelled_with_its_commit_where_there_is_one(tmp_path, monkeypatch):
    import subprocess

    from raf_ray.tracking.labels import git_tags

    monkeypatch.chdir(tmp_path)
    assert git_tags() == {}
    me = ["-c", "user.name=a", "-c", "user.email=a@b"]
    (tmp_path / "a.py").write_text("1")
    for words in (["init", "-q"], ["add", "."], [*me, "commit", "-qm", "first"]):
        subprocess.run(["git", *words], check=True)
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip()
    assert git_tags() == {"mlflow.source.git.commit": commit, "raf_ray.git_dirty": "false"}
    (tmp_path / "a.py").write_text("2")
    assert git_tags()["raf_ray.git_dirty"] == "true"


def test_the_config_hash_is_of_what_can_change_results():
    base = config_hash(load_config())
    assert len(base) == 16 and base == config_hash(load_config(overrides=["tracking.uri=http://a:1"]))
    assert base == config_hash(load_config(overrides=["resources.dashboard=false"]))
    assert base != config_hash(load_config(overrides=["seed=1"]))


def test_the_files_are_artifacts(finished):
    _, _, uri, found = finished
    artifacts = {entry.path for entry in client_of(uri).list_artifacts(found.info.run_id)}
    assert artifacts == {
        "config.yaml", "results.json", "rounds.csv", "scores.csv", "model.pt", "drift.png", "samples.png", "run.log",
        "model",
    }  # fmt: skip


def test_the_logged_model_finds_the_joints_that_the_runs_model_finds(finished):
    import mlflow

    from raf_ray.data.batches import normalise
    from raf_ray.saved import load_run

    folder, _, uri, found = finished
    mlflow.set_tracking_uri(uri)
    model = mlflow.pyfunc.load_model(f"runs:/{found.info.run_id}/model")
    plain = load_run(folder).model
    for height, width in ((128, 96), (68, 52)):
        pictures = np.random.default_rng(0).integers(0, 256, (2, height, width, 3)).astype(np.uint8)
        joints = model.predict(pictures)
        with torch.inference_mode():
            heatmaps = plain(normalise(torch.from_numpy(pictures)).permute(0, 3, 1, 2)).numpy()
        np.testing.assert_allclose(joints[..., 2], heatmaps.max((2, 3)), rtol=1e-4)
        row, column = np.unravel_index(heatmaps[1, 5].argmax(), heatmaps.shape[2:])
        # The heatmap's pixel in the middle of the picture's 4, and a quarter of it for the refinement.
        assert np.abs(joints[1, 5, :2] - (4 * column + 1.5, 4 * row + 1.5)).max() <= 1
    with pytest.raises(Exception, match=r"whose height and width 4 divides, not 50x48; crop or resize them"):
        model.predict(np.zeros((1, 50, 48, 3), np.uint8))
    assert not [path for path in folder.parent.rglob("*.pkl")]


def test_packing_the_model_leaves_the_random_numbers_alone(finished, tmp_path):
    from raf_ray.tracking.model_package import build_package

    before = torch.random.get_rng_state()
    build_package(finished[0], tmp_path / "model", "some-run")
    assert torch.equal(before, torch.random.get_rng_state())


def test_a_model_is_registered_once_however_often_it_is_sent(finished, tmp_path):
    from raf_ray.tracking.store import MlflowStore

    folder, _, uri, found = finished
    for _ in range(2):
        MlflowStore(uri).log_model(found.info.run_id, folder, "people", lambda: None)
    (one,) = client_of(uri).search_model_versions("name = 'people'")
    assert one.run_id == found.info.run_id and one.source.endswith("/model")


def test_registering_needs_a_logged_model():
    with pytest.raises(InputError, match=r"tracking.register_model needs tracking.log_model=true"):
        config_of("tracking.register_model=a", "tracking.log_model=false")


def test_a_parameter_that_mlflow_would_cut_says_that_it_is_cut(tmp_path, store):
    pretend(tmp_path / "run", f"tracking.uri={store}", "data.root=" + "x" * 7000)
    (found,) = runs_of(store, f"tags.run_folder = '{(tmp_path / 'run').resolve()}'")
    value = found.data.params["data.root"]
    assert len(value) == 6000 and value.endswith("(cut: config.yaml has it whole)")


def test_system_metrics_are_samples_of_this_machine(tmp_path, store, monkeypatch):
    from raf_ray.tracking import system_metrics

    taken = sample()
    assert 0 < taken["system/system_memory_usage_percentage"] <= 100
    monkeypatch.setattr(system_metrics, "SAMPLE_SECONDS", 0.01)
    folder = tmp_path / "run"
    for _ in range(2):  # the second goes on with the first's run
        pretend(folder, f"tracking.uri={store}", "tracking.system_metrics=true", rounds=200)
    steps = [
        record["step"]
        for record, _ in Outbox(folder).read()
        if "system/cpu_utilization_percentage" in record.get("values", {})
    ]
    assert steps == list(range(1, len(steps) + 1))


# --- a server that is away, and what waits ------------------------------------------------------------


def test_a_server_that_only_fails_costs_one_warning_and_sync_sends_everything(finished, tmp_path, store, capsys):
    folder = tmp_path / "runs" / "away"
    with stub_server(500) as uri:
        results, warnings = run(folder, f"tracking.uri={uri}")
    assert results.by_resolution == finished[1].by_resolution
    (warning,) = warnings
    assert f"python -m raf_ray.track sync {folder}" in warning and "500" in warning
    count = sum(1 for _ in Outbox(folder).read())
    assert f"lacks {count} records" in warning

    assert run_command(track, ["sync", str(tmp_path / "runs")]) == 1  # nobody there now
    said = capsys.readouterr()
    assert f"no server answers at {uri}" in said.err and f"{count} records" in said.out
    assert run_command(track, ["sync", str(tmp_path / "runs"), "--uri", store]) == 0
    assert f"{count} records sent to {store}" in capsys.readouterr().out
    (found,) = runs_of(store, f"tags.run_folder = '{folder.resolve()}'")
    assert found.info.status == "FINISHED"
    assert history(store, found.info.run_id) == history(finished[2], finished[3].info.run_id)
    assert run_command(track, ["sync", str(folder), "--uri", store]) == 0
    assert "nothing waits" in capsys.readouterr().out


def test_no_server_costs_one_warning_not_the_run(tmp_path):
    (warning,) = pretend(tmp_path / "mine", "tracking.uri=http://127.0.0.1:9")
    assert "no server answers at http://127.0.0.1:9" in warning


@pytest.mark.parametrize("status", [401, 403])
def test_a_server_that_refuses_access_is_told_of_once_and_the_records_wait(status, tmp_path):
    with stub_server(status) as uri:
        (warning,) = pretend(tmp_path / "mine", f"tracking.uri={uri}")
    assert f"refuses access ({status})" in warning
    assert Outbox(tmp_path / "mine").waiting(uri) == 6  # run, params, 3 rounds, end


def test_records_outlive_a_kill_in_the_middle_of_a_line(tmp_path, store):
    folder = tmp_path / "mine"
    with stub_server(500) as uri:
        pretend(folder, f"tracking.uri={uri}")
    path = folder / RECORDS
    path.write_bytes(path.read_bytes()[:-20])  # the end's line is torn
    assert run_command(track, ["sync", str(folder), "--uri", store]) == 0
    (found,) = runs_of(store, f"tags.run_folder = '{folder.resolve()}'")
    assert [m.step for m in client_of(store).get_metric_history(found.info.run_id, "loss")] == [1, 2, 3]
    assert found.info.status == "FAILED"  # it never said how it ended


def test_a_run_that_goes_on_is_left_to_itself_by_sync(tmp_path, capsys, store):
    folder = tmp_path / "mine"
    pretend(folder, f"tracking.uri={store}")
    running = Outbox(folder)
    assert running.lock()
    assert run_command(track, ["sync", str(folder)]) == 0
    assert "its run goes on" in capsys.readouterr().out


def test_a_folder_without_records_is_a_wrong_request(tmp_path, capsys):
    assert run_command(track, ["sync", str(tmp_path)]) == 2
    assert "holds no MLflow records" in capsys.readouterr().err


def test_the_artifacts_lie_beside_the_local_database_that_sync_is_given(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("seed: 0\n")
    pretend(tmp_path / "run", "tracking.uri=http://127.0.0.1:9")
    store = f"sqlite:///{tmp_path / 'other' / 'mlflow.db'}"
    (tmp_path / "other").mkdir()
    assert run_command(track, ["sync", "run", "--uri", store]) == 0
    assert list((tmp_path / "other" / "mlartifacts").rglob("config.yaml"))
    assert {path.name for path in tmp_path.iterdir()} == {"run", "other"}


def test_overwriting_a_run_makes_a_new_one_in_mlflow(tmp_path, store):
    folder = tmp_path / "mine"
    pretend(folder, f"tracking.uri={store}")
    RunFolder(folder).create("", overwrite=True)
    pretend(folder, f"tracking.uri={store}")
    assert len(runs_of(store, f"tags.run_folder = '{folder.resolve()}'")) == 2


# --- resuming -----------------------------------------------------------------------------------------


class StopAfter:
    """Interrupts a run when a round is done."""

    def __init__(self, done):
        self.done = done

    def begin(self, prepared, folder):
        pass

    def see(self, event):
        if isinstance(event, RoundFinished) and event.round == self.done:
            raise KeyboardInterrupt

    def end(self, folder, results):
        pass


@pytest.mark.parametrize("lost", [False, True], ids=["ctrl-c", "killed before its last records"])
def test_a_resumed_run_goes_on_in_its_own_mlflow_run(lost, finished, tmp_path, store):
    folder = tmp_path / "mine"
    words = (f"tracking.uri={store}",)
    with pytest.raises(KeyboardInterrupt):
        run(folder, *words, watchers=[StopAfter(2)])
    query = f"tags.run_folder = '{folder.resolve()}'"
    (found,) = runs_of(store, query)
    assert found.info.status == "KILLED"
    if lost:
        path = folder / RECORDS
        lines = path.read_bytes().splitlines(keepends=True)
        kept = [line for line in lines if not (b'"metrics"' in line and json.loads(line)["step"] == 1)]
        path.write_bytes(b"".join(kept))
        client_of(store).delete_run(found.info.run_id)  # as if they had never been sent
        (folder / "mlflow.sent.json").unlink()
        words = (*words, "tracking.experiment=raf-ray")
    _, warnings = run(folder, *words, resume=True)
    assert warnings == []
    (found,) = runs_of(store, query)
    assert found.info.status == "FINISHED"
    assert history(store, found.info.run_id) == history(finished[2], finished[3].info.run_id)


def test_what_becomes_known_after_the_end_is_added(tmp_path, store):
    folder = tmp_path / "mine"
    pretend(folder, f"tracking.uri={store}")
    (folder / "results.json").write_text("{}")
    for _ in range(2):
        log_afterwards(config_of(f"tracking.uri={store}"), folder, {"drift_to_reference": 0.25}, 3, print)
    (found,) = runs_of(store, f"tags.run_folder = '{folder.resolve()}'")
    (point,) = client_of(store).get_metric_history(found.info.run_id, "drift_to_reference")
    assert (point.value, point.step) == (0.25, 3) and found.info.status == "FAILED"
    assert [entry.path for entry in client_of(store).list_artifacts(found.info.run_id)] == ["results.json"]


# --- searches -----------------------------------------------------------------------------------------


def test_trials_are_nested_below_their_search_whichever_is_sent_first(tmp_path, store, capsys):
    folder = tmp_path / "search"
    folder.mkdir()
    with stub_server(500) as away:
        tracking = config_of(f"tracking.uri={away}").tracking
        search = SearchTracker(folder, tracking, "alphas", {"trials": 2}, {"kind": "search"}, lambda line: None)
        search.begin()
        for name in ("one", "two"):
            pretend(folder / name, f"tracking.uri={away}", search_id=search.search_id, tags={"trial": name})
        search.metric({"best": 0.5}, 1)
        (folder / "table.csv").write_text("a,b\n")
        search.artifact(folder / "table.csv")
        search.end("FINISHED")
    assert run_command(track, ["sync", str(folder / "one"), "--uri", store]) == 1
    assert "its folder must be sent first" in capsys.readouterr().out
    assert run_command(track, ["sync", str(folder), "--uri", store]) == 0
    (parent,) = runs_of(store, "tags.kind = 'search'")
    assert parent.data.params == {"trials": "2"} and parent.data.metrics == {"best": 0.5}
    assert [entry.path for entry in client_of(store).list_artifacts(parent.info.run_id)] == ["table.csv"]
    children = runs_of(store, f"tags.`raf_ray.search` = '{search.search_id}'")
    assert {child.data.tags["trial"] for child in children} == {"one", "two"}
    assert {child.data.tags["mlflow.parentRunId"] for child in children} == {parent.info.run_id}
    again = SearchTracker(folder, tracking, "alphas", {}, {}, lambda line: None)
    assert again.search_id == search.search_id


def test_a_run_can_be_nested_below_one_that_mlflow_has(tmp_path, store):
    pretend(tmp_path / "mine", f"tracking.uri={store}", parent_run_id="a" * 32)
    (found,) = runs_of(store, f"tags.run_folder = '{(tmp_path / 'mine').resolve()}'")
    assert found.data.tags["mlflow.parentRunId"] == "a" * 32


# --- what is refused ----------------------------------------------------------------------------------


def test_names_that_mlflow_refuses_are_mended(tmp_path, store):
    tracking = config_of(f"tracking.uri={store}").tracking
    log = Log(tmp_path, tracking, tmp_path, lambda line: None)
    log.open("mine", {}, {})
    log.metrics({"AP@[0.5]": 1.0, "nothing": float("nan")}, 1)
    log.close("FINISHED")
    (found,) = runs_of(store, f"tags.`raf_ray.run` = '{log.key}'")
    assert found.data.metrics == {"AP__0.5_": 1.0}


@pytest.mark.parametrize("uri", ["nonsense", "./mlruns", "file:///tmp/x", "http://", "https:///path"])
def test_a_malformed_uri_is_refused(uri):
    with pytest.raises(InputError, match="is no tracking server"):
        check_uri(uri)


@pytest.mark.parametrize("uri", [None, "http://host:5000", "sqlite:///a.db", "postgresql://u:p@h/db"])
def test_a_good_uri_is_taken(uri):
    check_uri(uri)
