"""Checkpoints: our own come back whole, published ones fill the backbone, others are refused unchanged."""

from __future__ import annotations

import argparse
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from raf_ray.errors import InputError
from raf_ray.models import build_model
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
    assert set(report.unexpected) == {"backbone.cls_token", "backbone.pos_embed", *decoder}
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
    with pytest.raises(ValueError, match=f"no checkpoint file {tmp_path / 'none.pt'}"):
        load_checkpoint(tiny(), tmp_path / "none.pt")
    with pytest.raises(ValueError, match=f"the checkpoint {tmp_path} is a folder"):
        load_checkpoint(tiny(), tmp_path)


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


def test_an_empty_file_an_archive_and_another_format_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "empty.pt").write_bytes(b"")
    torch.jit.script(nn.Linear(2, 2)).save(str(tmp_path / "script.pt"))
    (tmp_path / "weights.safetensors").write_bytes((2).to_bytes(8, "little") + b"{} ")
    torch.save(nn.Linear(2, 2), tmp_path / "whole.pt")
    for name, kind in (("empty.pt", "is empty"), ("script.pt", "TorchScript archive"),
                       ("weights.safetensors", "(safetensors file|no state dict)"),
                       ("whole.pt", r"torch\.save\(state_dict, path\)")):  # fmt: skip
        with pytest.raises(InputError, match=kind):
            load_checkpoint(tiny(), tmp_path / name)


# --- names as various tools write them ----------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model.", "net.", "network.", "module._orig_mod.",
                                    "model.module.", "_orig_mod.module.", "model.net._orig_mod."])  # fmt: skip
@pytest.mark.parametrize("key", [None, "model", "state_dict", "model_state_dict"])
def test_the_prefixes_of_wrappers_are_seen_through(tmp_path: Path, prefix: str, key: str | None) -> None:
    state = {f"{prefix}{name}": value for name, value in tiny(seed=0).state_dict().items()}
    torch.save(state if key is None else {key: state, "epoch": 3}, tmp_path / "model.pt")
    model = tiny(seed=1)
    report = load_checkpoint(model, tmp_path / "model.pt")
    assert unchanged(model, tiny(seed=0).state_dict())
    assert (report.prefix, report.source, report.share) == (prefix, key or "", 1.0)


def test_a_compiled_part_and_an_averaged_model_are_seen_through(tmp_path: Path) -> None:
    state = {name.replace("backbone.", "backbone._orig_mod."): v for name, v in tiny(seed=0).state_dict().items()}
    averaged = {"n_averaged": torch.tensor(7), **{f"module.{name}": value for name, value in state.items()}}
    torch.save(averaged, tmp_path / "model.pt")
    model = tiny(seed=1)
    load_checkpoint(model, tmp_path / "model.pt")
    assert unchanged(model, tiny(seed=0).state_dict())


def test_mae_behind_a_prefix_fills_the_backbone(tmp_path: Path) -> None:
    encoder = mae_encoder(dim=16, depth=2)
    torch.save({"model": {f"module.{name}": value for name, value in encoder.items()}}, tmp_path / "mae.pth")
    model = tiny()
    load_checkpoint(model, tmp_path / "mae.pth")
    assert torch.equal(model.state_dict()["backbone.last_norm.bias"], encoder["norm.bias"])


class Wrapped(nn.Module):
    """A model whose own names begin as a wrapper's do."""

    def __init__(self) -> None:
        super().__init__()
        self.module, self.model = nn.Linear(2, 2), nn.Linear(2, 2)


def test_a_model_whose_own_names_look_wrapped_comes_back_whole(tmp_path: Path) -> None:
    saved, model = Wrapped(), Wrapped()
    torch.save(saved.state_dict(), tmp_path / "model.pt")
    load_checkpoint(model, tmp_path / "model.pt")
    assert unchanged(model, saved.state_dict())


@pytest.mark.parametrize("averaged", ["state_dict_ema", "ema_state_dict", "model_ema"])
def test_the_trained_weights_are_used_and_averaged_ones_only_alone_and_named(tmp_path: Path, averaged: str) -> None:
    trained, mean = tiny(seed=0).state_dict(), tiny(seed=2).state_dict()
    torch.save({averaged: mean, "state_dict": trained}, tmp_path / "both.pt")
    model = tiny(seed=1)
    report = load_checkpoint(model, tmp_path / "both.pt")
    assert unchanged(model, trained) and (report.source, report.others) == ("state_dict", [averaged])
    torch.save({averaged: mean}, tmp_path / "mean.pt")
    assert load_checkpoint(model, tmp_path / "mean.pt").source == averaged
    assert unchanged(model, mean)


# --- nothing, a part, or half of a model --------------------------------------------------------------------


def demo() -> nn.Module:
    torch.manual_seed(0)
    return build_model("demo", 16)


