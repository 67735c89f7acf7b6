"""What a client learns, as its training loop sees it: batches, and a loss for each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

Batch = TypeVar("Batch")


@dataclass(frozen=True)
class Step:
    """One batch's forward pass."""

    loss: Tensor
    """Scalar to go backward from."""
    people: int
    """Of the batch"""
    terms: Mapping[str, Tensor] = field(default_factory=dict)
    """Detached scalars to report, such as `gt_128x96`."""
    pixels: int = 0
    """Image pixels that went forward, over all levels."""
    images: Tensor = field(default_factory=lambda: torch.empty(0))
    """(B, 3, H, W) of the highest level drawn; empty where the task has none"""


class Task(Protocol[Batch]):
    """A client's people and objective; `raf_ray.training.pyramid.PyramidTask` is the one of this project."""

    def __len__(self) -> int:
        """People with a readable picture, as far as known."""

    @property
    def bad_pictures(self) -> int:
        """People left out so far because their picture could not be read."""

    @property
    def cached_mb(self) -> float:
        """Memory that its pixels take."""

    def epoch(self, rng: np.random.Generator) -> Iterator[Batch]:
        """Every person once, in an order drawn from `rng`."""

    def step(self, model: nn.Module, batch: Batch, rng: np.random.Generator) -> Step:
        """Forward a batch through the model and its objective."""

    def fault(self, rng: np.random.Generator) -> str | None:
        """What of its people is not finite, such as ``targets of person 7 at 64x48``; None where all is.

        Asked only after a loss that is not: it may cost an epoch.
        """
