"""ViTPose: any input size, the same code at the same place, published sizes, layer decay."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchvision.models import ViT_B_16_Weights, ViT_L_16_Weights
from torchvision.ops import StochasticDepth

from raf_ray.models.vit_blocks import Attention, Block
from raf_ray.models.vit_positions import GlobalPosition, sine_cosine_code
from raf_ray.models.vitpose import SIZES, Scale, ViTPose, ViTPoseConfig, build_vitpose

TINY = ViTPoseConfig(dim=32, depth=3, heads=4, deconv_channels=16)


def randomise(module: nn.Module, std: float = 0.2) -> None:
    """Give every parameter a value, the zero-initialised ones included."""
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=std)


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


# --- input sizes --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("height", "width"), [(256, 192), (192, 144), (128, 96), (64, 48), (512, 384), (16, 16), (48, 112)]
)
def test_heatmaps_have_a_quarter_of_the_image_size(height: int, width: int) -> None:
    model = ViTPose(TINY, num_joints=5).eval()
    with torch.no_grad():
        heatmaps = model(torch.zeros(2, 3, height, width))
    assert heatmaps.shape == (2, 5, height // 4, width // 4)


@pytest.mark.parametrize(("height", "width"), [(250, 192), (256, 200), (8, 8), (0, 16)])
def test_a_size_that_the_patch_does_not_divide_is_refused(height: int, width: int) -> None:
    with pytest.raises(ValueError, match=f"{height}x{width}.*multiples of 16"):
        ViTPose(TINY, num_joints=5)(torch.zeros(1, 3, height, width))


def test_images_without_three_channels_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(B, 3, H, W\)"):
        ViTPose(TINY, num_joints=5)(torch.zeros(1, 1, 64, 48))


# --- position embeddings ------------------------------------------------------------------------------------


def test_the_code_of_a_relative_place_is_the_same_on_every_grid() -> None:
    # Patch 4 of 12 covers the middle third of patch 1 of 4: three times the resolution shares every centre.
    coarse = sine_cosine_code(4, 3, dim=32)
    fine = sine_cosine_code(12, 9, dim=32)
    torch.testing.assert_close(fine[1::3, 1::3], coarse, atol=1e-5, rtol=0)


def test_the_code_tells_all_places_apart() -> None:
    code = sine_cosine_code(16, 12, dim=384).flatten(0, 1)
    distance = torch.cdist(code, code) + 100 * torch.eye(len(code))
    assert distance.min() > 1.0


def test_the_code_on_a_14x14_grid_is_the_table_of_mae() -> None:
    # He et al. 2022: integer coordinates; x in the first half of the channels; sines, then cosines.
    dim, quarter = 24, 6
    table = np.zeros((14, 14, dim))
    for row in range(14):
        for column in range(14):
            for k in range(quarter):
                frequency = 10000 ** (-k / quarter)
                table[row, column, k] = math.sin(column * frequency)
                table[row, column, quarter + k] = math.cos(column * frequency)
                table[row, column, 2 * quarter + k] = math.sin(row * frequency)
                table[row, column, 3 * quarter + k] = math.cos(row * frequency)
    np.testing.assert_allclose(sine_cosine_code(14, 14, dim).numpy(), table, atol=1e-5)


def test_a_fresh_global_position_adds_the_code_alone() -> None:
    position = ViTPose(TINY, num_joints=5).backbone.pos_embed
    added = position(torch.zeros(1, 32, 4, 3))[0].permute(1, 2, 0)
    torch.testing.assert_close(added, sine_cosine_code(4, 3, dim=32))


def test_global_position_adds_its_convolved_code_whatever_the_tokens_are() -> None:
    position = GlobalPosition(dim=8)
    randomise(position)
    tokens = torch.randn(2, 8, 4, 3)
    code = sine_cosine_code(4, 3, dim=8).permute(2, 0, 1)
    padded = torch.zeros(8, 6, 5)
    padded[:, 1:5, 1:4] = code
    expected = torch.zeros(8, 4, 3)
    for row in range(4):
        for column in range(3):
            window = padded[:, row : row + 3, column : column + 3]
            expected[:, row, column] = (window * position.conv.weight[:, 0]).sum((1, 2))
    expected += position.conv.get_parameter("bias")[:, None, None] + code
    torch.testing.assert_close(position(tokens), tokens + expected, atol=1e-5, rtol=1e-4)


# --- attention and block ------------------------------------------------------------------------------------


def naive_attention(attention: Attention, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
    """Softmax(Q K^T / sqrt(d)) V + depthwise conv(V), token by token, for one sample (N, D)."""
    height, width = grid
    d = tokens.shape[1] // attention.heads
    kernel = attention.local_pos.weight[:, 0]
    q, k, v = (tokens @ attention.qkv.weight.T + attention.qkv.bias).chunk(3, dim=1)
    outs = []
    for head in range(attention.heads):
        part = slice(head * d, (head + 1) * d)
        scores = torch.exp(q[:, part] @ k[:, part].T / math.sqrt(d))
        mixed = scores @ v[:, part] / scores.sum(dim=1, keepdim=True)
        local = torch.zeros_like(mixed)
        for row in range(height):
            for column in range(width):
                local[row * width + column] = attention.local_pos.get_parameter("bias")
                for up in (-1, 0, 1):
                    for left in (-1, 0, 1):
                        if 0 <= row + up < height and 0 <= column + left < width:
                            value = v[(row + up) * width + column + left, part]
                            local[row * width + column] += kernel[:, up + 1, left + 1] * value
        outs.append(mixed + local)
    return torch.cat(outs, dim=1) @ attention.proj.weight.T + attention.proj.bias


def test_attention_agrees_with_its_definition() -> None:
    attention = Attention(dim=24, heads=3)
    randomise(attention)
    tokens = torch.randn(2, 12, 24)
    with torch.no_grad():
        expected = torch.stack([naive_attention(attention, sample, (4, 3)) for sample in tokens])
        torch.testing.assert_close(attention(tokens, (4, 3)), expected, atol=1e-4, rtol=1e-4)


def test_a_block_without_local_position_is_torch_s_pre_norm_encoder_layer() -> None:
    block = Block(dim=24, heads=3, mlp_ratio=4, drop_path=0.0).eval()
    randomise(block)
    nn.init.zeros_(block.attn.local_pos.weight)
    nn.init.zeros_(block.attn.local_pos.get_parameter("bias"))
    layer = nn.TransformerEncoderLayer(
        24, 3, dim_feedforward=96, activation="gelu", batch_first=True, norm_first=True, layer_norm_eps=1e-6
    )
    pairs = {"self_attn.in_proj_": "attn.qkv.", "self_attn.out_proj.": "attn.proj.", "linear1.": "mlp.fc1."}
    pairs |= {"linear2.": "mlp.fc2.", "norm1.": "norm1.", "norm2.": "norm2."}
    own = block.state_dict()
    layer.load_state_dict({a + kind: own[b + kind] for a, b in pairs.items() for kind in ("weight", "bias")})
    tokens = torch.randn(2, 12, 24)
    with torch.no_grad():
        torch.testing.assert_close(block(tokens, (4, 3)), layer.eval()(tokens), atol=1e-4, rtol=1e-4)


def test_drop_path_skips_whole_samples_and_rises_with_depth() -> None:
    model = ViTPose(ViTPoseConfig(dim=8, depth=3, heads=2, drop_path=0.4, deconv_channels=4), num_joints=2)
    chances = [module.p for module in model.modules() if isinstance(module, StochasticDepth)]
    assert chances == pytest.approx([0.0, 0.2, 0.4])
    block = Block(dim=8, heads=2, mlp_ratio=4, drop_path=0.5)
    randomise(block)
    torch.manual_seed(0)
    tokens = torch.randn(1, 6, 8).expand(64, -1, -1)  # equal samples, so what differs is what was dropped
    branch = block(tokens, (3, 2)) - tokens
    kept = branch.flatten(1).abs().sum(1) > 0
    assert 0 < kept.sum() < 64  # about three quarters keep a branch
    assert torch.equal(block.eval()(tokens, (3, 2))[0], block(tokens, (3, 2))[1])


# --- published sizes ----------------------------------------------------------------------------------------


def classifier_to_backbone(published: int, dim: int, depth: int, heads: int) -> int:
    """Parameters of a published ViT/16 classifier at 224 px, less what ours lacks, plus what ours adds."""
    head, class_token, table = 1000 * dim + 1000, dim, (14 * 14 + 1) * dim
    global_position, local_position = dim * 10, depth * (dim // heads) * 10
    return published - head - class_token - table + global_position + local_position


@pytest.mark.parametrize(
    ("size", "published"),
    [
        ("small", 22_050_664),  # DeiT-S, Touvron et al. 2021 (table 1: 22M), as timm counts it
        ("base", ViT_B_16_Weights.IMAGENET1K_V1.meta["num_params"]),
        ("large", ViT_L_16_Weights.IMAGENET1K_V1.meta["num_params"]),
    ],
)
def test_backbones_have_the_published_number_of_parameters(size: Scale, published: int) -> None:
    with torch.device("meta"):
        model = build_vitpose(size, num_joints=17)
    config = SIZES[size]
    expected = classifier_to_backbone(published, config.dim, config.depth, config.heads)
    assert count(model.backbone) == expected


@pytest.mark.parametrize(("size", "millions"), [("small", 24), ("base", 90), ("large", 308), ("huge", 637)])
def test_the_meta_device_gives_shapes_without_memory(size: Scale, millions: int) -> None:
    with torch.device("meta"):
        model = build_vitpose(size, num_joints=17)
        assert model(torch.empty(2, 3, 256, 192)).shape == (2, 17, 64, 48)
    assert all(parameter.is_meta for parameter in model.parameters())
    assert count(model) / 1e6 == pytest.approx(millions, rel=0.02)


def test_an_unknown_size_names_those_there_are() -> None:
    with pytest.raises(ValueError, match="small, base, large, huge"):
        build_vitpose("tiny", num_joints=17)  # type: ignore[arg-type]


def test_a_config_that_cannot_work_is_refused() -> None:
    with pytest.raises(ValueError, match="multiple of 4"):
        ViTPoseConfig(dim=30, depth=1, heads=3)
    with pytest.raises(ValueError, match="quarter"):
        ViTPoseConfig(patch=8, dim=32, depth=1, heads=4)
    with pytest.raises(ValueError, match="at least one joint"):
        ViTPose(TINY, num_joints=0)


def test_initial_weights_follow_the_official_code() -> None:
    torch.manual_seed(0)
    model = ViTPose(ViTPoseConfig(dim=64, depth=2, heads=4), num_joints=17)
    state = model.state_dict()
    assert state["backbone.blocks.1.mlp.fc1.weight"].std().item() == pytest.approx(0.02, rel=0.05)
    assert state["backbone.patch_embed.proj.weight"].std().item() == pytest.approx(0.02, rel=0.05)
    assert state["keypoint_head.deconv_layers.3.weight"].std().item() == pytest.approx(0.001, rel=0.05)
    zero = [name for name in state if "_pos." in name or "pos_embed." in name or name.endswith("qkv.bias")]
    assert len(zero) == 8
    assert not any(state[name].any() for name in zero)


def test_every_parameter_gets_a_gradient() -> None:
    model = ViTPose(TINY, num_joints=5)
    model(torch.randn(2, 3, 64, 48)).square().mean().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


# --- what the optimiser asks --------------------------------------------------------------------------------


def test_layer_id_count_from_the_patches_to_the_head() -> None:
    model = ViTPose(TINY, num_joints=5)
    assert model.num_layers == 4
    ids = {name: model.layer_id(name) for name, _ in model.named_parameters()}
    assert ids["backbone.patch_embed.proj.weight"] == ids["backbone.pos_embed.conv.weight"] == 0
    assert ids["backbone.blocks.0.norm1.weight"] == 1
    assert ids["backbone.blocks.2.attn.local_pos.bias"] == 3
    assert ids["backbone.last_norm.weight"] == ids["keypoint_head.deconv_layers.0.weight"] == 4
    assert ids["keypoint_head.final_layer.bias"] == 4
    assert set(ids.values()) == {0, 1, 2, 3, 4}


@pytest.mark.parametrize("name", ["backbone.blocks.3.norm1.weight", "module.keypoint_head.final_layer.bias"])
def test_layer_id_refuse_a_name_of_no_parameter(name: str) -> None:
    with pytest.raises(ValueError, match="no parameter"):
        ViTPose(TINY, num_joints=5).layer_id(name)


def test_weight_decay_reaches_the_matrices_alone() -> None:
    model = ViTPose(TINY, num_joints=5)
    decayed = {name for name, p in model.named_parameters() if not model.no_weight_decay(name, p)}
    blocks = {
        f"backbone.blocks.{i}.{layer}.weight"
        for i in range(3)
        for layer in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
    }
    convolutions = ("deconv_layers.0", "deconv_layers.3", "final_layer")
    head = {f"keypoint_head.{layer}.weight" for layer in convolutions}
    assert decayed == blocks | head | {"backbone.patch_embed.proj.weight"}
