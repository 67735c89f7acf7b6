"""What a transform may change, whatever the FL method: a client's vectors before they are summed, a round's mean after.

Transforms are applied in the order in which `transforms.apply` names them, on both sides. Norm statistics, which are
the end of the vector `weights`, are averaged as they are: a transform looks at the first `num_weights` alone.
"""

from __future__ import annotations

import numpy as np

from raf_ray.algorithms.interface import Cohort, Memory, Vectors


class Transform:
    """One transform; its parameters are its fields, and it keeps nothing else between calls."""

    def client(
        self, vectors: Vectors, memory: Memory, num_weights: int, rng: np.random.Generator
    ) -> tuple[Vectors, Memory]:
        """What a client sends in place of `vectors`, and what it keeps for its next round.

        Args:
            vectors: name -> (n,) float32, not weighted; not to be changed in place.
            memory: what the last call returned; {} in a client's first round.
            rng: of the seed, the round, the client and the transform's place.
        """
        return vectors, memory

    def server(self, mean: Vectors, cohort: Cohort, num_weights: int, rng: np.random.Generator) -> Vectors:
        """What the method's server step is given in place of the weighted `mean`, name -> (n,) float64.

        Args:
            rng: of the seed, the round and the transform's place.
        """
        return mean
