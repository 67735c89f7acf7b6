"""The demo net, the builders, and what the optimiser makes of a model's parameters."""

from __future__ import annotations

import copy
import subprocess
import sys
import tempfile
from dataclasses import replace

import pytest
import torch

from raf_ray.models import build_model
from raf_ray.models.vitpose import ViTPose, ViTPoseConfig
from raf_ray.training.optimizer import (
    OptimizerSpec,
    build_optimizer,
    learning_rate,
    parameter_groups,
    set_learning_rate,
)


@pytest.mark.parametrize("size", [(128, 96), (96, 72), (64, 48), (48, 36), (112, 84), (20, 12)])
def test_the_demo_net_takes_any_size_that_4_divides(size):
    heatmaps = build_model("demo", 16)(torch.randn(2, 3, *size))
    assert heatmaps.shape == (2, 16, size[0] // 4, size[1] // 4)


def test_the_demo_net_is_small_and_has_no_running_statistics():
    model = build_model("demo", 16)
    assert 0.2e6 < sum(p.numel() for p in model.parameters()) < 0.4e6
    assert list(model.buffers()) == []


def test_the_demo_net_refuses_other_sizes():
    with pytest.raises(ValueError, match="30x20"):
        build_model("demo", 16)(torch.randn(1, 3, 30, 20))


@pytest.mark.parametrize("name", ["demo", "simple_baseline", "vitpose_small", "efficientnet_lite0"])
def test_every_family_is_built_by_name(name):
    with torch.device("meta"):
        model = build_model(name, 14)
    assert model(torch.empty(1, 3, 128, 96, device="meta")).shape == (1, 14, 32, 24)


def spec(**changes) -> OptimizerSpec:
    plain = OptimizerSpec(
        name="adamw", lr=1.0, weight_decay=0.0, betas=(0.9, 0.999), momentum=0.0, layer_decay=1.0, clip=None,
        schedule="constant", steps=(), reset_each_round=True,
    )  # fmt: skip
    return replace(plain, **changes)


def test_schedules_over_the_rounds():
    cosine = [learning_rate(r, 4, spec(lr=1.0, schedule="cosine")) for r in range(4)]
    assert cosine == pytest.approx([1.0, 0.853553, 0.5, 0.146447], abs=1e-6)
    by_steps = spec(lr=5e-4, schedule="steps", steps=(170, 200))
    steps = [learning_rate(r, 210, by_steps) for r in (0, 169, 170, 199, 200)]
    assert steps == pytest.approx([5e-4, 5e-4, 5e-5, 5e-5, 5e-6])
    assert learning_rate(7, 10, spec(lr=0.3)) == 0.3


def tiny_vit() -> ViTPose:
    return ViTPose(ViTPoseConfig(dim=16, depth=3, heads=2, deconv_channels=8), num_joints=4)


def test_layer_decay_lowers_the_rate_from_the_head_down():
    model = tiny_vit()
    factors = {id(p): group["factor"] for group in parameter_groups(model, 0.1, 0.5) for p in group["params"]}
    named = dict(model.named_parameters())
    assert factors[id(named["keypoint_head.final_layer.weight"])] == 1.0
    assert factors[id(named["backbone.blocks.2.mlp.fc1.weight"])] == 0.5
    assert factors[id(named["backbone.blocks.0.mlp.fc1.weight"])] == 0.125
    assert factors[id(named["backbone.patch_embed.proj.weight"])] == 0.0625


def test_norms_biases_and_position_embeddings_are_not_decayed():
    model = tiny_vit()
    decay = {id(p): g["weight_decay"] for g in parameter_groups(model, 0.1, 1.0) for p in g["params"]}
    for name, parameter in model.named_parameters():
        spared = parameter.ndim <= 1 or "pos" in name
        assert decay[id(parameter)] == (0.0 if spared else 0.1), name


def test_one_step_of_sgd_by_hand():
    model = torch.nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        model.weight.fill_(2.0)
    optimizer = build_optimizer(model, spec(name="sgd", lr=1.0))
    set_learning_rate(optimizer, 0.1)
    (model(torch.tensor([[3.0]])) ** 2).sum().backward()
    optimizer.step()
    assert model.weight.item() == pytest.approx(2.0 - 0.1 * 2 * 6 * 3)


@pytest.mark.parametrize("words", [{"name": "adamw"}, {"name": "sgd", "momentum": 0.9}, {"name": "sgd"}])
def test_steps_are_those_of_torchs_own_classes_bit_for_bit(words):
    torch.manual_seed(0)
    ours = tiny_vit()
    ours.backbone.patch_embed.proj.weight.requires_grad_(False)
    theirs = copy.deepcopy(ours)
    asked = spec(lr=0.01, weight_decay=0.1, **words)
    optimizer = build_optimizer(ours, asked)
    groups = [{key: value for key, value in group.items() if key != "factor"}
              for group in parameter_groups(theirs, 0.1, asked.layer_decay)]  # fmt: skip
    reference = (
        torch.optim.AdamW(groups, lr=0.01, betas=asked.betas, fused=True)
        if asked.name == "adamw"
        else torch.optim.SGD(groups, lr=0.01, momentum=asked.momentum)
    )
    for _ in range(4):
        pictures = torch.rand(2, 3, 64, 48)
        for model, stepper in ((ours, optimizer), (theirs, reference)):
            stepper.zero_grad()
            model(pictures).square().mean().backward()
            stepper.step()
    for (name, a), b in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert torch.equal(a, b), name


def test_training_does_not_import_torchs_compiler():
    """Two seconds and 160 MB in each process that trains."""
    code = (
        "import sys; from raf_ray import load_config, run_federation; "
        "run_federation(load_config(overrides=['federation.engine=in_process', 'federation.rounds=1', "
        "'data.people_per_client=4', 'data.val_people=4', 'data.test_people=4', 'tracking.mlflow=false']), "
        "sys.argv[1], watchers=[]); "
        "assert 'torch.optim.adamw' in sys.modules and 'torch._dynamo' not in sys.modules"
    )
    with tempfile.TemporaryDirectory() as place:
        done = subprocess.run([sys.executable, "-c", code, f"{place}/run"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
