"""Patches -> crops through one affine map a person, and crops -> smaller crops: by OpenCV on the CPU, a batch at once
on a GPU.

A batched ``grid_sample`` gives the pictures of OpenCV's ``warpAffine`` to a mean difference of 2/255. On the CPU a
``warpAffine`` a person is several times as fast (``python -m benchmarks pipeline``); on a GPU one call a batch spares a
launch a person.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from raf_ray.filters import area_resize
from raf_ray.resolution import Size


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on a device; to a GPU through pinned memory, so that the copy waits for nothing."""
    if device.type != "cuda" or tensor.device == device:
        return tensor
    return tensor.pin_memory().to(device, non_blocking=True)


def warp_opencv(patches: Sequence[np.ndarray], maps: np.ndarray, size: Size) -> Tensor:
    """B patches (h, w, 3) uint8 and (B, 2, 3) maps to crop pixels -> (B, H, W, 3) uint8 crops; black outside."""
    crops = np.empty((len(patches), size.height, size.width, 3), np.uint8)
    for crop, patch, affine in zip(crops, patches, maps, strict=True):
        cv2.warpAffine(patch, affine, (size.width, size.height), dst=crop, flags=cv2.INTER_LINEAR)
    return torch.from_numpy(crops)


def warp_grid_sample(patches: Sequence[np.ndarray], maps: np.ndarray, size: Size, device: torch.device) -> Tensor:
    """The same as `warp_opencv`, in one call on `device`; patches are padded to a common size."""
    height = max(p.shape[0] for p in patches)
    width = max(p.shape[1] for p in patches)
    padded = np.zeros((len(patches), height, width, 3), np.uint8)
    for target, patch in zip(padded, patches, strict=True):
        target[: patch.shape[0], : patch.shape[1]] = patch
    source = to_device(torch.from_numpy(padded), device).permute(0, 3, 1, 2).float()

    linear = np.linalg.inv(maps[:, :, :2])
    shift = -np.einsum("bij,bj->bi", linear, maps[:, :, 2])
    # Crop pixel -> patch pixel -> grid_sample's [-1, 1] with half-pixel centres (align_corners=False).
    to_unit = np.array([2 / width, 2 / height])
    scale = to_device(torch.tensor(linear * to_unit[:, None], dtype=torch.float32), device)
    offset = to_device(torch.tensor((shift + 0.5) * to_unit - 1, dtype=torch.float32), device)
    y, x = torch.meshgrid(
        torch.arange(size.height, device=device, dtype=torch.float32),
        torch.arange(size.width, device=device, dtype=torch.float32),
        indexing="ij",
    )
    pixels = torch.stack([x, y], dim=-1).reshape(1, -1, 2)
    grid = (pixels @ scale.mT + offset[:, None]).reshape(len(patches), size.height, size.width, 2)
    crops = F.grid_sample(source, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return crops.round_().clamp_(0, 255).to(torch.uint8).permute(0, 2, 3, 1)


def warp(patches: Sequence[np.ndarray], maps: np.ndarray, size: Size, device: torch.device) -> Tensor:
    """(B, H, W, 3) uint8 crops on `device`, by the way that is faster there."""
    if device.type == "cpu":
        return warp_opencv(patches, maps, size)
    return warp_grid_sample(patches, maps, size, device)


def reduce(crops: Tensor, size: Size) -> Tensor:
    """(B, H, W, 3) float crops, contiguous, reduced to (B, h, w, 3) by exact area averaging."""
    height, width = crops.shape[1:3]
    if (height, width) == (size.height, size.width):
        return crops
    # OpenCV averages areas only where neither side grows.
    if crops.device.type != "cpu" or size.height > height or size.width > width:
        return area_resize(crops.permute(0, 3, 1, 2), size).permute(0, 2, 3, 1)
    reduced = torch.empty((len(crops), size.height, size.width, 3))
    for source, target in zip(crops.numpy(), reduced.numpy(), strict=True):
        cv2.resize(source, (size.width, size.height), dst=target, interpolation=cv2.INTER_AREA)
    return reduced
