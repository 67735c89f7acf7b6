"""What a bad client may change: the labels that it trains on, and what it sends.

What it sends is changed last, after the transforms: it keeps to the form of what the others send, and to no bound
that a transform at the client sets (`clip`). Norm statistics, which are the end of the vector `weights`, are left as
they are by the attacks here: a variance below zero ends a run and tries no aggregator.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from raf_ray.algorithms.interface import WEIGHTS, Vectors


class Attack:
    """One kind of bad client; its parameters are its fields, and it keeps nothing else between calls."""

    def fault(self, joints: int) -> str | None:
        """Why it would change nothing for people of so many joints, and what to do; None where it does."""
        return None

    def labels(
        self, joints: np.ndarray, visibility: np.ndarray, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """The labels that the client trains on in place of its people's; the pictures stay.

        Args:
            joints: (N, K, 2) float32, in pixels of each person's patch; not to be changed in place.
            visibility: (N, K) uint8, above 0 where a joint is labelled; likewise.
            rng: of the seed and the client; the same whenever the client is opened.
        """
        return joints, visibility

    def update(self, vectors: Vectors, num_weights: int, rng: np.random.Generator) -> Vectors:
        """What the client sends in place of `vectors`.

        Args:
            vectors: name -> (n,) float32; not to be changed in place.
            rng: of the seed, the round and the client.
        """
        return vectors


def with_changed(vectors: Vectors, num_weights: int, change: Callable[[np.ndarray], np.ndarray]) -> Vectors:
    """The same with every vector changed, and of `weights` the weights alone."""

    def changed(name: str, vector: np.ndarray) -> np.ndarray:
        end = num_weights if name == WEIGHTS else vector.size
        return np.concatenate([change(vector[:end]), vector[end:]], dtype=np.float32)

    return {name: changed(name, vector) for name, vector in vectors.items()}
