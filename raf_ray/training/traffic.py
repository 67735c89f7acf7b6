"""What a client's round moves, known before it trains: bytes down and up."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing

import numpy as np
from torch import nn

from raf_ray.algorithms.interface import WEIGHTS, Algorithm, Start, Vectors
from raf_ray.models import head_of
from raf_ray.state import Layout
from raf_ray.training.exchange import Down, Up
from raf_ray.transforms.interface import Transform


def traffic(algorithm: Algorithm, transforms: Sequence[Transform], model: nn.Module, layout: Layout) -> tuple[int, int]:
    """Bytes of a client's `Down` and `Up`, by taking a method and its transforms through a round of no step's content.

    Exact where their lengths do not depend on what is learnt. Raises what they raise.
    """
    rng, count = np.random.default_rng(0), layout.count("weights")
    state = layout.read(model)
    down = Down(0, state, algorithm.send(algorithm.init_server(layout)))
    start = Start(
        model, layout, down.vectors, algorithm.init_client(layout), head_of(model),
        lambda: np.zeros(count, np.float32),
    )  # fmt: skip
    update = rng.standard_normal(layout.num_floats).astype(np.float32)
    with closing(algorithm.local(start)) as rule:
        own, _ = rule.finish(update[:count], 1)
    stays = layout.part(algorithm.is_private).size * 4
    vectors: Vectors = {WEIGHTS: update, **own}
    for transform in transforms:
        vectors, _ = transform.client(vectors, {}, count, rng)
    return down.num_bytes - stays, Up("", 0, vectors, layout.counters(state)).num_bytes - stays
