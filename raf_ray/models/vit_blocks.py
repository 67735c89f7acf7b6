"""What a plain vision transformer is built of: patches, attention with an optional local position, blocks.

Sources: Xu et al. 2022, "ViTPose"; Tian et al. 2023, "ResFormer", for the local position.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class Attention(nn.Module):
    """Multi-head self-attention with ResFormer's local position embedding.

    out = softmax(Q K^T / sqrt(d)) V + dwconv3x3(V), then the projection. The convolution runs on V laid out
    as the token grid; its weights are shared by the heads and start at zero, as in ResFormer's code.

    Args:
        local: what the convolution is called; None: there is none.
        placeless: tokens before those of the grid, such as a class token; the convolution neither sees nor moves them.
    """

    def __init__(self, dim: int, heads: int, local: str | None = "local_pos", placeless: int = 0) -> None:
        super().__init__()
        self.heads, self.local, self.placeless = heads, local, placeless
        self.qkv = nn.Linear(dim, 3 * dim)
        if local is not None:
            each = dim // heads
            convolution = nn.Conv2d(each, each, kernel_size=3, padding=1, groups=each)
            nn.init.zeros_(convolution.weight)
            nn.init.zeros_(convolution.get_parameter("bias"))
            self.add_module(local, convolution)
        self.proj = nn.Linear(dim, dim)

    def forward(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """Tokens (B, N, D), the last h * w = N - `placeless` of them a grid (h, w), row by row, to (B, N, D)."""
        batch, count, dim = tokens.shape
        q, k, v = self.qkv(tokens).view(batch, count, 3, self.heads, dim // self.heads).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v)  # (B, heads, N, d)
        if self.local is not None:
            v_grid = v[:, :, self.placeless :].transpose(-2, -1).reshape(batch * self.heads, dim // self.heads, *grid)
            local = getattr(self, self.local)(v_grid).view(batch, self.heads, dim // self.heads, -1).transpose(-2, -1)
            mixed = mixed + (F.pad(local, (0, 0, self.placeless, 0)) if self.placeless else local)
        out: Tensor = self.proj(mixed.transpose(1, 2).reshape(batch, count, dim))
        return out


class Mlp(nn.Module):
    """The block's two linear layers with a GELU between them, token by token."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, N, D) to (B, N, D)."""
        out: Tensor = self.fc2(F.gelu(self.fc1(tokens)))
        return out


class Block(nn.Module):
    """Pre-norm transformer block with stochastic depth on both branches."""

    def __init__(
        self,
        dim: int,
        heads: int,
        mlp_ratio: int,
        drop_path: float,
        local: str | None = "local_pos",
        placeless: int = 0,
    ) -> None:
        super().__init__()
        from torchvision.ops import StochasticDepth  # late: over a second, which no other model needs

        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = Attention(dim, heads, local, placeless)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = Mlp(dim, mlp_ratio * dim)
        self.drop_path = StochasticDepth(drop_path, mode="row")

    def forward(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """(B, N, D) to (B, N, D); `grid` (h, w) as `Attention` takes it."""
        tokens = tokens + self.drop_path(self.attn(self.norm1(tokens), grid))
        tokens = tokens + self.drop_path(self.mlp(self.norm2(tokens)))
        return tokens


class PatchEmbed(nn.Module):
    """Cuts an image into patches that tile it, one token each; the official code pads 2 px, which moves them."""

    def __init__(self, patch: int, dim: int, padding: int = 0) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, dim, kernel_size=patch, stride=patch, padding=padding)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) to (B, D, H / patch, W / patch)."""
        tokens: Tensor = self.proj(images)
        return tokens
