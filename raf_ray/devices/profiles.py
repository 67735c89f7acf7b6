"""Kinds of devices, and a federation's devices as columns: how long each client's round takes, and whether it ends.

A round of a client is three phases, one after the other: the state comes down, the client trains, its update goes up.

    seconds = bytes down x 8 / bandwidth down + 3 x forward MACs / speed + bytes up x 8 / bandwidth up

Backward costs about twice what forward does (Kaplan et al. 2020, section 2.1), hence the 3. Optimiser steps,
reading and rendering are not counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

TRAINING_MACS = 3
"""Of training, a forward MAC."""
SPREAD = 2**31 + 9
"""Stream of the seed that devices of one kind are told apart by."""
WIDEST = 1e3
"""Times that a device may be faster or slower than its kind: a choice, which no `spread` up to 2 meets."""


@dataclass(frozen=True)
class Profile:
    """A kind of device."""

    gmacs_per_s: float
    """Sustained, in training: 10^9 multiply-accumulates a second"""
    mbit_down: float
    """10^6 bit a second from the server"""
    mbit_up: float
    availability: float = 1.0
    """Probability that it is there in a round"""
    dropout: float = 0.0
    """Probability that it is lost in the midst of one"""
    spread: float = 0.0
    """Sigma of the log-normal factors, of median 1, that a device's speed and its bandwidths differ by"""


PRESETS = {
    # A recent phone's GPU peaks at some 500 GMAC/s in float32, and a tenth of a peak is a choice. Bandwidths are of the
    # order of mobile medians the world over (60 and 10 Mbit/s: a choice). 6 to 10 % drop out (Bonawitz et al. 2019,
    # section 9). Availability and spread are choices.
    "phone": Profile(50.0, 60.0, 10.0, availability=0.5, dropout=0.08, spread=0.5),
    # Four Cortex-A72 cores of 1.5 GHz with 4 float32 multiply-accumulates a cycle peak at 24 GMAC/s, of which a fifth
    # is a choice, as are a slow fixed line, a mains supply that hardly fails, and the spread.
    "camera": Profile(5.0, 20.0, 5.0, availability=0.95, dropout=0.02, spread=0.1),
    # A GeForce RTX 3090 peaks at 17.8 TMAC/s in float32 (its maker's 35.6 TFLOPS), of which 28 % is a choice, as is a
    # network of 1 Gbit/s.
    "workstation": Profile(5000.0, 1000.0, 1000.0),
}
"""By name. Every number without a source is a choice: orders of magnitude, to be replaced by what one has measured."""


@dataclass(frozen=True)
class Work:
    """What a round asks of each client, known before it trains."""

    macs: np.ndarray
    """(N,) float64 forward MACs, expected over the levels drawn"""
    bytes_down: int
    bytes_up: int


@dataclass(frozen=True)
class Rules:
    """How a server waits for devices (Bonawitz et al. 2019, section 2.2)."""

    over_select: float = 1.3
    """Clients that are asked, over those that are wanted"""
    deadline_s: float | None = None
    retry_s: float = 60.0
    """What a round takes for which no client is there"""


@dataclass(frozen=True)
class Fleet:
    """All devices of a federation, as columns (N,) float64."""

    down_s: np.ndarray
    compute_s: np.ndarray
    up_s: np.ndarray
    availability: np.ndarray
    dropout: np.ndarray
    work: Work
    rules: Rules

    @property
    def seconds(self) -> np.ndarray:
        """(N,) float64 of a client's whole round."""
        return self.down_s + self.compute_s + self.up_s


def make_fleet(kinds: Sequence[Profile], kind: np.ndarray, work: Work, rules: Rules, seed: int) -> Fleet:
    """The devices of clients of which each is of a kind: `kind` (N,) are places in `kinds`."""

    def column(name: str) -> np.ndarray:
        return np.array([getattr(profile, name) for profile in kinds], np.float64)[kind]

    drawn = np.random.default_rng([seed, SPREAD]).standard_normal((2, len(kind)))
    # Rounded, so that the last bits of a machine's exp do not show.
    speed, link = np.clip(np.round(np.exp(column("spread") * drawn), 6), 1 / WIDEST, WIDEST)
    return Fleet(
        down_s=work.bytes_down * 8 / (column("mbit_down") * 1e6 * link),
        compute_s=TRAINING_MACS * work.macs / (column("gmacs_per_s") * 1e9 * speed),
        up_s=work.bytes_up * 8 / (column("mbit_up") * 1e6 * link),
        availability=column("availability"),
        dropout=column("dropout"),
        work=work,
        rules=rules,
    )
