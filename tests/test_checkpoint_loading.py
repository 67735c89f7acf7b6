"""Checkpoints: our own come back whole, published ones fill the backbone, others are refused unchanged."""

from __future__ import annotations

import argparse
import pickle
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from raf_ray.models.checkpoint import load_checkpoint
from raf_ray.models.simple_baseline import build_simple_baseline
from raf_ray.models.vitpose import ViTPose, ViTPoseConfig, build_vitpose

TINY = ViTPoseConfig(dim=16, depth=2, heads=2, deconv_channels=8)


def tiny(seed: int = 0, config: ViTPoseConfig = TINY, num_joints: int = 5) -> ViTPose:
    """A tiny ViTPose in which no entry is a constant."""
    generator = torch.Generator().manual_seed(seed)
    model = ViTPose(config, num_joints)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return model


def mae_encoder(dim: int, depth: int, seed: int = 1) -> dict[str, Tensor]:
    """Random values under the names and shapes of MAE's pre-training encoder, patch 16, 224 px."""
    shapes: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, dim),
        "pos_embed": (1, 197, dim),
        "patch_embed.proj.weight": (dim, 3, 16, 16),
        "patch_embed.proj.bias": (dim,),
    }
    for block in range(depth):
        for layer, out_in in {
            "norm1": (dim,),
            "attn.qkv": (3 * dim, dim),
            "attn.proj": (dim, dim),
            "norm2": (dim,),
            "mlp.fc1": (4 * dim, dim),
            "mlp.fc2": (dim, 4 * dim),
        }.items():
            shapes[f"blocks.{block}.{layer}.weight"] = out_in
            shapes[f"blocks.{block}.{layer}.bias"] = out_in[:1]
    shapes |= {"norm.weight": (dim,), "norm.bias": (dim,)}
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.rand(shape, generator=generator) for name, shape in shapes.items()}


def official_vitpose(model: ViTPose) -> dict[str, Tensor]:
    """A model's weights as the official code saves them: a table of positions, no position convolutions."""
    own = model.state_dict()
    kept = {name: own[name] for name in own if ".pos_embed." not in name and ".local_pos." not in name}
    return {"backbone.pos_embed": torch.rand(1, 193, model.config.dim)} | kept


def unchanged(model: nn.Module, before: dict[str, Tensor]) -> bool:
    return all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def copy_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


# --- own checkpoints ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrapped", [True, False])
def test_own_checkpoints_come_back_whole(tmp_path: Path, wrapped: bool) -> None:
    saved, model = tiny(seed=0), tiny(seed=1)
    saved(torch.randn(2, 3, 32, 32))  # moves the running statistics and the batch counter too
    state = saved.state_dict()
    torch.save({"model": state, "round": 3} if wrapped else state, tmp_path / "model.pt")
    report = load_checkpoint(model, tmp_path / "model.pt")
    assert set(report.loaded) == set(state)
    assert report.missing == report.unexpected == report.mismatched == []
    assert unchanged(model, state)


def test_a_simple_baseline_comes_back_whole(tmp_path: Path) -> None:
    saved, model = build_simple_baseline(num_joints=4), build_simple_baseline(num_joints=4)
    torch.save({"model": saved.state_dict()}, tmp_path / "model.pt")
    load_checkpoint(model, str(tmp_path / "model.pt"))
    assert unchanged(model, saved.state_dict())


def test_a_checkpoint_of_another_model_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    torch.save({"model": build_simple_baseline(num_joints=5).state_dict()}, tmp_path / "model.pt")
    model = tiny()
    before = copy_of(model)
    sentence = r"model\.pt is a checkpoint of another model: \d+ entries .*\(.*\), \.\.\.;"
    with pytest.raises(ValueError, match=sentence):
        load_checkpoint(model, tmp_path / "model.pt")
    assert unchanged(model, before)


def test_an_own_checkpoint_for_other_joints_is_refused_by_name_and_shape(tmp_path: Path) -> None:
    torch.save({"model": tiny(num_joints=7).state_dict()}, tmp_path / "model.pt")
    shapes = r"2 entries .*final_layer\.weight \(shape \(7, 8, 1, 1\), here \(5, 8, 1, 1\)\)"
    with pytest.raises(ValueError, match=shapes):
        load_checkpoint(tiny(num_joints=5), tmp_path / "model.pt")


def test_an_own_checkpoint_that_lacks_one_entry_is_refused(tmp_path: Path) -> None:
    state = tiny().state_dict()
    del state["backbone.blocks.1.norm2.bias"]
    torch.save(state, tmp_path / "model.pt")
    with pytest.raises(ValueError, match=r"1 entries .*backbone\.blocks\.1\.norm2\.bias \(not in the file\);"):
        load_checkpoint(tiny(), tmp_path / "model.pt")


# --- MAE ----------------------------------------------------------------------------------------------------


def test_a_mae_checkpoint_fills_the_backbone_of_the_small_model(tmp_path: Path) -> None:
    encoder = mae_encoder(dim=384, depth=12)
    decoder = {"mask_token": torch.rand(1, 1, 512), "decoder_blocks.0.norm1.weight": torch.rand(512)}
    torch.save({"model": encoder | decoder}, tmp_path / "mae.pth")
    model = build_vitpose("small", num_joints=16)
    before = copy_of(model)
    report = load_checkpoint(model, tmp_path / "mae.pth")

    after = model.state_dict()
    assert torch.equal(after["backbone.patch_embed.proj.weight"], encoder["patch_embed.proj.weight"])
    assert torch.equal(after["backbone.last_norm.bias"], encoder["norm.bias"])
    for block in range(12):
        for entry in ("norm1.weight", "attn.qkv.bias", "attn.proj.weight", "norm2.bias", "mlp.fc2.weight"):
            assert torch.equal(after[f"backbone.blocks.{block}.{entry}"], encoder[f"blocks.{block}.{entry}"])
    assert len(report.loaded) == len(encoder) - 2
    assert set(report.unexpected) == {"cls_token", "pos_embed", *decoder}
    assert report.mismatched == []
    assert all("pos" in name or name.startswith("keypoint_head.") for name in report.missing)
    assert all(torch.equal(after[name], before[name]) for name in report.missing)


