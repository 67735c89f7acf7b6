"""Clusters by Ray's launcher: what a cluster file lacks, told before `ray up`; what `ray down` leaves, ended."""

from __future__ import annotations

import io
import ipaddress
import logging
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from raf_ray.errors import InputError, RunError, one_line
from raf_ray.files import Json, read_text
from raf_ray.paths import existing_file, given_path

EXAMPLES = [ipaddress.ip_network(net) for net in ("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24")]
"""Addresses of documentation (RFC 5737), which our file has until somebody sets them."""

UNSET = re.compile(r"ami-0+|SET_[A-Z_]+|<[^<>]+>")
"""What stands in our files for a value that only the user knows."""

ANSWER_SECONDS = 10
STOP_SECONDS = 90
"""For `ray stop`, which kills what has not ended after 16 s; longer than a busy machine takes."""

PYTHONS = ((3, 11), (3, 13))
"""The first and last that are supported."""

MOST_SAID = 200
"""Characters of others' words in a sentence."""

PROBE = "python3 -c 'import platform; print(platform.python_version())'"


@dataclass(frozen=True)
class ClusterFile:
    """A file for ``ray up``."""

    path: Path
    values: Json

    @property
    def is_local(self) -> bool:
        """Whether it is of machines that are there already, reached by SSH."""
        return self.values["provider"]["type"] == "local" and "head_ip" in self.values["provider"]

    @property
    def head(self) -> str:
        return str(self.values["provider"]["head_ip"])

    @property
    def workers(self) -> list[str]:
        return [str(address) for address in self.values["provider"].get("worker_ips") or ()]

    @property
    def key(self) -> Path | None:
        named = self.values["auth"].get("ssh_private_key")
        return given_path(str(named), f"auth.ssh_private_key of {self.path}") if named else None

    def on(self, address: str, command: str, seconds: float) -> subprocess.CompletedProcess[str]:
        """Run a command in a host's login shell, as Ray's launcher does.

        Raises subprocess.TimeoutExpired. Exit code 255: the host was not reached.
        """
        auth, key = self.values["auth"], self.key
        options = {
            "BatchMode": "yes",
            "ConnectTimeout": ANSWER_SECONDS,
            "IdentitiesOnly": "yes" if key else None,
            "LogLevel": "ERROR",
            "ProxyCommand": auth.get("ssh_proxy_command"),
            "StrictHostKeyChecking": "no",
            "UserKnownHostsFile": "/dev/null",
        }
        words = [word for name, value in options.items() if value is not None for word in ("-o", f"{name}={value}")]
        identity = ["-i", str(key)] if key else []
        target = f"{auth['ssh_user']}@{address}" if auth.get("ssh_user") else address
        login = f"bash --login -c {shlex.quote(command)}"
        return subprocess.run(["ssh", *identity, *words, target, login], stdin=subprocess.DEVNULL, capture_output=True,
                              text=True, errors="replace", timeout=seconds)  # fmt: skip


def read_cluster_file(path: str) -> ClusterFile:
    """A cluster file that Ray's launcher would take. Raises InputError where it would not."""
    file = existing_file(path, "cluster file")
    try:
        values = yaml.safe_load(read_text(file, "cluster file"))
    except yaml.YAMLError as error:
        raise InputError(f"cluster file {file} is no YAML: {one_line(error, MOST_SAID)}") from None
    _check_schema(file, values)
    return ClusterFile(file, values)


def check(file: ClusterFile, say: Callable[[str], None]) -> None:
    """Look for what would make `ray up` fail late, or make only a part of the cluster.

    Args:
        say: told of hosts that do not answer, without which the cluster starts.

    Raises InputError where a value was left unset, a key does not open, or the hosts of a `local` file do not answer
    or have other versions of Python.
    """
    for name, value in _leaves(file.values):
        if isinstance(value, str) and UNSET.fullmatch(value):
            raise InputError(f"{file.path}: {name} is still {value}; set it (the lines beside it say to what)")
    if not file.is_local:
        return
    for address in (file.head, *file.workers):
        if _is_example(address):
            raise InputError(f"{file.path}: the address {address} is an example's; set those of your machines")
    if len(set(file.workers)) < len(file.workers) or file.head in file.workers:
        raise InputError(f"{file.path}: provider names one machine twice; a head is no worker, and each stands once")
    _check_key(file)
    _check_hosts(file, say)


def up(file: ClusterFile, say: Callable[[str], None]) -> None:
    """`check`, then `ray up`. Raises RunError where that fails."""
    check(file, say)
    code = _ray("up", "--yes", "--disable-usage-stats", str(file.path))
    if code:
        raise RunError(
            f"`ray up {file.path}` ended with exit code {code}, its lines above say why; `python -m raf_ray.cluster "
            f"down {file.path}` ends what it made"
        )


def down(file: ClusterFile, say: Callable[[str], None]) -> None:
    """`ray down`, and the end of Ray on a `local` file's workers, which that leaves running.

    Raises RunError where something goes on.
    """
    start = map(str, file.values.get("worker_start_ray_commands") or ())
    stop = [command for command in start if "ray stop" in command and "ray start" not in command]
    if file.is_local and not stop:
        raise InputError(
            f"{file.path}: no line of worker_start_ray_commands is a `ray stop`, so how Ray ends on the workers is not "
            "known; add one, as cluster/onprem.yaml has it"
        )
    code = _ray("down", "--yes", str(file.path))
    if code:
        raise RunError(f"`ray down {file.path}` ended with exit code {code}; its lines above say why")
    if not file.is_local:
        return
    failed = {}
    for address, problem in _on_all(file, file.workers, " && ".join(stop), STOP_SECONDS).items():
        if isinstance(problem, str):
            failed[address] = problem
        else:
            say(f"Ray has ended on {address}")
    if failed:
        told = "; ".join(f"{address}: {problem}" for address, problem in failed.items())
        raise RunError(
            f"Ray may go on there: {told}. It ends by itself a minute after the head's end; else run `ray stop` there"
        )


