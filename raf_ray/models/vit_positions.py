"""How a vision transformer's tokens learn their place on a grid of any size: by a code, or by a resized table.

Sources: Tian et al. 2023, "ResFormer", for its code and for the convolution; He et al. 2022, "MAE", for the other code;
Xu et al. 2022, "ViTPose", for the table.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CODE_GRID = 14
"""Units of the sine-cosine code along each side of an image: MAE's grid, 224 px / 16."""

TABLE_GRID = (16, 12)
"""Height and width of the published ViTPose's table: 256x192 px by patches of 16."""


def sine_cosine_code(height: int, width: int, dim: int, device: torch.device | None = None) -> Tensor:
    """Codes (height, width, dim), float32, of a grid's places; a relative place has one code on every grid.

    The centre of patch i of n lies at (i + 0.5) / n of the side; on MAE's grid that is the coordinate
    p = (i + 0.5) / n * 14 - 0.5. Each axis has dim / 4 frequencies f_k = 10000^(-4k / dim) and gives all
    sin(p f_k), then all cos(p f_k); x comes before y. On a 14x14 grid this is the table of He et al. 2022.
    """
    frequencies = 10000.0 ** (-torch.arange(dim // 4, dtype=torch.float32, device=device) / (dim // 4))

    def axis(patches: int) -> Tensor:  # (patches, dim / 2)
        centre = (torch.arange(patches, dtype=torch.float32, device=device) + 0.5) / patches
        angle = (centre * CODE_GRID - 0.5)[:, None] * frequencies
        return torch.cat([angle.sin(), angle.cos()], dim=-1)

    x = axis(width)[None, :, :].expand(height, width, dim // 2)
    y = axis(height)[:, None, :].expand(height, width, dim // 2)
    return torch.cat([x, y], dim=-1)


def resformer_code(height: int, width: int, dim: int, device: torch.device | None = None) -> Tensor:
    """Codes (height, width, dim), float32, of a grid's places as ResFormer has them.

    The far edge of patch i of n lies at (i + 1) / n of the side, and the side is one turn: p = 2 pi (i + 1) / n. Each
    axis has the dim / 4 frequencies f_k of `sine_cosine_code` and gives sin(p f_0), cos(p f_0), sin(p f_1) and so on;
    y comes before x.
    """
    frequencies = 10000.0 ** (-torch.arange(dim // 4, dtype=torch.float32, device=device) / (dim // 4))

    def axis(patches: int) -> Tensor:  # (patches, dim / 2)
        edge = torch.arange(1, patches + 1, dtype=torch.float32, device=device) / patches
        angle = (2 * math.pi * edge)[:, None] * frequencies
        return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)

    y = axis(height)[:, None, :].expand(height, width, dim // 2)
    x = axis(width)[None, :, :].expand(height, width, dim // 2)
    return torch.cat([y, x], dim=-1)


class GlobalPosition(nn.Module):
    """Global position embedding: adds code + depthwise 3x3 convolution of the code (ResFormer, its GPE)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(dim, dim, kernel_size=3, padding=1, groups=dim)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens (B, D, h, w) to tokens of the same shape that know their place."""
        _, dim, height, width = tokens.shape
        code = sine_cosine_code(height, width, dim, tokens.device).permute(2, 0, 1)[None].to(tokens.dtype)
        placed: Tensor = tokens + code + self.conv(code)
        return placed


def grid_of(places: int) -> tuple[int, int] | None:
    """Height and width of a table of so many places: 4:3, as for people, or a square; None where it is neither."""
    for height in range(1, places + 1):
        if places % height == 0 and (height * 3 == places // height * 4 or height * height == places):
            return height, places // height
    return None


def resized_table(table: Tensor, grid: tuple[int, int]) -> Tensor | None:
    """A table (1, n, D) or, with the class token's row first, (1, 1 + n, D) for another grid: (1, 1 + h * w, D).

    Bicubic, as MAE's and ViTPose's code resize it; a class token's row that is not there is zero. None where n is the
    number of places of no 4:3 grid and no square one.
    """
    rows, table = table.shape[1], table.float()
    own, row = grid_of(rows - 1), table[:, :1]
    if own is None:
        own, row = grid_of(rows), torch.zeros_like(row)
    if own is None:
        return None
    places = table[:, -(own[0] * own[1]) :].transpose(1, 2).reshape(1, -1, *own)
    if own != grid:
        places = F.interpolate(places, grid, mode="bicubic", align_corners=False)
    return torch.cat([row, places.flatten(2).transpose(1, 2)], dim=1)


def placed_by_table(tokens: Tensor, table: Tensor) -> Tensor:
    """Tokens (B, D, h, w) plus their place's row of a table (1, 1 + 16 * 12, D), resized to their grid, and its first
    row, the class token's, which ViTPose adds to every patch."""
    places = table[:, 1:].transpose(1, 2).reshape(1, -1, *TABLE_GRID)
    if tokens.shape[-2:] != TABLE_GRID:
        places = F.interpolate(places, tokens.shape[-2:], mode="bicubic", align_corners=False)
    return tokens + (places + table[:, :1].transpose(1, 2)[..., None]).to(tokens.dtype)


def is_position_embedding(name: str) -> bool:
    """Whether a parameter's name belongs to the global or to a block's local position embedding."""
    return any(part in f"{name}." for part in (".pos_embed.", ".local_pos.", ".global_pos_embed.", ".get_v."))


def variant_of(names: Iterable[str]) -> str | None:
    """The `model.variant` that has entries of these names; None where they are of no ViTPose here."""
    found = set(names)
    if "backbone.global_pos_embed.embed_layer.weight" in found:
        return "authors"
    if "backbone.pos_embed.conv.weight" in found:
        return "raf_ray"
    return "vitpose" if "backbone.pos_embed" in found else None
