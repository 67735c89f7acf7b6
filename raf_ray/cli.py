"""What the commands share: config words, signals, and how errors end a command."""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from raf_ray.config import Config, load_config
from raf_ray.errors import InputError, RunError, one_line
from raf_ray.masking import masked_in
from raf_ray.terminal import PIPE_CLOSED, PipeClosed, safe_streams


class Parser(argparse.ArgumentParser):
    """What it says of wrong words tells no password in them."""

    def error(self, message: str) -> NoReturn:
        super().error(masked_in(message))


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--preset", action="append", default=[], metavar="NAME",
                        help="named settings; may be given several times, the later wins")  # fmt: skip
    parser.add_argument("--config", metavar="FILE", help="YAML file, such as a run folder's config.yaml")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="a config key and its value (YAML)")


def config_from(arguments: argparse.Namespace) -> Config:
    return load_config(arguments.preset, arguments.config, arguments.overrides)


def run_command(main: Callable[[Sequence[str]], None], words: Sequence[str] | None = None) -> int:
    """Run a command; its exit code: 2 for a wrong request, 1 for a run that failed, 130 when stopped.

    141 where the reader of its output has left; see `raf_ray.terminal.safe_streams`.
    """
    try:
        with safe_streams():
            return _run(main, sys.argv[1:] if words is None else words)
    except PipeClosed:
        return PIPE_CLOSED


def _run(main: Callable[[Sequence[str]], None], words: Sequence[str]) -> int:
    try:
        with _signals_raise():
            main(words)
    except InputError as error:
        return _end(f"error: {error}", 2)
    except RunError as error:
        return _end(f"failed: {error}", 1)
    except KeyboardInterrupt as error:
        return _end(f"stopped{f' ({error})' if str(error) else ''}", 130)
    except OSError as error:  # no folder of a run, which says so itself: such as a disk that is full at the end
        where = f"{error.filename}: " if error.filename else ""
        return _end(f"failed: {where}{error.strerror or error}", 1)
    except Exception as error:  # a fault of ours, or of code that the user named: said in one sentence all the same
        said = masked_in(one_line(error, 300))
        return _end(f"failed: unexpected {type(error).__name__}: {said}{_kept(error)}", 1)
    return 0


def _kept(error: Exception) -> str:
    """Where the traceback is, for whoever is to mend it; nothing where it could not be written."""
    try:
        with tempfile.NamedTemporaryFile("w", prefix="raf-ray-", suffix=".log", delete=False, encoding="utf-8",
                                         errors="backslashreplace") as file:  # fmt: skip
            file.write(masked_in("".join(traceback.format_exception(error))))
    except OSError:
        return ""
    return f" (the traceback is in {file.name})"


@contextmanager
def _signals_raise() -> Iterator[None]:
    """SIGINT and SIGTERM raise KeyboardInterrupt, also where a script's background had SIGINT ignored."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handler(number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt(signal.Signals(number).name)

    old = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, previous in old.items():
            signal.signal(number, previous)


def _end(message: str, code: int) -> int:
    print(message, file=sys.stderr)
    return code
