"""A cluster of two nodes, each in a network namespace of its own, joined by a cable: needs root and iproute2.

`make test-hosts` runs this file, `make test-slow` its rare tests too.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from raf_ray import run_federation
from raf_ray.search.spec import load_search
from tests.hosts import ip
from tests.searching import TINY, search_file, trials
from tests.tiny import WORDS, tiny

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).resolve().parents[1]
HEAD, SECOND, PORT = "10.213.0.1", "10.213.0.2", 6379
"""The namespaces are new, so no other network can have these."""
CPUS = 2
CLIENTS = "federation.clients={high: 2, mid: 2}"
"""Two clients fit on a node beside the evaluator's room, so four must spread over both."""

numbers = itertools.count()


@dataclass(frozen=True)
class TwoNodes:
    """A cluster whose nodes see each other only through their network."""

    head: str
    """Namespace of the head node, where commands run."""
    second: str
    address: str
    """HOST:PORT for --address"""
    environment: dict[str, str]

    def start(self, module: str, *words: str) -> subprocess.Popen[str]:
        """Start ``python -m module words`` on the head node; --address is the caller's to give."""
        return subprocess.Popen(self._command(module, words), cwd=REPOSITORY, env=self.environment, text=True,
                                stdout=subprocess.PIPE, stderr=subprocess.STDOUT)  # fmt: skip

    def run(self, module: str, *words: str, seconds: float = 300) -> subprocess.CompletedProcess[str]:
        """Run ``python -m module words`` on the head node to its end; stdout and stderr apart."""
        return subprocess.run(self._command(module, words), cwd=REPOSITORY, env=self.environment, text=True,
                              capture_output=True, timeout=seconds)  # fmt: skip

    def kill_second(self) -> None:
        """End the second node as a power cut would: all its processes at once."""
        kill_all(self.second)

    def restart_second(self) -> None:
        """Start Ray on the second node again."""
        start_second(self.second, self.environment)

    def _command(self, module: str, words: Sequence[str]) -> list[str]:
        return ["ip", "netns", "exec", self.head, sys.executable, "-m", module, *words]


def kill_all(namespace: str) -> None:
    while pids := ip("netns", "pids", namespace).split():
        for pid in pids:
            try:
                os.kill(int(pid), signal.SIGKILL)
            except ProcessLookupError:
                continue


def ray_start(namespace: str, environment: dict[str, str], *words: str) -> None:
    command = ["ip", "netns", "exec", namespace, sys.executable, "-m", "ray.scripts.scripts", "start",
               f"--num-cpus={CPUS}", "--object-store-memory=100000000", "--disable-usage-stats", *words]  # fmt: skip
    done = subprocess.run(command, env=environment, cwd=REPOSITORY, text=True, capture_output=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


def start_second(namespace: str, environment: dict[str, str]) -> None:
    place = Path(environment["RAY_TMPDIR"]) / f"b{next(numbers)}"
    ray_start(namespace, environment, f"--address={HEAD}:{PORT}", f"--node-ip-address={SECOND}", f"--temp-dir={place}")


@contextmanager
def cluster() -> Iterator[TwoNodes]:
    if shutil.which("ip") is None:
        pytest.skip("needs iproute2 (the command ip)")
    if os.geteuid() != 0:
        pytest.skip("needs root: it makes network namespaces")
    name = f"raf{os.getpid()}x{next(numbers)}"
    head, second = f"{name}a", f"{name}b"
    # Ray puts sockets there, whose paths must be short, and the address file that other commands look for.
    folder = Path(tempfile.mkdtemp(prefix="raf2n", dir="/tmp"))
    environment = {**os.environ, "RAY_TMPDIR": str(folder), "RAY_AUTH_MODE": "disabled", "PYTHONUNBUFFERED": "1",
                   "PYTHONPATH": str(REPOSITORY)}  # fmt: skip
    environment.pop("RAY_ADDRESS", None)
    made = []
    try:
        for namespace in (head, second):
            try:
                ip("netns", "add", namespace)
            except subprocess.CalledProcessError as error:
                pytest.skip(f"network namespaces are not allowed here: {error.stderr.strip()}")
            made.append(namespace)
        ip("link", "add", "cable", "netns", head, "type", "veth", "peer", "name", "cable", "netns", second)
        for namespace, address in ((head, HEAD), (second, SECOND)):
            ip("-n", namespace, "addr", "add", f"{address}/30", "dev", "cable")
            for link in ("lo", "cable"):
                ip("-n", namespace, "link", "set", link, "up")
        ray_start(head, environment, "--head", f"--node-ip-address={HEAD}", f"--port={PORT}",
                  "--include-dashboard=false", f"--temp-dir={folder / 'a'}")  # fmt: skip
        start_second(second, environment)
        yield TwoNodes(head, second, f"{HEAD}:{PORT}", environment)
    finally:
        for namespace in made:
            kill_all(namespace)
            ip("netns", "del", namespace)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def two_nodes() -> Iterator[TwoNodes]:
    """Two nodes of two CPUs each, for tests that leave both alive."""
    with cluster() as nodes:
        yield nodes


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "model.pt", weights_only=True)["model"]


