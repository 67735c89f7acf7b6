"""What a partial sum of several clients costs on the wire: int64, and what could carry the same numbers exactly."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from rich.table import Table

from benchmarks.parts import VITPOSE_S, median_seconds
from raf_ray.federation.aggregation import to_fixed_point

CLIENTS, COHORT = 16, 1000

Encoded = tuple[np.ndarray, ...]


def _plain(total: np.ndarray) -> Encoded:
    return (total,)


def _from_plain(parts: Encoded) -> np.ndarray:
    return parts[0]


def _two_floats(total: np.ndarray) -> Encoded:
    high = total.astype(np.float32)
    return high, (total - high.astype(np.int64)).astype(np.float32)


def _from_two_floats(parts: Encoded) -> np.ndarray:
    return parts[0].astype(np.int64) + parts[1].astype(np.int64)


def _six_bytes(total: np.ndarray) -> Encoded:
    return (np.ascontiguousarray(total.view(np.uint16).reshape(-1, 4)[:, :3]),)


def _from_six_bytes(parts: Encoded) -> np.ndarray:
    whole = np.empty((len(parts[0]), 4), np.uint16)
    whole[:, :3] = parts[0]
    whole[:, 3] = np.where(parts[0][:, 2] >= 2**15, 2**16 - 1, 0)
    return whole.view(np.int64).reshape(-1)


def _int32(total: np.ndarray) -> Encoded:
    return (total.astype(np.int32),)


def _from_int32(parts: Encoded) -> np.ndarray:
    return parts[0].astype(np.int64)


WAYS: dict[str, tuple[Callable[[np.ndarray], Encoded], Callable[[Encoded], np.ndarray]]] = {
    "int64": (_plain, _from_plain),
    "two float32": (_two_floats, _from_two_floats),
    "six bytes": (_six_bytes, _from_six_bytes),
    "int32": (_int32, _from_int32),
}


def _sum(std: float) -> np.ndarray:
    """(n,) int64, of updates whose entries have this standard deviation"""
    rng = np.random.default_rng(0)
    total = np.zeros(VITPOSE_S, np.int64)
    for _ in range(CLIENTS):
        total += to_fixed_point(rng.normal(0, std, VITPOSE_S).astype(np.float32), 1 / COHORT)[0]
    return total


def wire() -> Table:
    """`Host` sends int32 where the sum's bound allows, else int64."""
    small, large = _sum(0.01), _sum(1.0)
    table = Table(title=f"wire: the sum of {CLIENTS} of {COHORT} updates of {VITPOSE_S / 1e6:.1f}M entries",
                  title_justify="left")  # fmt: skip
    for column in ("as", "MB", "ms to write and read", "exact at std 0.01", "at 1", "pays below"):
        table.add_column(column, justify="left" if column == "as" else "right")
    for name, (encode, decode) in WAYS.items():
        size = sum(part.nbytes for part in encode(small))
        exact = ["yes" if (decode(encode(total)) == total).all() else "no" for total in (small, large)]
        seconds = median_seconds(lambda encode=encode, decode=decode: decode(encode(small)))  # type: ignore[misc]
        spared = small.nbytes - size
        link = f"{8 * spared / seconds / 1e9:.1f} Gbit/s" if spared else "-"
        table.add_row(name, f"{size / 1e6:.0f}", f"{1e3 * seconds:.0f}", *exact, link)
    return table
