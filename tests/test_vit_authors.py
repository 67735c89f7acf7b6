"""The RAF authors' ViTPose against a second implementation, written from its description; what it does and does not
train; its files and other variants' files."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from raf_ray.errors import InputError
from raf_ray.models.checkpoint import load_checkpoint
from raf_ray.models.vit_positions import TABLE_GRID, resformer_code, resized_table
from raf_ray.models.vitpose import Variant, ViTPose, ViTPoseConfig, build_vitpose
from raf_ray.training.optimizer import OptimizerSpec, build_optimizer, parameter_groups
from tests.test_checkpoint_loading import copy_of, mae_encoder, official_vitpose, unchanged

TINY = ViTPoseConfig(dim=16, depth=2, heads=2, deconv_channels=8, variant="authors")

UNTRAINED = {
    "backbone.pos_embed",
    "backbone.cls_token",
    "backbone.global_pos_embed.embed_layer.weight",
    "backbone.global_pos_embed.embed_layer.bias",
    "backbone.last_norm.weight",
    "backbone.last_norm.bias",
}
"""What nothing reads, and what is in no group of the authors' optimiser."""


def authors(seed: int = 0, variant: Variant = "authors", joints: int = 5) -> ViTPose:
    """A tiny model in which no entry is a constant."""
    generator = torch.Generator().manual_seed(seed)
    model = ViTPose(replace(TINY, variant=variant), joints)
    with torch.no_grad():
        for value in model.state_dict().values():
            if value.is_floating_point():
                value.copy_(torch.rand(value.shape, generator=generator) * 0.5 + 0.1)
    return model.eval()


# --- what it computes -------------------------------------------------------------------------------------