@pytest.mark.parametrize("partial", [False, True])
@pytest.mark.parametrize("change", [
    lambda state: {"other.weight": torch.zeros(3, 3)},
    lambda state: {f"teacher.{name}": value for name, value in state.items()},
    lambda state: {name: value[None] for name, value in state.items()},
], ids=["other names", "unknown prefix", "other shapes"])  # fmt: skip
def test_a_file_of_which_nothing_fits_is_refused_whatever_its_key(
    tmp_path: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]], partial: bool
) -> None:
    for key in ("state_dict", "model", None):
        content = change(demo().state_dict())
        torch.save(content if key is None else {key: content}, tmp_path / "other.pt")
        with pytest.raises(
            InputError, match=r"other\.pt is a checkpoint of another model: \d+ entries do not match and none"
        ):
            load_checkpoint(demo(), tmp_path / "other.pt", partial)


def first_entries(share: float) -> dict[str, Tensor]:
    """Entries of the demo model, the last first, that hold about `share` of its parameters."""
    state, kept = demo().state_dict(), {}
    total = sum(value.numel() for value in state.values())
    for name, value in reversed(state.items()):
        if sum(v.numel() for v in kept.values()) + value.numel() <= share * total:
            kept[name] = torch.full_like(value, 7)
    return kept


def test_less_than_half_of_a_published_file_needs_the_switch(tmp_path: Path) -> None:
    torch.save({"state_dict": first_entries(0.4)}, tmp_path / "part.pt")
    with pytest.raises(InputError, match=r"\d+ % of the parameters fit: model\.partial=true takes these"):
        load_checkpoint(demo(), tmp_path / "part.pt")
    model = demo()
    report = load_checkpoint(model, tmp_path / "part.pt", partial=True)
    assert 0 < report.share < 0.5
    assert all((model.state_dict()[name] == 7).all() for name in report.loaded)
    torch.save({"state_dict": first_entries(0.9)}, tmp_path / "most.pt")
    assert load_checkpoint(demo(), tmp_path / "most.pt").share > 0.5


def test_the_switch_takes_what_fits_of_another_model(tmp_path: Path) -> None:
    torch.save({"model": tiny(seed=0, num_joints=7).state_dict()}, tmp_path / "model.pt")
    model = tiny(seed=1)
    report = load_checkpoint(model, tmp_path / "model.pt", partial=True)
    assert report.mismatched == ["keypoint_head.final_layer.weight", "keypoint_head.final_layer.bias"]
    assert all(torch.equal(model.state_dict()[name], tiny(seed=0).state_dict()[name]) for name in report.loaded)


# --- values -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("change", "fault"), [
    (lambda v: torch.full_like(v, float("nan")), "is not finite"),
    (lambda v: torch.full_like(v, float("-inf")), "is not finite"),
    (lambda v: torch.full_like(v, 1e300, dtype=torch.float64), "holds numbers beyond float32"),
    (lambda v: v.to(torch.complex64), "is complex"),
    (lambda v: v.to(torch.int64), "is int64 where the model has float32"),
    (lambda v: v.bool(), "is bool where the model has float32"),
    (lambda v: v.to_sparse(), "is sparse"),
    (lambda v: v.to("meta"), r"has no values \(a meta tensor\)"),
    (lambda v: torch.quantize_per_tensor(v, 0.1, 0, torch.qint8), "is quantised"),
], ids=["nan", "inf", "huge", "complex", "int", "bool", "sparse", "meta", "quantised"])  # fmt: skip
@pytest.mark.filterwarnings("ignore:.*deprecated:UserWarning")
def test_weights_that_are_no_plain_finite_floats_are_named(
    tmp_path: Path, change: Callable[[Tensor], Tensor], fault: str
) -> None:
    name = "backbone.last_norm.weight"
    state = tiny().state_dict()
    torch.save(state | {name: change(state[name])}, tmp_path / "model.pt")
    model = tiny(seed=1)
    for partial in (False, True):
        with pytest.raises(InputError, match=rf"backbone\.last_norm\.weight {fault}"):
            load_checkpoint(model, tmp_path / "model.pt", partial)
    assert unchanged(model, tiny(seed=1).state_dict())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_other_floats_are_cast(tmp_path: Path, dtype: torch.dtype) -> None:
    state = {name: v.to(dtype) if v.is_floating_point() else v for name, v in tiny().state_dict().items()}
    torch.save(state, tmp_path / "model.pt")
    model = tiny(seed=1)
    load_checkpoint(model, tmp_path / "model.pt")
    assert unchanged(model, {name: value.to(copy_of(model)[name].dtype) for name, value in state.items()})


def test_a_run_says_what_it_took_from_a_file(tmp_path: Path) -> None:
    from raf_ray.request.assembly import prepare
    from tests.tiny import tiny as tiny_run

    path = tmp_path / "lightning.ckpt"
    state = {f"net.{name}": value for name, value in first_entries(0.9).items()} | {"loss.weight": torch.ones(1)}
    torch.save({"state_dict": state, "state_dict_ema": state, "epoch": 3, "callbacks": {}}, path)
    notes = "\n".join(prepare(tiny_run(f"model.checkpoint={path}")).notes)
    for told in ("under its key 'state_dict', their names without 'net.'", "not used: state_dict_ema",
                 "% of the model's parameters", "not in the model: loss.weight"):  # fmt: skip
        assert told in notes
