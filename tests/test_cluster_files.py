"""The cluster files: Ray's own checks take them, and they install what the project needs. Nothing is contacted."""

from __future__ import annotations

import copy
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from ray.autoscaler._private.util import prepare_config, validate_config
from ruamel.yaml import YAML

from tests.hosts import make_wheels

REPOSITORY = Path(__file__).resolve().parents[1]
GUIDE = REPOSITORY / "docs" / "cluster.md"
FILES = sorted((REPOSITORY / "cluster").glob("*.yaml"))
COMMANDS = ("initialization_commands", "setup_commands", "head_setup_commands", "worker_setup_commands",
            "head_start_ray_commands", "worker_start_ray_commands")  # fmt: skip


def read(path: Path) -> dict[str, Any]:
    return YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))


each_file = pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)


def test_all_are_there():
    assert [path.name for path in FILES] == ["azure.yaml", "cpu.yaml", "gcp.yaml", "gpu.yaml", "onprem.yaml"]


@pytest.mark.parametrize("name", ["azure.yaml", "gcp.yaml"])
def test_what_was_never_run_says_so(name):
    lines = (REPOSITORY / "cluster" / name).read_text(encoding="utf-8").splitlines()
    assert "NEVER RUN" in " ".join(lines[:2])
    (row,) = [
        line for line in GUIDE.read_text(encoding="utf-8").splitlines() if line.startswith(f"| [`cluster/{name}`]")
    ]
    assert "never run" in row


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
    keys = {remote: local for remote, local in mounts.items() if remote == local}  # which Azure wants on the head
    mounts = {remote: local for remote, local in mounts.items() if remote not in keys}
    assert all(path.startswith("~/.ssh/") and path.endswith(".pub") for path in keys)
    assert {remote: f"~/raf-ray/{local}" for remote, local in mounts.items()} == {remote: remote for remote in mounts}
    assert all((REPOSITORY / local).exists() for local in mounts.values())
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    needed = {"raf_ray", "pyproject.toml", "constraints.txt", project["readme"], *project["license-files"]}
    assert set(mounts.values()) == needed
    install = next(command for command in read(path)["setup_commands"] if "pip install" in command)
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


def started(config: dict[str, Any]) -> list[str]:
    """All commands that start Ray on a node."""
    return [c for key in COMMANDS for c in config.get(key, []) if "ray start" in c]


@each_file
@pytest.mark.parametrize("lower", ["", "ulimit -Hn 2000;"])
def test_the_limit_of_open_files_is_raised_as_far_as_the_machine_allows(path, lower):
    for command in started(read(path)):
        raising = command.split("activate && ")[1].split(" && ")[0]
        script = f"ulimit -Sn 1000; {lower} ulimit -Hn; {raising} && ulimit -n"
        done = subprocess.run(["bash", "-c", script], capture_output=True, text=True)
        hard, soft = done.stdout.split()
        assert (done.returncode, soft) == (0, "65536" if hard == "unlimited" or int(hard) > 65536 else hard)


def test_on_machines_of_ones_own_the_head_is_not_counted_as_a_worker():
    """Ray's autoscaler v2 counts it for the provider `local`, and one of the workers never joins."""
    for path in FILES:
        config = read(path)
        heads = [command for command in started(config) if "--head" in command]
        assert len(heads) == 1
        assert (config["provider"]["type"] == "local") == bool(
            re.search(r"RAY_enable_autoscaler_v2=0 .*ray start", heads[0])
        )


def test_on_machines_of_ones_own_ray_down_finds_ray_and_the_file_says_how_workers_are_stopped(tmp_path):
    """`ray down` runs a plain `ray stop` in a login shell, on the head alone."""
    path = REPOSITORY / "cluster" / "onprem.yaml"
    (link,) = [command for command in read(path)["setup_commands"] if ".local/bin" in command]
    ray = tmp_path / "raf-ray" / ".venv" / "bin" / "ray"
    ray.parent.mkdir(parents=True)
    ray.write_text("#!/bin/sh\necho this is ray\n")
    ray.chmod(0o755)
    for _ in range(2):  # `ray up` again over what is there
        subprocess.run(["bash", "-c", link], check=True, env={"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"})
    assert subprocess.check_output([tmp_path / ".local" / "bin" / "ray"], text=True) == "this is ray\n"
    guide = GUIDE.read_text(encoding="utf-8")
    assert all("python -m raf_ray.cluster down" in text for text in (path.read_text(encoding="utf-8"), guide))


def test_results_are_fetched_into_a_folder_that_is_there():
    """rsync makes one level of folders only."""
    for path in (GUIDE, REPOSITORY / "raf_ray" / "cluster" / "jobs.py"):
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if "ray rsync-down" in line]
        assert lines and all("mkdir -p runs && ray rsync-down" in line for line in lines)


def test_the_head_holds_the_checkpoints_and_is_never_on_spot():
    nodes = read(REPOSITORY / "cluster" / "gpu.yaml")["available_node_types"]
    assert nodes["worker"]["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    for name in ("gpu.yaml", "cpu.yaml"):
        config = read(REPOSITORY / "cluster" / name)
        assert "InstanceMarketOptions" not in config["available_node_types"][config["head_node_type"]]["node_config"]


@pytest.mark.slow
def test_the_set_up_commands_install_the_project_in_a_fresh_home(tmp_path):
    """All files' are the same, but for what a cloud's own launcher needs; sudo does nothing, pip takes links."""
    commands = {tuple(c for c in read(path)["setup_commands"] if "venv" in c and "pip" in c) for path in FILES}
    assert len(commands) == 1
    make_wheels(tmp_path / "wheels")
    home, programs = tmp_path / "home", tmp_path / "bin"
    for place in (home, programs):
        place.mkdir()
    (programs / "python3").symlink_to(Path(sys.base_prefix) / "bin" / f"python3.{sys.version_info.minor}")
    (programs / "sudo").write_text("#!/bin/sh\n")
    (programs / "sudo").chmod(0o755)
    config = read(REPOSITORY / "cluster" / "onprem.yaml")
    for remote, local in config["file_mounts"].items():
        place = home / remote.removeprefix("~/")
        place.parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if (REPOSITORY / local).is_dir() else shutil.copy)(REPOSITORY / local, place)
    environment = {"HOME": str(home), "PATH": f"{programs}:/usr/sbin:/usr/bin:/sbin:/bin", "PIP_NO_INDEX": "1",
                   "PIP_FIND_LINKS": str(tmp_path / "wheels")}  # fmt: skip
    for command in config["setup_commands"]:
        done = subprocess.run(["bash", "-c", command], env=environment, text=True, capture_output=True)
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    for command, says in (("python -m raf_ray.run --help", "usage: "), ("ray --version", "ray, version")):
        line = f"source ~/raf-ray/.venv/bin/activate && {command}"
        done = subprocess.run(["bash", "-c", line], env=environment, text=True, capture_output=True, cwd=home)
        assert done.returncode == 0 and says in done.stdout, done.stdout + done.stderr
