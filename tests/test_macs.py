"""What a forward pass costs, against counts by hand; and its place beside every score."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from raf_ray import run_federation
from raf_ray.errors import InputError
from raf_ray.models import build_model
from raf_ray.models.macs import forward_macs
from raf_ray.request.assembly import prepare
from raf_ray.resolution import Size
from tests.tiny import tiny


class TwoConvs(nn.Module):
    """Strided and grouped: 8 channels at half the size, then `joints` at a quarter."""

    def __init__(self, joints: int = 5) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, 2, 1)
        self.second = nn.Conv2d(8, joints * 4, 5, 2, 2, groups=4)
        self.norm = nn.BatchNorm2d(joints * 4)
        self.last = nn.Conv2d(joints * 4, joints, 1)

    def forward(self, images):
        return self.last(torch.relu(self.norm(self.second(self.first(images)))))


class Attention(nn.Module):
    def __init__(self, joints: int = 5) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, 32, 4, 4)
        self.layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
        self.head = nn.Linear(32, joints)

    def forward(self, images):
        maps = self.embed(images)
        tokens = self.layer(maps.flatten(2).transpose(1, 2))
        return self.head(tokens).transpose(1, 2).unflatten(2, maps.shape[2:])


class Random(TwoConvs):
    def forward(self, images):
        return super().forward(images + torch.rand(()))


class Sullen(TwoConvs):
    def forward(self, images):
        raise ValueError("not today")


def test_convolutions_cost_outputs_times_kernel_times_inputs_a_group():
    height, width, joints = 32, 24, 5
    first = (height // 2 * width // 2) * 8 * (3 * 9)
    second = (height // 4 * width // 4) * (4 * joints) * (8 // 4 * 25)
    last = (height // 4 * width // 4) * joints * (4 * joints)
    assert forward_macs(TwoConvs(), Size(height, width)) == first + second + last


def test_a_transformers_layer_costs_its_projections_its_attention_and_its_mlp():
    tokens, wide = (32 // 4) * (24 // 4), 32
    embed, head = tokens * wide * 3 * 16, tokens * wide * 5
    layer = 4 * tokens * wide**2 + 2 * tokens**2 * wide + 2 * tokens * wide * 64
    assert forward_macs(Attention(), Size(32, 24)) == embed + layer + head


def test_vitpose_small_costs_its_blocks_its_deconvolutions_and_its_depthwise_positions():
    n, wide, blocks = (256 // 16) * (192 // 16), 384, 12
    layers = blocks * (12 * n * wide**2 + 2 * n**2 * wide)
    positions = (1 + blocks) * n * wide * 9
    head = n * wide * 256 * 16 + 4 * n * 256 * 256 * 16 + 16 * n * 256 * 17
    assert forward_macs(build_model("vitpose_small", 17), Size(256, 192)) == (
        n * wide * 3 * 16**2 + positions + layers + head
    )


def test_the_authors_vitpose_costs_one_token_more_in_its_blocks():
    n, wide, blocks = (64 // 16) * (48 // 16), 384, 12
    more = blocks * (12 * wide**2 + 2 * ((n + 1) ** 2 - n**2) * wide)
    costs = [forward_macs(build_model("vitpose_small", 17, variant=v), Size(64, 48)) for v in ("raf_ray", "authors")]
    assert costs[1] == costs[0] + more


def test_counting_leaves_the_model_and_the_random_numbers_as_they_were():
    model = Random().train()
    before = {name: values.clone() for name, values in model.state_dict().items()}
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    forward_macs(model, Size(32, 24))
    assert torch.equal(torch.rand(4), expected) and model.training and model.norm.training
    assert all(torch.equal(values, before[name]) for name, values in model.state_dict().items())


def test_every_tiers_macs_stand_beside_its_cost(tmp_path):
    words = ["federation.engine=in_process", "model.name=tests.test_macs:TwoConvs", "federation.rounds=2"]
    costs = run_federation(tiny(*words), tmp_path / "run").values["cost_by_tier"]
    joints = len(prepare(tiny(*words)).skeleton)
    # 216 x 8 / 4 + 50 x 4 joints / 16 + 4 joints x joints / 16 a pixel, at every size that 4 divides.
    a_pixel = 27 * 8 / 4 + 50 * 4 * joints / 16 + 4 * joints**2 / 16
    for tier, pixels in {"high": 128 * 96 + 96 * 72 + 64 * 48, "mid": 96 * 72 + 64 * 48, "low": 64 * 48}.items():
        assert costs[tier]["forward_macs"] == pytest.approx(2 * 12 * pixels * a_pixel)


def test_a_model_that_cannot_be_run_is_said_and_has_no_devices():
    words = ["model.name=tests.test_macs:Sullen"]
    found = prepare(tiny(*words))
    assert found.macs is None
    assert "forward MACs are not told: the model fails on an image of 128x96 (ValueError: not today)" in found.notes
    with pytest.raises(InputError, match=r"devices: the model fails on an image of 128x96 .*cannot be counted"):
        prepare(tiny(*words, "devices.profiles={high: phone, mid: phone, low: phone}"))
