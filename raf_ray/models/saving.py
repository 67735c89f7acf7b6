"""model.pt: a run's last model, written as plain tensors and names, and opened again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from raf_ray.errors import InputError
from raf_ray.models import ModelSpec, heatmap_stride
from raf_ray.models.checkpoint import check_stride, load_checkpoint
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

    `labels`: more of what the outputs mean, in plain values; `read_labels` gives them back.
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


def read_labels(path: Path) -> Any:
    """The `labels` of a file that `load_model` opens, unchecked; {} of an older one, which has none."""
    return torch.load(path, weights_only=True, map_location="cpu", mmap=True).get("labels", {})


def load_model(path: Path, model_of: Callable[[int], ModelSpec]) -> tuple[nn.Module, tuple[str, ...]]:
    """The model that `save_model` wrote, in evaluation mode on the CPU, and the names of its outputs.

    `model_of` gives the run's model with so many outputs. Raises InputError where the file is damaged
    or of another stride.
    """
    try:
        saved = torch.load(path, weights_only=True, map_location="cpu")
        joints, stride = tuple(saved["joints"]), saved.get("heatmap_stride", HEATMAP_STRIDE)
    except Exception as error:  # torch raises a different type for every kind of damage
        raise InputError(f"{path} cannot be read ({type(error).__name__}): it is damaged; run it again") from error
    model = model_of(len(joints)).build()
    check_stride(stride, heatmap_stride(model), path)
    report = load_checkpoint(model, path)
    if report.missing or report.mismatched:
        raise InputError(
            f"{path} lacks {(report.missing + report.mismatched)[0]} of its own model: it is damaged; run it again"
        )
    return model.eval(), joints
