"""A real Prometheus scrapes a live federation with the shipped snippet; each panel of the dashboard gets data."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.test_watching import DASHBOARD
from tests.tiny import WORDS

pytestmark = pytest.mark.slow

SNIPPET = Path(__file__).parents[1] / "cluster" / "prometheus.yml"
SHIPPED_FILE = "/tmp/ray/prom_metrics_service_discovery.json"
GIVE_UP_SECONDS = 240.0
REPORT_SECONDS = 5
"""Between a process's reports of its metrics (Ray's default is 10)."""

SESSION = """
import sys, ray
context = ray.init(address="local", num_cpus=2, include_dashboard=True, dashboard_port=int(sys.argv[1]),
                   _temp_dir=sys.argv[2], _metrics_export_port=int(sys.argv[3]), object_store_memory=2**28)
print("up", flush=True)
from raf_ray.run import main
main(sys.argv[4:])
"""
"""A private cluster with its own ports and folder, and a federation on it."""


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def wait_for(what: str, ask: Callable[[], Any], process: subprocess.Popen) -> Any:
    """Ask until there is an answer; fail where there is none in time or the process ends first."""
    deadline = time.monotonic() + GIVE_UP_SECONDS
    answer = ask()
    while not answer:
        assert process.poll() is None, f"the process ended before {what}"
        assert time.monotonic() < deadline, f"no {what} in {GIVE_UP_SECONDS:.0f} s"
        time.sleep(0.5)
        answer = ask()
    return answer


def started(words: list[str], log: Path, environment: dict[str, str]) -> subprocess.Popen:
    with open(log, "w", encoding="utf-8") as file:
        return subprocess.Popen(words, stdout=file, stderr=subprocess.STDOUT, env=environment)


@pytest.fixture(scope="module")
def live(tmp_path_factory) -> Iterator[dict[str, Any]]:
    """A federation on a cluster of its own that trains while its `gate` exists, until the tests end it."""
    folder = tmp_path_factory.mktemp("live")
    temp = Path(f"/tmp/raf{os.getpid()}")  # short: paths of unix sockets are bounded
    ports = [free_port(), free_port()]
    gate = folder / "gate"
    gate.touch()
    words = [*WORDS, "federation.rounds=100000", "federation.participation=0.7", "objective.name=tests.broken:slow",
             "--output", str(folder / "mine")]  # fmt: skip
    process = started(
        [sys.executable, "-c", SESSION, str(ports[0]), str(temp), str(ports[1]), *words],
        folder / "out.txt",
        {**environment(), "RAF_RAY_TEST_GATE": str(gate)},
    )
    try:
        wait_for("score", lambda: (folder / "mine" / "scores.csv").exists(), process)
        yield {"process": process, "temp": temp, "dashboard": f"http://127.0.0.1:{ports[0]}", "run": folder / "mine",
               "gate": gate}  # fmt: skip
    finally:
        process.terminate()
        process.wait()
        shutil.rmtree(temp, ignore_errors=True)


def environment() -> dict[str, str]:
    """With the token that a local cluster asks for."""
    return {**os.environ, "RAY_metrics_report_interval_ms": str(REPORT_SECONDS * 1000), "RAY_AUTH_MODE": "token"}


@pytest.fixture(scope="module")
def prometheus(live, tmp_path_factory) -> Iterator[str]:
    """Prometheus with the shipped snippet, but for the service discovery file of the test's own cluster."""
    if shutil.which("prometheus") is None:
        pytest.skip("prometheus is not installed (Debian: apt-get install prometheus)")
    folder = tmp_path_factory.mktemp("prometheus")
    snippet = SNIPPET.read_text()
    assert SHIPPED_FILE in snippet
    own = live["temp"] / Path(SHIPPED_FILE).name
    wait_for("service discovery file", own.exists, live["process"])
    config = snippet.replace(SHIPPED_FILE, str(own)).replace("10s", "2s")
    (folder / "prometheus.yml").write_text(config)
    port = free_port()
    words = ["prometheus", f"--config.file={folder / 'prometheus.yml'}", f"--web.listen-address=127.0.0.1:{port}",
             f"--storage.tsdb.path={folder / 'data'}"]  # fmt: skip
    process = started(words, folder / "log.txt", dict(os.environ))
    address = f"http://127.0.0.1:{port}"
    try:
        wait_for("answer of prometheus", lambda: answers(address), process)
        yield address
    finally:
        process.terminate()
        process.wait()


def answers(address: str) -> bool:
    try:
        return requests.get(f"{address}/-/ready", timeout=5).status_code == 200
    except requests.ConnectionError:
        return False


