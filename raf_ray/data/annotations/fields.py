"""Numbers, ids and names out of JSON that others wrote: what they may be, and a sentence for what they may not.

One rule for every field: a number is a finite JSON number or text that plainly is one (``"12.5"``), since exporters
write both. Whole numbers may be written ``12.0``. Booleans are no numbers, and neither are NaN, infinity and what
lies beyond LARGEST. In what follows, `what` names the value ("'bbox' of annotation 7") and `file` where it stands.
"""

from __future__ import annotations

import json
import logging
import math
import re
import reprlib
from collections import Counter
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from raf_ray.data.skeletons import Skeleton
from raf_ray.errors import InputError, abridged

log = logging.getLogger(__name__)

LARGEST = 1e9
"""Beyond any picture's pixels, and squared still well within float32; a choice."""

SMALLEST = 1e-3
"""Pixels below which a side is none: far below any person's, far above where float32 loses it; a choice."""

SHARE = 1.5
"""Coordinates that all lie within so many pixels are shares of the picture; a choice, 1 and some way outside it."""

LONGEST = 80
"""Characters that a message shows of a value; a choice."""

_PLAIN = frozenset((int, float))
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_WHOLE = re.compile(r"[+-]?\d+", re.ASCII)

_shortened = reprlib.Repr()
_shortened.maxstring = _shortened.maxlong = _shortened.maxother = LONGEST
_shortened.maxlist = _shortened.maxdict = 4
_shortened.maxlevel = 2


def brief(text: str) -> str:
    """A text for a message: its odd characters escaped and, where it is long, its middle left out."""
    text = text if text.isprintable() else ascii(text[:LONGEST])
    return abridged(text, LONGEST, LONGEST - 25, 20)


