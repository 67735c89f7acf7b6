"""An exported file held against the model that it was made of, on drawn people."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from raf_ray.data.augment import NO_MARGINS
from raf_ray.data.batches import normalise
from raf_ray.data.crops import PlainCrops
from raf_ray.data.shard import cut_shard
from raf_ray.data.sources.synthetic import synthetic_people
from raf_ray.deploy.graph import Outgoing, Run
from raf_ray.resolution import Size

BATCHES = (1, 3)
"""People in a batch: others than the two that a graph is traced with."""

TOLERANCE = 1e-4
"""Of the largest value of an output, or pixels / 1e-2 of joints: a choice, well above what float32 loses in another
order of sums and well below what anybody could see."""

JOINT_PIXELS = 1e-2
"""Pixels of the picture that joints may differ by, a choice as above."""


@dataclass(frozen=True)
class Difference:
    """One output of a file at one size."""

    size: str
    output: str
    largest: float
    """Largest absolute difference, in pixels of joints; NaN where nothing could be compared"""
    allowed: float
    undecided: int = 0
    """Joints left out, whose place hangs on less than float32 tells: two peaks of one height"""
    of: int = 0
    """Joints in all; 0 of other outputs"""

    @property
    def is_within(self) -> bool:
        return not self.largest > self.allowed


def differences(run: Run, outgoing: Outgoing, size: Size, seed: int = 0) -> list[Difference]:
    """How far the outputs of a file lie from the model's own, the largest over batches of 1 and of 3 drawn people."""
    found = [_batch(run, outgoing, crops_of(size, count, seed)) for count in BATCHES]
    return [_joined(size, name, [one[at] for one in found]) for at, name in enumerate(outgoing.output_names)]


def crops_of(size: Size, count: int, seed: int) -> Tensor:
    """(count, H, W, 3) uint8 RGB of synthetic people."""
    people = synthetic_people(seed, "test", np.arange(count), float(size.height))
    return PlainCrops(cut_shard(people, size, NO_MARGINS)).take(np.arange(count))


@dataclass(frozen=True)
class _Compared:
    apart: Tensor
    counted: Tensor
    allowed: float


@torch.inference_mode()
def _batch(run: Run, outgoing: Outgoing, crops: Tensor) -> list[_Compared]:
    """Each output against what training and scoring compute: normalised by their table, decoded by the task."""
    images = normalise(crops).permute(0, 3, 1, 2)
    outputs = outgoing.model(images)
    if outgoing.decode is None:
        return [_values(run(images.contiguous())[0], outputs)]
    found, answer = run(crops), outgoing.task.answer(outputs, outgoing.decode)
    if not outgoing.task.draws_joints:
        return [_values(found[0], answer)]
    apart = (found[0] - answer[..., :2]).abs().amax(-1)
    return [_Compared(apart, _decided(outputs, outgoing), JOINT_PIXELS), _values(found[1], answer[..., 2])]


def _values(found: Tensor, wanted: Tensor) -> _Compared:
    if found.shape != wanted.shape:
        return _Compared(torch.tensor([torch.inf]), torch.tensor([True]), 0.0)
    apart = (found - wanted).abs().nan_to_num(torch.inf)
    return _Compared(apart, torch.ones_like(apart, dtype=torch.bool), TOLERANCE * float(wanted.abs().max()))


def _decided(outputs: Tensor, outgoing: Outgoing) -> Tensor:
    """(B, K) bool: whose place is the same where the heatmaps change by a tenth of what is allowed."""
    assert outgoing.decode is not None
    draw = torch.Generator().manual_seed(0)
    places = outgoing.task.answer(outputs, outgoing.decode)[..., :2]
    decided = torch.ones(places.shape[:2], dtype=torch.bool)
    for _ in range(4):
        noise = (2 * torch.rand(outputs.shape, generator=draw) - 1) * (TOLERANCE / 10 * outputs.abs().max())
        moved = outgoing.task.answer(outputs + noise, outgoing.decode)[..., :2] - places
        decided &= moved.abs().amax(-1) <= JOINT_PIXELS
    return decided


def _joined(size: Size, name: str, parts: Sequence[_Compared]) -> Difference:
    apart = torch.cat([part.apart[part.counted].flatten() for part in parts])
    counted = torch.cat([part.counted.flatten() for part in parts])
    return Difference(
        size=str(size),
        output=name,
        largest=float(apart.max()) if len(apart) else float("nan"),
        allowed=max(part.allowed for part in parts),
        undecided=int((~counted).sum()),
        of=len(counted) if name == "joints" else 0,
    )
