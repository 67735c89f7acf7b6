"""ViTPose for images of any size: a plain vision transformer and a deconvolution head.

Sources:
    Xu et al. 2022, "ViTPose: Simple Vision Transformer Baselines for Human Pose Estimation": backbone, head.
    Tian et al. 2023, "ResFormer: Scaling ViTs with Multi-Resolution Training": the global and the local
        position embedding, which let one set of weights serve every input size. The RAF paper
        (arXiv 2507.23461) uses both.

Two choices of our own in `variant: raf_ray`, neither from a paper:
    The sine-cosine code of a place is the one that MAE (He et al. 2022) gives to it on its 14x14 grid of
        pre-training, read at the patch's centre. So an MAE-initialised backbone meets the codes that it was
        trained with, whatever the input size. ResFormer's code, trained from scratch, spreads one turn (2 pi)
        over the image and reads the patch's far edge.
    The convolution of the global embedding is a zero-initialised residual, so training starts from exactly
        that code. ResFormer adds the convolved code alone.

Names of parameters are those of the official ViTPose checkpoints: `backbone.*`, `keypoint_head.*`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raf_ray.models.deconv_head import HEATMAP_STRIDE, BackboneAndHead, DeconvHead
from raf_ray.models.simple_head import SimpleHead
from raf_ray.models.vit_positions import TABLE_GRID, GlobalPosition, is_position_embedding, placed_by_table

Scale = Literal["small", "base", "large", "huge"]

Variant = Literal["raf_ray", "vitpose"]

Decoder = Literal["classic", "simple"]

OPTIONS = ("variant", "decoder")

NAMES = ("vitpose_small", "vitpose_base", "vitpose_large", "vitpose_huge")


@dataclass(frozen=True, kw_only=True)
class ViTPoseConfig:
    """Everything that fixes the shape of a ViTPose but its number of joints."""

    patch: int = 16
    """Side of a square patch, px."""
    dim: int
    """Channels of a token."""
    depth: int
    """Number of transformer blocks."""
    heads: int
    """Attention heads of a block; `dim / heads` channels each."""
    mlp_ratio: int = 4
    """Hidden channels of a block's MLP, as a multiple of `dim`."""
    drop_path: float = 0.0
    """Chance that a training sample skips a branch of the last block; falls linearly to 0 at the first."""
    deconv_channels: int = 256
    """Channels of the head's deconvolutions."""
    deconv_layers: int = 2
    """Number of the head's deconvolutions; each doubles the height and width."""
    variant: Variant = "raf_ray"
    """`vitpose` is the published backbone: patches overlap by 2 px of padding, places are a learned table's, resized to
    any grid, and there is no local position."""
    decoder: Decoder = "classic"
    """`simple`: no deconvolutions, see `SimpleHead`."""

    def __post_init__(self) -> None:
        if self.dim % self.heads or self.dim % 4:
            raise ValueError(f"dim is {self.dim}: it must be a multiple of 4 and of heads ({self.heads})")
        if self.patch != HEATMAP_STRIDE * 2**self.deconv_layers:
            raise ValueError(
                f"patch {self.patch} with {self.deconv_layers} deconv_layers does not give heatmaps of a"
                f" quarter of the image: patch must be {HEATMAP_STRIDE} * 2^deconv_layers"
            )
        if not 0.0 <= self.drop_path < 1.0:
            raise ValueError(f"drop_path is {self.drop_path}: it must be in [0, 1)")


# Widths, depths, heads and drop path: the official ViTPose configs (ViTPose_{size}_coco_256x192). One
# exception: those give the small model drop path 0.3 as well; 0.1 is what MMPose's config of the same model
# trains with.
SIZES: dict[Scale, ViTPoseConfig] = {
    "small": ViTPoseConfig(dim=384, depth=12, heads=12, drop_path=0.1),
    "base": ViTPoseConfig(dim=768, depth=12, heads=12, drop_path=0.3),
    "large": ViTPoseConfig(dim=1024, depth=24, heads=16, drop_path=0.5),
    "huge": ViTPoseConfig(dim=1280, depth=32, heads=16, drop_path=0.55),
}


def build_vitpose(size: Scale, num_joints: int, variant: Variant = "raf_ray", decoder: Decoder = "classic") -> ViTPose:
    """A ViTPose of a published size, freshly initialised; `with torch.device("meta")` for its shapes alone.

    Raises:
        ValueError: the size is not one of `SIZES`, or `num_joints` is less than 1.
    """
    if size not in SIZES:
        raise ValueError(f"ViTPose has no size {size!r}: choose one of {', '.join(SIZES)}")
    return ViTPose(replace(SIZES[size], variant=variant, decoder=decoder), num_joints)


def build(
    name: str, num_joints: int, depth: int, variant: Variant = "raf_ray", decoder: Decoder = "classic"
) -> ViTPose:
    return build_vitpose(name.removeprefix("vitpose_"), num_joints, variant, decoder)  # type: ignore[arg-type]


