"""The heatmap codecs by name: joints in image pixels -> targets, heatmap pixels -> image pixels, and what counts.

`subpixel` is ours: half-pixel coordinates, exact at any size. `udp` is unbiased data processing as published (Huang et
al. 2020): pixel centres at the image's edges are those of the heatmap, factor (w - 1) / (W - 1), a window of 13 x 13
around a sub-pixel peak. `authors` is what the RAF authors run: the peak rounded to a whole pixel of x / 4 (HRNet's
target), decoded by UDP's rule, so that answers are off by up to 3 image pixels however good the heatmaps are.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor

from raf_ray.data.codec import SIGMA, encode, heatmap_to_image, image_to_heatmap
from raf_ray.data.crops import weights_of
from raf_ray.resolution import HEATMAP_STRIDE, Size

Codec = Literal["subpixel", "udp", "authors"]

REACH = int(3 * SIGMA)
"""Heatmap pixels each way of the window that `udp` and `authors` draw a Gaussian in (HRNet)"""


def intervals(size: Size) -> tuple[float, float]:
    """Image pixels per heatmap pixel by UDP's rule, x and y."""
    heatmap = size.heatmap
    return (size.width - 1) / max(heatmap.width - 1, 1), (size.height - 1) / max(heatmap.height - 1, 1)


def targets_of(joints: Tensor, size: Size, codec: Codec = "subpixel") -> Tensor:
    """(B, K, 2) joints in pixels of images of `size` -> (B, K, h/4, w/4) targets of peak 1."""
    if codec == "subpixel":
        return encode(image_to_heatmap(joints), size.heatmap)
    if codec == "udp":
        peaks = joints / torch.tensor(intervals(size), dtype=joints.dtype, device=joints.device)
        middle = torch.trunc(peaks + 0.5)
    else:
        peaks = middle = torch.trunc(joints / HEATMAP_STRIDE + 0.5)
    return _windowed(peaks, middle, size.heatmap)


def _windowed(peaks: Tensor, middle: Tensor, size: Size) -> Tensor:
    """Gaussians at `peaks` (B, K, 2), zero where a pixel is more than REACH from `middle` in x or y."""
    found = []
    for axis, length in enumerate((size.width, size.height)):
        grid = torch.arange(length, device=peaks.device, dtype=peaks.dtype)[:, None]
        along = torch.exp(-((grid - peaks[:, None, :, axis]) ** 2) / (2 * SIGMA**2))
        found.append(along * ((grid - middle[:, None, :, axis]).abs() <= REACH))
    along_x, along_y = found
    return (along_y[:, :, None] * along_x[:, None]).permute(0, 3, 1, 2)


def to_image(points: Tensor, heatmap: Size, codec: Codec = "subpixel") -> Tensor:
    """(..., 2) points in pixels of a heatmap of that size -> the same in pixels of its image."""
    if codec == "subpixel":
        return heatmap_to_image(points)
    size = Size(heatmap.height * HEATMAP_STRIDE, heatmap.width * HEATMAP_STRIDE)
    return points * torch.tensor(intervals(size), dtype=points.dtype, device=points.device)


def counted(joints: np.ndarray, labelled: np.ndarray, size: Size, codec: Codec = "subpixel") -> np.ndarray:
    """(B, K) bool: of joints (B, K, 2) in pixels of images of `size`, those that are labelled and count in the loss.

    `subpixel`: inside the image. `udp` and `authors`: whose window touches the heatmap (HRNet), so joints up to 6 or 7
    heatmap pixels outside count too, by the part of their Gaussian that is seen.
    """
    if codec == "subpixel":
        return weights_of(joints, labelled, size)
    stride = np.array(intervals(size) if codec == "udp" else (HEATMAP_STRIDE, HEATMAP_STRIDE))
    middle = np.trunc(joints / stride + 0.5)
    end = np.array([size.heatmap.width, size.heatmap.height])
    return np.asarray(labelled & np.all((middle - REACH < end) & (middle + REACH + 1 >= 0), axis=-1))
