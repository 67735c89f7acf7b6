"""Files in the layouts that people have fill the model, and a run says which layout it saw."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torchvision.models import resnet18

from raf_ray.errors import InputError
from raf_ray.models.checkpoint import load_checkpoint
from raf_ray.models.simple_baseline import build_simple_baseline
from raf_ray.models.vitpose import ViTPoseConfig
from tests.test_checkpoint_loading import TINY, copy_of, mae_encoder, official_vitpose, tiny, unchanged

DIM = TINY.dim
State = dict[str, Tensor]


def official(seed: int = 0, config: ViTPoseConfig = TINY) -> State:
    """The official ViTPose's file of a model that `tiny` gives."""
    return official_vitpose(tiny(seed, config))


def mmpose(state: State) -> State:
    """The same in MMPose 1.x's names, written out entry by entry."""
    named = {
        "backbone.pos_embed": state["backbone.pos_embed"][:, 1:],  # mmpretrain's has no class token
        "backbone.patch_embed.projection.weight": state["backbone.patch_embed.proj.weight"],
        "backbone.patch_embed.projection.bias": state["backbone.patch_embed.proj.bias"],
        "backbone.ln1.weight": state["backbone.last_norm.weight"],
        "backbone.ln1.bias": state["backbone.last_norm.bias"],
    }
    parts = {"ln1": "norm1", "ln2": "norm2", "attn.qkv": "attn.qkv", "attn.proj": "attn.proj",
             "ffn.layers.0.0": "mlp.fc1", "ffn.layers.1": "mlp.fc2"}  # fmt: skip
    for block in range(TINY.depth):
        for theirs, ours in parts.items():
            for kind in ("weight", "bias"):
                named[f"backbone.layers.{block}.{theirs}.{kind}"] = state[f"backbone.blocks.{block}.{ours}.{kind}"]
    return named | {n.replace("keypoint_head.", "head."): v for n, v in state.items() if n.startswith("keypoint_head.")}


def hugging_face(state: State) -> State:
    """The same in the names of Hugging Face's VitPoseForPoseEstimation; query, key and value apart."""
    named = {
        "backbone.embeddings.position_embeddings": state["backbone.pos_embed"],
        "backbone.embeddings.patch_embeddings.projection.weight": state["backbone.patch_embed.proj.weight"],
        "backbone.embeddings.patch_embeddings.projection.bias": state["backbone.patch_embed.proj.bias"],
        "backbone.layernorm.weight": state["backbone.last_norm.weight"],
        "backbone.layernorm.bias": state["backbone.last_norm.bias"],
        "head.conv.weight": state["keypoint_head.final_layer.weight"],
        "head.conv.bias": state["keypoint_head.final_layer.bias"],
    }
    for theirs, ours in {"deconv1": 0, "batchnorm1": 1, "deconv2": 3, "batchnorm2": 4}.items():
        for name, value in state.items():
            if name.startswith(f"keypoint_head.deconv_layers.{ours}."):
                named[f"head.{theirs}.{name.split('.')[-1]}"] = value
    parts = {"layernorm_before": "norm1", "layernorm_after": "norm2", "attention.output.dense": "attn.proj",
             "mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2"}  # fmt: skip
    for block in range(TINY.depth):
        layer = f"backbone.encoder.layer.{block}"
        for kind in ("weight", "bias"):
            for theirs, ours in parts.items():
                named[f"{layer}.{theirs}.{kind}"] = state[f"backbone.blocks.{block}.{ours}.{kind}"]
            thirds = state[f"backbone.blocks.{block}.attn.qkv.{kind}"].chunk(3)
            for part, value in zip(("query", "key", "value"), thirds, strict=True):
                named[f"{layer}.attention.attention.{part}.{kind}"] = value.contiguous()
    return named


LAYOUTS: dict[str, tuple[Callable[[State], State], str]] = {
    "official": (dict, "the official ViTPose's"),
    "mmpose": (mmpose, "MMPose's"),
    "hugging face": (hugging_face, "Hugging Face's VitPose"),
}


def save(state: State, path: Path) -> Path:
    if path.suffix == ".safetensors":
        save_file({name: value.contiguous() for name, value in state.items()}, path)
    else:
        torch.save(state, path)
    return path


@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_one_vitpose_in_any_of_its_layouts_fills_backbone_and_head_alike(
    tmp_path: Path, layout: str, file: str
) -> None:
    theirs, title = LAYOUTS[layout]
    model, state = tiny(seed=1), official(seed=0)
    report = load_checkpoint(model, save(theirs(state), tmp_path / file))
    after = model.state_dict()
    assert report.layout == title
    assert set(report.loaded) == {name for name in state if name in after}
    assert all(torch.equal(after[name], state[name]) for name in report.loaded)
    assert report.mismatched == [] and report.unexpected == ["backbone.pos_embed"]
    assert all(".pos_embed." in name or ".local_pos." in name for name in report.missing)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("prefix", ["module.", "model."])
