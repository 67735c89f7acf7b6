"""Clients that keep part of the model to themselves are scored by their own models: who at which size, and the mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from raf_ray.evaluation.scores import Scores
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


def mean_scores(by_client: Mapping[str, Scores], sizes: Sequence[Size]) -> Scores:
    """One record of all: at each size the mean over the clients scored there, each weighing the same."""
    every = list(by_client.values())
    at = {str(size): [scores for scores in every if str(size) in scores.by_resolution] for size in sizes}
    return replace(
        every[0],
        by_resolution={size: float(np.mean([s.by_resolution[size] for s in found])) for size, found in at.items()},
        per_joint={size: _mean([s.per_joint[size] for s in found]) for size, found in at.items()},
        extra={size: _mean([s.extra[size] for s in found]) for size, found in at.items() if size in found[0].extra},
        upsampled={size: found[0].upsampled[size] for size, found in at.items()},
        bad_pictures=max(scores.bad_pictures for scores in every),
        samples=tuple(sample for scores in every for sample in scores.samples),
        by_client={client: dict(scores.by_resolution) for client, scores in by_client.items()},
    )


def _mean(figures: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Name -> the mean over records of the same names."""
    return {name: float(np.mean([one[name] for one in figures])) for name in figures[0]}