class Attention(nn.Module):
    """Multi-head self-attention with ResFormer's local position embedding.

    out = softmax(Q K^T / sqrt(d)) V + dwconv3x3(V), then the projection. The convolution runs on V laid out
    as the token grid; its weights are shared by the heads and start at zero, as in ResFormer's code.
    """

    def __init__(self, dim: int, heads: int, local: bool = True) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        each = dim // heads
        self.local_pos = nn.Conv2d(each, each, kernel_size=3, padding=1, groups=each) if local else None
        self.proj = nn.Linear(dim, dim)

    def forward(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """Tokens (B, N, D) of a grid (h, w) with h * w = N, row by row, to (B, N, D)."""
        batch, count, dim = tokens.shape
        q, k, v = self.qkv(tokens).view(batch, count, 3, self.heads, dim // self.heads).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v)  # (B, heads, N, d)
        if self.local_pos is not None:
            v_grid = v.transpose(-2, -1).reshape(batch * self.heads, dim // self.heads, *grid)
            local = self.local_pos(v_grid).view(batch, self.heads, dim // self.heads, count).transpose(-2, -1)
            mixed = mixed + local
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

    def __init__(self, dim: int, heads: int, mlp_ratio: int, drop_path: float, local: bool = True) -> None:
        super().__init__()
        from torchvision.ops import StochasticDepth  # late: over a second, which no other model needs

        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = Attention(dim, heads, local)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = Mlp(dim, mlp_ratio * dim)
        self.drop_path = StochasticDepth(drop_path, mode="row")

    def forward(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """(B, N, D) to (B, N, D); `grid` (h, w) with h * w = N."""
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


class ViTBackbone(nn.Module):
    """Patch embedding, global position, blocks, final norm; laid out as a feature map again."""

    def __init__(self, config: ViTPoseConfig) -> None:
        super().__init__()
        published = config.variant == "vitpose"
        self.patch_embed = PatchEmbed(config.patch, config.dim, padding=2 if published else 0)
        height, width = TABLE_GRID
        self.pos_embed: nn.Parameter | GlobalPosition = (
            nn.Parameter(nn.init.trunc_normal_(torch.empty(1, 1 + height * width, config.dim), std=0.02))
            if published
            else GlobalPosition(config.dim)
        )
        drop_paths = [config.drop_path * i / max(config.depth - 1, 1) for i in range(config.depth)]
        self.blocks = nn.ModuleList(
            Block(config.dim, config.heads, config.mlp_ratio, drop_path, local=not published)
            for drop_path in drop_paths
        )
        self.last_norm = nn.LayerNorm(config.dim, eps=1e-6)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) to features (B, D, h, w) with h = H / patch, w = W / patch."""
        patches, place = self.patch_embed(images), self.pos_embed  # (B, D, h, w)
        embedded = placed_by_table(patches, place) if isinstance(place, nn.Parameter) else place(patches)
        height, width = embedded.shape[-2:]
        tokens = embedded.flatten(2).transpose(1, 2)  # (B, h * w, D)
        for block in self.blocks:
            tokens = block(tokens, (height, width))
        features: Tensor = self.last_norm(tokens).transpose(1, 2).unflatten(2, (height, width))
        return features


class ViTPose(BackboneAndHead):
    """Images of any size that `size_divisor` divides, to heatmaps of a quarter of that size."""

    def __init__(self, config: ViTPoseConfig, num_joints: int) -> None:
        super().__init__()
        self.config = config
        self.size_divisor = config.patch
        self.num_layers = config.depth + 1
        """The largest id that `layer_id` gives."""
        self.backbone = ViTBackbone(config)
        self.backbone.apply(init_weights)
        self.keypoint_head: nn.Module = (
            SimpleHead(config.dim, num_joints, config.patch // HEATMAP_STRIDE)
            if config.decoder == "simple"
            else DeconvHead(config.dim, num_joints, config.deconv_channels, config.deconv_layers)
        )

    def layer_id(self, name: str) -> int:
        """Depth of a parameter for layer decay, lr * decay^(num_layers - id), as in the official ViTPose.

        0 for patch and position embedding, i + 1 for block i, `num_layers` for the final norm and the head.

        Raises:
            ValueError: no parameter of this model has such a name.
        """
        match name.split("."):
            case ["backbone", "patch_embed" | "pos_embed", *_]:
                return 0
            case ["backbone", "blocks", index, *_] if index.isdecimal() and int(index) < self.config.depth:
                return int(index) + 1
            case ["backbone", "last_norm", *_] | ["keypoint_head", *_]:
                return self.num_layers
        raise ValueError(f"this ViTPose of {self.config.depth} blocks has no parameter {name!r}")

    def no_weight_decay(self, name: str, parameter: Tensor) -> bool:
        """Whether weight decay must leave a parameter alone: norms, biases and both position embeddings."""
        return parameter.ndim <= 1 or is_position_embedding(name)


def init_weights(module: nn.Module) -> None:
    """Initialise one module of a fresh backbone; meant for `backbone.apply`.

    Linear layers: truncated normal of std 0.02, zero bias, as in the official ViTPose; the patch embedding
    the same. Depthwise convolutions, that is both position embeddings: zero. Norms keep torch's 1 and 0.
    """
    if not isinstance(module, nn.Linear | nn.Conv2d):
        return
    if isinstance(module, nn.Conv2d) and module.groups > 1:
        nn.init.zeros_(module.weight)
    else:
        nn.init.trunc_normal_(module.weight, std=0.02)
    if module.bias is not None:
        nn.init.zeros_(module.bias)
