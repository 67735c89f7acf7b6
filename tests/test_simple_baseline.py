"""Simple Baseline: sizes, and a dilated last stage that computes what the strided one did."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torchvision.models import resnet18, resnet50

from raf_ray.models.simple_baseline import Depth, build_simple_baseline


@pytest.mark.parametrize(("height", "width"), [(256, 192), (192, 144), (128, 96), (64, 48), (48, 112)])
def test_heatmaps_have_a_quarter_of_the_image_size(height: int, width: int) -> None:
    with torch.device("meta"):
        model = build_simple_baseline(num_joints=16)
        assert model(torch.empty(2, 3, height, width)).shape == (2, 16, height // 4, width // 4)


def test_values_are_finite_and_every_parameter_gets_a_gradient() -> None:
    model = build_simple_baseline(num_joints=16)
    heatmaps = model(torch.randn(2, 3, 64, 48))
    assert heatmaps.shape == (2, 16, 16, 12)
    assert heatmaps.isfinite().all()
    heatmaps.square().mean().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize(("height", "width"), [(100, 96), (96, 100)])
def test_a_size_that_16_does_not_divide_is_refused(height: int, width: int) -> None:
    with torch.device("meta"):
        model = build_simple_baseline(num_joints=16)
        with pytest.raises(ValueError, match=f"{height}x{width}.*multiples of 16"):
            model(torch.empty(1, 3, height, width))


def test_an_unknown_depth_is_refused() -> None:
    with pytest.raises(ValueError, match="18, 50"):
        build_simple_baseline(num_joints=16, depth=34)  # type: ignore[arg-type]


def torchvision_features(resnet: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Output of a torchvision ResNet's last stage, before its pooling."""
    for name, child in resnet.named_children():
        if name not in ("avgpool", "fc"):
            images = child(images)
    return images


@pytest.mark.parametrize(("depth", "builder"), [(18, resnet18), (50, resnet50)])
def test_the_dilated_stage_is_the_strided_one_at_even_places(depth: Depth, builder: type[nn.Module]) -> None:
    strided = builder(weights=None).double().eval()
    model = build_simple_baseline(num_joints=16, depth=depth).double().eval()
    missing, unexpected = model.backbone.load_state_dict(strided.state_dict(), strict=False)
    assert (missing, set(unexpected)) == (
        [],
        {"fc.weight", "fc.bias"},
    )  # torchvision's weights fit as they are
    images = torch.randn(1, 3, 64, 96, dtype=torch.float64)
    with torch.no_grad():
        dense = model.backbone(images)
        torch.testing.assert_close(dense[..., ::2, ::2], torchvision_features(strided, images))
    assert dense.shape[-2:] == (4, 6)


def test_resnet_50_is_dilated_as_torchvision_would() -> None:
    dilated = resnet50(weights=None, replace_stride_with_dilation=[False, False, True]).eval()
    model = build_simple_baseline(num_joints=16, depth=50).eval()
    model.backbone.load_state_dict(dilated.state_dict(), strict=False)
    images = torch.randn(1, 3, 64, 48)
    with torch.no_grad():
        assert torch.equal(model.backbone(images), torchvision_features(dilated, images))


def test_the_optimiser_gets_one_layer_and_no_decay_of_norms_and_biases() -> None:
    with torch.device("meta"):
        model = build_simple_baseline(num_joints=16)
    for name, parameter in model.named_parameters():
        assert model.layer_id(name) == model.num_layers
        assert model.no_weight_decay(name, parameter) == (name.endswith("bias") or parameter.ndim == 1)
