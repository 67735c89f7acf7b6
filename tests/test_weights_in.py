"""Files in the layouts that people have fill the model, and a run says which layout it saw."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision.models import resnet18

from raf_ray.errors import InputError
from raf_ray.models import ModelSpec
from raf_ray.models.checkpoint import load_checkpoint
from raf_ray.models.saving import load_model
from raf_ray.models.simple_baseline import build_simple_baseline
from raf_ray.models.vit_positions import TABLE_GRID, resized_table
from raf_ray.models.vitpose import Decoder, ViTPose, ViTPoseConfig
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
    from raf_ray.request.parts import initial_model

    path = save(resnet18(weights=None).state_dict(), tmp_path / "resnet18.pth")
    config = load_config(overrides=["model.name=simple_baseline", f"model.checkpoint={path}"]).model
    _, notes = initial_model(ModelSpec("simple_baseline", 18, 5), config, seed=0)
    assert "  its names are a ResNet's of torchvision or timm" in notes


def test_our_own_file_is_called_so(tmp_path: Path) -> None:
    torch.save({"model": tiny().state_dict()}, tmp_path / "model.pt")
    assert load_checkpoint(tiny(seed=1), tmp_path / "model.pt").layout == "this project's own"


# --- the published ViTPose, and what it computes ------------------------------------------------------------


def published(decoder: Decoder, seed: int) -> ViTPose:
    """A tiny published ViTPose in which no entry is a constant, the norms' statistics included."""
    torch.manual_seed(seed)
    model = ViTPose(replace(TINY, variant="vitpose", decoder=decoder), 5)
    with torch.no_grad():
        for value in model.state_dict().values():
            if value.is_floating_point():
                value.copy_(torch.rand_like(value) * 0.5 + 0.1)
    return model.eval()


def bicubic(places: int, to: int) -> Tensor:
    """(to, places) weights of one axis: Keys' cubic with a = -0.75 at the pixels' centres, borders repeated."""
    weights, a = torch.zeros(to, places), -0.75
    for i in range(to):
        at = (i + 0.5) * places / to - 0.5
        first = math.floor(at)
        for tap in range(first - 1, first + 3):
            d = abs(at - tap)
            near = (a + 2) * d**3 - (a + 3) * d**2 + 1
            far = a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a
            weights[i, min(max(tap, 0), places - 1)] += near if d <= 1 else far
    return weights


def hugging_face_forward(state: State, images: Tensor, heads: int) -> Tensor:
    """Heatmaps of VitPoseForPoseEstimation from a file of its own names; its table resized for other sizes."""

    def linear(name: str, x: Tensor) -> Tensor:
        return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    def norm(name: str, x: Tensor) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        return (
            centred / (x.var(-1, unbiased=False, keepdim=True) + 1e-6).sqrt() * state[f"{name}.weight"]
            + state[f"{name}.bias"]
        )

    patch = "backbone.embeddings.patch_embeddings.projection"
    embedded = F.conv2d(images, state[f"{patch}.weight"], state[f"{patch}.bias"], stride=16, padding=2)
    height, width = embedded.shape[-2:]
    table = state["backbone.embeddings.position_embeddings"][0]
    places = table[1:].reshape(16, 12, -1)
    places = torch.einsum("ia,jb,abd->ijd", bicubic(16, height), bicubic(12, width), places).reshape(height * width, -1)
    x = embedded.flatten(2).transpose(1, 2) + places + table[0]
    for block in range(TINY.depth):
        layer = f"backbone.encoder.layer.{block}"
        y = norm(f"{layer}.layernorm_before", x)
        q, k, v = (linear(f"{layer}.attention.attention.{p}", y).unflatten(2, (heads, -1)).transpose(1, 2)
                   for p in ("query", "key", "value"))  # fmt: skip
        mixed = (q @ k.transpose(2, 3) / q.shape[-1] ** 0.5).softmax(-1) @ v
        x = x + linear(f"{layer}.attention.output.dense", mixed.transpose(1, 2).flatten(2))
        y = F.gelu(linear(f"{layer}.mlp.fc1", norm(f"{layer}.layernorm_after", x)))
        x = x + linear(f"{layer}.mlp.fc2", y)
    z = norm("backbone.layernorm", x).transpose(1, 2).unflatten(2, (height, width))
    if "head.deconv1.weight" not in state:
        z = F.interpolate(F.relu(z), scale_factor=4, mode="bilinear", align_corners=False)
        return F.conv2d(z, state["head.conv.weight"], state["head.conv.bias"], padding=1)
    for n in (1, 2):
        z = F.conv_transpose2d(z, state[f"head.deconv{n}.weight"], stride=2, padding=1)
        mean, var, weight, bias = (state[f"head.batchnorm{n}.{p}"]
                                   for p in ("running_mean", "running_var", "weight", "bias"))  # fmt: skip
        z = F.relu(F.batch_norm(z, mean, var, weight, bias))
    return F.conv2d(z, state["head.conv.weight"], state["head.conv.bias"])


