"""Picture files, read one by one when a person is first asked for."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from raf_ray.data.annotations.fields import as_number
from raf_ray.data.encoded import decode
from raf_ray.data.headers import read_header, read_orientation, turn
from raf_ray.data.people import People, PictureError
from raf_ray.errors import InputError, abridged

HEADER_THREADS = 16
"""A choice: many headers are waited for at once, as a network's disk wants it; from a warm cache one core reads
some 12,000 a second, however many threads."""


@dataclass(frozen=True, eq=False)
class PictureFiles:
    """Row -> picture. A plain record of paths, so it is cheap to send to another process."""

    paths: tuple[str, ...]
    annotations: str = ""
    """The file that lists the pictures, as messages name it."""
    sizes: np.ndarray | None = None
    """(rows, 2) int64 width and height that the file gives each picture; 0 where it gives none."""
    others: Mapping[int, str] | None = None
    """Id -> path of pictures that the file lists and in which nobody is used, where a detector's boxes may be too."""

    def __call__(self, row: int) -> np.ndarray:
        """(H, W, 3) uint8 RGB. Raises PictureError where the file is missing or cannot be decoded."""
        return read_picture(self.paths[row])

    def name(self, row: int) -> str:
        """How messages name the picture."""
        return shown_path(self.paths[row])

    def size(self, row: int) -> tuple[int, int]:
        """Width and height of the stored picture, from its header. Raises PictureError; see `stored_size`."""
        return stored_size(self.paths[row])

    def given_size(self, row: int) -> tuple[int, int] | None:
        """Width and height as the annotation file gives them, if it does."""
        width, height = (0, 0) if self.sizes is None else self.sizes[row].tolist()
        return (width, height) if width and height else None


def shown_path(path: str | Path) -> str:
    """A file's name for a message: its odd characters escaped where it could not be printed, cut where it is long."""
    text = str(path)
    text = text if text.isprintable() else ascii(text)
    return abridged(text, 500, 300, 100)


def read_picture(path: str | Path, *, turned: bool = False) -> np.ndarray:
    """(H, W, 3) uint8 RGB in the stored orientation, or `turned` as its tag asks. Raises PictureError."""
    what = f"picture {shown_path(path)}"
    with _opened(path, what) as file:
        header = read_header(file, what)  # before all of what may be no picture is read
        orientation = read_orientation(file) if turned else 1
        file.seek(0)
        data = file.read()
    picture = decode(data, header, what)
    return turn(picture, orientation) if turned else picture


def stored_size(path: str) -> tuple[int, int]:
    """Width and height of a picture as stored, from its header alone. Raises PictureError where that cannot be read."""
    what = f"picture {shown_path(path)}"
    with _opened(path, what) as file:
        header = read_header(file, what)
    return header.width, header.height


def stored_orientation(path: str) -> int:
    """The EXIF orientation of a picture, 1 to 8; 1: upright, or it has none. Raises PictureError; see `stored_size`."""
    what = f"picture {shown_path(path)}"
    with _opened(path, what) as file:
        read_header(file, what)
        return read_orientation(file)


@contextmanager
def _opened(path: str | Path, what: str) -> Iterator[IO[bytes]]:
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # a pipe would be waited for, a device read for ever
            raise PictureError(f"{what} is a folder or no regular file")
        with open(path, "rb") as file:
            yield file
    except FileNotFoundError:
        raise PictureError(f"{what} is missing") from None
    except OSError as error:
        raise PictureError(f"{what} cannot be read: {error.strerror or error}") from error
    except MemoryError as error:
        raise PictureError(f"{what} does not fit into memory") from error
    except ValueError:  # a NUL, or a character that no file name here can hold
        raise PictureError(f"{what} cannot be read: no file can have such a name") from None


def check_picture_folder(folder: Path) -> None:
    """Raise InputError where there is no such folder."""
    if not folder.is_dir():
        raise InputError(
            f"picture folder {folder} does not exist; set data.images to the folder of the split's pictures, "
            "relative to data.root"
        )


# --- sizes that an annotation file gives -------------------------------------------------------------------


def sizes_given(entries: Iterable[Mapping[str, Any]]) -> np.ndarray:
    """(n, 2) int64 of COCO's `width` and `height` of n images; 0, 0 where they are absent or no size."""

    def whole(value: object) -> int:
        found = as_number(value)
        return int(found) if found is not None and 0 < found < 2**31 and found == int(found) else 0

    pairs = [(whole(entry.get("width")), whole(entry.get("height"))) for entry in entries]
    sizes = np.array(pairs, np.int64).reshape(-1, 2)
    sizes[(sizes == 0).any(axis=1)] = 0
    return sizes


def size_notes(groups: Sequence[People]) -> tuple[str, ...]:
    """A sentence for each annotation file that gives a picture of these people another size than it has.

    Headers alone are read. A picture that cannot be read, or whose size the file does not give, is passed over.
    """
    used: dict[str, tuple[PictureFiles, set[int]]] = {}
    for people in groups:
        if isinstance(people.read, PictureFiles) and people.read.sizes is not None:
            _, rows = used.setdefault(people.read.annotations, (people.read, set()))
            rows.update(np.unique(people.rows).tolist())
    return tuple(note for files, rows in used.values() if (note := _size_note(files, sorted(rows))))


def _size_note(files: PictureFiles, rows: Sequence[int]) -> str | None:
    known = [row for row in rows if files.given_size(row)]

    def real_size(row: int) -> tuple[int, int] | None:
        try:
            return files.size(row)
        except PictureError:
            return None

    with ThreadPoolExecutor(HEADER_THREADS) as pool:
        found = zip(known, pool.map(real_size, known), strict=True)
        wrong = [(row, size) for row, size in found if size is not None and size != files.given_size(row)]
    if not wrong:
        return None
    row, (width, height) = wrong[0]
    given = files.given_size(row)
    assert given is not None
    more = f" ({len(wrong)} of {len(known)} pictures differ)" if len(wrong) > 1 else ""
    if given == (height, width):
        why = (
            "exchanged, as where people were labelled on pictures turned by their EXIF orientation; pictures are read "
            "as stored, so store them turned"
        )
    else:
        why = "its labels may lie elsewhere"
    return (
        f"{files.annotations} gives picture {files.name(row)} {given[0]} x {given[1]} px, but it has "
        f"{width} x {height}{more}: {why}"
    )
