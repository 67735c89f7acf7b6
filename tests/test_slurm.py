"""`cluster/slurm.sh`: outside Slurm, and on two hosts whose `srun` starts its tasks for real."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from raf_ray import run_federation
from tests.hosts import HOME, Hosts, hosts_up
from tests.tiny import WORDS, tiny

REPOSITORY = Path(__file__).resolve().parents[1]
SCRIPT = REPOSITORY / "cluster" / "slurm.sh"
JOB = 4711

SRUN = """#!/bin/bash
# As Slurm's: the command behind the options, once on each node, with the environment of here; the worst exit code.
while [[ $1 == --* ]]; do echo "$1" >> ~/srun-options; shift; done
export SLURM_PROCID=0
pids=()
for node in $(scontrol show hostnames "$SLURM_JOB_NODELIST"); do
    ssh -o StrictHostKeyChecking=no -o LogLevel=ERROR "$node" \\
        "cd '$PWD' && $(export -p | tr '\\n' ';') $(printf '%q ' "$@")" > ~/task-$node.log 2>&1 & pids+=($!)
done
code=0
for pid in "${pids[@]}"; do wait "$pid" || code=$?; done
cat ~/task-*.log
exit $code
"""
SCONTROL = """#!/bin/bash
[ "$1 $2" = "show hostnames" ] && tr ',' '\\n' <<< "$3"
"""


@pytest.mark.parametrize(
    ("environment", "words", "says"),
    [
        ({}, ["raf_ray.run"], "slurm.sh runs as a job: sbatch"),
        ({"SLURM_JOB_ID": "1", "SLURM_SUBMIT_DIR": "/"}, [], "slurm.sh needs a module"),
        ({"SLURM_JOB_ID": "1", "SLURM_SUBMIT_DIR": "/"}, ["raf_ray.run"], "there is no .venv with Ray in /"),
    ],
)
def test_outside_slurm_or_without_words_it_says_so(environment, words, says):
    done = subprocess.run(["bash", SCRIPT, *words], env={"PATH": "/usr/bin:/bin", **environment}, text=True,
                          capture_output=True)  # fmt: skip
    assert done.returncode == 2 and says in done.stderr and len(done.stderr.splitlines()) == 1


def test_shellcheck_finds_nothing():
    done = subprocess.run([Path(sys.executable).parent / "shellcheck", SCRIPT], text=True, capture_output=True)
    assert done.returncode == 0, done.stdout


def test_it_asks_for_whole_nodes_with_one_task_each():
    asked = re.findall(r"^#SBATCH (\S+)", SCRIPT.read_text(), re.MULTILINE)
    assert {"--ntasks-per-node=1", "--exclusive", "--nodes=2"} <= set(asked)


@pytest.mark.slow
@pytest.mark.rare
def test_a_job_over_two_nodes_gives_the_bits_of_one_process(tmp_path):
    words = [*WORDS, "federation.clients={high: 2, mid: 2}", "resources.cpus_per_client=0.7",
             "resources.clients_per_actor=1"]  # fmt: skip
    with hosts_up() as hosts:
        h0, h1 = hosts.hosts["h0"], hosts.hosts["h1"]
        submit(hosts)
        environment = {"SLURM_JOB_ID": str(JOB), "SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_NODELIST": "h0,h1",
                       "SLURM_SUBMIT_DIR": f"{HOME}/raf-ray"}  # fmt: skip
        done = hosts.run(h0, "bash", "--login", f"{HOME}/raf-ray/cluster/slurm.sh", "raf_ray.run", "--output",
                         "runs/mine", *words, environment=environment)  # fmt: skip
        assert "Results: runs/mine" in done.stdout
        assert f":{20000 + JOB % 400 * 100}" in (h0.home / "task-h1.log").read_text()
        mine = h0.home / "raf-ray" / "runs" / "mine"
        told = re.findall(r"on node (\S+): (.*)", (mine / "run.log").read_text())
        assert {node for node, _ in told} == {h0.address, h1.address}
        token = re.search(r"[0-9a-f]{64}", done.stdout + (mine / "run.log").read_text())
        assert token is None
        reference = run_federation(tiny(*words, "federation.engine=in_process"), tmp_path / "reference")
        one, other = (torch.load(p / "model.pt", weights_only=True)["model"] for p in (mine, reference.folder))
        assert all(torch.equal(one[key], other[key]) for key in one)
        assert not hosts.ray_processes(h0) and not hosts.ray_processes(h1)


def submit(hosts: Hosts) -> None:
    """What a user of Slurm has: one home on all nodes, the project with its environment in it, and Slurm's commands."""
    home = hosts.hosts["h0"].home
    shutil.copy(hosts.folder / "key", home / ".ssh" / "id_ed25519")
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
        (home / ".local" / "bin" / name).write_text(text)
        (home / ".local" / "bin" / name).chmod(0o755)
    for number in ("h0", "h1"):
        place = hosts.hosts[number].home / "raf-ray"
        (place / "cluster").mkdir(parents=True)
        (place / "raf_ray").symlink_to(REPOSITORY / "raf_ray")
        (place / ".venv").symlink_to(sys.prefix)
        shutil.copy(SCRIPT, place / "cluster")
        hosts.own(place)
    hosts.own(home)
