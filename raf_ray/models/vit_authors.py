"""The backbone of the RAF authors' ViTPose (arXiv 2507.23461), entry by entry as their public code has it.

Source: Icecoffee2500/RAF on GitHub, raf/hpe/models/vit.py with `use_gpe` and `use_lpe`, as their configs set them, and
`get_vit_optimizer` for what is trained.

It is ViTPose's, with its patches padded by 2 px, and ResFormer's positions (Tian et al. 2023) on grids of any size:

- the global embedding adds the convolved code alone (`GlobalPosition` adds the code too);
- a class token, which has no place, goes through all blocks, and what comes out of the last norm for it is added to
  what comes out for every patch;
- weights begin as torch has them, and not as ViTPose's do; local convolutions begin at zero, the token at std 0.02.

Never trained, here and there: ViTPose's table `pos_embed`, which nothing reads, and what their optimiser's groups leave
out, so that it keeps what it began with or had from a checkpoint: the class token, the code's convolution and the last
norm. These entries are in the state, and so in files and averages, and ask for no gradient. (In their code all but the
table have one, which counts towards the norm that gradients are clipped by and towards nothing else.)
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from raf_ray.models.vit_blocks import PatchEmbed
from raf_ray.models.vit_positions import TABLE_GRID, resformer_code

UNTRAINED = ("pos_embed", "cls_token", "global_pos_embed.", "last_norm.")
"""How the names of the backbone's entries begin that are never trained."""


class ConvolvedCode(nn.Module):
    """Global position embedding: adds a depthwise 3x3 convolution of ResFormer's code."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.embed_layer = nn.Conv2d(dim, dim, kernel_size=3, padding=1, groups=dim)

    def forward(self, patches: Tensor) -> Tensor:
        """Patches (B, D, h, w) to patches of the same shape that know their place."""
        _, dim, height, width = patches.shape
        code = resformer_code(height, width, dim, patches.device).permute(2, 0, 1)[None]
        placed: Tensor = patches + self.embed_layer(code.to(patches.dtype))
        return placed


class AuthorsBackbone(nn.Module):
    """Patch embedding, global position, class token, blocks, final norm; laid out as a feature map again.

    Args:
        blocks: for tokens of which the first has no place.
    """

    def __init__(self, patch: int, dim: int, blocks: nn.ModuleList) -> None:
        super().__init__()
        self.patch_embed = PatchEmbed(patch, dim, padding=2)
        height, width = TABLE_GRID
        self.pos_embed = nn.Parameter(nn.init.trunc_normal_(torch.empty(1, 1 + height * width, dim), std=0.02))
        self.cls_token = nn.Parameter(nn.init.trunc_normal_(torch.empty(1, 1, dim), std=0.02))
        self.global_pos_embed = ConvolvedCode(dim)
        self.blocks = blocks
        self.last_norm = nn.LayerNorm(dim, eps=1e-6)
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(not name.startswith(UNTRAINED))

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) to features (B, D, h, w) with h = H / patch, w = W / patch."""
        placed = self.global_pos_embed(self.patch_embed(images))  # (B, D, h, w)
        height, width = placed.shape[-2:]
        patches = placed.flatten(2).transpose(1, 2)
        tokens = torch.cat([self.cls_token.expand(patches.shape[0], -1, -1), patches], dim=1)  # (B, 1 + h * w, D)
        for block in self.blocks:
            tokens = block(tokens, (height, width))
        tokens = self.last_norm(tokens)
        features: Tensor = (tokens[:, 1:] + tokens[:, :1]).transpose(1, 2).unflatten(2, (height, width))
        return features


def default_weights(module: nn.Module) -> None:
    """Initialise one module as torch does where it is made; meant for `keypoint_head.apply`."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        module.reset_parameters()
