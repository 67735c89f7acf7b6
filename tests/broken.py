"""Plug-ins for tests: objectives that fail, kill their process, give NaN or list actors; a model."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from raf_ray.data.people import People, PictureError
from raf_ray.data.sources.synthetic import synthetic_people
from raf_ray.objectives import Loss, heatmap


def raises(heatmaps, targets, weights, level_weights):
    raise ValueError("this objective always fails")


def dies(heatmaps, targets, weights, level_weights):
    os.kill(os.getpid(), signal.SIGKILL)


def not_a_number(heatmaps, targets, weights, level_weights):
    loss = heatmap(heatmaps, targets, weights, level_weights)
    return Loss(loss.total * float("nan"), loss.gt, [])


def doubled(heatmaps, targets, weights, level_weights):
    loss = heatmap(heatmaps, targets, weights, level_weights)
    return Loss(2 * loss.total, loss.gt, [])


def names_actors(heatmaps, targets, weights, level_weights):
    """Fails with the list of all named actors of the cluster."""
    import ray

    raise ValueError("named actors: " + json.dumps(ray.util.list_named_actors(all_namespaces=True)))


def slow(heatmaps, targets, weights, level_weights):
    """Waits until the file that RAF_RAY_TEST_GATE names is there: the test decides how long a round takes."""
    gate = Path(os.environ["RAF_RAY_TEST_GATE"])
    while not gate.exists():
        signal.sigtimedwait([], 0.02)
    return heatmap(heatmaps, targets, weights, level_weights)


def fails_at_low(heatmaps, targets, weights, level_weights):
    """Raises for clients of 64x48."""
    if heatmaps[0].shape[-2] == 16:
        raise ValueError("this objective fails at 64x48")
    return heatmap(heatmaps, targets, weights, level_weights)


def no_federation(*parts):
    raise ValueError("none at all")


class OneConv(nn.Module):
    size_divisor = 4

    def __init__(self, num_joints: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, num_joints, 4, 4)
        self.norm = nn.BatchNorm2d(num_joints)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.norm(self.conv(images))


def no_people(root: str | None, split: str) -> list[People]:
    return []


def partly_unreadable(root: str | None, split: str) -> People:
    """Synthetic people, of whom every fourth has a picture that cannot be read."""
    people = synthetic_people(0, split, np.arange(48), 60.0)

    def read(row: int) -> np.ndarray:
        if row % 4 == 1:
            raise PictureError(f"picture {row} of {split} is missing")
        return people.read(row)

    return replace(people, read=read)


class NoNorm(nn.Module):
    """A model of one's own without norm layers."""

    def __init__(self, num_joints: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, num_joints, 4, stride=4)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.conv(images)
