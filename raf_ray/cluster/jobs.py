"""Submit a command to a cluster as a Ray Job: what goes along, its log as it comes, where its results lie.

For clusters that are reached by their dashboard's URL alone, such as through the tunnel of ``ray dashboard``. The
job is the same command, run on the head node.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import re
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from raf_ray.addresses import is_url, knock, web_address
from raf_ray.cluster.connect import TOKEN_ADVICE
from raf_ray.errors import InputError, RunError, one_line
from raf_ray.masking import masked_in
from raf_ray.paths import existing_file
from raf_ray.storage import is_uri

RESULTS = "raf_ray_runs"
"""Below the home of the head node's user: a job's own working directory goes away with the job."""

PACKED_MB = 100
"""Ray takes 500 MB, and keeps the package in the head node's memory."""

LEFT_OUT = ("runs", "data", "build", "dist", "node_modules", "mlartifacts")
"""Folders of the working directory that never go along; nor do hidden ones, virtual environments and run folders."""

CONFIG = ".job-config.yaml"
"""Where --config's file lies in the job's working directory."""

STOP_SECONDS = 30
"""For a stopped run to end in order, before the cluster kills it. Ray's own 3 s are too short."""

PATIENCE_SECONDS = 60.0
"""For a connection that was lost, and for a cluster that has just started."""

RETRY_SECONDS = 1.0

MOST_SAID = 300
"""Characters of others' words in a sentence."""

NOT_SENT = (
    "The password of tracking.uri does not go along, as the cluster shows a job's words to everybody: set "
    "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD where the cluster runs its jobs"
)


def dashboard_of(address: str | None) -> str | None:
    """The dashboard's URL, if `address` (or RAY_ADDRESS) is one: the command is then submitted there as a job.

    Raises InputError for a URL that is none.
    """
    what = "--address" if address else "RAY_ADDRESS"
    address = address or os.environ.get("RAY_ADDRESS") or ""
    return web_address(address, what) if is_url(address) else None


def submit(module: str, words: Sequence[str], dashboard: str, kind: str, say: Callable[[str], None]) -> None:
    """Run ``python -m module words`` on the cluster's head node, to its end, and print its log as it comes.

    The package as it is here, the working directory (see `pack`) and the file of ``--config`` go along. A relative
    ``--output``, and the default one, lie below ``~/raf_ray_runs`` on the head node; a storage's URI stays what it is.

    Args:
        module: a command of this package, with ``--output`` and ``--config``.
        words: its command line; ``--address`` is left out of the job's.
        dashboard: URL of the cluster's dashboard.
        kind: begins the job's name.
        say: told where the job is and where its results lie.

    Raises:
        InputError: the cluster cannot be reached or the job cannot be packed; or the job said so of its request.
        RunError: the job failed.
        KeyboardInterrupt: the job was stopped.
    """
    options = argparse.ArgumentParser(add_help=False)
    for option in ("--address", "--config", "--output"):
        options.add_argument(option)
    own, rest = options.parse_known_args(words)
    job = f"{re.sub(r'[^A-Za-z0-9_.-]', '_', kind)}-{datetime.now():%Y%m%d-%H%M%S}"
    output = own.output or job
    is_whole = output.startswith("/") or is_uri(output)
    where = output if is_whole else f"~/{RESULTS}/{output}"
    command = ["python", "-m", module, *rest, *(["--config", CONFIG] if own.config else [])]
    # The shell of the head node expands its own ~.
    folder = shlex.quote(output) if is_whole else f"~/{RESULTS}/{shlex.quote(output)}"
    public = [masked_in(word) for word in command]
    entrypoint = f"{shlex.join(public)} --output {folder}"

    client = connect(dashboard)
    with tempfile.TemporaryDirectory() as packed:
        config = existing_file(own.config, "config file") if own.config else None
        if pack(Path.cwd(), Path(packed), config) or public != command:
            say(NOT_SENT)
        environment = {"working_dir": packed, "env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_SECONDS)}}
        with _errors_of(dashboard):
            _when_ready(partial(client.submit_job, entrypoint=entrypoint, submission_id=job, runtime_env=environment))
    log = JobLog(client, job)
    try:
        place = "in" if is_uri(output) else "on the head node in"
        say(f"Job {job} on {masked_in(dashboard)}; results will lie {place} {where}; Ctrl-C stops the job")
        ended = log.follow()
    except KeyboardInterrupt:
        say(f"stopping job {job} ...")
        with _errors_of(dashboard):
            client.stop_job(job)
        ended = log.follow()
    _conclude(job, ended, where, say)


def connect(dashboard: str) -> Any:
    """A client of the cluster's job server. Raises InputError where none answers or a token is asked for."""
    parts = urlsplit(dashboard)
    try:
        knock(parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80))
    except OSError as error:
        raise InputError(
            f"no Ray dashboard answers at {dashboard} ({error}); start the cluster, or open a tunnel to it with "
            "`ray dashboard CLUSTER.yaml`"
        ) from error
    from ray.job_submission import JobSubmissionClient

    for name in ("dashboard.modules.dashboard_sdk", "dashboard.modules.job.sdk", "_private.runtime_env.packaging"):
        logging.getLogger(f"ray.{name}").setLevel(logging.ERROR)
    with _errors_of(dashboard), _without("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        return JobSubmissionClient(dashboard)


def pack(folder: Path, into: Path, config: Path | None = None) -> bool:
    """Copy what a job needs: this package, the files of `folder`, the config file.

    Left out of `folder`: hidden files, `LEFT_OUT`, virtual environments, run folders, links to folders. A config's
    passwords stay here; whether there were any.

    Raises:
        InputError: a file cannot be read, or there are more than `PACKED_MB`.
    """
    package = Path(__file__).parents[1]
    shutil.copytree(package, into / package.name, ignore=shutil.ignore_patterns("__pycache__"))
    sizes: dict[str, int] = {}
    is_masked = False
    try:
        for path in _files_of(folder, package.name):
            name = path.relative_to(folder)
            sizes[name.parts[0]] = sizes.get(name.parts[0], 0) + path.stat().st_size
            if sum(sizes.values()) > PACKED_MB * 2**20:
                largest = max(sizes, key=lambda key: sizes[key])
                raise InputError(
                    f"the working directory {folder} goes along with a job, and holds more than {PACKED_MB} MB "
                    f"(most in {largest}); run the command in a folder with just what the job needs, and keep data "
                    "on the cluster"
                )
            (into / name).parent.mkdir(parents=True, exist_ok=True)
            is_masked |= _copy(path, into / name)
        if config is not None:
            is_masked |= _copy(config, into / CONFIG)
    except OSError as error:
        raise InputError(f"cannot pack {error.filename or folder} for the job: {error.strerror}") from error
    return is_masked


def _copy(path: Path, to: Path) -> bool:
    """Copy a file, a config without the passwords in its tracking URI; whether there were any."""
    shutil.copyfile(path, to)
    if to.suffix not in (".yaml", ".yml"):
        return False
    whole = to.read_bytes().decode("utf-8", "surrogateescape")
    public = masked_in(whole) if "tracking" in whole else whole
    to.write_bytes(public.encode("utf-8", "surrogateescape"))
    return public != whole


def _files_of(folder: Path, package: str) -> Iterator[Path]:
    for here, folders, files in os.walk(folder):
        if Path(here) == folder:
            folders[:] = [name for name in folders if name not in (*LEFT_OUT, package)]
        elif "pyvenv.cfg" in files or {"config.yaml", "results.json"} <= set(files):
            folders.clear()
            continue
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name != "__pycache__")
        yield from (path for name in sorted(files) if not name.startswith(".") and (path := Path(here, name)).is_file())