@pytest.mark.parametrize("size", [(256, 192), (64, 48)])
@pytest.mark.parametrize("decoder", ["classic", "simple"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_published_vitpose_computes_what_hugging_faces_does_at_its_size_and_at_others(
    tmp_path: Path, layout: str, decoder: Decoder, size: tuple[int, int]
) -> None:
    state, model = dict(published(decoder, seed=0).state_dict()), published(decoder, seed=1)
    if layout == "mmpose":  # its file has no class token's row
        state["backbone.pos_embed"] = torch.cat([torch.zeros(1, 1, DIM), state["backbone.pos_embed"][:, 1:]], dim=1)
    report = load_checkpoint(model, save(LAYOUTS[layout][0](state), tmp_path / "model.safetensors"))
    assert (report.share, report.missing, report.unexpected) == (1.0, [], [])
    images = torch.randn(1, 3, *size)
    with torch.no_grad():
        expected = hugging_face_forward(hugging_face(state), images, TINY.heads)
        torch.testing.assert_close(model(images), expected, rtol=1e-3, atol=1e-3)
        model.backbone.patch_embed.proj.padding = (0, 0)
        assert not torch.allclose(model(images), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("rows", "grid"), [(433, (24, 18)), (197, (14, 14)), (432, (24, 18))])
def test_a_table_of_another_grid_is_resized_and_its_class_row_kept(rows: int, grid: tuple[int, int]) -> None:
    table = torch.randn(1, rows, 8)
    whole = rows == grid[0] * grid[1]
    places = table[0, 0 if whole else 1 :].reshape(*grid, 8)
    expected = torch.einsum("ia,jb,abd->ijd", bicubic(grid[0], 16), bicubic(grid[1], 12), places)
    found = resized_table(table, TABLE_GRID)
    assert found is not None
    torch.testing.assert_close(found[0, 1:].reshape(16, 12, 8), expected, atol=1e-5, rtol=1e-4)
    assert torch.equal(found[0, 0], torch.zeros(8) if whole else table[0, 0])


def test_a_table_that_is_of_no_grid_is_left_out_and_named(tmp_path: Path) -> None:
    state = published("classic", seed=0).state_dict() | {"backbone.pos_embed": torch.rand(1, 8, DIM)}
    with pytest.raises(InputError, match=r"backbone\.pos_embed \(shape \(1, 8, 16\), here \(1, 193, 16\)\)"):
        load_checkpoint(published("classic", seed=1), save(state, tmp_path / "odd.pth"))


def test_mae_fills_the_published_backbone_with_its_table(tmp_path: Path) -> None:
    encoder = mae_encoder(dim=DIM, depth=2)
    model = published("classic", seed=0)
    load_checkpoint(model, save(encoder, tmp_path / "mae.pth"))
    found = resized_table(encoder["pos_embed"], TABLE_GRID)
    assert torch.equal(model.state_dict()["backbone.pos_embed"], found)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("theirs", "ours"), [("simple", "classic"), ("classic", "simple")])
def test_the_other_decoders_head_is_left_out_and_its_key_named(
    tmp_path: Path, layout: str, theirs: Decoder, ours: Decoder
) -> None:
    state = dict(published(theirs, seed=0).state_dict())
    if layout == "mmpose":
        state["backbone.pos_embed"] = torch.cat([torch.zeros(1, 1, DIM), state["backbone.pos_embed"][:, 1:]], dim=1)
    report = load_checkpoint(published(ours, seed=1), save(LAYOUTS[layout][0](state), tmp_path / "a.safetensors"))
    assert set(report.mismatched) == {"keypoint_head.final_layer.weight"}
    deconvolutions = report.missing if ours == "classic" else report.unexpected
    assert "keypoint_head.deconv_layers.0.weight" in deconvolutions
    assert report.decoder == theirs
    same = load_checkpoint(published(theirs, seed=1), tmp_path / "a.safetensors")
    assert same.decoder is None and same.share == 1


def test_a_runs_file_with_the_other_decoder_is_refused_by_its_key(tmp_path: Path) -> None:
    for theirs, ours in ((TINY, replace(TINY, decoder="simple")), (replace(TINY, decoder="simple"), TINY)):
        torch.save({"model": tiny(seed=0, config=theirs).state_dict()}, tmp_path / "model.pt")
        with pytest.raises(InputError, match=rf"saved from \(model\.decoder={theirs.decoder}\), or give"):
            load_checkpoint(tiny(seed=1, config=ours), tmp_path / "model.pt")


def test_a_run_names_the_decoder_that_would_take_a_files_head(tmp_path: Path) -> None:
    from raf_ray.config import load_config
    from raf_ray.request.parts import initial_model

    path = save(published("simple", seed=0).state_dict(), tmp_path / "simple.pth")
    config = load_config(overrides=["model.name=vitpose_small", f"model.checkpoint={path}"]).model
    spec = ModelSpec("tests.test_weights_in:classic_one", 18, 5)
    _, notes = initial_model(spec, config, seed=0)
    assert "  its head is that of model.decoder=simple, which would take it" in notes


def classic_one(joints: int) -> nn.Module:
    return published("classic", seed=1)


@pytest.mark.parametrize("option", [{"variant": "vitpose"}, {"decoder": "simple"}])
def test_an_option_that_a_model_does_not_take_is_refused(option: dict[str, str]) -> None:
    ((key, value),) = option.items()
    for name in ("demo", "simple_baseline", "tests.test_weights_in:one_of_ones_own"):
        with pytest.raises(InputError, match=rf"model\.{key}={value} does not go with model\.name={name}; leave it"):
            ModelSpec(name, 18, 5, options=tuple(option.items())).build()


def one_of_ones_own(joints: int) -> nn.Module:
    return build_simple_baseline(joints)


def test_the_published_vitpose_has_layers_for_decay_and_spares_its_table() -> None:
    model = published("simple", seed=0)
    assert model.layer_id("backbone.pos_embed") == 0
    assert model.no_weight_decay("backbone.pos_embed", model.get_parameter("backbone.pos_embed"))
    model.train()(torch.randn(2, 3, 64, 48)).square().mean().backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []


def test_a_runs_own_published_vitpose_comes_back_whole_or_not_at_all(tmp_path: Path) -> None:
    spec = ModelSpec("vitpose_small", 18, 2, options=(("variant", "vitpose"), ("decoder", "simple")))
    state = dict(spec.build().state_dict())
    torch.save({"model": state, "joints": ["left", "right"]}, tmp_path / "model.pt")
    saved = load_model(tmp_path / "model.pt", lambda outputs: spec)
    assert saved.joints == ("left", "right") and unchanged(saved.model, state)
    del state["keypoint_head.final_layer.bias"]
    torch.save({"model": state, "joints": ["left", "right"]}, tmp_path / "model.pt")
    with pytest.raises(InputError, match=r"lacks keypoint_head\.final_layer\.bias of its own model: it is damaged"):
        load_model(tmp_path / "model.pt", lambda outputs: spec)
    torch.save({"model": {"backbone": 3}, "joints": ["left", "right"]}, tmp_path / "model.pt")
    with pytest.raises(InputError, match=r"model\.pt holds no state dict"):
        load_model(tmp_path / "model.pt", lambda outputs: spec)
