"""The exact sum over clients: float updates are rounded once to int64 fixed point, then integers are added.

Float addition depends on the order, integer addition does not. So the sum is the same whoever arrives first
and whoever shares an actor, and memory does not grow with the number of clients.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from raf_ray.errors import RunError

FRACTION_BITS = 40
"""Resolution 2^-40 (9e-13): finer than float32's own at any weight above 1e-5; range +- 8.4 million."""
SCALE = float(2**FRACTION_BITS)


class UpdateError(RunError):
    """An update that cannot be summed: not finite, or too large for fixed point."""


def to_fixed_point(update: np.ndarray) -> tuple[np.ndarray, int]:
    """(n,) float32 -> (n,) int64 in units of 2^-40, and the largest magnitude among them.

    Raises UpdateError for NaN, Inf (numpy would cast them silently) and for values beyond int64.
    """
    # The larger of maximum and -minimum, NaN if there is one: no copy of the update is made for it.
    largest = float(np.maximum(update.max(), -update.min())) if update.size else 0.0
    if not np.isfinite(largest):
        raise UpdateError("the update holds NaN or Inf; lower optimizer.lr or set optimizer.clip")
    if largest * SCALE >= 2.0**62:
        raise UpdateError(f"the update holds a value of {largest:.3g}, too large to sum exactly")
    fixed = np.multiply(update, SCALE, dtype=np.float64)
    np.rint(fixed, out=fixed)
    return fixed.astype(np.int64), int(largest * SCALE) + 1


@dataclass
class ExactSum:
    """A running sum of weighted updates; partial sums of several clients can be added as well."""

    size: int
    total: np.ndarray = field(init=False)
    """(size,) int64 in units of 2^-40"""
    bound: int = 0
    """No entry of `total` is larger than this."""
    counters: np.ndarray | None = None
    """Entrywise maximum of the clients' counters."""

    def __post_init__(self) -> None:
        self.total = np.zeros(self.size, np.int64)

    def add(self, update: np.ndarray, counters: np.ndarray) -> None:
        """Add one client's weighted update (size,) float32."""
        fixed, largest = to_fixed_point(update)
        self._grow(fixed, largest, counters)

    def add_partial(self, other: ExactSum) -> None:
        """Add the sum of several clients that share an actor."""
        if other.counters is not None:
            self._grow(other.total, other.bound, other.counters)

    def _grow(self, fixed: np.ndarray, largest: int, counters: np.ndarray) -> None:
        if self.bound + largest >= 2**63:
            raise UpdateError("the sum of the clients' updates overflows 64-bit fixed point")
        self.total += fixed
        self.bound += largest
        if self.counters is None:
            self.counters = counters.copy()
        else:
            np.maximum(self.counters, counters, out=self.counters)

    def mean(self) -> np.ndarray:
        """(size,) float64: the sum, where the weights of the updates added up to 1."""
        return self.total / SCALE
