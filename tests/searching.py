"""A search small enough for tests, in a process of its own that a test may kill."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

TINY = """
base:
  data: {people_per_client: 12, val_people: 6, test_people: 6}
  federation: {rounds: 3, engine: in_process}
  evaluation: {every: 1, resolutions: [128x96, 64x48]}
  optimizer: {batch_size: 4}
  tracking: {mlflow: false}
  resources: {dashboard: false}
param_space:
  objective.alpha: {uniform: [0.2, 0.9]}
  objective.teacher: {choice: [previous, highest]}
max_concurrent_trials: 2
num_samples: 4
"""


def search_file(folder: Path, text: str = TINY) -> Path:
    path = folder / "tiny.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "raf_ray.tune", *words, "--address", "local"]


def start(*words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command(*words), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def finish(process: subprocess.Popen[str], seconds: float = 600) -> str:
    output, _ = process.communicate(timeout=seconds)
    assert process.returncode == 0, output
    return output


def kill(process: subprocess.Popen[str]) -> None:
    """SIGKILL to the command alone, as the kernel would: Ray's own processes notice by themselves."""
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()


def trials(output: Path) -> list[dict[str, Any]]:
    path = output / "trials.json"
    return list(json.loads(path.read_text(encoding="utf-8"))["trials"]) if path.is_file() else []


def wait_for(condition: Any, process: subprocess.Popen[str], seconds: float = 300) -> None:
    """Wait until `condition()` holds while the process lives."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def scores(output: Path) -> dict[str, Any]:
    """Config hash -> everything a finished federation scored; what must not depend on kills."""
    found = {}
    for trial in trials(output):
        results = output / trial["folder"] / "results.json"
        if trial["status"] == "finished":
            values = json.loads(results.read_text(encoding="utf-8"))
            found[trial["hash"]] = (values["status"], values["by_resolution"])
    return found


def trained(output: Path, trial: dict[str, Any]) -> list[int]:
    """The rounds that a federation began to train, in order, over all its sessions."""
    log = (output / trial["folder"] / "run.log").read_text(encoding="utf-8")
    return [int(line.split("training round ")[1].split()[0]) for line in log.splitlines() if "training round " in line]
