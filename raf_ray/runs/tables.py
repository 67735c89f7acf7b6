"""rounds.csv and scores.csv as they are read again: whole lines, numbers where numbers are meant."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raf_ray.errors import InputError
from raf_ray.files import read_text

RESTORE = "put back the one that the run wrote, or start again with --overwrite"


def lines_until(text: str, last_round: int) -> list[str]:
    """A table's header and its whole lines of rounds up to `last_round`."""
    lines = text.splitlines(keepends=True)
    header = lines[0].strip().split(",") if lines else []
    if "round" not in header:
        return []
    column, kept = header.index("round"), lines[:1]
    for line in lines[1:]:
        cells = line.rstrip("\r\n").split(",")
        cell = cells[column] if len(cells) > column else ""
        if line.endswith("\n") and cell.isdecimal() and len(cell) < 19 and int(cell) <= last_round:
            kept.append(line)
    return kept


def rows_of(path: Path, lines: Iterable[str]) -> list[dict[str, str]]:
    """The rows of a CSV file's lines, header first. Raises InputError where they are no table."""
    try:
        return list(csv.DictReader(lines))
    except csv.Error as error:
        raise InputError(f"{path} is damaged ({error}); {RESTORE}") from error


def whole_rows(path: Path) -> list[dict[str, str]]:
    """The lines that are written to their end, while a run goes on or after a power cut; none where there is no file.

    Raises InputError where they are damaged.
    """
    if not path.exists():
        return []
    text = read_text(path, "table")
    rows = rows_of(path, text[: text.rfind("\n") + 1].splitlines(keepends=True))
    check_cells(path, rows)
    return rows


@dataclass
class Scoring:
    """One scoring of one split, of several rows of scores.csv."""

    round: int
    split: str
    metric: str
    by_resolution: dict[str, float]
    """Size -> score in [0, 1]"""


def scorings(rows: Iterable[Mapping[str, str]]) -> list[Scoring]:
    """The rows of scores.csv put together again, in order."""
    found: dict[tuple[str, str], Scoring] = {}
    for row in rows:
        key = (row["round"], row["split"])
        one = found.setdefault(key, Scoring(int(row["round"]), row["split"], row["metric"], {}))
        one.by_resolution[row["resolution"]] = float(row["value"])
    return list(found.values())


def check_cells(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Raise InputError where a row of rounds.csv or scores.csv has cells too many or too few, or no number in one."""
    for row in rows:
        for column, cell in row.items():
            is_text = path.name == "scores.csv" and column in ("split", "resolution", "metric")
            is_empty = path.name == "rounds.csv" and cell == "" and column != "round"
            if column is None or cell is None or not (is_text or is_empty or _is_number(cell, column == "round")):
                raise InputError(
                    f"{path} is damaged at round {str(row.get('round'))[:20]}, {column or 'its end'}; {RESTORE}"
                )


def _is_number(text: str, whole: bool) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return text.isdecimal() or not whole
