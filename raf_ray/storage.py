"""Folders that a URI names: ``s3://BUCKET/PATH``, ``gs://BUCKET/PATH``, ``file:///PATH``, by pyarrow.fs.

An object is there whole or not at all: it is written under another name and moved. What passes by itself, such as a
lost connection, is tried again for as long as `patience` says.
"""

from __future__ import annotations

import io
import logging
import os
import re
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from raf_ray.errors import InputError, RunError, one_line
from raf_ray.files import write_atomically
from raf_ray.masking import masked

log = logging.getLogger(__name__)

T = TypeVar("T")

SCHEMES = ("s3", "gs", "file")
PART = ".part-"
"""In the names of objects that are not whole yet."""
PATIENCE_SECONDS = 600.0
"""For a storage that is away: a choice."""
GS_RETRIES, GS_RETRY_SECONDS = "retry_limit_seconds", 10
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 15.0
MOST_SAID = 200
"""Characters of others' words in a sentence."""

PASSING = re.compile(
    r"NETWORK_CONNECTION|TIMEOUT|SLOW_DOWN|THROTTLING|UNAVAILABLE|INTERNAL_FAILURE|curlCode|"
    r"HTTP (?:status(?: code:)?|response code:?) 5\d\d|[Cc]onnection|[Tt]imed? ?out"
)
"""In errors of a storage that may answer later."""
NO_RIGHTS = re.compile(
    r"ACCESS_DENIED|FORBIDDEN|INVALID_ACCESS_KEY|SIGNATURE|HTTP status(?: code:)? 40[13]|[Cc]redential|OAuth2"
)


def is_uri(text: str | os.PathLike[str]) -> bool:
    """Whether it names a folder of a storage, and no path."""
    return "://" in os.fspath(text)


@dataclass(frozen=True)
class Storage:
    """A folder of a storage. Names are relative, with slashes."""

    uri: str
    filesystem: Any
    """pyarrow.fs.FileSystem"""
    base: str
    """The folder's path in it"""
    patience: float
    """Seconds that are waited for it where it is away"""

    def __str__(self) -> str:
        return self.uri

    def __truediv__(self, name: str) -> StoredFile:
        return StoredFile(self, name)

    @property
    def name(self) -> str:
        """The folder's own, without the folders above it."""
        return self.base.rpartition("/")[2]

    def place(self, name: str) -> str:
        """An object's path in the filesystem."""
        return f"{self.base}/{name}"

    def is_dir(self) -> bool:
        """Whether any object is in it; a storage knows no empty folders. Raises RunError."""
        return bool(self.files())

    def files(self) -> Mapping[str, float]:
        """Name of each whole object -> when it was written, in seconds since 1970; none where there is no such folder.

        Raises RunError.
        """
        from pyarrow.fs import FileSelector, FileType

        selector = FileSelector(self.base, recursive=True, allow_not_found=True)
        found = self.patiently("be read", lambda: self.filesystem.get_file_info(selector))
        names = {info.path[len(self.base) :].lstrip("/"): info for info in found if info.type == FileType.File}
        return {name: (info.mtime_ns or 0) / 1e9 for name, info in names.items() if name and PART not in name}

    def send(self, path: Path, name: str) -> None:
        """Put a file there, in place of an older one. Raises RunError."""
        place = self.place(name)
        part = f"{place}{PART}{uuid.uuid4().hex[:8]}"

        def copy() -> None:
            from pyarrow.fs import LocalFileSystem, copy_files

            if self.filesystem.type_name == "local":  # elsewhere folders are parts of names
                self.filesystem.create_dir(place.rpartition("/")[0], recursive=True)
            copy_files(str(path), part, source_filesystem=LocalFileSystem(), destination_filesystem=self.filesystem)
            self.filesystem.move(part, place)

        self.patiently("be written to", copy)

    def fetch(self, name: str, path: Path) -> None:
        """Get an object into a file, whole or not at all. Raises RunError."""

        def copy(temporary: Path) -> None:
            from pyarrow.fs import LocalFileSystem, copy_files

            copy_files(
                self.place(name), str(temporary), source_filesystem=self.filesystem,
                destination_filesystem=LocalFileSystem(),
            )  # fmt: skip

        path.parent.mkdir(parents=True, exist_ok=True)
        self.patiently("be read", lambda: write_atomically(path, copy))

    def delete(self, name: str) -> None:
        """Delete an object that is there. Raises RunError."""
        self.patiently("be written to", lambda: self.filesystem.delete_file(self.place(name)))

    def patiently(self, what: str, call: Callable[[], T]) -> T:
        """What a call gives, which is made again while the storage is away.

        Args:
            what: what is done, for the error: ``be read``.

        Raises RunError, and FileNotFoundError as it comes.
        """
        begun, pause = time.monotonic(), FIRST_PAUSE
        while True:
            try:
                return call()
            except FileNotFoundError:
                raise
            except (OSError, ValueError) as error:  # pyarrow's own are of both
                left = begun + self.patience - time.monotonic()
                if not PASSING.search(str(error)) or left <= 0:
                    raise RunError(f"{self.uri} cannot {what}: {_said(error)}") from error
                log.warning("%s cannot %s yet: %s", self.uri, what, _said(error))
                time.sleep(min(pause, left))
                pause = min(2 * pause, LONGEST_PAUSE)