def depthwise(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """3x3 convolution of (h, w, C) with zeros around it, each channel by its own (C, 1, 3, 3)."""
    height, width, channels = x.shape
    padded = torch.zeros(height + 2, width + 2, channels)
    padded[1:-1, 1:-1] = x
    windows = [padded[i : i + height, j : j + width] * weight[:, 0, i, j] for i in range(3) for j in range(3)]
    return torch.stack(windows).sum(0) + bias


def code_at(row: int, column: int, height: int, width: int, dim: int) -> list[float]:
    """Row first; sine and cosine by turns; a turn from edge to edge, read at the patch's far edge."""
    code = []
    for place, places in ((row, height), (column, width)):
        for k in range(dim // 4):
            angle = 2 * math.pi * (place + 1) / places / 10000 ** (4 * k / dim)
            code += [math.sin(angle), math.cos(angle)]
    return code


def second_features(state: dict[str, Tensor], image: Tensor, heads: int, depth: int) -> Tensor:
    """(3, H, W) to (D, h, w), token by token."""
    own = {name.removeprefix("backbone."): value for name, value in state.items()}

    def linear(x: Tensor, name: str) -> Tensor:
        return torch.einsum("...i,oi->...o", x, own[f"{name}.weight"]) + own[f"{name}.bias"]

    def norm(x: Tensor, name: str) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        spread = (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt()
        return centred / spread * own[f"{name}.weight"] + own[f"{name}.bias"]

    height, width = image.shape[1] // 16, image.shape[2] // 16
    padded = torch.zeros(3, image.shape[1] + 4, image.shape[2] + 4)
    padded[:, 2:-2, 2:-2] = image
    patches = torch.stack([
        torch.stack([
            torch.einsum("cij,dcij->d", padded[:, 16 * i : 16 * i + 16, 16 * j : 16 * j + 16],
                         own["patch_embed.proj.weight"])
            for j in range(width)
        ])
        for i in range(height)
    ]) + own["patch_embed.proj.bias"]  # fmt: skip
    dim = patches.shape[-1]
    code = torch.tensor([[code_at(i, j, height, width, dim) for j in range(width)] for i in range(height)])
    convolution = "global_pos_embed.embed_layer"
    patches = patches + depthwise(code, own[f"{convolution}.weight"], own[f"{convolution}.bias"])
    x = torch.cat([own["cls_token"][0], patches.reshape(-1, dim)])
    for block in (f"blocks.{n}" for n in range(depth)):
        q, k, v = linear(norm(x, f"{block}.norm1"), f"{block}.attn.qkv").chunk(3, dim=1)
        mixed = []
        for head in range(heads):
            part = slice(head * dim // heads, (head + 1) * dim // heads)
            scores = (torch.einsum("qd,kd->qk", q[:, part], k[:, part]) / math.sqrt(dim // heads)).exp()
            out = torch.einsum("qk,kd->qd", scores / scores.sum(1, keepdim=True), v[:, part])
            local = v[1:, part].reshape(height, width, -1)
            local = depthwise(local, own[f"{block}.attn.get_v.weight"], own[f"{block}.attn.get_v.bias"])
            out[1:] += local.flatten(0, 1)
            mixed.append(out)
        x = x + linear(torch.cat(mixed, dim=1), f"{block}.attn.proj")
        hidden = linear(norm(x, f"{block}.norm2"), f"{block}.mlp.fc1")
        x = x + linear(hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2))), f"{block}.mlp.fc2")
    x = norm(x, "last_norm")
    return (x[1:] + x[0]).reshape(height, width, dim).permute(2, 0, 1)


@pytest.mark.parametrize("size", [(64, 48), (48, 80)])
def test_it_agrees_with_a_second_implementation_on_grids_of_any_shape(size: tuple[int, int]) -> None:
    model, images = authors(), torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = torch.stack([second_features(model.state_dict(), image, 2, 2) for image in images])
        found = model.features(images)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(model(images), model.keypoint_head(expected), atol=1e-5, rtol=1e-5)
    assert model(images).shape == (2, 5, size[0] // 4, size[1] // 4)


def test_the_code_of_one_place_by_hand() -> None:
    # Row 1 of 4 ends at half the height, half a turn; column 2 of 3 at the right edge, a turn. Frequencies 1, 0.01.
    half, whole = math.pi, 2 * math.pi
    by_hand = [0.0, -1.0, math.sin(half / 100), math.cos(half / 100), 0.0, 1.0, math.sin(whole / 100),
               math.cos(whole / 100)]  # fmt: skip
    torch.testing.assert_close(resformer_code(4, 3, dim=8)[1, 2], torch.tensor(by_hand), atol=1e-6, rtol=0)


def test_the_class_token_moves_every_patch() -> None:
    model, images = authors(), torch.randn(1, 3, 64, 48)
    with torch.no_grad():
        before = model.features(images)
        model.backbone.get_parameter("cls_token").zero_()
        moved = (model.features(images) - before).abs().amax(dim=1)
    assert (moved > 1e-4).all()


def test_the_table_moves_nothing() -> None:
    model, images = authors(), torch.randn(1, 3, 64, 48)
    with torch.no_grad():
        before = model(images)
        model.backbone.get_parameter("pos_embed").zero_()
        assert torch.equal(model(images), before)


def test_weights_begin_as_torch_has_them_and_local_positions_at_zero() -> None:
    torch.manual_seed(0)
    state = ViTPose(ViTPoseConfig(dim=64, depth=2, heads=4, variant="authors"), num_joints=17).state_dict()

    def std(name: str) -> float:
        return state[name].std().item()

    for name, fan_in in (
        ("backbone.blocks.1.mlp.fc1.weight", 64),
        ("backbone.blocks.0.attn.qkv.weight", 64),
        ("backbone.patch_embed.proj.weight", 3 * 16 * 16),
        ("backbone.global_pos_embed.embed_layer.weight", 9),
        ("keypoint_head.deconv_layers.3.weight", 256 * 16),
        ("keypoint_head.final_layer.weight", 256),
    ):  # uniform within 1 / sqrt(fan in)
        assert std(name) == pytest.approx(1 / math.sqrt(3 * fan_in), rel=0.06), name
    assert std("backbone.cls_token") == pytest.approx(0.02, rel=0.4)
    assert std("backbone.pos_embed") == pytest.approx(0.02, rel=0.06)
    assert state["backbone.blocks.0.attn.qkv.bias"].any()
    assert not any(value.any() for name, value in state.items() if ".get_v." in name)


# --- what is trained --------------------------------------------------------------------------------------


def test_a_small_model_has_the_190_entries_of_the_authors_state() -> None:
    with torch.device("meta"):
        model = build_vitpose("small", num_joints=16, variant="authors")
    theirs = authors_file(width=384, blocks=12, heads=12, channels=256, joints=16)
    assert {name: value.shape for name, value in model.state_dict().items()} == {
        name: value.shape for name, value in theirs.items()
    }
    assert len(theirs) == 190
    assert {name for name, parameter in model.named_parameters() if not parameter.requires_grad} == UNTRAINED


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_a_step_trains_all_but_what_the_authors_do_not(name: str) -> None:
    model = authors().train()
    before = copy_of(model)
    spec = OptimizerSpec(name, 1e-2, 0.1, (0.9, 0.999), 0.9, 0.75, None, "constant", (), False)  # type: ignore[arg-type]
    optimizer = build_optimizer(model, spec)
    model(torch.randn(2, 3, 64, 48)).square().mean().backward()
    optimizer.step()
    after = model.state_dict()
    moved = {name for name, _ in model.named_parameters() if not torch.equal(after[name], before[name])}
    assert moved == {name for name, _ in model.named_parameters()} - UNTRAINED


def test_layers_for_decay_count_from_the_patches_and_the_token_to_the_head() -> None:
    model = authors()
    for name, _ in model.named_parameters():
        part = name.split(".")
        expected = {"patch_embed": 0, "pos_embed": 0, "cls_token": 0, "global_pos_embed": 0, "last_norm": 3}.get(
            part[1]
        )
        if part[0] == "keypoint_head":
            expected = 3
        elif part[1] == "blocks":
            expected = 1 + int(part[2])
        assert model.layer_id(name) == expected, name
    groups = parameter_groups(model, 0.1, 0.75)
    spared = {id(p) for group in groups if not group["weight_decay"] for p in group["params"]}
    named = {name for name, p in model.named_parameters() if id(p) in spared and p.ndim > 1}
    positions = {f"backbone.blocks.{i}.attn.get_v.weight" for i in range(2)}
    assert named == positions | {name for name in UNTRAINED if "norm" not in name and "bias" not in name}


# --- files ------------------------------------------------------------------------------------------------


def authors_file(
    width: int = 16, blocks: int = 2, heads: int = 2, channels: int = 8, joints: int = 5
) -> dict[str, Tensor]:
    """Random values under the names and shapes that the authors' training saves."""
    shapes: dict[str, tuple[int, ...]] = {"pos_embed": (1, 193, width), "cls_token": (1, 1, width)}
    shapes |= {"patch_embed.proj.weight": (width, 3, 16, 16), "global_pos_embed.embed_layer.weight": (width, 1, 3, 3)}
    for i in range(blocks):
        for layer, shape in {
            "norm1": (width,), "attn.qkv": (3 * width, width), "attn.proj": (width, width),
            "attn.get_v": (width // heads, 1, 3, 3), "norm2": (width,), "mlp.fc1": (4 * width, width),
            "mlp.fc2": (width, 4 * width),
        }.items():  # fmt: skip
            shapes[f"blocks.{i}.{layer}.weight"] = shape
    shapes["last_norm.weight"] = (width,)
    shapes = {f"backbone.{name}": shape for name, shape in shapes.items()}
    shapes["keypoint_head.final_layer.weight"] = (joints, channels, 1, 1)
    for at in (1, 4):
        for name in ("weight", "running_mean", "running_var"):
            shapes[f"keypoint_head.deconv_layers.{at}.{name}"] = (channels,)
    for name, shape in list(shapes.items()):
        if name.endswith(".weight"):
            shapes[name.replace(".weight", ".bias")] = shape[:1]
    shapes["keypoint_head.deconv_layers.0.weight"] = (width, channels, 4, 4)
    shapes["keypoint_head.deconv_layers.3.weight"] = (channels, channels, 4, 4)
    generator = torch.Generator().manual_seed(7)
    values = {name: torch.rand(shape, generator=generator) for name, shape in shapes.items()}
    return values | {f"keypoint_head.deconv_layers.{at}.num_batches_tracked": torch.tensor(9) for at in (1, 4)}


@pytest.mark.parametrize("key", [None, "state_dict"])
def test_the_authors_file_fills_every_entry(tmp_path: Path, key: str | None) -> None:
    state, model = authors_file(), authors(seed=1)
    torch.save(state if key is None else {key: state, "epoch": 211}, tmp_path / "model_best.pth")
    report = load_checkpoint(model, tmp_path / "model_best.pth")
    assert report.layout == "the RAF authors'" and report.share == 1.0
    assert set(report.loaded) == set(state) == set(model.state_dict())
    assert (report.missing, report.unexpected, report.mismatched) == ([], [], [])
    assert unchanged(model, state)


@pytest.mark.parametrize("here", ["raf_ray", "vitpose"])
def test_the_authors_file_in_another_variant_is_refused_with_the_key_to_set(tmp_path: Path, here: Variant) -> None:
    torch.save(authors_file(), tmp_path / "model_best.pth")
    model = authors(variant=here)
    before = copy_of(model)
    sentence = rf"another variant, model\.variant=authors where this is {here}: .*; set model\.variant=authors, or give"
    with pytest.raises(InputError, match=sentence):
        load_checkpoint(model, tmp_path / "model_best.pth")
    assert unchanged(model, before)


def test_a_file_of_our_variant_is_refused_with_the_key_to_set(tmp_path: Path) -> None:
    torch.save({"model": authors(variant="raf_ray").state_dict()}, tmp_path / "model.pt")
    sentence = r"another variant, model\.variant=raf_ray where this is authors: .*; set model\.variant=raf_ray, or give"
    with pytest.raises(InputError, match=sentence):
        load_checkpoint(authors(), tmp_path / "model.pt")


def test_a_file_for_other_blocks_is_of_another_model_and_not_of_another_variant(tmp_path: Path) -> None:
    torch.save(authors_file(blocks=3), tmp_path / "model_best.pth")
    with pytest.raises(InputError, match="another model: 20 entries do not match"):  # 14 a block, 2 + 4 by the variant
        load_checkpoint(authors(variant="raf_ray"), tmp_path / "model_best.pth")


def test_mae_fills_the_backbone_with_its_class_token_and_table(tmp_path: Path) -> None:
    encoder, model = mae_encoder(dim=16, depth=2), authors()
    torch.save({"model": encoder}, tmp_path / "mae.pth")
    report = load_checkpoint(model, tmp_path / "mae.pth")
    state = model.state_dict()
    assert len(report.loaded) == len(encoder) and report.unexpected == []
    assert torch.equal(state["backbone.cls_token"], encoder["cls_token"])
    table = resized_table(encoder["pos_embed"], TABLE_GRID)
    assert table is not None and torch.equal(state["backbone.pos_embed"], table)
    parts = (".global_pos_embed.", ".get_v.", "keypoint_head.")
    assert report.missing == [name for name in state if any(part in name for part in parts)]


def test_an_official_vitpose_fills_all_but_positions_and_token(tmp_path: Path) -> None:
    torch.save(official_vitpose(authors(seed=1, variant="raf_ray")), tmp_path / "vitpose.pth")
    report = load_checkpoint(authors(), tmp_path / "vitpose.pth")
    assert report.unexpected == report.mismatched == []
    assert "backbone.cls_token" in report.missing
    assert all(".get_v." in name or "global_pos" in name or "cls_token" in name for name in report.missing)
