"""Two linear filters on maps (..., h, w) that the pyramid and the matched teacher share."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from raf_ray.resolution import Size


@lru_cache(maxsize=256)
def area_matrix(source: int, target: int) -> np.ndarray:
    """Exact area averaging along one axis: (target, source) float32 rows that sum to 1.

    Output cell i covers [i, i + 1) * source / target; each source pixel weighs by its share of that cell.
    Equal to OpenCV's INTER_AREA; torch's ``area`` is adaptive pooling and differs where sides do not divide.
    """
    edges = np.arange(target + 1) * (source / target)
    pixel = np.arange(source)
    overlap = np.minimum(edges[1:, None], pixel + 1) - np.maximum(edges[:-1, None], pixel)
    weights = np.clip(overlap, 0, None)
    matrix = np.asarray(weights / weights.sum(1, keepdims=True), dtype=np.float32)
    matrix.setflags(write=False)
    return matrix


def area_resize(images: Tensor, size: Size) -> Tensor:
    """Reduce (..., H, W) to (..., h, w) by exact area averaging: two small matrix products."""
    height, width = images.shape[-2:]
    if (height, width) == (size.height, size.width):
        return images
    rows = _area_tensor(height, size.height, images.dtype, images.device)
    columns = _area_tensor(width, size.width, images.dtype, images.device)
    return rows @ (images @ columns.T)


@lru_cache(maxsize=256)
def _area_tensor(source: int, target: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.tensor(area_matrix(source, target), dtype=dtype, device=device)


def gaussian_blur(maps: Tensor, sigma: float, radius: int | None = None, mirrored: bool = False) -> Tensor:
    """(..., h, w) maps blurred by a normalised separable Gaussian; outside they are zero, or their mirror image.

    `radius` None is ceil(3 sigma) pixels.
    """
    radius = math.ceil(3 * sigma) if radius is None else radius
    taps = torch.arange(-radius, radius + 1, device=maps.device, dtype=maps.dtype)
    kernel = torch.exp(-(taps**2) / (2 * sigma**2))
    kernel = kernel / kernel.sum()
    outside = 0 if mirrored else radius
    wide = mirror_padded(maps, radius) if mirrored else maps
    flat = wide.reshape(-1, 1, *wide.shape[-2:])
    flat = F.conv2d(flat, kernel.view(1, 1, 1, -1), padding=(0, outside))
    flat = F.conv2d(flat, kernel.view(1, 1, -1, 1), padding=(outside, 0))
    return flat.view_as(maps)


def mirror_padded(maps: Tensor, reach: int) -> Tensor:
    """(..., h, w) with `reach` pixels more on each side, mirrored about the outermost as often as need be.

    Equal to OpenCV's BORDER_REFLECT_101; torch's ``reflect`` refuses maps that are smaller than `reach`.
    """
    for axis in (-2, -1):
        last = maps.shape[axis] - 1
        place = torch.arange(-reach, last + 1 + reach, device=maps.device) % max(2 * last, 1)
        maps = maps.index_select(axis, last - (last - place).abs())
    return maps