def _when_ready(submit_job: Callable[[], str]) -> None:
    """Submit; a cluster that has just started takes jobs some seconds after its dashboard answers."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            submit_job()
            return
        except RuntimeError as error:
            if "No available agent" not in str(error) or time.monotonic() > deadline:
                raise
        time.sleep(RETRY_SECONDS)


class JobLog:
    """A job's log on this terminal, each character once."""

    def __init__(self, client: Any, job: str) -> None:
        self._client = client
        self._job = job
        self._shown = 0

    def follow(self) -> Any:
        """Print the log as it comes until the job has ended; its details. Raises RunError if the cluster is lost."""
        from aiohttp import ClientError

        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                asyncio.run(self._tail())
                details = self._client.get_job_info(self._job)
                if details.status.is_terminal():
                    return details
                deadline = time.monotonic() + PATIENCE_SECONDS
            except (OSError, RuntimeError, ClientError) as error:
                if time.monotonic() > deadline:
                    raise RunError(
                        f"the connection to the cluster was lost ({one_line(error, MOST_SAID)}); job {self._job} goes "
                        f"on there: `ray job logs --follow {self._job}` shows it and `ray job stop {self._job}` stops "
                        "it"
                    ) from error
            time.sleep(RETRY_SECONDS)

    async def _tail(self) -> None:
        position = 0
        async for text in self._client.tail_job_logs(self._job):
            position += len(text)
            if position > self._shown:
                sys.stdout.write(text[self._shown - position :])
                sys.stdout.flush()
                self._shown = position


def _conclude(job: str, details: Any, where: str, say: Callable[[str], None]) -> None:
    """Say where the results lie, and end as the job ended."""
    from ray.job_submission import JobStatus

    refused = details.driver_exit_code == 2
    host = urlsplit(details.driver_agent_http_address or "").hostname
    if host is not None and not refused and not is_uri(where):
        name = PurePosixPath(where).name
        say(f"The run's folder is on the cluster's head node ({host}): {where}")
        say(f"To fetch it: mkdir -p runs && ray rsync-down CLUSTER.yaml '{where}/' runs/{name}/")
    if details.status == JobStatus.SUCCEEDED:
        return
    if details.status == JobStatus.STOPPED or details.driver_exit_code == 130:
        raise KeyboardInterrupt(f"job {job}")
    if details.driver_exit_code is None:
        raise RunError(f"job {job} could not run: {one_line(details.message, MOST_SAID)}")
    ending = f"job {job} ended with exit code {details.driver_exit_code}; its last line above says why"
    raise InputError(ending) if refused else RunError(ending)


@contextmanager
def _errors_of(dashboard: str) -> Iterator[None]:
    """What the job server or its absence raises, as an InputError."""
    from ray.exceptions import AuthenticationError

    try:
        yield
    except AuthenticationError as error:
        raise InputError(f"the cluster at {dashboard} asks for a token: {TOKEN_ADVICE}") from error
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        raise InputError(f"{dashboard} does not take a job: {one_line(error, MOST_SAID)}") from error


@contextmanager
def _without(*names: str) -> Iterator[None]:
    """Ray's client prefers these environment variables to the address that it is given."""
    kept = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(kept)
