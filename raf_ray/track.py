"""``python -m raf_ray.track sync RUN...``: send to MLflow what waits in run folders."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from raf_ray.cli import Parser, run_command
from raf_ray.errors import InputError, RunError

EXAMPLES = """examples:
  python -m raf_ray.track sync runs/mine                           what the server did not take while the run went on
  python -m raf_ray.track sync runs                                of all runs below
  python -m raf_ray.track sync runs/mine --uri http://HOST:5000    the whole run, to another server
"""


def parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m raf_ray.track",
        description="MLflow records that wait on disk. Each is stored once, however often it is sent.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    sync = commands.add_parser("sync", help="send them")
    sync.add_argument("runs", nargs="+", metavar="RUN", help="run folder, or one that holds run folders at any depth")
    sync.add_argument("--uri", help="MLflow server or database (default: the runs' own; a password that is not on disk "
                      "comes from here or from MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD)")  # fmt: skip
    return parser


def main(words: Sequence[str]) -> None:
    arguments = parser().parse_args(words)

    from raf_ray.paths import given_path
    from raf_ray.tracking.checks import check_address
    from raf_ray.tracking.outbox import RECORDS

    if arguments.uri is not None:
        check_address(arguments.uri, "--uri")
    folders: list[Path] = []
    for name in arguments.runs:
        found = [path.parent for path in given_path(name, "RUN").rglob(RECORDS)]
        if not found:
            raise InputError(f"{name} holds no MLflow records ({RECORDS}), nor does a folder below it")
        folders += found
    # A search before its trials: they are nested below its run.
    sync(sorted(dict.fromkeys(folders), key=lambda path: (len(path.resolve().parts), path)), arguments.uri)


def sync(folders: Iterable[Path], uri: str | None = None) -> None:
    """Send what waits in each folder, and print it.

    Raises:
        RunError: a server did not take all of it.
    """
    from raf_ray.masking import masked
    from raf_ray.tracking.mlflow import ended_status
    from raf_ray.tracking.outbox import Outbox
    from raf_ray.tracking.sender import Away, NotYet, Refused, send_waiting
    from raf_ray.tracking.store import MlflowStore

    stores: dict[str, MlflowStore] = {}
    away: dict[str, str] = {}
    left = 0
    for folder in folders:
        try:
            outbox = Outbox(folder)
        except OSError as error:
            raise RunError(f"cannot open the MLflow records in {folder}: {error.strerror or error}") from error
        target = uri or outbox.target()
        if target is None:
            print(f"{folder}: its run ended before its first record")
            continue
        if not outbox.lock():
            print(f"{folder}: its run goes on, or another command sends it")
            continue
        refused: list[str] = []
        try:
            if target in away:
                raise Away(away[target])
            outbox.end_dead_run(ended_status(folder, None))
            stores[target] = stores.get(target) or MlflowStore(target)
            count = send_waiting(outbox, target, stores[target], refused.append)
            print(f"{folder}: {count} records sent to {masked(target)}" if count else f"{folder}: nothing waits")
        except (Away, Refused) as error:
            if not isinstance(error, NotYet):
                away[target] = str(error)
            waiting = outbox.waiting(target)
            left += waiting
            print(f"{folder}: {waiting} records wait: {error}" if waiting else f"{folder}: nothing waits")
        except OSError as error:
            raise RunError(f"cannot write in {folder}: {error.strerror or error}") from error
        finally:
            outbox.close()
        for what in refused:
            print(f"{folder}: MLflow refused {what}")
    if left:
        cause = next(iter(away.values()), "a search's run is missing")
        raise RunError(f"{left} records still wait on disk ({cause}); run the command again when that has changed")


if __name__ == "__main__":
    sys.exit(run_command(main))