# --- the file -----------------------------------------------------------------------------------------


def _check_schema(path: Path, values: Any) -> None:
    from click import ClickException
    from jsonschema import ValidationError
    from ray.autoscaler._private.util import prepare_config, validate_config

    if not isinstance(values, dict) or not isinstance(values.get("provider"), dict):
        raise InputError(f"{path} is no cluster file: it has no provider; see cluster/onprem.yaml")
    logging.getLogger("ray.autoscaler._private.util").setLevel(logging.ERROR)
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):  # `ray up` says its warnings again
            validate_config(prepare_config(values))
    except ValidationError as error:
        where = ".".join(map(str, error.absolute_path))
        raise InputError(f"{path} is no cluster file for Ray: {where or 'in it'}: {error.message}"[:400]) from None
    except (ValueError, KeyError, TypeError, AttributeError, RuntimeError, ClickException) as error:
        raise InputError(f"{path} is no cluster file for Ray: {one_line(error, MOST_SAID)}") from None


def _leaves(values: object, name: str = "") -> Iterator[tuple[str, object]]:
    """(dotted key, value) of all that is no mapping and no list."""
    if isinstance(values, Mapping):
        for key, value in values.items():
            yield from _leaves(value, f"{name}.{key}" if name else str(key))
    elif isinstance(values, list):
        for number, value in enumerate(values):
            yield from _leaves(value, f"{name}[{number}]")
    else:
        yield name, values


def _is_example(address: str) -> bool:
    try:
        return any(ipaddress.ip_address(address) in net for net in EXAMPLES)
    except ValueError:  # a name
        return False


# --- hosts --------------------------------------------------------------------------------------------


def _check_key(file: ClusterFile) -> None:
    """Raise InputError where the private key is missing, readable by others or asks for a passphrase."""
    key = file.key
    if key is None:
        return
    existing_file(key, f"auth.ssh_private_key of {file.path}:", "make one with `ssh-keygen -N '' -f FILE`")
    if key.stat().st_mode & 0o077:
        raise InputError(f"the key {key} can be read by others, so ssh refuses it; chmod 600 {key}")
    opened = subprocess.run(["ssh-keygen", "-y", "-P", "", "-f", key], stdin=subprocess.DEVNULL,
                            capture_output=True, text=True, errors="replace")  # fmt: skip
    if opened.returncode:
        raise InputError(
            f"the key {key} does not open without a passphrase ({one_line(opened.stderr, MOST_SAID)}), and the head "
            "starts the workers with it by itself; give one without"
        )


def _check_hosts(file: ClusterFile, say: Callable[[str], None]) -> None:
    found: dict[str, str] = {}
    for address, answer in _on_all(file, [file.head, *file.workers], PROBE, 3 * ANSWER_SECONDS).items():
        if isinstance(answer, str):
            if address == file.head:
                raise InputError(f"the head {address} of {file.path}: {answer}")
            say(f"{address} is left out for now: {answer}; it joins once `ray start` can run there")
            continue
        found[address] = version = _last_line(answer.stdout)
        if not re.fullmatch(r"\d+\.\d+\.\w+", version):
            raise InputError(
                f"{address} did not say its Python's version, but {version[:MOST_SAID]!r}; see what its login prints"
            )
    first, last = PYTHONS
    for address, version in found.items():
        if not first <= tuple(int(part) for part in version.split(".")[:2]) <= last:
            raise InputError(
                f"{address} has Python {version}, and raf-ray needs 3.{first[1]} to 3.{last[1]}; install one as "
                "python3 there"
            )
        if version != found[file.head]:
            raise InputError(
                f"{address} has Python {version} and the head {file.head} has {found[file.head]}, and Ray joins only "
                "nodes of one version; install the same on all"
            )


def _on_all(
    file: ClusterFile, addresses: Sequence[str], command: str, seconds: float
) -> dict[str, subprocess.CompletedProcess[str] | str]:
    """Address -> what a command came to there, or a sentence about why it did not; at the same time."""

    def on(address: str) -> subprocess.CompletedProcess[str] | str:
        try:
            done = file.on(address, command, seconds)
        except FileNotFoundError:
            raise InputError("there is no ssh on this machine, by which the hosts are reached; install it") from None
        except subprocess.TimeoutExpired:
            return f"no answer in {seconds:g} s"
        if done.returncode == 0:
            return done
        why = _last_line(done.stderr) or _last_line(done.stdout) or f"exit code {done.returncode}"
        return one_line(why, MOST_SAID)

    if not addresses:
        return {}
    with ThreadPoolExecutor(len(addresses)) as pool:
        return dict(zip(addresses, pool.map(on, addresses), strict=True))


def _last_line(text: str) -> str:
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")


def _ray(*words: str) -> int:
    """Ray's own command, of this Python's Ray; its exit code."""
    return subprocess.run([sys.executable, "-m", "ray.scripts.scripts", *words]).returncode
