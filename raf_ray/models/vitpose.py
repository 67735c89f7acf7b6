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

`variant: vitpose` is the published model, `variant: authors` the RAF authors' (`AuthorsBackbone`).

Names of parameters are those of the official ViTPose checkpoints: `backbone.*`, `keypoint_head.*`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from raf_ray.models.deconv_head import BackboneAndHead, DeconvHead
from raf_ray.models.simple_head import Decoder, SimpleHead
from raf_ray.models.vit_authors import AuthorsBackbone, default_weights
from raf_ray.models.vit_blocks import Block, PatchEmbed
from raf_ray.models.vit_positions import TABLE_GRID, GlobalPosition, is_position_embedding, placed_by_table
from raf_ray.resolution import HEATMAP_STRIDE

Scale = Literal["small", "base", "large", "huge"]

Variant = Literal["raf_ray", "vitpose", "authors"]

OPTIONS = ("variant", "decoder", "heatmap_stride")

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
    any grid, and there is no local position. `authors`: see `AuthorsBackbone`; its head begins as torch has it too."""
    decoder: Decoder = "classic"
    """`simple`: no deconvolutions, see `SimpleHead`."""
    heatmap_stride: int = HEATMAP_STRIDE
    """Image pixels per heatmap pixel: below 4 by a `FinerLayer` after the decoder."""

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


def build_vitpose(
    size: Scale,
    num_joints: int,
    variant: Variant = "raf_ray",
    decoder: Decoder = "classic",
    heatmap_stride: int = HEATMAP_STRIDE,
) -> ViTPose:
    """A ViTPose of a published size, freshly initialised; `with torch.device("meta")` for its shapes alone.

    Raises:
        ValueError: the size is not one of `SIZES`, or `num_joints` is less than 1.
    """
    if size not in SIZES:
        raise ValueError(f"ViTPose has no size {size!r}: choose one of {', '.join(SIZES)}")
    return ViTPose(replace(SIZES[size], variant=variant, decoder=decoder, heatmap_stride=heatmap_stride), num_joints)


def build(name: str, num_joints: int, depth: int, **options: Any) -> ViTPose:
    return build_vitpose(name.removeprefix("vitpose_"), num_joints, **options)  # type: ignore[arg-type]


LOCAL: dict[Variant, tuple[str | None, int]] = {
    "raf_ray": ("local_pos", 0),
    "vitpose": (None, 0),
    "authors": ("get_v", 1),
}
"""What a variant calls its blocks' local position, and its tokens that have no place; see `Attention`."""


def blocks_of(config: ViTPoseConfig) -> nn.ModuleList:
    """The variant's blocks, with stochastic depth that grows from the first to the last."""
    drop_paths = [config.drop_path * i / max(config.depth - 1, 1) for i in range(config.depth)]
    return nn.ModuleList(
        Block(config.dim, config.heads, config.mlp_ratio, drop_path, *LOCAL[config.variant]) for drop_path in drop_paths
    )


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
        self.blocks = blocks_of(config)
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
    """Images of any size that `size_divisor` divides, to heatmaps of a `heatmap_stride`-th of that size."""

    def __init__(self, config: ViTPoseConfig, num_joints: int) -> None:
        super().__init__()
        self.config = config
        self.size_divisor = config.patch
        self.heatmap_stride = config.heatmap_stride
        self.num_layers = config.depth + 1
        """The largest id that `layer_id` gives."""
        if config.variant == "authors":
            self.backbone: nn.Module = AuthorsBackbone(config.patch, config.dim, blocks_of(config))
        else:
            self.backbone = ViTBackbone(config)
            self.backbone.apply(init_weights)
        self.keypoint_head: nn.Module = (
            SimpleHead(config.dim, num_joints, config.patch // HEATMAP_STRIDE, config.heatmap_stride)
            if config.decoder == "simple"
            else DeconvHead(
                config.dim,
                num_joints,
                config.deconv_channels,
                config.deconv_layers,
                heatmap_stride=config.heatmap_stride,
            )
        )
        if config.variant == "authors":
            self.keypoint_head.apply(default_weights)

    def layer_id(self, name: str) -> int:
        """Depth of a parameter for layer decay, lr * decay^(num_layers - id), as in the official ViTPose.

        0 for patch and position embedding and the class token, i + 1 for block i, `num_layers` for the final norm and
        the head.

        Raises:
            ValueError: no parameter of this model has such a name.
        """
        match name.split("."):
            case ["backbone", "patch_embed" | "pos_embed" | "global_pos_embed" | "cls_token", *_]:
                return 0
            case ["backbone", "blocks", index, *_] if index.isdecimal() and int(index) < self.config.depth:
                return int(index) + 1
            case ["backbone", "last_norm", *_] | ["keypoint_head", *_]:
                return self.num_layers
        raise ValueError(f"this ViTPose of {self.config.depth} blocks has no parameter {name!r}")

    def no_weight_decay(self, name: str, parameter: Tensor) -> bool:
        """Whether weight decay must leave a parameter alone: norms, biases, position embeddings, the class token."""
        return parameter.ndim <= 1 or is_position_embedding(name) or name == "backbone.cls_token"


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