@dataclass(frozen=True)
class StoredFile:
    """An object of a storage, with what readers of files ask of a path."""

    parent: Storage
    name: str

    def __str__(self) -> str:
        return f"{self.parent}/{self.name}"

    def is_file(self) -> bool:
        from pyarrow.fs import FileType

        place = self.parent.place(self.name)
        found = self.parent.patiently("be read", lambda: self.parent.filesystem.get_file_info(place))
        return bool(found.type == FileType.File)

    def read_bytes(self) -> bytes:
        """Raises FileNotFoundError, RunError."""
        with self.open() as file:
            return file.read()

    def open(self) -> io.RawIOBase:
        """For reading, at any place of it. Raises FileNotFoundError, RunError."""
        return _PatientFile(self)


class _PatientFile(io.RawIOBase):
    """An object's bytes; a read that a lost connection ends is done again."""

    def __init__(self, file: StoredFile) -> None:
        self._file, self._at = file, 0
        self._native = self._open()
        self._size = int(self._native.size())

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def read(self, size: int | None = -1) -> bytes:
        count = self._size - self._at if size is None or size < 0 else min(size, self._size - self._at)

        def read() -> bytes:
            try:
                return bytes(self._native.read_at(count, self._at))
            except OSError:
                self._native = self._open()
                raise

        found = self._file.parent.patiently("be read", read) if count > 0 else b""
        self._at += len(found)
        return found

    def readinto(self, buffer: Any) -> int:
        found = self.read(len(buffer))
        buffer[: len(found)] = found
        return len(found)

    def _open(self) -> Any:
        storage = self._file.parent
        place = storage.place(self._file.name)
        return storage.patiently("be read", lambda: storage.filesystem.open_input_file(place))


def open_storage(uri: str, what: str, writes: bool = False) -> Storage:
    """The folder that a URI names, which need not be there.

    Args:
        what: names it in the error, such as ``--output``.
        writes: it shall be written to, which is tried.

    Raises InputError where the URI is of no known kind or holds a secret, or its bucket does not exist, does not answer
    or may not be used.
    """
    from pyarrow.fs import FileSystem

    scheme, _, rest = uri.strip().partition("://")
    rest = rest.rstrip("/")
    uri = f"{scheme}://{rest}"
    if scheme.lower() not in SCHEMES:
        raise InputError(f"{what} {uri}: no storage of that kind is known; give s3://, gs:// or file:///, or a folder")
    if masked(public := uri.replace("gs://anonymous@", "gs://")) != public:
        raise InputError(
            f"{what} {uri} holds a secret, which would be shown and stored; leave it out and set it where the "
            "storage's own tools look for it (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or ~/.aws/credentials)"
        )
    if not rest.partition("?")[0].strip("/"):
        raise InputError(f"{what} {uri} names no folder; give {scheme}://{'/' if scheme == 'file' else 'BUCKET'}/PATH")
    try:
        filesystem, base = FileSystem.from_uri(_impatient(uri))
        storage = Storage(uri, filesystem, base.rstrip("/"), patience=0.0)
        storage.files()
        if writes:
            _try_to_write(storage)
    except (OSError, ValueError, RunError) as error:
        cause = error.__cause__ if isinstance(error, RunError) and error.__cause__ is not None else error
        raise InputError(f"{what} {uri} cannot be used: {_said(cause)}; {_remedy(str(cause))}") from error
    return Storage(uri, filesystem, storage.base, PATIENCE_SECONDS)


def _impatient(uri: str) -> str:
    """The URI with a bound on the tries that Google's own library makes, for a quarter of an hour by itself."""
    if not uri.startswith("gs://") or GS_RETRIES in uri:
        return uri
    return f"{uri}{'&' if '?' in uri else '?'}{GS_RETRIES}={GS_RETRY_SECONDS}"


def _try_to_write(storage: Storage) -> None:
    """Raise OSError where nothing can be written there. Leaves nothing."""
    if storage.filesystem.type_name == "local":
        place = Path(storage.base)
        beside = next(parent for parent in (place, *place.parents) if parent.exists())
        if not beside.is_dir() or not os.access(beside, os.W_OK):
            raise PermissionError(f"{beside} is no folder that can be written")
        return
    trial = f"{storage.place(PART)}{uuid.uuid4().hex[:8]}"
    with storage.filesystem.open_output_stream(trial) as stream:
        stream.write(b"")
    storage.filesystem.delete_file(trial)


def _remedy(said: str) -> str:
    if NO_RIGHTS.search(said):
        return "set credentials that may read and write there"
    if PASSING.search(said):
        return "see that it runs and can be reached from here (?endpoint_override=HOST:PORT for one of your own)"
    if re.search(r"NO_SUCH_BUCKET|[Bb]ucket .*(?:not|exist)|HTTP status(?: code:)? 404", said):
        return "make the bucket, or correct its name"
    return "correct the URI"


def _said(error: BaseException) -> str:
    """A storage's own words in short."""
    words = one_line(error)
    return words if len(words) <= MOST_SAID else f"{words[:MOST_SAID]} ..."
