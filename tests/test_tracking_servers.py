"""MLflow servers that are killed, late, slow or lossy, and many runs at once: the record is an undisturbed run's."""

from __future__ import annotations

import http.client
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from raf_ray.cli import run_command
from raf_ray.federation.events import RoundFinished
from raf_ray.track import main as track
from raf_ray.tracking.outbox import Outbox
from tests.tracking_helpers import history, run, runs_of

pytestmark = pytest.mark.slow

WORDS = ("federation.rounds=6", "evaluation.every=2")
PATIENCE = 180.0
"""Seconds for a server to start on a busy machine."""


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def wait_until(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, f"{what} did not happen within {PATIENCE:.0f} s"
        time.sleep(0.1)


class Server:
    """A real ``mlflow server`` that can be killed and started again at the same address."""

    def __init__(self, folder: Path, backend: str | None = None) -> None:
        self.folder = folder
        self.backend = backend or f"sqlite:///{folder / 'server.db'}"
        self.port = free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        words = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port),
                 "--backend-store-uri", self.backend, "--artifacts-destination", str(self.folder / "artifacts"),
                 "--serve-artifacts", "--workers", "1"]  # fmt: skip
        with open(self.folder / "server.log", "ab") as log:
            self._process = subprocess.Popen(words, stdout=log, stderr=log, start_new_session=True)
        wait_until(self._answers, f"the start of the server (see {log.name})")

    def kill(self) -> None:
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.uri}/health", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False


@pytest.fixture
def server(tmp_path) -> Iterator[Server]:
    made = Server(tmp_path)
    yield made
    made.kill()


@contextmanager
def proxy(target: str, delay: float = 0.0, loses: Callable[[int], bool] = lambda n: False) -> Iterator[str]:
    """A server before the real one that answers late, or does the work and loses the n-th answer; its URI."""
    host = target.removeprefix("http://")
    count = iter(range(1, 2**31))
    closing = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            inner = http.client.HTTPConnection(host, timeout=60)
            headers = {name: value for name, value in self.headers.items() if name.lower() != "host"}
            inner.request(self.command, self.path, body, headers)
            answer = inner.getresponse()
            content = answer.read()
            inner.close()
            closing.wait(delay)
            if loses(next(count)):
                self.close_connection = True
                return
            self.send_response(answer.status)
            self.send_header("Content-Type", answer.getheader("Content-Type", "application/json"))
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_POST = do_PUT = do_PATCH = do_GET

        def log_message(self, *words: Any) -> None:
            pass

    made = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=made.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{made.server_port}"
    finally:
        closing.set()
        made.shutdown()
        made.server_close()
        thread.join()


class At:
    """Does something when a round is done."""

    def __init__(self, **actions: Callable[[], object]) -> None:
        self.actions = {int(name.removeprefix("round_")): action for name, action in actions.items()}

    def begin(self, prepared: Any, folder: Path) -> None:
        pass

    def see(self, event: Any) -> None:
        if isinstance(event, RoundFinished) and event.round in self.actions:
            self.actions[event.round]()

    def end(self, folder: Path, results: Any) -> None:
        pass


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The metric history and the scores of a run that nothing disturbs."""
    folder = tmp_path_factory.mktemp("undisturbed") / "runs" / "mine"
    results, warnings = run(folder, *WORDS, "tracking.log_model=false")
    assert warnings == []
    uri = f"sqlite:///{folder.parent / 'mlflow.db'}"
    (found,) = runs_of(uri)
    return history(uri, found.info.run_id), results.by_resolution


def check(uri: str, folder: Path, results: Any, undisturbed: Any) -> str:
    """One run, finished, with the undisturbed run's history, each point once; its id."""
    expected, scores = undisturbed
    (found,) = runs_of(uri, f"tags.run_folder = '{folder.resolve()}'")
    assert found.info.status == "FINISHED" and results.by_resolution == scores
    assert history(uri, found.info.run_id) == expected
    assert len(found.data.params) > 70
    return str(found.info.run_id)


def is_free(folder: Path) -> bool:
    outbox = Outbox(folder)
    try:
        return outbox.lock()
    finally:
        outbox.close()


def send_rest(folder: Path, warnings: list[str]) -> None:
    """Where the run's end came before the server's answers, and only there, send what waits."""
    for line in warnings:
        assert "track sync" in line or "the run goes on" in line
    if any("track sync" in line for line in warnings):
        wait_until(lambda: is_free(folder), "the end of the request under way")
        assert run_command(track, ["sync", str(folder)]) == 0


def test_a_server_that_is_killed_and_started_again_in_the_middle(server, tmp_path, undisturbed):
    server.start()
    folder = tmp_path / "runs" / "mine"

    def has_first_round() -> bool:
        try:
            return any("loss" in found.data.metrics for found in runs_of(server.uri))
        except AttributeError:  # the experiment is not there yet
            return False

    def kill() -> None:
        wait_until(has_first_round, "the first round's arrival")
        server.kill()

    actions = At(round_2=kill, round_4=server.start)
    results, warnings = run(folder, f"tracking.uri={server.uri}", *WORDS, watchers=[actions])
    send_rest(folder, warnings)
    run_id = check(server.uri, folder, results, undisturbed)
    # The logged model, in a process that knows of nothing but the server.
    code = (
        "import mlflow, numpy as np\n"
        f"model = mlflow.pyfunc.load_model('runs:/{run_id}/model')\n"
        "for h, w in ((128, 96), (36, 52)):\n"
        "    print(model.predict(np.zeros((2, h, w, 3), np.uint8)).shape)\n"
    )
    environment = {**os.environ, "MLFLOW_TRACKING_URI": server.uri}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert done.stdout.split("\n")[:2] == ["(2, 16, 3)", "(2, 16, 3)"], done.stderr


