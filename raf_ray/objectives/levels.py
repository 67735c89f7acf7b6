"""Which levels of the pyramid a batch trains, and how much each weighs. Switches of ours, not the paper's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

Sampling = Literal["all", "pair", "random"]


def draw_levels(sampling: Sampling, own_share: float | None, count: int, rng: np.random.Generator) -> tuple[int, ...]:
    """Indices of the levels that one batch trains, highest first; level 0 is the client's own tier.

    `all`: every level (the paper's). `pair`: the own tier and, with probability 1 - own_share (default
    own_share 0), one lower level drawn uniformly, taught by the own tier. `random`: one level alone, the own
    with probability own_share (default 0.5), else a lower one, without distillation.
    """
    if count == 1 or sampling == "all":
        return tuple(range(count))
    lower = int(rng.integers(1, count))
    if sampling == "pair":
        return (0,) if rng.random() < (own_share or 0.0) else (0, lower)
    return (0,) if rng.random() < (0.5 if own_share is None else own_share) else (lower,)


def level_weights(mode: Literal["equal", "area"] | Sequence[float], pixels: Sequence[int]) -> tuple[float, ...]:
    """A factor a level, for levels of `pixels` pixels, highest first.

    `equal`: 1 each (the paper's). `area`: pixels / the own tier's, since sigma is 2 px at every size and a
    small map's plain mean is therefore larger. A list: by position, own tier first.
    """
    if mode == "equal":
        return (1.0,) * len(pixels)
    if mode == "area":
        return tuple(p / pixels[0] for p in pixels)
    weights = [float(w) for w in mode]
    if len(weights) < len(pixels):
        raise ValueError(f"level_weights has {len(weights)} entries for a pyramid of {len(pixels)} levels")
    return tuple(weights[: len(pixels)])
