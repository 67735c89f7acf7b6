"""MLflow: what a run logs, and that a server that is away never costs the run."""

from __future__ import annotations

import pytest

from raf_ray import run_federation
from raf_ray.config.loading import flatten
from raf_ray.errors import InputError
from raf_ray.tracking.mlflow import MlflowTracker, check_uri
from tests.tiny import tiny


def run(folder, *words):
    config = tiny("federation.engine=in_process", "tracking.mlflow=true", *words)
    warnings: list[str] = []
    results = run_federation(config, folder, watchers=[MlflowTracker(config, warnings.append)])
    return config, results, warnings


def test_a_run_is_logged_with_params_metrics_a_round_and_its_files(tmp_path):
    config, results, warnings = run(tmp_path / "runs" / "mine")
    assert warnings == []
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'runs' / 'mlflow.db'}")
    (found,) = client.search_runs([client.get_experiment_by_name("raf-ray").experiment_id])
    assert found.info.status == "FINISHED" and found.info.run_name == "mine"
    assert found.data.params == {key: str(value) for key, value in flatten(config).items()}
    history = client.get_metric_history(found.info.run_id, "loss")
    assert [metric.step for metric in history] == [1, 2]
    assert found.data.metrics["test/pck_torso_0.2/128x96"] == results.by_resolution["128x96"]
    artifacts = {entry.path for entry in client.list_artifacts(found.info.run_id)}
    assert {"config.yaml", "results.json", "rounds.csv", "model.pt", "drift.png", "samples.png"} <= artifacts


def test_a_server_that_cannot_be_reached_costs_one_warning_not_the_run(tmp_path):
    _, results, warnings = run(tmp_path / "mine", "tracking.uri=http://127.0.0.1:9")
    assert results.values["status"] == "completed"
    assert len(warnings) == 1 and "no server answers at http://127.0.0.1:9" in warnings[0]


@pytest.mark.parametrize("uri", ["nonsense", "./mlruns", "file:///tmp/x", "http://", "https:///path"])
def test_a_malformed_uri_is_refused(uri):
    with pytest.raises(InputError, match="is no tracking server"):
        check_uri(uri)


@pytest.mark.parametrize("uri", [None, "http://host:5000", "sqlite:///a.db", "postgresql://u:p@h/db"])
def test_a_good_uri_is_taken(uri):
    check_uri(uri)
