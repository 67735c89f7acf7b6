"""One federation from config to run folder: check, connect, train, watch, report. The Python API."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from pathlib import Path

from raf_ray.cluster.connect import joined
from raf_ray.cluster.room import settled
from raf_ray.config import Config, load_config, write_yaml
from raf_ray.config.loading import differences, use_of
from raf_ray.config.plain_yaml import shown
from raf_ray.config.section import Use
from raf_ray.errors import InputError, RunError
from raf_ray.evaluation.scores import Sample
from raf_ray.experiment.pictures import draw_missing
from raf_ray.experiment.place import working_folder
from raf_ray.experiment.sharing import said_of, shares_of
from raf_ray.experiment.watching import Watcher, trackers_for
from raf_ray.federation.engines import Engine, InProcess, OnRay
from raf_ray.federation.events import Event, Failed, Finished, Noted
from raf_ray.files import Json
from raf_ray.paths import given_path
from raf_ray.request.assembly import federation_spec, prepare
from raf_ray.request.prepared import Prepared
from raf_ray.runs.folder import RunFolder
from raf_ray.storage import Storage, is_uri, open_storage
from raf_ray.tracking.checks import check_tracking

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Results:
    """What a finished run leaves: `values` is results.json."""

    folder: Path | Storage
    """As it was given: a folder of this machine, or one of a storage"""
    values: Json

    @property
    def by_resolution(self) -> dict[str, float]:
        """Size -> score on the final split, in [0, 1]."""
        return dict(self.values["by_resolution"])


def run_federation(
    config: Config | None = None,
    output: str | Path | None = None,
    *,
    resume: bool = False,
    overwrite: bool = False,
    address: str | None = None,
    watchers: Sequence[Watcher] | None = None,
    say: Callable[[str], None] | None = None,
) -> Results:
    """Train one federation and leave its run folder.

    Args:
        config: what to run; None is the demo.
        output: the run folder, or the URI of one in a storage (``s3://BUCKET/PATH``); None makes a new one below
            ``runs/``.
        resume: go on from the folder's last checkpoint, to the same bits.
        overwrite: replace an earlier run in the folder.
        address: of a Ray cluster, ``HOST:PORT``, ``auto`` or ``local``; see `raf_ray.cluster.connect`. A
            process that is connected already keeps its connection.
        watchers: see the events as they come, in place of the config's own: None is MLflow where `tracking.mlflow`
            asks for it (the default), with its warnings in the log ``raf_ray.tracking``; [] is none.
        say: told which cluster was joined.

    Raises:
        InputError: the request is wrong; nothing was written.
        RunError: the run failed in the middle; its folder is kept.
    """
    config = config or Config()
    if output is not None and is_uri(output):
        storage = open_storage(str(output), "output", writes=True)
        with working_folder(storage, "output", say or log.warning) as folder:
            found = run_federation(
                config, folder, resume=resume, overwrite=overwrite, address=address, watchers=watchers,
                say=say,
            )  # fmt: skip
        return replace(found, folder=storage)
    prepared = prepare(config)
    folder = given_path(output, "output") if output is not None else new_folder(Path("runs"), "run")
    if watchers is None:
        watchers = trackers_for(config, logging.getLogger("raf_ray.tracking").warning)
    finished = check_output(folder, config, resume=resume, overwrite=overwrite)
    if finished is None:
        check_tracking(config.tracking, folder.parent)
    with connected([prepared], address, say or (lambda line: None)):
        return run_prepared(prepared, folder, resume=resume, overwrite=overwrite, address=address, watchers=watchers)


def run_prepared(
    prepared: Prepared,
    output: Path,
    *,
    resume: bool,
    overwrite: bool,
    address: str | None,
    watchers: Sequence[Watcher],
    engine: Engine | None = None,
) -> Results:
    """`run_federation` for a request that was checked, where the cluster is connected.

    `engine` says where it runs; None is as `federation.engine` says.
    """
    folder = RunFolder(output)
    if (folder / "config.yaml").is_file() and (resume or overwrite):
        with folder.locked():  # a killed run's driver may still be about to end
            pass
    finished = check_output(output, prepared.config, resume=resume, overwrite=overwrite)
    if finished is not None:
        with folder.logged():
            _draw(prepared, folder, finished, watchers)
        return Results(output, finished)
    spec = federation_spec(prepared, output.name)
    checkpoint = spec.last_checkpoint(folder) if resume else None
    engine = engine or engine_of(prepared)
    if not resume:
        folder.create(write_yaml(prepared.config), overwrite)
    return _watch(partial(engine.run, spec, RunFolder(output.resolve()), checkpoint), prepared, folder, watchers)


@contextmanager
def connected(requests: Sequence[Prepared], address: str | None, say: Callable[[str], None]) -> Iterator[None]:
    """A Ray connection for as long as some requests need it. Nothing for in_process.

    Args:
        say: told which cluster was joined, what is waited for, and who shares an actor.

    Raises InputError where one of them does not fit the cluster.
    """
    config = requests[0].config
    if config.federation.engine == "in_process":
        yield
        return
    with joined(address, config.resources.dashboard) as cluster:
        if cluster is not None:
            say(cluster.description)
            asked, wait = config.resources.clients_per_actor, config.resources.wait_for_room_s
            found = settled(lambda: list(map(shares_of, requests)), 0.0 if cluster.private else wait, say)
            said = [
                said_of(shares, len(prepared.trainers), asked) for shares, prepared in zip(found, requests, strict=True)
            ]
            for line in dict.fromkeys(line for lines in said for line in lines):
                say(line)
        yield


def new_folder(parent: Path, name: str = "") -> Path:
    """A folder that does not exist yet, named by the time."""
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    for suffix in ("", *(f"-{i}" for i in range(2, 1000))):
        path = parent / f"{name}{'-' if name else ''}{stamp}{suffix}"
        if not path.exists():
            return path
    raise InputError(f"no free folder name below {parent}; give --output")


def check_output(output: Path, config: Config, *, resume: bool, overwrite: bool) -> Json | None:
    """Whether the folder can take this run. Results where it is resumed and complete already.

    Raises:
        InputError: the folder is in use, or its run cannot go on with `config`.
    """
    folder = RunFolder(output)
    if not resume:
        folder.check_free(overwrite)
        return None
    if not (folder / "config.yaml").is_file():
        raise InputError(f"{output} holds no run to resume (no config.yaml); leave --resume out to start one")
    changed = {
        key: values
        for key, values in differences(load_config(file=folder / "config.yaml"), config).items()
        if use_of(key) is not Use.FREE
    }
    if changed:
        told = ", ".join(f"{key} was {shown(old)}, now {shown(new)}" for key, (old, new) in list(changed.items())[:4])
        more = f" and {len(changed) - 4} more" if len(changed) > 4 else ""
        raise InputError(f"cannot resume {output} with another config: {told}{more}")
    results = folder.results()
    return results if results is not None and results.get("status") == "completed" else None


def engine_of(prepared: Prepared) -> Engine:
    """Where `federation.engine` says that clients live. Raises InputError where they do not fit the cluster."""
    return InProcess() if prepared.config.federation.engine == "in_process" else OnRay(shares_of(prepared))


# --- watching -----------------------------------------------------------------------------------------


def _watch(
    begin: Callable[[], Generator[Event]], prepared: Prepared, folder: RunFolder, watchers: Sequence[Watcher]
) -> Results:
    results: Json | None = None

    def end(watcher: Watcher) -> None:
        watcher.end(folder.path, results)

    with folder.logged(), ExitStack() as begun:
        try:
            folder.start_again()
            for watcher in watchers:
                watcher.begin(prepared, folder.path)
                begun.callback(end, watcher)
            events = _checked(begin(), folder)
            with closing(events):
                for event in events:
                    for watcher in watchers:
                        watcher.see(event)
                    if isinstance(event, Failed):
                        raise RunError(event.message) if event.status == "failed" else KeyboardInterrupt(event.message)
                    if isinstance(event, Finished):
                        results = event.results
                        _draw(prepared, folder, results, watchers, event.samples)
        except BaseException as error:
            stopped = isinstance(error, KeyboardInterrupt | SystemExit)  # SystemExit: Tune ends a trial
            folder.mark_ended("interrupted" if stopped else "failed", str(error))
            raise
    assert results is not None
    return Results(folder.path, results)


def _checked(events: Generator[Event], folder: RunFolder) -> Generator[Event]:
    """The same; an OSError of what makes them is told in a sentence."""
    try:
        yield from events
    except OSError as error:
        raise RunError(folder.sentence(error)) from error


def _draw(
    prepared: Prepared,
    folder: RunFolder,
    results: Json,
    watchers: Sequence[Watcher],
    samples: Sequence[Sample] | None = None,
) -> None:
    """Draw what is missing; the watchers are told what cannot be drawn."""
    for problem in draw_missing(prepared, folder.path, results, samples):
        log.warning("%s", problem)
        for watcher in watchers:
            watcher.see(Noted(problem))
