"""Updates of 16 bits a weight: IEEE 754-2019's binary16, or bfloat16 (Kalamkar et al. 2019, "A study of BFLOAT16")."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic.dataclasses import dataclass

from raf_ray.algorithms.interface import PARAMETERS, WEIGHTS, Memory, Vectors
from raf_ray.errors import RunError
from raf_ray.transforms.interface import Coding, Transform

if TYPE_CHECKING:
    from raf_ray.state import Layout

REMEDY = {
    "fp16": "set transforms.half.format=bf16, or name clip before half",
    "bf16": "lower optimizer.lr, or name clip before half",
}


@dataclass(frozen=True, config=PARAMETERS)
class Half(Transform):
    """A client's update of the weights is rounded to 16 bits, to nearest and ties to even."""

    format: Literal["fp16", "bf16"] = "bf16"
    """fp16: 11 significant bits, up to 65504; bf16: 8 significant bits, and the range of float32."""

    def client(
        self, vectors: Vectors, memory: Memory, sent: Vectors, layout: Layout, rng: np.random.Generator
    ) -> tuple[Vectors, Memory]:
        count, update = layout.count("weights"), vectors[WEIGHTS].copy()
        weights = update[:count]
        rounded = to_fp16(weights) if self.format == "fp16" else to_bf16(weights)
        if np.isinf(rounded[np.isfinite(weights)]).any():
            raise RunError(
                f"its update holds {np.abs(weights[np.isfinite(weights)]).max():.3g}, which {self.format} cannot hold; "
                f"{REMEDY[self.format]}"
            )
        update[:count] = rounded
        return {**vectors, WEIGHTS: update}, memory

    def coding(self, coding: Coding, layout: Layout) -> Coding:
        return replace(coding, bits=16)


def to_fp16(values: np.ndarray) -> np.ndarray:
    """(n,) float32 rounded to binary16, as float32; what is beyond its range becomes infinite."""
    with np.errstate(over="ignore"):
        return values.astype(np.float16).astype(np.float32)


def to_bf16(values: np.ndarray) -> np.ndarray:
    """(n,) float32 rounded to bfloat16, as float32; what rounds beyond its range becomes infinite.

    bfloat16 is the upper half of a float32. Adding half a unit of the last kept bit, less one where that bit is even,
    carries into it where the value is to be rounded up.
    """
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    even = (bits >> np.uint32(16)) & np.uint32(1)
    rounded = ((bits + np.uint32(0x7FFF) + even) & np.uint32(0xFFFF0000)).view(np.float32)
    return np.where(np.isnan(values), values, rounded)
