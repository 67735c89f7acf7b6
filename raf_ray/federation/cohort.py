"""Which clients train in a round."""

from __future__ import annotations

import numpy as np


def draw_cohort(clients: int, participation: float, seed: int, round_index: int) -> list[int]:
    """Client numbers of a round, in order: a uniform draw of round(share x clients), at least one.

    Drawn from (seed, round) alone, so neither a resume nor who arrives first changes it.
    """
    count = max(1, round(participation * clients))
    if count >= clients:
        return list(range(clients))
    rng = np.random.default_rng([seed, 1 + round_index, 2**31])
    return sorted(int(i) for i in rng.choice(clients, size=count, replace=False))