@pytest.mark.parametrize("key", ["state_dict", "model", "teacher"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_behind_a_prefix_under_a_key_and_in_half_precision_too(
    tmp_path: Path, layout: str, prefix: str, key: str, dtype: torch.dtype
) -> None:
    theirs, title = LAYOUTS[layout]
    state = official(seed=0)
    half = {f"{prefix}{n}": v.to(dtype) if v.is_floating_point() else v for n, v in theirs(state).items()}
    torch.save({key: half, "epoch": 7}, tmp_path / "half.pth")
    model = tiny(seed=1)
    report = load_checkpoint(model, tmp_path / "half.pth")
    assert (report.layout, report.prefix, report.source) == (title, prefix, key)
    name = "backbone.blocks.1.attn.qkv.weight"
    assert torch.equal(model.state_dict()[name], state[name].to(dtype).float())


def test_a_hugging_face_file_that_lacks_a_key_layer_is_refused_by_name(tmp_path: Path) -> None:
    state = hugging_face(official())
    del state["backbone.encoder.layer.1.attention.attention.key.weight"]
    model = tiny(seed=1)
    before = copy_of(model)
    with pytest.raises(InputError, match=r"backbone\.blocks\.1\.attn\.qkv\.weight \(not in the file\)"):
        load_checkpoint(model, save(state, tmp_path / "cut.safetensors"))
    assert unchanged(model, before)


def test_a_dino_teacher_fills_the_backbone(tmp_path: Path) -> None:
    encoder = mae_encoder(dim=DIM, depth=2)
    teacher = {f"backbone.{n}": v for n, v in encoder.items()} | {"head.mlp.0.weight": torch.rand(8, DIM)}
    torch.save({"student": {f"module.{n}": v for n, v in teacher.items()}, "teacher": teacher}, tmp_path / "dino.pth")
    model = tiny()
    report = load_checkpoint(model, tmp_path / "dino.pth")
    assert torch.equal(model.state_dict()["backbone.last_norm.bias"], encoder["norm.bias"])
    assert (report.layout, report.source, report.prefix) == ("MAE's (a plain ViT)", "teacher", "backbone.")
    assert "head.mlp.0.weight" in report.unexpected


@pytest.mark.parametrize("file", ["resnet18.pth", "model.safetensors"])
def test_a_resnet_fills_simple_baseline_and_its_stages_compute_the_same(tmp_path: Path, file: str) -> None:
    theirs = resnet18(weights=None).eval()
    with torch.no_grad():
        for value in theirs.state_dict().values():
            if value.is_floating_point():
                value.copy_(torch.rand_like(value))
    model = build_simple_baseline(num_joints=5).eval()
    report = load_checkpoint(model, save(theirs.state_dict(), tmp_path / file))
    assert report.layout == "a ResNet's of torchvision or timm"
    assert sorted(report.unexpected) == ["fc.bias", "fc.weight"]
    assert all(name.startswith("keypoint_head.") for name in report.missing)
    images = torch.rand(1, 3, 64, 48)
    with torch.no_grad():
        stem = theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(images))))
        expected = theirs.layer3(theirs.layer2(theirs.layer1(stem)))
        found = model.backbone[:-1](images)
    torch.testing.assert_close(found, expected)


def test_a_resnet_of_another_depth_or_for_a_vit_is_refused(tmp_path: Path) -> None:
    path = save(resnet18(weights=None).state_dict(), tmp_path / "resnet18.pth")
    for model in (build_simple_baseline(num_joints=5, depth=50), tiny()):
        before = copy_of(model)
        with pytest.raises(InputError, match="checkpoint of another model"):
            load_checkpoint(model, path)
        assert unchanged(model, before)


def test_a_damaged_safetensors_file_is_told(tmp_path: Path) -> None:
    path = save(official(), tmp_path / "cut.safetensors")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match="is a damaged safetensors file"):
        load_checkpoint(tiny(), path)


def test_a_run_says_which_layout_it_saw(tmp_path: Path) -> None:
    from raf_ray.config import load_config
    from raf_ray.models import ModelSpec
    from raf_ray.request.parts import initial_model

    path = save(resnet18(weights=None).state_dict(), tmp_path / "resnet18.pth")
    config = load_config(overrides=["model.name=simple_baseline", f"model.checkpoint={path}"]).model
    _, notes = initial_model(ModelSpec("simple_baseline", 18, 5), config, seed=0)
    assert "  its names are a ResNet's of torchvision or timm" in notes


def test_our_own_file_is_called_so(tmp_path: Path) -> None:
    torch.save({"model": tiny().state_dict()}, tmp_path / "model.pt")
    assert load_checkpoint(tiny(seed=1), tmp_path / "model.pt").layout == "this project's own"