@pytest.mark.parametrize(("dim", "depth"), [(32, 2), (16, 1), (16, 3)])
def test_a_mae_checkpoint_of_another_size_is_refused(tmp_path: Path, dim: int, depth: int) -> None:
    torch.save({"model": mae_encoder(dim, depth)}, tmp_path / "mae.pth")
    model = tiny()
    before = copy_of(model)
    with pytest.raises(ValueError, match="another model"):
        load_checkpoint(model, tmp_path / "mae.pth")
    assert unchanged(model, before)


def test_a_mae_checkpoint_is_refused_for_a_resnet(tmp_path: Path) -> None:
    torch.save({"model": mae_encoder(dim=16, depth=2)}, tmp_path / "mae.pth")
    with pytest.raises(ValueError, match="another model"):
        load_checkpoint(build_simple_baseline(num_joints=5), tmp_path / "mae.pth")


# --- official ViTPose ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrapped", [True, False])
def test_an_official_vitpose_checkpoint_fills_backbone_and_head(tmp_path: Path, wrapped: bool) -> None:
    source, model = tiny(seed=0), tiny(seed=1)
    official = official_vitpose(source)
    torch.save({"meta": {"epoch": 210}, "state_dict": official} if wrapped else official, tmp_path / "vitpose.pth")
    report = load_checkpoint(model, tmp_path / "vitpose.pth")
    assert (report.unexpected, report.mismatched) == (["backbone.pos_embed"], [])
    assert len(report.missing) == 2 + 2 * TINY.depth  # weight and bias of each position embedding
    assert all(".pos_embed." in name or ".local_pos." in name for name in report.missing)
    assert all(torch.equal(model.state_dict()[name], source.state_dict()[name]) for name in report.loaded)
    assert len(report.loaded) == len(official) - 1


def test_an_official_checkpoint_for_other_joints_keeps_our_last_layer(tmp_path: Path) -> None:
    torch.save({"state_dict": official_vitpose(tiny(seed=0, num_joints=7))}, tmp_path / "vitpose.pth")
    model = tiny(seed=1)
    last = model.keypoint_head.final_layer.weight.clone()
    report = load_checkpoint(model, tmp_path / "vitpose.pth")
    assert report.mismatched == ["keypoint_head.final_layer.weight", "keypoint_head.final_layer.bias"]
    assert torch.equal(model.keypoint_head.final_layer.weight, last)


def test_an_official_checkpoint_of_another_width_or_with_experts_is_refused(tmp_path: Path) -> None:
    wide = ViTPoseConfig(dim=32, depth=2, heads=2, deconv_channels=8)
    torch.save({"state_dict": official_vitpose(tiny(config=wide))}, tmp_path / "wide.pth")
    shapes = r"patch_embed\.proj\.weight \(shape \(32, 3, 16, 16\), here \(16, 3, 16, 16\)\)"
    with pytest.raises(ValueError, match=shapes):
        load_checkpoint(tiny(), tmp_path / "wide.pth")
    experts = official_vitpose(tiny()) | {"backbone.blocks.0.mlp.experts.0.weight": torch.rand(4, 16)}
    torch.save({"state_dict": experts}, tmp_path / "experts.pth")
    with pytest.raises(ValueError, match=r"experts\.0\.weight \(not in this model\)"):
        load_checkpoint(tiny(), tmp_path / "experts.pth")


# --- files that are no checkpoint ---------------------------------------------------------------------------


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "none.pt", tmp_path):
        with pytest.raises(ValueError, match=f"no checkpoint file {path}"):
            load_checkpoint(tiny(), path)


class RunsCode:
    """An object whose unpickling would touch a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("saved_by", ["torch", "pickle"])
def test_a_pickled_object_is_refused_and_never_run(tmp_path: Path, saved_by: str) -> None:
    content = {"model": RunsCode(tmp_path / "touched")}
    if saved_by == "torch":
        torch.save(content, tmp_path / "model.pt")
    else:
        (tmp_path / "model.pt").write_bytes(pickle.dumps(content, protocol=2))  # what torch.load reads
    with pytest.raises(ValueError, match="could run code"):
        load_checkpoint(tiny(), tmp_path / "model.pt")
    assert not (tmp_path / "touched").exists()


def test_a_checkpoint_with_its_training_arguments_says_how_to_save_it_again(tmp_path: Path) -> None:
    content = {"model": mae_encoder(dim=16, depth=2), "args": argparse.Namespace(lr=1.0)}
    torch.save(content, tmp_path / "mae.pth")
    with pytest.raises(ValueError, match=r"save its state dict alone"):
        load_checkpoint(tiny(), tmp_path / "mae.pth")


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 cut", bytes(range(256)) * 8])
def test_a_damaged_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.pt").write_bytes(content)
    with pytest.raises(ValueError, match=r"model\.pt is (no checkpoint|not readable as a checkpoint)"):
        load_checkpoint(tiny(), tmp_path / "model.pt")


@pytest.mark.parametrize("content", [torch.zeros(3), {}, {"model": {}}, {"round": 3}, {"model": {"a": 1}}, [1]])
def test_a_file_without_a_state_dict_is_refused(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "model.pt")
    with pytest.raises(ValueError, match="holds no state dict"):
        load_checkpoint(tiny(), tmp_path / "model.pt")
