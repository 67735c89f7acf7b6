"""What the tests of MLflow share: small runs, what a store holds of them, and servers that misbehave."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from raf_ray import run_federation
from raf_ray.federation.events import RoundFinished
from raf_ray.request.plans import plan_clients
from raf_ray.tracking.mlflow import MlflowTracker
from tests.tiny import tiny

CLOCKED = ("seconds", "wait_seconds", "people_per_s")
"""Metrics that two equal runs do not share."""

Point = tuple[str, int, float]


def config_of(*words: str):
    return tiny("federation.engine=in_process", "tracking.mlflow=true", *words)


def run(folder: Path, *words: str, resume: bool = False, watchers=()):
    """A tiny federation with MLflow: its results and what the user was warned of."""
    config = config_of(*words)
    warnings: list[str] = []
    tracker = MlflowTracker(config, warnings.append)
    results = run_federation(config, folder, resume=resume, watchers=[tracker, *watchers])
    return results, warnings


def pretend(folder: Path, *words: str, rounds: int = 3, **options: Any) -> list[str]:
    """Only a run's events, without a federation; the warnings."""
    config = config_of(*words)
    warnings: list[str] = []
    tracker = MlflowTracker(config, warnings.append, **options)
    folder.mkdir(parents=True, exist_ok=True)
    tracker.begin(SimpleNamespace(plans=plan_clients(config)), folder)
    for done in range(1, rounds + 1):
        tracker.see(RoundFinished(done, rounds, {"round": done, "loss": 1 / done}))
    tracker.end(folder, None)
    return warnings


def client_of(uri: str):
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri)


def runs_of(uri: str, filter_string: str = "", experiment: str = "raf-ray") -> list[Any]:
    client = client_of(uri)
    return list(client.search_runs([client.get_experiment_by_name(experiment).experiment_id], filter_string))


def history(uri: str, run_id: str) -> list[Point]:
    """Every stored point of every metric, doubles and all, but those that depend on the clock."""
    client = client_of(uri)
    names = [name for name in client.get_run(run_id).data.metrics if name not in CLOCKED]
    return sorted((m.key, m.step, m.value) for name in names for m in client.get_metric_history(run_id, name))


@contextmanager
def stub_server(status: int, say: Callable[[Message], bytes] = lambda headers: b"a stub") -> Iterator[str]:
    """A server that answers everything with `status` and what `say` makes of a request's headers; its URI."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = say(self.headers)
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_PUT = do_GET

        def log_message(self, *words: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
