"""An environment a peer, made from its file of requirements when it is first asked for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
from pathlib import Path

HERE = Path(__file__).resolve().parent
CHECKOUT = HERE.parents[1]
PLACE = CHECKOUT / ".venv-peers"


QUIET = {"FLWR_TELEMETRY_ENABLED": "0", "RAY_USAGE_STATS_ENABLED": "0"}
LONGEST = 1800
"""Seconds that a contestant may take"""


class PeerMissing(RuntimeError):
    """A peer's environment cannot be made here."""


def run_peer(name: str, people: Path, levels: int, rounds: int, processes: int = 2) -> dict[str, object]:
    """What a contestant's program says: `seconds` and `loss` of each round, `startup_s`, `settings`.

    Raises PeerMissing where its environment cannot be made, RuntimeError where it fails.
    """
    if name == "bare":
        python, module = Path(sys.executable), "benchmarks.bare"
    else:
        python, module = environment(name), f"benchmarks.peers.{name}"
    command = [str(python), "-m", module, str(people), "--levels", str(levels), "--rounds", str(rounds),
               "--processes", str(processes)]  # fmt: skip
    variables = {**os.environ, "PYTHONPATH": str(CHECKOUT), "OMP_NUM_THREADS": "1", **QUIET}
    done = subprocess.run(command, capture_output=True, text=True, cwd=CHECKOUT, env=variables, timeout=LONGEST)
    lines = [line for line in done.stdout.splitlines() if line.startswith('{"seconds"')]
    if done.returncode or not lines:
        raise RuntimeError(f"{name} failed: {done.stdout[-1500:]}{done.stderr[-1500:]}")
    found: dict[str, object] = {"startup_s": 0.0, "settings": {}, **json.loads(lines[-1])}
    return found


def environment(name: str) -> Path:
    """Its interpreter."""
    folder = PLACE / name
    python, ready, wanted = folder / "bin" / "python", folder / ".ready", (HERE / f"{name}.txt").read_text()
    if not ready.is_file() or ready.read_text() != wanted:
        print(f"making the environment of {name} in {folder} (some minutes) ...", file=sys.stderr)
        venv.create(folder, with_pip=True, clear=True)
        done = subprocess.run([str(python), "-m", "pip", "install", "--quiet", "-r", str(HERE / f"{name}.txt")],
                              capture_output=True, text=True)  # fmt: skip
        if done.returncode:
            raise PeerMissing(f"the environment of {name} cannot be made: {done.stderr.strip()[-300:]}")
        ready.write_text(wanted)
    return python
