"""The cluster files: Ray's own checks take them, and they install what the project needs. Nothing is contacted."""

from __future__ import annotations

import copy
import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
from ray.autoscaler._private.util import prepare_config, validate_config
from ruamel.yaml import YAML

REPOSITORY = Path(__file__).resolve().parents[1]
FILES = sorted((REPOSITORY / "cluster").glob("*.yaml"))
COMMANDS = ("initialization_commands", "setup_commands", "head_setup_commands", "worker_setup_commands",
            "head_start_ray_commands", "worker_start_ray_commands")  # fmt: skip


def read(path: Path) -> dict[str, Any]:
    return YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))


each_file = pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)


def test_all_three_are_there():
    assert [path.name for path in FILES] == ["cpu.yaml", "gpu.yaml", "onprem.yaml"]


@each_file
def test_ray_takes_it_and_refuses_a_misspelt_copy(path):
    config = prepare_config(read(path))
    validate_config(config)
    workers = config["available_node_types"]
    assert sum(node["min_workers"] for node in workers.values()) == config["max_workers"] > 0
    with pytest.raises(Exception, match="setup_command"):
        validate_config(prepare_config({**copy.deepcopy(read(path)), "setup_command": []}))


@each_file
def test_its_commands_are_sound_shell(path):
    config = read(path)
    for command in [command for key in COMMANDS for command in config.get(key, [])]:
        done = subprocess.run(["bash", "-n", "-c", command], capture_output=True, text=True)
        assert done.returncode == 0, f"{command}\n{done.stderr}"


@each_file
def test_what_pip_installs_is_sent_to_the_nodes(path):
    mounts = read(path)["file_mounts"]
    assert all((REPOSITORY / local).exists() for local in mounts.values())
    assert {remote: f"~/raf-ray/{local}" for remote, local in mounts.items()} == {remote: remote for remote in mounts}
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    needed = {"raf_ray", "pyproject.toml", "constraints.txt", project["readme"], *project["license-files"]}
    assert set(mounts.values()) == needed
    install = read(path)["setup_commands"][-1]
    assert "-c constraints.txt -e ." in install and "ray[" in "".join(project["dependencies"])


@each_file
def test_head_and_workers_meet_at_one_port_with_one_kind_of_access(path):
    config = read(path)
    head, worker = config["head_start_ray_commands"][-1], config["worker_start_ray_commands"][-1]
    port = re.search(r"--port=(\d+)", head)
    assert port is not None and f"--address=$RAY_HEAD_IP:{port[1]}" in worker
    assert "--autoscaling-config=~/ray_bootstrap_config.yaml" in head
    assert all("RAY_AUTH_MODE=disabled ray start" in command for command in (head, worker))
    assert "dashboard-host" not in head  # on the head's localhost only, where `ray dashboard` tunnels to


def test_the_head_holds_the_checkpoints_and_is_never_on_spot():
    nodes = read(REPOSITORY / "cluster" / "gpu.yaml")["available_node_types"]
    assert nodes["worker"]["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    for name in ("gpu.yaml", "cpu.yaml"):
        config = read(REPOSITORY / "cluster" / name)
        assert "InstanceMarketOptions" not in config["available_node_types"][config["head_node_type"]]["node_config"]
