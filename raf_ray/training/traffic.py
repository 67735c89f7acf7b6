"""What a client's round moves, known before it trains: bytes down and up."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing

import numpy as np
from torch import nn

from raf_ray.algorithms.interface import WEIGHTS, Algorithm, Start, Vectors
from raf_ray.models import head_of
from raf_ray.state import Layout, Part
from raf_ray.training.exchange import Down, Up
from raf_ray.transforms.interface import Coding, Transform, placed


def traffic(algorithm: Algorithm, transforms: Sequence[Transform], model: nn.Module, layout: Layout) -> tuple[int, int]:
    """Bytes of a client's `Down` and `Up`, by taking a method and its transforms through a round of no step's content.

    Exact where their lengths do not depend on what is learnt. Raises what they raise.
    """
    rng, count = np.random.default_rng(0), layout.count("weights")
    state = layout.read(model)
    sent = [transform.send(transform.init_server(layout)) for transform in transforms]
    vectors = dict(algorithm.send(algorithm.init_server(layout)))
    for place, own in enumerate(sent):
        vectors |= placed(own, place)
    down = Down(0, state, vectors)
    start = Start(
        model, layout, down.vectors, algorithm.init_client(layout), head_of(model),
        lambda: np.zeros(count, np.float32),
    )  # fmt: skip
    update = rng.standard_normal(layout.num_floats).astype(np.float32)
    with closing(algorithm.local(start)) as rule:
        further, _ = rule.finish(update[:count], 1)
    private = layout.part(algorithm.is_private)
    private.put(update, 0.0)
    up: Vectors = {WEIGHTS: update, **further}
    for transform, own in zip(transforms, sent, strict=True):
        up, _ = transform.client(up, {}, own, layout, rng)
    sent_up = Up("", 0, up, layout.counters(state))
    return down.num_bytes - private.num_bytes, wire_bytes(sent_up, transforms, layout, private)


def wire_bytes(up: Up, transforms: Sequence[Transform], layout: Layout, private: Part) -> int:
    """What an update takes on the wire: its weights coded as the transforms say, without what stays with the client."""
    kept = set(private.entries)
    sent = [entry for entry in layout.weights if entry not in kept]
    plain = coding = Coding(sum(entry.size for entry in sent), layers=len(sent))
    for transform in transforms:
        coding = transform.coding(coding, layout)
    return up.num_bytes - private.num_bytes - plain.num_bytes + coding.num_bytes
