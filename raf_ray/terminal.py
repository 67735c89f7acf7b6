"""The terminal: streams whose failures are nobody else's, and one console on which users' names are never markup."""

from __future__ import annotations

import errno
import io
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from rich.console import Console
from rich.text import Text

from raf_ray.masking import masked_in

WIDTH_ELSEWHERE = 160
"""Columns where the output is no terminal: wide enough for every table."""

PIPE_CLOSED = 141
"""A shell's exit code for a command whose reader left: 128 + SIGPIPE."""


class PipeClosed(SystemExit):
    """Nobody reads standard output any more, as after ``| head``."""

    def __init__(self) -> None:
        super().__init__(PIPE_CLOSED)

    def __str__(self) -> str:
        return "nobody reads its output any more"


def make_console(width_elsewhere: int = WIDTH_ELSEWHERE) -> Console:
    """A console on stdout. Square brackets and colons in names of folders, tiers and the like stay as they are."""
    width = None if sys.stdout.isatty() else width_elsewhere
    return Console(file=sys.stdout, width=width, markup=False, emoji=False)


def warn(console: Console, line: str) -> None:
    """A line that says ``warning`` before it."""
    console.print(Text.assemble(("warning ", "yellow"), masked_in(line)), highlight=False, soft_wrap=True)


@contextmanager
def safe_streams() -> Iterator[None]:
    """stdout and stderr that no command fails by, as long as it runs.

    A character that the stream's encoding lacks is written as its escape. Where a stream is closed or cannot be
    written (a full disk), the command goes on without it, and stderr says so once. Where stdout's reader has left,
    the main thread's next word there raises `PipeClosed`.
    """
    _open_missing()
    before = sys.stdout, sys.stderr
    output: Any = _Stream("stdout")
    errors: Any = _Stream("stderr")
    sys.stdout, sys.stderr = output, errors
    try:
        yield
        output.flush()
    except SystemExit:  # argparse has printed its help
        output.flush()
        raise
    finally:
        sys.stdout, sys.stderr = before


def printable(text: str) -> str:
    """The same without characters that no encoding holds, such as a file name's byte that is no UTF-8."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


class _Stream:
    """``sys.stdout`` or ``sys.stderr``, of which it writes what it can; raises no OSError."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._stream: Any = getattr(sys, name) or io.TextIOWrapper(io.FileIO(os.devnull, "w"))
        self._is_lost = False
        self._reader_left = False
        if hasattr(self._stream, "reconfigure"):
            self._stream.reconfigure(errors="backslashreplace")

    def __reduce__(self) -> Any:
        return getattr, (sys, self._name)  # in another process, that one's

    def write(self, text: str) -> int:
        self._try("write", text)
        return len(text)

    def writelines(self, lines: Any) -> None:
        self.write("".join(lines))

    def flush(self) -> None:
        self._try("flush")

    def isatty(self) -> bool:
        return not self._is_lost and not self._stream.closed and bool(self._stream.isatty())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _try(self, method: str, *words: str) -> None:
        if not self._is_lost:
            try:
                getattr(self._stream, method)(*words)
            except OSError as error:
                self._lose(error)
            except ValueError:  # it was closed
                self._is_lost = True
        if self._reader_left and threading.current_thread() is threading.main_thread():
            self._reader_left = False  # once: the way out may have more to say
            raise PipeClosed

    def _lose(self, error: OSError) -> None:
        self._is_lost = True
        with suppress(OSError, ValueError):  # what waits in its buffer goes nowhere at exit, without a complaint
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)
        if self._name != "stdout":
            return
        if error.errno == errno.EPIPE:
            self._reader_left = True
        else:
            print(f"warning: standard output cannot be written ({error.strerror}); going on without it",
                  file=sys.stderr)  # fmt: skip


def _open_missing() -> None:
    """Open the standard streams that were closed: else the next file would take their place, and get their words."""
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(number, True)
    os.close(number)