def shown(value: object) -> str:
    """A JSON value for a message, however long or deeply nested."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    return brief(_shortened.repr(value))


@cache
def warn_once(line: str) -> None:
    """Log a warning about a file, however often a process reads it."""
    log.warning("warning: %s", line)


def given(entry: object, key: str, what: str, file: Path) -> Any:
    """``entry[key]``. Raises InputError where `what` has no such field."""
    if not isinstance(entry, dict):
        raise InputError(f"{file}: {what} is {shown(entry)}, which has no '{key}'; correct or remove it")
    if key not in entry:
        raise InputError(f"{file}: {what} has no '{key}'; add it")
    return entry[key]


def text(value: object, what: str, file: Path) -> str:
    """`value`. Raises InputError where it is no text or an empty one."""
    if not isinstance(value, str) or not value.strip():
        raise InputError(f"{file}: {what} is {shown(value)}, but must be a text that is not empty; correct it")
    return value


def whole(value: object, what: str, file: Path, kind: str = "ids") -> int:
    """`value` as a whole number of 64 bits. Raises InputError where it is none."""
    found = value if type(value) is int else _as_whole(value)
    if found is None or not -(2**63) <= found < 2**63:
        remedy = "renumber them" if kind == "ids" else "correct it"
        raise InputError(f"{file}: {what} is {shown(value)}, but {kind} must be whole numbers of 64 bits; {remedy}")
    return found


def flag(value: object, what: str, file: Path) -> bool:
    """`value`, which is true, false, 1, 0 or null (false), as a bool. Raises InputError for anything else."""
    if value is None or isinstance(value, bool):
        return bool(value)
    found = as_number(value)
    if found not in (0, 1):
        raise InputError(f"{file}: {what} is {shown(value)}, but must be 0 or 1; correct it")
    return found == 1


def number(value: object, what: str, file: Path | str, largest: float = LARGEST) -> float:
    """`value` as a float. Raises InputError where it is none, not finite or beyond `largest`."""
    found = as_number(value)
    if found is None or not abs(found) <= largest:
        raise InputError(f"{file}: {what} must be one finite number; it is {_fault(value, found)}")
    return found


def numbers(value: object, shape: tuple[int, ...], what: str, file: Path | str, *, unknown: bool = False) -> np.ndarray:
    """`value`, lists of numbers, as float64 of `shape` (n,) or (n, m).

    With `unknown`, null is NaN, and what is not finite or beyond LARGEST is left for the caller to judge. Raises
    InputError for anything else.
    """
    flat = _flat(value, shape)
    if flat is None:
        raise InputError(f"{file}: {what} must be {_form(shape)}; it is {shown(value)}")
    read: list[Any] = flat
    if not _PLAIN.issuperset(map(type, flat)):
        read = [math.nan if unknown and one is None else as_number(one) for one in flat]
        if None in read:
            at = read.index(None)
            raise InputError(f"{file}: {what} must be {_form(shape)}; number {at + 1} is {_fault(flat[at], None)}")
    try:
        array = np.array(read, np.float64)
    except OverflowError:
        array = np.array([as_number(one) for one in read], np.float64)
    if not unknown and not (within := np.abs(array) <= LARGEST).all():
        at = int(np.argmin(within))
        raise InputError(f"{file}: {what} must be {_form(shape)}; number {at + 1} is {_fault(flat[at], array[at])}")
    return array.reshape(shape)


def as_number(value: object) -> float | None:
    """The number that a JSON value plainly is, which may be NaN or infinite; None where it is none."""
    if type(value) is int:
        try:
            return float(value)
        except OverflowError:
            return math.inf if value > 0 else -math.inf
    if type(value) is float:
        return value
    if isinstance(value, str) and len(value) <= LONGEST and _NUMBER.fullmatch(value.strip()):
        return float(value)
    return None


def settle_joints(xy: np.ndarray, labelled: np.ndarray, skeleton: Skeleton, what: str, file: Path) -> None:
    """Put the joints (K, 2) of a person that are not labelled (K,) and are NaN at 0: several tools write NaN or null.

    Raises InputError where a labelled joint is NaN, or any is infinite or beyond LARGEST.
    """
    if (np.abs(xy) <= LARGEST).all():
        return
    xy[np.isnan(xy) & ~labelled[:, None]] = 0
    for at in np.flatnonzero(~(np.abs(xy) <= LARGEST).all(axis=1)):
        raise InputError(
            f"{file}: {what} must be finite numbers in the picture's pixels (or null where a joint is not labelled); "
            f"{skeleton.joints[at]} is at {xy[at, 0]:g}, {xy[at, 1]:g}"
        )


def check_once(ids: Sequence[int], what: str, file: Path) -> None:
    """Raise InputError where an id occurs twice; `what` is an image or annotation."""
    if len(set(ids)) < len(ids):
        twice, count = Counter(ids).most_common(1)[0]
        raise InputError(f"{file}: {count} {what}s have the id {twice}, so one would be taken for the other; renumber")


def check_pixels(values: np.ndarray, what: str, file: Path | str) -> None:
    """Raise InputError where `values`, all of a file's, are shares of the pictures' sides instead of pixels."""
    if values.size and (np.abs(values) <= SHARE).all() and (values != np.round(values)).any():
        raise InputError(
            f"{file}: all {what} lie within {SHARE} pixels, so they are shares of the pictures; multiply them by each "
            "picture's width and height"
        )


def _as_whole(value: object) -> int | None:
    if isinstance(value, str) and len(value) <= LONGEST and _WHOLE.fullmatch(value.strip()):
        return int(value)
    found = as_number(value)
    return int(found) if found is not None and found.is_integer() else None


def _form(shape: tuple[int, ...]) -> str:
    return f"{' x '.join(map(str, shape))} finite numbers"


def _flat(value: object, shape: tuple[int, ...]) -> list[Any] | None:
    """The numbers of a list, or of a list of lists, of `shape`; None where it is of another."""
    if not isinstance(value, list) or len(value) != shape[0]:
        return None
    if len(shape) == 1:
        return value
    if any(not isinstance(row, list) or len(row) != shape[1] for row in value):
        return None
    return [one for row in value for one in row]


def _fault(value: object, found: float | None) -> str:
    """What `value`, read as `found`, is, and why that is no number here."""
    far = found is not None and abs(found) > LARGEST
    return f"{shown(value)}, beyond any picture" if far else shown(value)