def assert_same(folder: Path, reference: Path) -> None:
    one, other = weights(folder), weights(reference)
    assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)
    scores = [json.loads((path / "results.json").read_text())["by_resolution"] for path in (folder, reference)]
    assert scores[0] == scores[1]


def clients_by_node(folder: Path) -> dict[str, set[str]]:
    found = re.findall(r"on node (\S+): (.*)", (folder / "run.log").read_text())
    return {node: {name for name in names.split(", ") if name.startswith("client-")} for node, names in found}


@pytest.mark.rare
def test_a_federation_over_two_nodes_gives_the_bits_of_one_process(two_nodes, tmp_path):
    reference = run_federation(tiny(CLIENTS, "federation.engine=in_process"), tmp_path / "reference")
    done = two_nodes.run("raf_ray.run", "--address", two_nodes.address, "--output", str(tmp_path / "run"),
                         *WORDS, CLIENTS)  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"cluster at {two_nodes.address} (4 CPUs" in done.stdout
    living = clients_by_node(tmp_path / "run")
    assert {node: len(names) for node, names in living.items()} == {HEAD: 2, SECOND: 2}
    assert_same(tmp_path / "run", reference.folder)


def test_clients_that_fit_on_no_node_are_refused_though_their_sum_fits(two_nodes, tmp_path):
    """3 x 1.2 + 0.4 = 4.0 CPUs are there, but a node of 2 CPUs holds one such client."""
    done = two_nodes.run("raf_ray.run", "--address", two_nodes.address, "--output", str(tmp_path / "run"),
                         *WORDS, "resources.cpus_per_client=1.2", "resources.clients_per_actor=1",
                         "resources.wait_for_room_s=2")  # fmt: skip
    assert done.returncode == 2, done.stdout + done.stderr
    assert "waiting up to 2 s" in done.stdout and "the nodes hold 2 such shares" in done.stderr
    assert not (tmp_path / "run").exists()


def run_on(nodes: TwoNodes, folder: Path, words: Sequence[str], at: dict[str, Callable[[], None]]) -> tuple[int, str]:
    """Run a federation and do something when a line of its output holds a text; its exit code and output."""
    process = nodes.start("raf_ray.run", "--address", nodes.address, "--output", str(folder), *words)
    assert process.stdout is not None
    seen = []
    for line in process.stdout:
        seen.append(line)
        for text, act in at.items():
            if text in line:
                act()
    return process.wait(), "".join(seen)


LONG = (*WORDS, CLIENTS, "federation.rounds=8", "data.people_per_client=24")
KEEPS = ("algorithm.name=scaffold", "optimizer.reset_each_round=false", "federation.checkpoint_every=2")


@pytest.mark.parametrize(
    ("more", "at"),
    [
        pytest.param((), "round 2/8", marks=pytest.mark.rare),
        pytest.param(KEEPS, "round 2/8", marks=pytest.mark.rare),
        pytest.param(KEEPS, "round 3/8", marks=pytest.mark.rare),
    ],
)
def test_a_lost_node_changes_the_time_and_not_the_bits(more, at, tmp_path):
    """Where clients keep vectors, those that the node held are read from the checkpoint or made again."""
    words = [*LONG, *more]
    with cluster() as nodes:
        code, said = run_on(nodes, tmp_path / "run", words, {at: nodes.kill_second})
        assert code == 0, said
        lost = clients_by_node(tmp_path / "run")[SECOND]
        assert len(lost) == 2
        told = (tmp_path / "run" / "run.log").read_text()
        if more:
            assert all(f"what client {client} keeps was lost with its node" in told for client in lost)
        else:
            assert {client for client in lost if f"{client}: trained again" in said} == lost
        assert f"node {SECOND} was lost" in told
        assert "Traceback" not in said
    reference = run_federation(tiny(*words, "federation.engine=in_process"), tmp_path / "reference")
    assert_same(tmp_path / "run", reference.folder)


