"""A command submitted as a Ray Job: what goes along, what comes back."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from raf_ray import run
from raf_ray.cli import run_command
from raf_ray.cluster.connect import find_address
from raf_ray.cluster.jobs import PACKED_MB, dashboard_of, pack
from raf_ray.errors import InputError
from tests.tiny import WORDS

REPOSITORY = Path(__file__).resolve().parents[1]

PLUGIN = """
from raf_ray.objectives import Loss, heatmap


def doubled(heatmaps, targets, weights, level_weights):
    loss = heatmap(heatmaps, targets, weights, level_weights)
    return Loss(2 * loss.total, loss.gt, loss.kd)

def fails(heatmaps, targets, weights, level_weights):
    raise ValueError("this objective always fails")
"""


def packed(into: Path) -> set[str]:
    return {str(path.relative_to(into)) for path in into.rglob("*") if path.is_file()}


def write(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)


def test_a_job_gets_this_package_local_files_and_the_config_and_nothing_else(tmp_path):
    here, into = tmp_path / "here", tmp_path / "into"
    write(here, "mine.py", "lib/part.py", "lib/__pycache__/part.pyc", ".git/index", ".env", "runs/a/model.pt",
          "data/a.jpg", "venv3/pyvenv.cfg", "venv3/lib/x.py", "old/config.yaml", "old/results.json", "old/model.pt",
          "raf_ray/stale.py", "lib/data/kept.py")  # fmt: skip
    write(tmp_path, "other.yaml")
    into.mkdir()
    pack(here, into, tmp_path / "other.yaml")
    names = packed(into)
    assert {name for name in names if not name.startswith("raf_ray/")} == {
        "mine.py", "lib/part.py", "lib/data/kept.py", ".job-config.yaml",
    }  # fmt: skip
    assert (into / ".job-config.yaml").read_text() == "other.yaml"
    package = Path(run.__file__).parent
    here_too = {f"raf_ray/{path.relative_to(package)}" for path in package.rglob("*") if path.is_file()}
    assert {name for name in names if name.startswith("raf_ray/")} == {n for n in here_too if "__pycache__" not in n}


def test_a_working_directory_that_is_too_large_is_refused_and_its_largest_part_named(tmp_path):
    here, into = tmp_path / "here", tmp_path / "into"
    write(here, "mine.py", "weights/a.bin")
    into.mkdir()
    with open(here / "weights" / "a.bin", "wb") as file:
        file.truncate(PACKED_MB * 2**20 + 1)
    with pytest.raises(InputError, match=rf"holds more than {PACKED_MB} MB \(most in weights\)"):
        pack(here, into)


def test_a_dashboards_url_is_told_from_other_addresses(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert dashboard_of("http://127.0.0.1:8265/") == "http://127.0.0.1:8265"
    assert [dashboard_of(address) for address in (None, "local", "10.0.0.1:6379")] == [None] * 3
    monkeypatch.setenv("RAY_ADDRESS", "https://head:8265")
    assert dashboard_of(None) == "https://head:8265"
    assert dashboard_of("local") is None


@pytest.mark.parametrize(
    "address",
    ["http://[x", "http://", "https://", "http:///x", "http://host:99999", "http://host:-1", "http://host:port",
     "http://ho st:8265", "http:8265", "http://[::1", "http://" + "a" * 64 + ".example:1", "HTTP://:8265"],
)  # fmt: skip
def test_a_url_that_is_none_is_refused_wherever_it_comes_from(address, monkeypatch, capsys):
    for words in ([*WORDS, "--address", address], WORDS):
        assert run_command(run.main, words) == 2
        named = "--address" if words is not WORDS else "RAY_ADDRESS"
        assert capsys.readouterr().err == (
            f"error: {named} {address} is no address of a server; give http://HOST:PORT\n"
        )
        monkeypatch.setenv("RAY_ADDRESS", address)


def test_a_url_is_known_by_its_scheme_in_any_case():
    assert dashboard_of("HTTP://Head:8265/") == "http://Head:8265"
    assert dashboard_of("http://[::1]:8265") == "http://[::1]:8265"


def test_a_dashboard_that_does_not_answer(capsys):
    assert run_command(run.main, [*WORDS, "--address", "http://127.0.0.1:1"]) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: no Ray dashboard answers at http://127.0.0.1:1") and len(error.splitlines()) == 1


def test_a_ray_client_address_is_refused_with_the_two_ways_that_work():
    with pytest.raises(InputError, match=r"with --address HOST:PORT, or submit it .* --address http://HOST:8265"):
        find_address("ray://127.0.0.1:10001")


# --- on a cluster ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Dashboard:
    url: str
    home: Path
    """Of the head node's user."""
    temporary: Path
    """Ray's folder on the head node."""

    @property
    def address(self) -> str:
        """HOST:PORT"""
        return (self.temporary / "ray_current_cluster").read_text().strip()

    def command(self, *words: str) -> list[str]:
        """A run of a tiny federation; the last --address wins."""
        return [sys.executable, "-m", "raf_ray.run", "--address", self.url, *WORDS, *words]

    def environment(self, **more: str) -> dict[str, str]:
        ours = {"HOME": str(self.home), "PYTHONPATH": str(REPOSITORY), "PYTHONUNBUFFERED": "1",
                "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}  # fmt: skip
        kept = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
        return {**kept, **ours, **more}

    def submit(self, here: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(self.command(*words), cwd=here, env=self.environment(**environment), text=True,
                              capture_output=True, timeout=300)  # fmt: skip


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def dashboard() -> Iterator[Dashboard]:
    """A cluster of one node that asks for a token. Its folder and ports are its own, so no other command joins it."""
    folder = Path(tempfile.mkdtemp(prefix="rafj", dir="/tmp"))  # for sockets, whose paths must be short
    (folder / "home" / ".ray").mkdir(parents=True)
    (folder / "home" / ".ray" / "auth_token").write_text("0123456789abcdef" * 2)
    port = free_port()
    found = Dashboard(f"http://127.0.0.1:{port}", folder / "home", folder / "ray")
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--port=0", "--num-cpus=2",
               "--object-store-memory=100000000", "--disable-usage-stats", f"--temp-dir={folder / 'ray'}",
               f"--dashboard-port={port}", f"--dashboard-agent-listen-port={free_port()}"]  # fmt: skip
    process = subprocess.Popen(command, env=found.environment(RAY_AUTH_MODE="token"), cwd=folder, text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT)  # fmt: skip
    assert process.stdout is not None
    seen = []
    try:
        for line in process.stdout:
            seen.append(line)
            if "Ray runtime started" in line:
                break
        else:
            raise AssertionError("ray start ended:\n" + "".join(seen))
        yield found
    finally:
        process.terminate()
        process.communicate()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def here(tmp_path) -> Path:
    """A working directory with a plug-in."""
    (tmp_path / "mine.py").write_text(PLUGIN)
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("token", [{}, {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "another"}], ids=["none", "wrong"])
@pytest.mark.parametrize("where", ["url", "address"])
def test_a_cluster_that_asks_for_a_token(where, token, dashboard, here):
    done = dashboard.submit(here, "--address", getattr(dashboard, where), **token)
    last = done.stderr.splitlines()[-1]
    assert done.returncode == 2 and getattr(dashboard, where) in last
    assert last.startswith("error: ") and "asks for a token: set RAY_AUTH_MODE=token" in last
    assert token or last == done.stderr.strip()
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_job_runs_with_local_code_and_config_and_leaves_its_folder_on_the_head(dashboard, here, tmp_path_factory):
    config = tmp_path_factory.mktemp("elsewhere") / "short.yaml"
    config.write_text("federation: {rounds: 1}\n")
    words = [word for word in WORDS if not word.startswith("federation.rounds")]
    command = [sys.executable, "-m", "raf_ray.run", "--address", dashboard.url, f"--config={config}", *words]
    done = subprocess.run([*command, "objective.name=mine:doubled"], cwd=here, text=True, capture_output=True,
                          env=dashboard.environment(RAY_AUTH_MODE="token"), timeout=300)  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "round 1/1" in done.stdout and "mine:doubled" in done.stdout
    (folder,) = (dashboard.home / "raf_ray_runs").glob("run-*")
    assert json.loads((folder / "results.json").read_text())["status"] == "completed"
    assert re.search(rf"on the cluster's head node \([\d.]+\): ~/raf_ray_runs/{folder.name}\n", done.stdout)
    assert f"ray rsync-down CLUSTER.yaml '~/raf_ray_runs/{folder.name}/' runs/{folder.name}/" in done.stdout
    assert not (here / "runs").exists()


@pytest.mark.slow
def test_a_job_that_fails_gives_its_exit_code_and_a_sentence(dashboard, here):
    done = dashboard.submit(here, "--output", "failing", "objective.name=mine:fails", RAY_AUTH_MODE="token")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "ValueError: this objective always fails" in done.stdout
    assert done.stderr.startswith("failed: job run-") and "ended with exit code 1" in done.stderr
    results = json.loads((dashboard.home / "raf_ray_runs" / "failing" / "results.json").read_text())
    assert results["status"] == "failed"

    done = dashboard.submit(here, "data.name=coco", "data.root=/nowhere", RAY_AUTH_MODE="token")
    assert done.returncode == 2 and "/nowhere does not exist" in done.stdout


@pytest.mark.slow
def test_ctrl_c_stops_the_job_in_order(dashboard, here):
    process = subprocess.Popen(dashboard.command("federation.rounds=500", "--output", "stopped"), cwd=here, text=True,
                               env=dashboard.environment(RAY_AUTH_MODE="token"), stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT)  # fmt: skip
    assert process.stdout is not None
    seen = []
    for line in process.stdout:
        seen.append(line)
        if "round 2/500" in line:
            process.send_signal(signal.SIGINT)
    assert process.wait() == 130, "".join(seen)
    results = json.loads((dashboard.home / "raf_ray_runs" / "stopped" / "results.json").read_text())
    assert results["status"] == "interrupted"
    assert all("".join(seen).count(f"round {i}/500  loss") == 1 for i in (1, 2)), "a line came twice"
