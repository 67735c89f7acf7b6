"""The heatmap codecs by name: joints in image pixels -> targets, heatmap pixels -> image pixels, and what counts.

`subpixel` is ours: half-pixel coordinates, exact at any size. `udp` is unbiased data processing as published (Huang et
al. 2020): pixel centres at the image's edges are those of the heatmap, factor (w - 1) / (W - 1), a window of 13 x 13
around a sub-pixel peak. `authors` is what the RAF authors run: the peak rounded to a whole pixel of x / 4 (HRNet's
target), decoded by UDP's rule, so that answers are off by up to 3 image pixels however good the heatmaps are.

`stride` is the image pixels per heatmap pixel; where it is not 4 it stands in each rule for the 4.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor

from raf_ray.data.codec import encode, heatmap_to_image, image_to_heatmap, sigma_of
from raf_ray.data.crops import weights_of
from raf_ray.resolution import HEATMAP_STRIDE, Size

Codec = Literal["subpixel", "udp", "authors"]


def reach_of(stride: int) -> int:
    """Heatmap pixels each way of the window that `udp` and `authors` draw a Gaussian in (HRNet)."""
    return int(3 * sigma_of(stride))


def intervals(size: Size, stride: int = HEATMAP_STRIDE) -> tuple[float, float]:
    """Image pixels per heatmap pixel by UDP's rule, x and y."""
    heatmap = size.heatmap(stride)
    return (size.width - 1) / max(heatmap.width - 1, 1), (size.height - 1) / max(heatmap.height - 1, 1)


def targets_of(joints: Tensor, size: Size, codec: Codec = "subpixel", stride: int = HEATMAP_STRIDE) -> Tensor:
    """(B, K, 2) joints in pixels of images of `size` -> (B, K, h / stride, w / stride) targets of peak 1."""
    if codec == "subpixel":
        return encode(image_to_heatmap(joints, stride), size.heatmap(stride), sigma_of(stride))
    if codec == "udp":
        peaks = joints / torch.tensor(intervals(size, stride), dtype=joints.dtype, device=joints.device)
        middle = torch.trunc(peaks + 0.5)
    else:
        peaks = middle = torch.trunc(joints / stride + 0.5)
    return _windowed(peaks, middle, size.heatmap(stride), stride)


def _windowed(peaks: Tensor, middle: Tensor, size: Size, stride: int) -> Tensor:
    """Gaussians at `peaks` (B, K, 2), zero where a pixel is more than the reach from `middle` in x or y."""
    sigma, reach = sigma_of(stride), reach_of(stride)
    found = []
    for axis, length in enumerate((size.width, size.height)):
        grid = torch.arange(length, device=peaks.device, dtype=peaks.dtype)[:, None]
        along = torch.exp(-((grid - peaks[:, None, :, axis]) ** 2) / (2 * sigma**2))
        found.append(along * ((grid - middle[:, None, :, axis]).abs() <= reach))
    along_x, along_y = found
    return (along_y[:, :, None] * along_x[:, None]).permute(0, 3, 1, 2)


def to_image(points: Tensor, heatmap: Size, codec: Codec = "subpixel", stride: int = HEATMAP_STRIDE) -> Tensor:
    """(..., 2) points in pixels of a heatmap of that size -> the same in pixels of its image."""
    if codec == "subpixel":
        return heatmap_to_image(points, stride)
    size = Size(heatmap.height * stride, heatmap.width * stride)
    return points * torch.tensor(intervals(size, stride), dtype=points.dtype, device=points.device)


def counted(
    joints: np.ndarray, labelled: np.ndarray, size: Size, codec: Codec = "subpixel", stride: int = HEATMAP_STRIDE
) -> np.ndarray:
    """(B, K) bool: of joints (B, K, 2) in pixels of images of `size`, those that are labelled and count in the loss.

    `subpixel`: inside the image. `udp` and `authors`: whose window touches the heatmap (HRNet), so joints up to 6 or 7
    heatmap pixels (of stride 4) outside count too, by the part of their Gaussian that is seen.
    """
    if codec == "subpixel":
        return weights_of(joints, labelled, size)
    interval = np.array(intervals(size, stride) if codec == "udp" else (stride, stride))
    middle, reach = np.trunc(joints / interval + 0.5), reach_of(stride)
    heatmap = size.heatmap(stride)
    end = np.array([heatmap.width, heatmap.height])
    return np.asarray(labelled & np.all((middle - reach < end) & (middle + reach + 1 >= 0), axis=-1))