def test_a_server_that_is_down_at_the_start(server, tmp_path, undisturbed):
    folder = tmp_path / "runs" / "mine"
    actions = At(round_3=server.start)
    results, warnings = run(
        folder, f"tracking.uri={server.uri}", *WORDS, "tracking.log_model=false", watchers=[actions]
    )
    send_rest(folder, warnings)
    check(server.uri, folder, results, undisturbed)


def test_a_slow_server(server, tmp_path, undisturbed):
    server.start()
    folder = tmp_path / "runs" / "mine"
    with proxy(server.uri, delay=1.0) as slow:
        results, warnings = run(folder, f"tracking.uri={slow}", *WORDS, "tracking.log_model=false")
        send_rest(folder, warnings)
    check(server.uri, folder, results, undisturbed)


def test_a_server_whose_answers_get_lost(server, tmp_path, undisturbed):
    server.start()
    folder = tmp_path / "runs" / "mine"
    draw = random.Random(0)
    with proxy(server.uri, loses=lambda n: draw.random() < 0.2) as lossy:
        results, _ = run(folder, f"tracking.uri={lossy}", *WORDS)
        wait_until(lambda: is_free(folder), "the end of the request under way")
        for _ in range(60):
            if run_command(track, ["sync", str(folder)]) == 0:
                break
        else:
            pytest.fail("sync did not get through")
    check(server.uri, folder, results, undisturbed)


# --- many at once -------------------------------------------------------------------------------------


ONE = """
import sys
from pathlib import Path
from tests.tracking_helpers import run
folder, *words = sys.argv[1:]
_, warnings = run(Path(folder), *words)
print(*warnings, sep="\\n", end="")
"""


def run_eight(parent: Path, uri: str | None, undisturbed: Any) -> None:
    words = ["tracking.log_model=false", *WORDS, *([f"tracking.uri={uri}"] if uri else [])]
    root = Path(__file__).resolve().parents[1]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    folders = [parent / f"run-{number}" for number in range(8)]
    children = [
        subprocess.Popen([sys.executable, "-c", ONE, str(folder), *words], cwd=root, env=environment,
                         stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for folder in folders
    ]  # fmt: skip
    for child in children:
        said, error = child.communicate(timeout=600)
        assert child.returncode == 0, error
        assert said == "" or "track sync" in said
    assert run_command(track, ["sync", str(parent)]) == 0
    uri = uri or f"sqlite:///{parent / 'mlflow.db'}"
    found = runs_of(uri)
    assert {run.info.run_name for run in found} == {folder.name for folder in folders} and len(found) == 8
    for one in found:
        assert one.info.status == "FINISHED" and history(uri, one.info.run_id) == undisturbed[0]


def test_eight_runs_at_once_on_a_new_sqlite_file(tmp_path, undisturbed):
    run_eight(tmp_path / "runs", None, undisturbed)


@pytest.fixture
def postgres() -> Iterator[str]:
    """A PostgreSQL cluster of its own; its URI."""
    pytest.importorskip("psycopg2", reason="psycopg2-binary is absent: install raf-ray[dev]")
    found = [Path(where).parent for where in [shutil.which("initdb")] if where]
    found += [path.parent for path in sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))]
    if not found:
        pytest.skip("PostgreSQL is absent: apt-get install postgresql")
    programs = found[-1]
    as_user: list[str] = []
    folder = Path(tempfile.mkdtemp(prefix="raf-ray-postgres-", dir="/tmp"))
    if os.getuid() == 0:  # PostgreSQL refuses to run as root
        try:
            shutil.chown(folder, "postgres")
        except LookupError:
            pytest.skip("PostgreSQL cannot run as root, and there is no user postgres")
        as_user = ["runuser", "-u", "postgres", "--"]
    port = free_port()

    def call(program: str, *words: str) -> None:
        subprocess.run([*as_user, str(programs / program), *words], check=True, cwd=folder,
                       stdout=subprocess.DEVNULL)  # fmt: skip

    data = str(folder / "data")
    call("initdb", "-D", data, "-U", "mlflow", "--auth=trust")
    call("pg_ctl", "-D", data, "-w", "-l", str(folder / "log"), "start",
         "-o", f"-p {port} -k {folder} -c listen_addresses=127.0.0.1")  # fmt: skip
    try:
        yield f"postgresql+psycopg2://mlflow@127.0.0.1:{port}/postgres"
    finally:
        call("pg_ctl", "-D", data, "-w", "-m", "immediate", "stop")
        shutil.rmtree(folder)


def test_eight_runs_at_once_on_a_server_with_postgresql(tmp_path, postgres, undisturbed):
    server = Server(tmp_path, postgres)
    try:
        server.start()
        run_eight(tmp_path / "runs", server.uri, undisturbed)
    finally:
        server.kill()
