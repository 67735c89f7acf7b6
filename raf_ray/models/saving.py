"""model.pt: a run's last model, written as plain tensors and names, and opened again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from raf_ray.errors import InputError
from raf_ray.models import ModelSpec, heatmap_stride
from raf_ray.models.checkpoint import check_stride, fill
from raf_ray.models.entries import entries_in
from raf_ray.plain_tensors import save_plain
from raf_ray.resolution import HEATMAP_STRIDE
from raf_ray.state import Layout


def save_model(
    layout: Layout,
    name: str,
    stride: int,
    joints: Sequence[str],
    labels: Mapping[str, Any],
    buffer: np.ndarray,
    path: Path,
) -> None:
    """model.pt: plain tensors, names and the heatmaps' `stride`, read with ``torch.load(weights_only=True)``.

    `labels`: more of what the outputs mean, in plain values.
    """
    save_plain(
        {
            "model": {n: t.clone() for n, t in layout.tensors(buffer).items()},
            "model_name": name,
            "heatmap_stride": stride,
            "joints": list(joints),
            "labels": dict(labels),
        },
        path,
    )


@dataclass(frozen=True)
class Saved:
    """What `save_model` wrote."""

    model: nn.Module
    """In evaluation mode, on the CPU."""
    joints: tuple[str, ...]
    """Names of its outputs"""
    labels: Any
    """More of what they mean, unchecked; {} of an older file, which has none"""


def load_model(path: Path, model_of: Callable[[int], ModelSpec]) -> Saved:
    """Open what `save_model` wrote.

    `model_of` gives the run's model with so many outputs. Raises InputError where the file is damaged
    or of another stride.
    """
    try:
        saved = torch.load(path, weights_only=True, map_location="cpu")
        joints, stride = tuple(saved["joints"]), saved.get("heatmap_stride", HEATMAP_STRIDE)
        labels = saved.get("labels", {})
    except Exception as error:  # torch raises a different type for every kind of damage
        raise InputError(f"{path} cannot be read ({type(error).__name__}): it is damaged; run it again") from error
    model = model_of(len(joints)).build()
    check_stride(stride, heatmap_stride(model), path)
    report = fill(model, entries_in(saved, path), path)
    if report.missing or report.mismatched:
        raise InputError(
            f"{path} lacks {(report.missing + report.mismatched)[0]} of its own model: it is damaged; run it again"
        )
    return Saved(model.eval(), joints, labels)