def query(address: str, expression: str) -> list[dict[str, Any]]:
    answer = requests.get(f"{address}/api/v1/query", params={"query": expression}, timeout=10).json()
    assert answer["status"] == "success", (expression, answer)
    return answer["data"]["result"]


def test_the_shipped_snippet_is_valid(tmp_path):
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed (Debian: apt-get install prometheus)")
    checked = subprocess.run([promtool, "check", "config", str(SNIPPET)], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_every_panels_queries_return_data_of_the_live_run(live, prometheus):
    dashboard = json.loads(DASHBOARD.read_text())
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            expression = target["expr"].replace("$run", "mine").replace("$tier", ".*")
            found = wait_for(f"data of panel {panel['title']}: {expression}", lambda e=expression: query(prometheus, e),
                             live["process"])  # fmt: skip
            labels = set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
            for series in found:
                assert labels <= series["metric"].keys() and series["metric"]["run"] == "mine", panel["title"]
                assert float(series["value"][1]) == float(series["value"][1]), (panel["title"], series)  # no NaN


def test_prometheus_has_the_scores_and_rounds_that_the_run_folder_has(live, prometheus):
    rounds = wait_for("second scrape", lambda: query(prometheus, 'ray_raf_ray_rounds_total{run="mine"} > 2'),
                      live["process"])  # fmt: skip
    counted = float(rounds[0]["value"][1])
    losses = [line.split(",")[1] for line in (live["run"] / "rounds.csv").read_text().splitlines()[1:]]
    assert 2 < counted <= len(losses)
    (loss,) = query(prometheus, 'ray_raf_ray_loss{run="mine"}')
    assert float(loss["value"][1]) in {float(value) for value in losses}
    scored = query(prometheus, 'ray_raf_ray_score_ratio{run="mine", split="val"}')
    assert {series["metric"]["resolution"] for series in scored} == {"128x96", "96x72", "64x48"}


def test_the_dashboards_variables_find_the_run_and_its_tiers(live, prometheus):
    for name, label, values in (("ray_raf_ray_rounds_planned", "run", {"mine"}),
                                ("ray_raf_ray_client_seconds_count", "tier", {"high", "mid", "low"})):  # fmt: skip

        def complete(name=name, label=label, values=values):
            found = requests.get(f"{prometheus}/api/v1/label/{label}/values", params={"match[]": name}, timeout=10)
            return values <= set(found.json()["data"])

        wait_for(f"values of {label}", complete, live["process"])


def status(address: str, **more: str) -> subprocess.CompletedProcess:
    own = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")}
    return subprocess.run([sys.executable, "-m", "raf_ray.status", address], capture_output=True, text=True,
                          env={**own, **more})  # fmt: skip


def test_status_asks_the_live_cluster_with_its_token(live):
    refused = status(live["dashboard"])
    assert refused.returncode == 2 and "asks for a token: set RAY_AUTH_MODE=token" in refused.stderr
    found = status(live["dashboard"], RAY_AUTH_MODE="token")
    assert found.returncode == 0, found.stderr
    for name, kind in (("client-high-000", "ClientHost"), ("driver", "DriverHost"), ("evaluator", "EvaluatorHost")):
        assert re.search(rf"mine +{name} +{kind} +ALIVE", found.stdout), found.stdout
    assert re.search(r"\(head\) .* of 2 ", found.stdout) and "RUNNING" in found.stdout
    shown = status(str(live["run"]))
    assert shown.returncode == 0 and "of 100000" in shown.stdout and "left" in shown.stdout


def test_the_dashboard_shows_which_round_a_task_trains(live):
    listed = subprocess.run(
        [sys.executable, "-c", "import sys; from ray.util.state import list_tasks\n"
         "print([t.name for t in list_tasks(address=sys.argv[1], limit=1000, raise_on_missing_output=False)])",
         live["dashboard"]], capture_output=True, text=True, env=environment(),
    )  # fmt: skip
    assert "'train round 1'" in listed.stdout and "'run mine'" in listed.stdout, listed.stderr


def test_gauges_stay_while_a_round_takes_longer_than_ray_remembers_them(live, prometheus):
    live["gate"].unlink()  # no event comes from now on
    try:
        begin = time.time()
        remembered = 2 * REPORT_SECONDS

        def still_told() -> bool:
            (series,) = query(prometheus, 'ray_raf_ray_score_ratio{run="mine", resolution="64x48"}[2m]') or [None]
            return series is not None and float(series["values"][-1][0]) > begin + 2 * remembered

        wait_for("sample long after the last event", still_told, live["process"])
        assert time.time() - (live["run"] / "rounds.csv").stat().st_mtime > remembered
    finally:
        live["gate"].touch()
