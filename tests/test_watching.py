"""What can be watched of a run: round accounting, metrics, actor names and logs, traces, the status command."""

from __future__ import annotations

import csv
import json
import re
import shutil
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch

from raf_ray import run_federation, status
from raf_ray.cli import run_command
from raf_ray.cluster.names import new_namespace, plain_name, ray_name, run_of
from raf_ray.errors import InputError, RunError
from raf_ray.evaluation.scores import Scores
from raf_ray.federation import meters
from raf_ray.federation.events import ActorLost, ClientsFinished, Failed, RoundFinished, RoundStarted, Scored
from raf_ray.report.status import best_trials
from raf_ray.request import assembly
from raf_ray.runs.folder import RunFolder
from tests.tiny import tiny

PROFILE = "resources.profile={client: client-low-000, round: 2}"
DASHBOARD = Path(__file__).parents[1] / "cluster" / "grafana" / "raf_ray.json"


@pytest.fixture(scope="module")
def traced(tmp_path_factory):
    """A finished run in this process, 2 rounds, one client's round traced."""
    path = tmp_path_factory.mktemp("traced") / "mine"
    return run_federation(tiny("federation.engine=in_process", PROFILE), path).folder


def table(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8") as file:
        return list(csv.DictReader(file))


# --- round accounting -----------------------------------------------------------------------------------


def test_a_rounds_update_norm_is_the_distance_its_only_client_moved(tmp_path):
    config = tiny("federation.engine=in_process", "federation.participation=0.3", "federation.rounds=1")
    prepared = assembly.prepare(config)
    folder = run_federation(config, tmp_path / "run").folder
    (row,) = table(folder / "rounds.csv")
    norms = {tier: row[f"update_norm_{tier}"] for tier in ("high", "mid", "low")}
    (norm,) = filter(None, norms.values())  # one client took part: the other tiers' cells are empty
    before = prepared.layout.tensors(prepared.initial)
    after = torch.load(folder / "model.pt", weights_only=True)["model"]
    moved = sum(((after[name] - before[name]).double() ** 2).sum() for name in after if after[name].is_floating_point())
    assert float(norm) == pytest.approx(float(moved) ** 0.5, rel=1e-4)
    assert float(row["wait_seconds"]) == 0


def test_clients_that_answer_early_wait_for_the_last(traced):
    for row in table(traced / "rounds.csv"):
        assert 0 < float(row["wait_seconds"]) < float(row["seconds"])


# --- metrics --------------------------------------------------------------------------------------------


class Instrument:
    """Stands for a Ray metric: keeps what it is told."""

    said: ClassVar[list[tuple[str, str, float, tuple]]] = []

    def __init__(self, name, description, *rest):
        self.name, self.keys = name, rest[-1]

    def say(self, value, tags):
        assert set(tags) == set(self.keys)
        self.said.append((type(self).__name__, self.name, value, tuple(v for k, v in tags.items() if k != "run")))

    set = inc = observe = say


@pytest.fixture
def said(monkeypatch):
    """(kind, name, value, tags beside run) of whatever meters tell Ray."""
    monkeypatch.setattr(Instrument, "said", [])
    for kind in ("Gauge", "Counter", "Histogram"):
        monkeypatch.setattr(meters, kind, type(kind, (Instrument,), {}))
    return Instrument.said


ROW = {"round": 1, "loss": 0.5, "seconds": 2.0, "wait_seconds": 0.25, "people_per_s": 12.0, "mb_down": 1.5,
       "mb_up": 0.5, "gt_64x48": 0.1, "kd_64x48": 0.2, "update_norm_low": 3.0}  # fmt: skip
EVENTS = [
    RoundStarted(1, 4, {"low": 3}),
    ClientsFinished(1, "low", (1.5, 0.5), 48, 700.0, "cpu"),
    ClientsFinished(1, "low", (1.0,), 24, 600.0, "cpu"),
    RoundFinished(1, 4, ROW),
    Scored(1, Scores("val", "oks_ap", {"64x48": 0.25}, {}, 6, 0, {}), 0.05),
    ActorLost("client-low-000", "low"),
    Failed("gone", "failed"),
]


def test_a_runs_events_become_metrics_with_units_in_base_form(said):
    assert list(meters.metered(EVENTS, meters.Meters("mine"))) == EVENTS
    assert said == [
        ("Gauge", "raf_ray_round", 1, ()),
        ("Gauge", "raf_ray_rounds_planned", 4, ()),
        ("Histogram", "raf_ray_client_seconds", 1.5, ("low",)),
        ("Histogram", "raf_ray_client_seconds", 0.5, ("low",)),
        ("Counter", "raf_ray_people_total", 48, ("low",)),
        ("Gauge", "raf_ray_client_memory_peak_bytes", 700e6, ("low", "cpu")),
        ("Histogram", "raf_ray_client_seconds", 1.0, ("low",)),
        ("Counter", "raf_ray_people_total", 24, ("low",)),
        ("Gauge", "raf_ray_client_memory_peak_bytes", 700e6, ("low", "cpu")),
        ("Counter", "raf_ray_rounds_total", 1, ()),
        ("Gauge", "raf_ray_loss", 0.5, ()),
        ("Gauge", "raf_ray_round_seconds", 2.0, ()),
        ("Gauge", "raf_ray_people_per_second", 12.0, ()),
        ("Gauge", "raf_ray_straggler_wait_seconds", 0.25, ()),
        ("Counter", "raf_ray_transfer_bytes_total", 1.5e6, ("down",)),
        ("Counter", "raf_ray_transfer_bytes_total", 0.5e6, ("up",)),
        ("Gauge", "raf_ray_loss_term", 0.1, ("gt", "64x48")),
        ("Gauge", "raf_ray_loss_term", 0.2, ("kd", "64x48")),
        ("Gauge", "raf_ray_update_norm", 3.0, ("low",)),
        ("Gauge", "raf_ray_score_ratio", 0.25, ("val", "oks_ap", "64x48")),
        ("Gauge", "raf_ray_drift_spread_ratio", 0.05, ("val",)),
        ("Counter", "raf_ray_actors_lost_total", 1, ("low",)),
    ]


def test_gauges_are_set_again_with_their_last_values_and_nothing_else_is(said):
    watched = meters.Meters("mine")
    for event in EVENTS:
        watched.see(event)
    told = {(name, tags): value for kind, name, value, tags in said if kind == "Gauge"}
    said.clear()
    watched.refresh()
    assert {(name, tags): value for _, name, value, tags in said} == told and len(said) == len(told)


def test_any_name_becomes_a_tag_in_ascii_that_gives_it_back(said):
    for name in ("é [b] 日本", "a\udcffb", 'quote" \\ %41 \n', "plain-name_1.0 [x]$"):
        assert ray_name(name).isascii() and ray_name(name).isprintable() and plain_name(ray_name(name)) == name
        assert run_of(new_namespace(name)) == name
    assert ray_name("plain-name_1.0 [x]$/é") == "plain-name_1.0 [x]$/%C3%A9"
    list(meters.metered([ClientsFinished(1, "é", (1.5,), 24, 700.0, "cpu")], meters.Meters("é")))
    assert [tags[0] for _, _, _, tags in said] == ["%C3%A9"] * 3


def test_metrics_that_fail_are_noted_once_and_end_nothing(said, monkeypatch, caplog):
    def refuses(self, value, tags):
        raise ValueError("no such tag")

    monkeypatch.setattr(meters.Gauge, "set", refuses)
    monkeypatch.setattr(meters, "REFRESH_SECONDS", 0.001)
    first, *rest = meters.metered(EVENTS, meters.Meters("mine"))
    assert rest == EVENTS and "Ray's metrics of this run end here (ValueError: no such tag)" in first.message
    assert len(caplog.records) == 1 and caplog.records[0].exc_info


def test_the_thread_that_keeps_gauges_alive_ends_with_the_run(said, monkeypatch):
    monkeypatch.setattr(meters, "REFRESH_SECONDS", 0.001)

    def breaks():
        yield EVENTS[0]
        raise RuntimeError("the run broke")

    with pytest.raises(RuntimeError, match="the run broke"):
        list(meters.metered(breaks(), meters.Meters("mine")))
    assert not [thread for thread in threading.enumerate() if thread.name == "meters"]


def queries(dashboard: dict) -> list[str]:
    asked = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    return asked + [v["query"]["query"] for v in dashboard["templating"]["list"] if v["type"] == "query"]


def test_the_dashboard_asks_only_for_metrics_that_are_emitted():
    dashboard = json.loads(DASHBOARD.read_text())
    assert all(panel["targets"] for panel in dashboard["panels"]) and len(dashboard["panels"]) == 12
    for query in queries(dashboard):
        names = set(re.findall(r"\b[a-z]+_[a-z_]+\b(?=[{,)\s]|$)", query)) - {"label_values", "histogram_quantile"}
        assert names and names <= meters.exported_names(), query


# --- names and logs -------------------------------------------------------------------------------------


def test_a_namespace_tells_its_run_and_is_never_anothers():
    assert new_namespace("mine") != new_namespace("mine")
    assert run_of(new_namespace("tune/0003")) == "tune/0003"
    assert run_of("raf-ray") is None and run_of("other/mine/1") is None


def test_actors_bear_their_names_though_another_federation_on_the_cluster_has_the_same(ray_cluster, tmp_path):
    import ray

    @ray.remote(num_cpus=0)
    class Namesake: ...

    space = new_namespace("mine")
    other = Namesake.options(name="client-high-000", namespace=space).remote()
    with pytest.raises(RunError, match="named actors") as error:  # told by the first client's objective
        run_federation(tiny("objective.name=tests.broken:names_actors"), tmp_path / "mine")
    named = json.loads(re.search(r"\[.*\]", str(error.value))[0])
    ours = {actor["name"] for actor in named if run_of(actor["namespace"]) == "mine" and actor["namespace"] != space}
    assert ours == {"client-high-000", "client-mid-000", "client-low-000", "driver", "evaluator"}
    assert len({actor["namespace"] for actor in named}) == 2
    ray.kill(other)
    logs = Path(ray._private.worker._global_node.get_logs_dir_path())
    lines = "".join(path.read_text() for path in logs.glob("worker-*.err"))
    assert "INFO [client-high-000] built" in lines
    assert "INFO [client-high-000 round 1] training" in lines


# --- traces ---------------------------------------------------------------------------------------------


def test_a_clients_round_is_traced_into_the_run_folder(traced):
    (path,) = traced.glob("*trace*")
    assert path.name == "trace-client-low-000-round-2.json"
    names = {event["name"] for event in json.loads(path.read_text())["traceEvents"]}
    assert {"batch 1", "batch 2", "batch 3", "aten::conv2d", "Optimizer.step#adamw"} <= names
    assert "batch 4" not in names
    assert str(path) in (traced / "run.log").read_text()


def test_a_trace_changes_no_bit_and_may_be_asked_for_anew_on_a_resume(traced, tmp_path):
    config = tiny("federation.engine=in_process")
    plain = run_federation(config, tmp_path / "plain")
    a, b = (torch.load(folder / "model.pt", weights_only=True)["model"] for folder in (traced, plain.folder))
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert run_federation(config, traced, resume=True).by_resolution == plain.by_resolution


@pytest.mark.parametrize("words, cause", [
    (["resources.profile={client: client-lo-000, round: 1}"], "no client 'client-lo-000' .*client-low-000"),
    (["resources.profile={client: client-low-000, round: 3}"], "round=3 is beyond the run's 2 rounds"),
    (["resources.profile={client: client-low-000, round: 1}", "federation.participation=0.3", "seed=1"],
     "client-low-000 does not train in round 1 .* that round trains client-"),
])  # fmt: skip
def test_a_trace_of_what_will_not_happen_is_refused_before_the_start(words, cause):
    with pytest.raises(InputError, match=cause):
        assembly.prepare(tiny(*words))


def test_overwrite_takes_traces_and_what_a_kill_left_of_one_for_the_runs_own(traced, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(traced, folder)
    (folder / ".trace-client-low-000-round-2.123.json").write_text("half")
    RunFolder(folder).check_free(overwrite=True)
    (folder / "trace.txt").write_text("mine")
    with pytest.raises(InputError, match=r"trace\.txt"):
        RunFolder(folder).check_free(overwrite=True)


# --- status ---------------------------------------------------------------------------------------------


def shown(capsys, *words: object) -> str:
    assert run_command(status.main, [str(word) for word in words]) == 0
    return capsys.readouterr().out


def test_status_shows_a_finished_run(traced, capsys):
    text = shown(capsys, traced, "--follow")  # it has ended: nothing to follow
    results = json.loads((traced / "results.json").read_text())
    assert re.search(r"status +completed", text) and "2 of 2" in text and "left" not in text
    assert f"loss    {float(table(traced / 'rounds.csv')[-1]['loss']):.5f}" in text
    for value in results["by_resolution"].values():
        assert f"{100 * value:.1f}" in text
    assert "test, round 2" in text and "val, round 2" in text


def test_status_shows_a_run_that_is_being_written_and_follows_it_to_its_end(traced, tmp_path, capsys, monkeypatch):
    folder = tmp_path / "live"
    shutil.copytree(traced, folder)
    results = json.loads((folder / "results.json").read_text())
    (folder / "results.json").write_text(json.dumps({**results, "status": "running"}))
    rows = (folder / "rounds.csv").read_text()
    (folder / "rounds.csv").write_text(rows[:-7])  # the second round's line is half written
    seconds = float(table(traced / "rounds.csv")[0]["seconds"])

    def ends(_seconds):
        (folder / "rounds.csv").write_text(rows)
        (folder / "results.json").write_text(json.dumps(results))

    monkeypatch.setattr(status.time, "sleep", ends)
    with RunFolder(folder).locked():  # as its driver does
        text = shown(capsys, folder)
        assert f"1 of 2, about {seconds:.0f} s left" in text and re.search(r"status +running", text)
        assert "2 of 2" in shown(capsys, folder, "--follow")


def test_status_shows_a_line_a_run_of_a_comparison(traced, tmp_path, capsys):
    for name in ("fedavg-mixed", "raf-mixed"):
        shutil.copytree(traced, tmp_path / name)
    results = json.loads((tmp_path / "raf-mixed" / "results.json").read_text())
    (tmp_path / "raf-mixed" / "results.json").write_text(json.dumps({**results, "status": "failed"}))
    text = shown(capsys, tmp_path)
    assert re.search(r"fedavg-mixed +completed +2/2", text) and re.search(r"raf-mixed +failed +2/2", text)


TRIALS = [
    {"number": number, "hash": "aa", "params": {"optimizer.lr": 0.001 * number}, "status": state, "round": 3,
     "folder": f"tune/000{number}-aa/federation", "metrics": {"score_mean": score, "drift_spread": drift}}
    for number, state, score, drift in (
        (0, "finished", 0.5, 0.1), (1, "finished", 0.7, 0.2), (2, "running", 0.9, 0.3), (3, "superseded", 0.95, 0.0),
        (4, "failed", None, None), (5, "finished", 0.6, 0.3),
    )
]  # fmt: skip


def test_status_shows_a_line_a_trial_of_a_search_and_the_best(tmp_path, capsys):
    (tmp_path / "trials.json").write_text(json.dumps({"trials": TRIALS, "metric": ["score_mean"], "mode": ["max"]}))
    text = shown(capsys, tmp_path)  # of the trial that runs there is no folder to be found dead
    assert re.search(r"\*1 +finished +3 +0\.7 +optimizer\.lr=0\.001", text)
    assert re.search(r" 4 +failed +3 +- ", text)
    assert "6 trials: 3 finished, 1 running, 1 superseded, 1 failed" in text
    assert "* best: trial 1, score_mean 0.7; tune/0001-aa/federation" in text


def test_the_best_of_two_metrics_are_the_trials_that_none_beats_in_both():
    assert best_trials(TRIALS, ["score_mean", "drift_spread"], ["max", "min"]) == [0, 1]
    assert best_trials(TRIALS[2:5], ["score_mean"], ["max"]) == [2]  # none has finished
    assert best_trials([], ["score_mean"], ["max"]) == []


@pytest.mark.parametrize(
    "what, cause",
    [
        ("nowhere", "holds no run"),
        ("http://127.0.0.1:9", "no Ray dashboard answers"),
        ("http://[x", "is no address of a server"),
    ],
)
def test_status_of_nothing_is_one_sentence_and_exit_code_2(what, cause, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run_command(status.main, [what]) == 2
    told = capsys.readouterr().err
    assert cause in told and told.count("\n") == 1


NODE = "341022943f49"
ANSWERS = {
    "/nodes": {"data": {"nodeLogicalResources": {NODE: "1.5/2.0 CPU\n0.25/1.0 GPU\n0B/18.37GiB memory"}, "summary": [
        {"ip": "10.0.0.1", "hostname": "head", "cpu": 40.0, "mem": [8, 6, 25.0, 2],
         "raylet": {"nodeId": NODE, "isHeadNode": True, "state": "ALIVE"}},
        {"ip": "10.0.0.2", "hostname": "gone", "cpu": 0.0, "mem": [8, 8, 0.0, 0],
         "raylet": {"nodeId": "b", "isHeadNode": False, "state": "DEAD"}}]}},
    "/api/v0/actors": {"data": {"result": {"result": [
        {"name": name, "class_name": "ClientHost", "state": state, "node_id": NODE, "pid": 7, "ray_namespace": space}
        for name, state, space in (("client-low-000", "ALIVE", "raf-ray/mine/1"), ("other", "ALIVE", "another"),
                                   ("client-mid-000", "DEAD", "raf-ray/mine/1"))]}}},
    "/api/cluster_status": {"data": {"clusterStatus": "Idle:\n 1 head\nPending:\n 10.0.0.3: worker, setting-up\n"
                                                      "Recent failures:\n (no failures)\n"}},
    "/api/jobs/": [{"job_id": "01", "submission_id": None, "status": "RUNNING", "entrypoint": "python -m raf_ray.run"},
                   {"job_id": "02", "submission_id": None, "status": "SUCCEEDED", "entrypoint": "python old.py"}],
}  # fmt: skip


@pytest.fixture
def dashboard():
    """Stands for a Ray dashboard; `.code` is what it answers with."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            body = json.dumps(ANSWERS[self.path.partition("?")[0]]).encode()
            self.send_response(self.server.code)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *words): ...

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        server.code = 200
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_status_shows_a_clusters_living_nodes_its_actors_and_jobs(dashboard, capsys):
    text = shown(capsys, f"http://127.0.0.1:{dashboard.server_port}/")
    assert re.search(r"10\.0\.0\.1 \(head\) +head +1\.5 of 2 +0\.25 of 1 +40 % +25 %", text)
    assert re.search(r"mine +client-low-000 +ClientHost +ALIVE +10\.0\.0\.1 +7", text)
    assert re.search(r"01 +RUNNING +python -m raf_ray\.run", text)
    assert "Nodes to come: 10.0.0.3: worker, setting-up" in text
    assert not re.search(r"gone|other|client-mid-000|old\.py", text)


@pytest.mark.parametrize("code, cause", [(401, "asks for a token: set RAY_AUTH_MODE=token"),
                                         (403, "refuses this token: set RAY_AUTH_MODE=token"),
                                         (404, "is no Ray dashboard")])  # fmt: skip
def test_a_dashboard_that_refuses_is_told_in_one_sentence(code, cause, dashboard, capsys):
    dashboard.code = code
    assert run_command(status.main, [f"http://127.0.0.1:{dashboard.server_port}"]) == 2
    told = capsys.readouterr().err
    assert cause in told and told.count("\n") == 1


def test_bucket_bounds_grow_by_less_than_half():
    bounds = np.array(meters.SECONDS)
    assert bounds[0] == 0.1 and bounds[-1] > 3000 and (bounds[1:] / bounds[:-1]).max() < 1.5
