"""Paths as people give them: in options, config keys and files. The one place where such text becomes a path."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from raf_ray.errors import InputError, abridged
from raf_ray.storage import is_uri


def given_path(text: str | os.PathLike[str], what: str) -> Path:
    """The path that `text` means: ``~`` is the home folder; a relative one stays relative to the working directory.

    Args:
        what: names it in the error: an option or config key, such as ``--output`` or ``data.root``.

    Raises InputError where it can be no path here: empty, a NUL or a character that no file name can hold, an
    unknown ``~user``, a name that is too long, or one that may not be looked at.
    """
    named = os.fspath(text)
    if not named.strip():
        raise InputError(f"{what} is empty; give a path")
    if is_uri(named):
        raise InputError(
            f"{what} {named} is a URI, and this takes folders and files of this machine alone; give a path"
        )
    if "\0" in named:
        raise InputError(f"{what}: {named!r} holds a NUL character, which no path can; correct it")
    try:
        os.fsencode(named)
    except UnicodeEncodeError:
        raise InputError(f"{what}: {named!r} holds a character that no file name here can; correct it") from None
    try:
        path = Path(named).expanduser()
    except RuntimeError:
        raise InputError(f"{what}: the home folder of {named!r} is not known; write the path in full") from None
    _mode(path, what)
    return path


def existing_file(text: str | os.PathLike[str], what: str, remedy: str = "check the path") -> Path:
    """The path of a file that is there. Raises InputError where it is not, or is a folder; see `given_path`."""
    path = given_path(text, what)
    mode = _mode(path, what)
    if mode is None:
        raise InputError(f"{what} {path} does not exist; {remedy}")
    if stat.S_ISDIR(mode):
        raise InputError(f"{what} {path} is a folder; give a file")
    return path


def existing_folder(text: str | os.PathLike[str], what: str, remedy: str = "check the path") -> Path:
    """The path of a folder that is there. Raises InputError where it is not, or is a file; see `given_path`."""
    path = given_path(text, what)
    mode = _mode(path, what)
    if mode is None:
        raise InputError(f"{what}: folder {path} does not exist; {remedy}")
    if not stat.S_ISDIR(mode):
        raise InputError(f"{what} {path} is a file; give a folder")
    return path


def _mode(path: Path, what: str) -> int | None:
    """What is at `path`, or None where nothing is. Raises InputError where that cannot be found out."""
    try:
        return path.stat().st_mode
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            return None
        raise InputError(
            f"{what} {abridged(str(path), 200, 100, 60)} cannot be used: {error.strerror}; give another path"
        ) from None
