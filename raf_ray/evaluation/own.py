"""Clients that keep part of the model to themselves are scored by their own models: who at which size, and the mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from raf_ray.resolution import Size
from raf_ray.state import Layout, Part

OwnSizes = Mapping[str, tuple[Size, ...]]
"""Client -> the sizes that its own model is scored at"""


@dataclass(frozen=True)
class OwnModel:
    """A client's part of a model, to be scored."""

    client: str
    sizes: tuple[Size, ...]
    private: np.ndarray | None
    """What it keeps of the model, (n,) float32; None: it has not trained yet, and has the server's"""

    def state(self, layout: Layout, part: Part, shared: np.ndarray) -> np.ndarray:
        """(num_bytes,) uint8 `shared` state, with the client's own entries over it."""
        if self.private is None:
            return shared
        changed = shared.copy()
        part.put(layout.floats(changed), self.private)
        return changed


def states(layout: Layout, part: Part, shared: np.ndarray, models: Sequence[OwnModel]) -> dict[str | None, np.ndarray]:
    """Client -> the state of its own model; None -> `shared`, for who is no client: with the mean of their own parts.

    So does FedBN's paper for clients that it has not seen.
    """
    found: dict[str | None, np.ndarray] = {one.client: one.state(layout, part, shared) for one in models}
    if not models:
        return {None: shared}
    mean = np.zeros(part.size)
    for state in found.values():
        mean += part.take(layout.floats(state))
    return {**found, None: OwnModel("", (), (mean / len(models)).astype(np.float32)).state(layout, part, shared)}


def sizes_of_clients(
    clients: Sequence[tuple[str, Size]], sizes: Sequence[Size], most: int, upsampled: Mapping[Size, Size]
) -> dict[str, tuple[Size, ...]]:
    """Who is scored at which size: those who own that size; at others those who own the one it is brought to, or else
    the nearest.

    Nearest is by the ratio of pixels; of two as near, the larger.

    Args:
        clients: (name, own size), in order.
        most: clients of a size that are scored, the first ones.
        upsampled: size -> the one that its images are brought to before the model.
    """
    own = sorted({size for _, size in clients}, key=lambda size: -size.pixels)
    seen = {size: size if size in own else upsampled.get(size, size) for size in sizes}
    home = {size: min(own, key=lambda one: abs(np.log(one.pixels / seen[size].pixels))) for size in sizes}
    found = {}
    for tier in own:
        scored = tuple(size for size in sizes if home[size] == tier)
        for client in [name for name, size in clients if size == tier][:most]:
            found[client] = scored
    return found
