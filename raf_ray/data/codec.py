"""Joints <-> heatmaps: Gaussian targets encoded beside the decoders, in half-pixel coordinates.

An image point x lies at (x + 0.5) / stride - 0.5 in its heatmap, so encode and decode are exact inverses at any
size, and a mirror image needs no shift (unbiased data processing, Huang et al. 2020).
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from raf_ray.filters import gaussian_blur
from raf_ray.resolution import HEATMAP_STRIDE, Size

SIGMA = 2.0
"""Standard deviation of the target's Gaussian in heatmap pixels of stride 4, at every size (the paper's)."""
FIT_RADIUS = 1.0
"""Standard deviations each way that DARK fits near a border: half is as good on the demo and worse with noise, one and
a half is worse there."""


def sigma_of(stride: int) -> float:
    """The target's standard deviation in heatmap pixels: 8 pixels of the image at any stride.

    So a finer heatmap draws the same Gaussian with more pixels (as SRPose's code does), and every loss keeps its scale,
    for which learning rate, clip and weights are set.
    """
    return SIGMA * HEATMAP_STRIDE / stride


def image_to_heatmap(points: Tensor, stride: int = HEATMAP_STRIDE) -> Tensor:
    return (points + 0.5) / stride - 0.5


def heatmap_to_image(points: Tensor, stride: int = HEATMAP_STRIDE) -> Tensor:
    return (points + 0.5) * stride - 0.5


def encode(points: Tensor, size: Size, sigma: float = SIGMA) -> Tensor:
    """Unbiased Gaussian targets of peak 1: (B, K, 2) points in heatmap pixels -> (B, K, h, w).

    `size` is the heatmap's. The Gaussian is separable, so a batch is one outer product, channels last in memory as
    a network's heatmaps are.
    """
    grid_x = torch.arange(size.width, device=points.device, dtype=points.dtype)
    grid_y = torch.arange(size.height, device=points.device, dtype=points.dtype)
    along_x = torch.exp(-((grid_x[:, None] - points[:, None, :, 0]) ** 2) / (2 * sigma**2))
    along_y = torch.exp(-((grid_y[:, None] - points[:, None, :, 1]) ** 2) / (2 * sigma**2))
    return (along_y[:, :, None] * along_x[:, None]).permute(0, 3, 1, 2)


def decode(
    heatmaps: Tensor, method: Literal["argmax", "dark", "udp_dark"] = "argmax", sigma: float = SIGMA
) -> tuple[Tensor, Tensor]:
    """(B, K, h, w) heatmaps -> (B, K, 2) points in heatmap pixels and (B, K) confidences (the peaks).

    `sigma`: of the targets that they were trained on, in heatmap pixels; DARK goes by it.
    """
    width = heatmaps.shape[-1]
    confidence, place = heatmaps.flatten(2).max(-1)
    x, y = place % width, place // width
    match method:
        case "argmax":
            offset = _quarter_offset(heatmaps, x, y)
        case "dark":
            offset = _dark_offset(heatmaps, x, y, sigma)
        case "udp_dark":
            offset = _udp_dark_offset(heatmaps, x, y, sigma)
    return torch.stack([x, y], dim=-1).to(heatmaps.dtype) + offset, confidence


def _neighbours(maps: Tensor, x: Tensor, y: Tensor, dx: int, dy: int) -> Tensor:
    """(B, K) values at (x + dx, y + dy), replicated at the edge."""
    height, width = maps.shape[-2:]
    index = (y + dy).clamp(0, height - 1) * width + (x + dx).clamp(0, width - 1)
    return maps.flatten(2).gather(-1, index.unsqueeze(-1)).squeeze(-1)


def _quarter_offset(maps: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """A quarter pixel towards the higher neighbour (Newell et al. 2016)."""
    step_x = torch.sign(_neighbours(maps, x, y, 1, 0) - _neighbours(maps, x, y, -1, 0))
    step_y = torch.sign(_neighbours(maps, x, y, 0, 1) - _neighbours(maps, x, y, 0, -1))
    return 0.25 * torch.stack([step_x, step_y], dim=-1)


def _dark_offset(maps: Tensor, x: Tensor, y: Tensor, sigma: float) -> Tensor:
    """DARK: the peak's place from the log of the heatmap around it, at most half a sigma from its highest pixel.

    Away from the border one Newton step on the smoothed heatmap. Within the smoothing's reach of a border that
    would see zeros from outside, which pull joints inward (up to 0.7 px): there a Gaussian is fitted to the pixels
    that are there, which is exact for any place on or between them.
    """
    height, width = maps.shape[-2:]
    reach = math.ceil(3 * sigma) + 1
    whole = (x >= reach) & (x < width - reach) & (y >= reach) & (y < height - reach)
    return torch.where(whole.unsqueeze(-1), _newton_offset(maps, x, y, sigma), _fitted_offset(maps, x, y, sigma))


def _newton_offset(maps: Tensor, x: Tensor, y: Tensor, sigma: float) -> Tensor:
    """One Newton step on the log of the smoothed heatmap (Zhang et al. 2020, eq. 9)."""
    logs = gaussian_blur(maps, sigma=sigma).clamp_min(1e-10).log()

    def at(dx: int, dy: int) -> Tensor:
        return _neighbours(logs, x, y, dx, dy)

    gx, gy = (at(1, 0) - at(-1, 0)) / 2, (at(0, 1) - at(0, -1)) / 2
    gxx = at(1, 0) - 2 * at(0, 0) + at(-1, 0)
    gyy = at(0, 1) - 2 * at(0, 0) + at(0, -1)
    gxy = (at(1, 1) - at(-1, 1) - at(1, -1) + at(-1, -1)) / 4
    return _step_to_peak(gx, gy, gxx, gxy, gyy, least=1e-12).clamp(-sigma / 2, sigma / 2)


def _step_to_peak(gx: Tensor, gy: Tensor, gxx: Tensor, gxy: Tensor, gyy: Tensor, least: float = 0.0) -> Tensor:
    """(..., 2) Newton step of first and second derivatives (...); none where the determinant is not above `least`."""
    determinant = gxx * gyy - gxy**2
    valid = determinant.abs() > least
    safe = torch.where(valid, determinant, torch.ones_like(determinant))
    offset = torch.stack([gxy * gy - gyy * gx, gxy * gx - gxx * gy], dim=-1) / safe.unsqueeze(-1)
    return torch.where(valid.unsqueeze(-1), offset, torch.zeros_like(offset))


def _udp_dark_offset(maps: Tensor, x: Tensor, y: Tensor, sigma: float) -> Tensor:
    """DARK as unbiased data processing publishes it: one Newton step, however far (Huang et al. 2020, their code).

    Maps are mirrored at their borders for the smoothing, whose window is that of OpenCV's rule (11 pixels for 2, as in
    MMPose), and held to 1e-3 ... 50 before the log; the mixed derivative is that along one diagonal, and float32's
    epsilon stands on the Hessian's. Where that has no inverse there is no step.
    """
    radius = round((sigma - 0.8) / 0.3) + 1
    logs = gaussian_blur(maps, sigma, radius, mirrored=True).clamp(1e-3, 50.0).log()

    def at(dx: int, dy: int) -> Tensor:
        return _neighbours(logs, x, y, dx, dy)

    middle, epsilon = at(0, 0), torch.finfo(torch.float32).eps
    right, left, below, above = at(1, 0), at(-1, 0), at(0, 1), at(0, -1)
    gxy = (at(1, 1) + at(-1, -1) - right - left - below - above) / 2 + middle
    gxx, gyy = right - 2 * middle + left + epsilon, below - 2 * middle + above + epsilon
    return _step_to_peak((right - left) / 2, (below - above) / 2, gxx, gxy, gyy)


def _fitted_offset(maps: Tensor, x: Tensor, y: Tensor, sigma: float) -> Tensor:
    """The maximum of a Gaussian fitted to the pixels around the highest (5 x 5 at stride 4), as far as there are such.

    Weighted least squares on the logs, each residual weighted by its pixel's value (Guo 2011, "A simple algorithm
    for fitting a Gaussian function"). A quarter pixel to the higher neighbour where those pixels have no maximum.
    """
    height, width = maps.shape[-2:]
    radius = round(FIT_RADIUS * sigma)
    step = torch.arange(-radius, radius + 1, device=maps.device)
    dy, dx = (grid.flatten() for grid in torch.meshgrid(step, step, indexing="ij"))
    to_x, to_y = x.unsqueeze(-1) + dx, y.unsqueeze(-1) + dy
    there = (to_x >= 0) & (to_x < width) & (to_y >= 0) & (to_y < height)
    places = (to_y.clamp(0, height - 1) * width + to_x.clamp(0, width - 1)).long()
    values = maps.flatten(2).gather(-1, places).double()
    values = (values / values.amax(-1, keepdim=True).clamp_min(1e-10)).clamp_min(1e-6)  # (B, K, 25) at stride 4
    weights = values * there
    terms = torch.stack([torch.ones_like(dx), dx, dy, dx**2, dx * dy, dy**2], dim=-1).double()  # (25, 6)
    rows = weights.unsqueeze(-1) * terms
    normal = rows.mT @ rows
    _, gx, gy, gxx, gxy, gyy = torch.linalg.solve_ex(normal, (rows.mT @ (weights * values.log()).unsqueeze(-1)))[0][
        ..., 0
    ].unbind(-1)
    determinant = 4 * gxx * gyy - gxy**2
    offset = torch.stack([gxy * gy - 2 * gyy * gx, gxy * gx - 2 * gxx * gy], dim=-1) / determinant.unsqueeze(-1)
    is_maximum = (determinant > 1e-6) & (gxx < 0) & offset.isfinite().all(-1)
    offset = offset.clamp(-sigma / 2, sigma / 2).to(maps.dtype)
    return torch.where(is_maximum.unsqueeze(-1), offset, _quarter_offset(maps, x, y))


def flip_back(heatmaps: Tensor, flip_order: Tensor) -> Tensor:
    """Heatmaps (B, K, h, w) of mirrored images -> those of the images themselves; (K,) mirror indices."""
    return heatmaps.flip(-1)[:, flip_order]