@pytest.mark.rare
def test_a_node_that_comes_back_is_used_again(tmp_path):
    words = [*LONG, "federation.rounds=24"]
    with cluster() as nodes:
        at = {"round 2/24": nodes.kill_second, "round 4/24": nodes.restart_second}
        code, said = run_on(nodes, tmp_path / "run", words, at)
        assert code == 0, said
        assert f"on node {SECOND} again: client-" in (tmp_path / "run" / "run.log").read_text()
    reference = run_federation(tiny(*words, "federation.engine=in_process"), tmp_path / "reference")
    assert_same(tmp_path / "run", reference.folder)


def test_without_retries_a_lost_node_ends_the_run_in_one_sentence_and_the_other_resumes_it(tmp_path):
    words = [*LONG, "resources.retries=0"]
    with cluster() as nodes:
        code, said = run_on(nodes, tmp_path / "run", words, {"round 2/8": nodes.kill_second})
        assert code == 1, said
        lost = clients_by_node(tmp_path / "run")[SECOND]
        last = said.splitlines()[-1].strip()
        assert len(lost) == 2
        assert re.match(rf"failed: node {SECOND} was lost (in round [3-8]|after round [2-8]), and with it ", last)
        assert set(re.findall(r"(client-\w+-\d+) \(tier (?:high|mid)\)", last)) == lost
        assert "Traceback" not in said
        results = json.loads((tmp_path / "run" / "results.json").read_text())
        assert results["status"] == "failed" and f"failed: {results['error']}" == last

        resumed = nodes.run("raf_ray.run", "--address", nodes.address, "--output", str(tmp_path / "run"),
                            *words, "--resume")  # fmt: skip
        assert resumed.returncode == 0, resumed.stdout + resumed.stderr
        assert clients_by_node(tmp_path / "run")[HEAD] > lost
    reference = run_federation(tiny(*words, "federation.engine=in_process"), tmp_path / "reference")
    assert_same(tmp_path / "run", reference.folder)


def test_a_search_over_two_nodes_keeps_its_run_folders_on_the_commands_node(two_nodes, tmp_path):
    """Each trial's clients need both nodes; scores are those of one process."""
    text = TINY.replace("engine: in_process", "clients: {high: 2, mid: 2}").replace("num_samples: 4", "num_samples: 2")
    words = ["resources.client_cpus=0.7", "max_concurrent_trials=1"]
    file = search_file(tmp_path, text=text)
    done = two_nodes.run("raf_ray.tune", str(file), "--address", two_nodes.address,
                         "--output", str(tmp_path / "out"), *words)  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    search = load_search(file, words)
    for trial in trials(tmp_path / "out"):
        folder = tmp_path / "out" / trial["folder"]
        assert trial["status"] == "finished"
        assert {node: len(names) for node, names in clients_by_node(folder).items()} == {HEAD: 2, SECOND: 2}
    params = trials(tmp_path / "out")[0]["params"]
    config = search.trial_config(params)
    alone = config.model_copy(update={"federation": config.federation.model_copy(update={"engine": "in_process"})})
    reference = run_federation(alone, tmp_path / "reference")
    assert_same(tmp_path / "out" / trials(tmp_path / "out")[0]["folder"], reference.folder)


@pytest.mark.rare
def test_a_search_goes_on_with_the_hosts_that_a_lost_node_leaves(tmp_path):
    """The trial that trains, and the next one in its reservation, of which a part has no room any more."""
    text = TINY.replace("rounds: 3, engine: in_process", "rounds: 8, clients: {high: 2, mid: 2}").replace(
        "num_samples: 4", "num_samples: 2"
    )
    words = ["resources.client_cpus=0.7", "max_concurrent_trials=1", "base.resources.wait_for_room_s=15"]
    with cluster() as nodes:
        file = search_file(tmp_path, text=text)
        process = nodes.start("raf_ray.tune", str(file), "--address", nodes.address,
                              "--output", str(tmp_path / "out"), *words)  # fmt: skip
        while process.poll() is None and not list((tmp_path / "out").glob("tune/0000-*/federation/scores.csv")):
            time.sleep(0.2)
        nodes.kill_second()
        said = process.communicate(timeout=600)[0]
    assert process.returncode == 0, said
    search = load_search(file, words)
    for trial in trials(tmp_path / "out"):
        assert trial["status"] == "finished", said
        config = search.trial_config(trial["params"])
        alone = config.model_copy(update={"federation": config.federation.model_copy(update={"engine": "in_process"})})
        reference = run_federation(alone, tmp_path / f"reference {trial['number']}")
        assert_same(tmp_path / "out" / trial["folder"], reference.folder)
