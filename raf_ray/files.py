"""Files that are either whole or not there, and JSON from whoever wrote it."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from raf_ray.errors import InputError

Json = dict[str, Any]
"""A JSON object or a mapping of config keys: whoever takes something out of it knows, or checks, what it is."""


class Readable(Protocol):
    """A file by its path, or an object of a storage."""

    def read_bytes(self) -> bytes: ...


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary neighbour, then rename it: readers see the old file or the whole new one."""
    # The suffix stays last: some writers choose the format by it.
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        write(temporary)
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def without_nan(value: object) -> Any:
    """The same with null for what is not finite, which JSON has no word for."""
    if isinstance(value, Mapping):
        return {str(key): without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    write_text(path, json.dumps(values, indent=2, allow_nan=False, default=float) + "\n")


def read_text(path: Readable, what: str, remedy: str = "check the path") -> str:
    """The text of a file of UTF-8, with or without a byte order mark, or of UTF-16 or -32.

    Args:
        what: names the file in the error, such as ``config file``.
        remedy: what to do where it is missing.

    Raises InputError, in one sentence, where it is missing, cannot be read or is no text.
    """
    data = _read_bytes(path, what, remedy)
    try:
        return data.decode(json.detect_encoding(data))
    except UnicodeDecodeError as error:
        raise InputError(
            f"{what} {path} is no UTF-8 text (byte {error.start} is 0x{data[error.start]:02x}); save it as UTF-8, or "
            "check that it is the file you mean"
        ) from None


def read_json(path: Readable, what: str, remedy: str = "check the path") -> Any:
    """The content of a JSON file of UTF-8, with or without a byte order mark (or UTF-16 or -32 with one).

    Args:
        what: names the file in the error, such as ``annotation file``.
        remedy: what to do where it is missing.

    Raises InputError, in one sentence, where it is missing, empty, cannot be read or is not JSON.
    """
    data = _read_bytes(path, what, remedy)
    if not data.strip():
        raise InputError(f"{what} {path} is empty; fetch or write it anew")
    try:
        return json.loads(data)
    except RecursionError:
        raise InputError(f"{what} {path} is nested too deeply to be read; it is damaged or no such file") from None
    except ValueError as error:  # also bytes that are no text
        if "integer string conversion" in str(error):
            raise InputError(f"{what} {path} holds a number of thousands of digits; correct it") from None
        raise InputError(f"{what} {path} is not valid JSON ({error}); where it was cut off, fetch it anew") from error


def _read_bytes(path: Readable, what: str, remedy: str) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"{what} {path} does not exist; {remedy}") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise InputError(f"{what} {path} cannot be read: {getattr(error, 'strerror', None) or error}") from error
