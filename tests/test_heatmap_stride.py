"""`model.heatmap_stride`: heatmaps of stride 4, 2 or 1, from the config to the joints, and in files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from examples.segmentation import Segmentation
from raf_ray import run_federation
from raf_ray.config import load_config
from raf_ray.data.batches import Batch, normalise
from raf_ray.data.codec import decode
from raf_ray.data.sources.synthetic import synthetic_people
from raf_ray.data.targets import Codec, counted, targets_of
from raf_ray.deploy import torch_file
from raf_ray.deploy.check import crops_of
from raf_ray.deploy.graph import Outgoing, describe, fixed_graph
from raf_ray.errors import InputError
from raf_ray.evaluation.oracle import ceiling
from raf_ray.models import ModelSpec, build_model, size_divisor
from raf_ray.models.checkpoint import load_checkpoint
from raf_ray.models.finer_layer import FinerLayer
from raf_ray.models.vitpose import ViTPose, ViTPoseConfig
from raf_ray.objectives.mrkd import matched_teacher
from raf_ray.request.assembly import prepare
from raf_ray.request.parts import loss_spec, oracle_of
from raf_ray.resolution import Size
from raf_ray.saved import load_run, score_run
from raf_ray.tasks.classification import Classification
from raf_ray.tasks.pose import Pose
from tests.tiny import SMALL, StopAfter, tiny

SIZE = Size(64, 48)
STRIDES = pytest.mark.parametrize("stride", [4, 2, 1])
FINER = pytest.mark.parametrize("stride", [2, 1])


# --- joints and heatmaps ----------------------------------------------------------------------------------


def joints_inside() -> torch.Tensor:
    """(1, 200, 2) in images of SIZE, away from the border."""
    draw = torch.rand(1, 200, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return 7.0 + draw * torch.tensor([33.0, 49.0])


@STRIDES
def test_our_codec_is_its_own_inverse_and_argmax_is_off_by_a_quarter_of_a_heatmap_pixel_at_most(stride):
    joints = joints_inside()
    heatmaps = targets_of(joints, SIZE, "subpixel", stride)
    assert heatmaps.shape == (1, 200, 64 // stride, 48 // stride)
    for method, most in (("dark", 1e-3), ("argmax", stride / 4 + 1e-9)):
        found = Pose(stride=stride).answer(heatmaps, method)[..., :2]
        apart = (found - joints).abs().max().item()
        assert apart < most and (method == "dark" or apart > 0.9 * most)


@pytest.mark.parametrize(("stride", "most"), [(4, 0.25), (2, 0.15), (1, 0.1)])
def test_dark_goes_by_the_width_of_the_gaussian_so_that_noise_does_less_to_finer_heatmaps(stride, most):
    heatmaps = targets_of(joints_inside(), SIZE, "subpixel", stride)
    noisy = heatmaps + 0.03 * torch.randn(heatmaps.shape, generator=torch.Generator().manual_seed(0))
    found = Pose(stride=stride).answer(noisy, "dark")[..., :2]
    assert (found - joints_inside()).norm(dim=-1).mean() < most


@STRIDES
def test_udps_codec_is_its_own_inverse_and_the_authors_is_off_by_what_their_rules_differ(stride):
    joints = joints_inside()
    places = {}
    for codec in ("udp", "authors"):
        places[codec] = Pose(codec, stride).answer(targets_of(joints, SIZE, codec, stride), "argmax")[..., :2]
    steps = torch.tensor([47 / (48 // stride - 1), 63 / (64 // stride - 1)])  # pixels of the image a heatmap pixel
    assert ((places["udp"] - joints).abs() <= steps / 4 + 1e-9).all()
    torch.testing.assert_close(places["authors"], torch.trunc(joints / stride + 0.5) * steps)
    lost = (places["authors"] - joints).abs().max().item()
    assert 0.45 < lost < 0.5 if stride == 1 else lost > stride / 2


@FINER
@pytest.mark.parametrize("codec", ["subpixel", "udp", "authors"])
def test_a_finer_gaussian_is_the_same_one_of_the_image(stride, codec: Codec):
    """Sigma is 8 pixels of the image: at the places that two heatmaps share, they have the same values."""
    size = Size(65 if codec == "udp" else 64, 49 if codec == "udp" else 48)
    joint = torch.tensor([[[24.0, 32.0]]], dtype=torch.float64)
    fine = targets_of(joint, size, codec, stride)[0, 0]
    if codec == "subpixel":  # the middle of a heatmap pixel lies between pixels of the image
        assert fine.sum().item() == pytest.approx(2 * np.pi * (8 / stride) ** 2, rel=0.01)
    y, x = (round(v / stride) for v in (32, 24))
    at_sigma = fine[y, x + 8 // stride] / fine[y, x]
    assert at_sigma.item() == pytest.approx(np.exp(-0.5), rel=0.3 if codec == "subpixel" else 0.15)


@STRIDES
def test_joints_whose_window_touches_the_image_count_at_any_stride(stride):
    joints = np.array([[[-22.0, 5.0], [-34.0, 5.0], [66.0, 5.0], [80.0, 5.0]]])
    assert counted(joints, np.ones((1, 4), bool), SIZE, "authors", stride).tolist() == [[True, False, True, False]]


@FINER
def test_a_matched_teacher_means_the_students_gaussian_at_any_stride(stride):
    config = load_config(overrides=[f"model.heatmap_stride={stride}"])
    image = torch.tensor([[[61.3, 70.2], [40.0, 50.5]]])
    high = targets_of(image, Size(128, 96), "subpixel", stride)
    low = targets_of((image + 0.5) / 2 - 0.5, SIZE, "subpixel", stride)
    matched = matched_teacher(high, low.shape[-2:], loss_spec(config).switches["sigma"])
    assert (matched - low).abs().max().item() < 0.04


PEOPLE = synthetic_people(3, "test", np.arange(60), 160.0)


def ceiling_at(stride: int, decode_by: str) -> float:
    config = load_config(overrides=[f"model.heatmap_stride={stride}", f"evaluation.decode={decode_by}"])
    return ceiling(oracle_of(config), PEOPLE, [Size(32, 24)], "pck_torso_0.2")["32x24"]


def test_a_finer_heatmap_needs_no_decoding_between_pixels_where_the_image_is_small():
    assert ceiling_at(4, "argmax") < 0.98 < ceiling_at(4, "dark") == 1.0
    assert ceiling_at(2, "argmax") == ceiling_at(1, "argmax") == ceiling_at(1, "dark") == 1.0


# --- models -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "options"), [
    ("demo", {}), ("simple_baseline", {}), ("efficientnet_lite0", {}), ("vitpose_small", {}),
    ("vitpose_small", {"decoder": "simple", "variant": "vitpose"}),
])  # fmt: skip
def test_every_built_in_model_has_finer_heatmaps_of_any_size(name, options):
    for stride in (2, 1):
        with torch.device("meta"):
            model = build_model(name, 5, heatmap_stride=stride, **options)
        for height, width in ((64, 48), (112, 80)):
            images = torch.empty(2, 3, height, width, device="meta")
            assert model(images).shape == (2, 5, height // stride, width // stride)
        assert model.heatmap_stride == stride


@STRIDES
def test_the_demo_cuts_what_it_padded_at_any_stride(stride):
    model = build_model("demo", 3, heatmap_stride=stride).eval()
    torch.nn.init.constant_(model.get_submodule("head").get_parameter("bias" if stride == 4 else "finer.bias"), 1.0)
    heatmaps = model(torch.zeros(1, 3, 36, 20))
    assert heatmaps.shape == (1, 3, 36 // stride, 20 // stride) and (heatmaps > 0.5).all()


def test_the_backbone_begins_from_the_same_bits_at_every_stride_and_the_default_head_is_one_convolution():
    states = {}
    for stride in (4, 2, 1):
        torch.manual_seed(0)
        options = {} if stride == 4 else {"heatmap_stride": stride}
        states[stride] = build_model("demo", 16, **options).state_dict()
    own = [name for name in states[4] if name.startswith("head.")]
    assert own == ["head.weight", "head.bias"] and states[4]["head.weight"].shape == (16, 32, 1, 1)
    for name in set(states[4]) - set(own):
        assert torch.equal(states[4][name], states[2][name]) and torch.equal(states[4][name], states[1][name])


def test_each_joints_finer_heatmap_comes_from_channels_of_its_own():
    torch.manual_seed(0)
    layer, features = FinerLayer(6, 3, 2), torch.rand(1, 6, 5, 4)
    before = layer(features)
    with torch.no_grad():
        layer.of_joints[0].weight[4:8] += 1.0  # joint 1's four channels
    moved = (layer(features) - before).abs().amax((0, 2, 3))
    assert before.shape == (1, 3, 10, 8) and moved[1] > 0 and moved[0] == moved[2] == 0


class Own(nn.Conv2d):
    """A model of one's own whose heatmaps have the image's size."""

    heatmap_stride = 1

    def __init__(self, joints: int) -> None:
        super().__init__(3, joints, 1)


def test_ones_own_model_says_its_stride_and_the_request_the_same():
    model = ModelSpec("tests.test_heatmap_stride:Own", 18, 2, options=(("heatmap_stride", 1),)).build()
    assert size_divisor(model) == 1 and model(torch.zeros(1, 3, 7, 5)).shape == (1, 2, 7, 5)


@pytest.mark.parametrize(("words", "says"), [
    (["model.heatmap_stride=3"], r"model\.heatmap_stride: must be 4, 2 or 1.*3"),
    (["task.name=classification", "model.heatmap_stride=2"], "stride=2 does not go with the task Classification"),
    (["model.name=tests.broken:OneConv", "model.heatmap_stride=2"], r"the model of tests\.broken:OneConv gives .* 4 "),
    (["model.name=tests.test_heatmap_stride:Own"], r"model\.heatmap_stride=4, but the model .* gives .* stride 1 "),
    (["model.heatmap_stride=1", "evaluation.resolutions=[30x22]"], "sides that 4 divides"),
])  # fmt: skip
def test_a_stride_that_does_not_go_is_a_sentence(words, says):
    with pytest.raises(InputError, match=says) as caught:
        prepare(tiny("federation.engine=in_process", *words))
    assert "\n" not in str(caught.value)


def test_a_task_of_ones_own_takes_the_stride():
    task, crops = Segmentation().at_stride(2), torch.zeros(1, 16, 12, 3, dtype=torch.uint8)
    batch = Batch(crops, torch.zeros(1, 16, 2), torch.ones(1, 16), np.zeros(1, np.int64), maps=crops)
    assert task.targets(batch, Size(16, 12)).shape == (1, 1, 8, 6)
    assert task.answer(torch.zeros(1, 1, 8, 6), "argmax").shape == (1, 1, 16, 12)
    with pytest.raises(InputError, match="leave it out"):
        Classification().at_stride(1)


# --- runs -------------------------------------------------------------------------------------------------

WORDS = ("federation.engine=in_process", *SMALL, "model.heatmap_stride=2", "federation.clients=[high, low]",
         "evaluation.decode=dark")  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("finer") / "run"
    run_federation(tiny(*WORDS), folder)
    return folder


def test_a_run_is_opened_again_by_its_stride_to_the_same_scores(run):
    saved = load_run(run)
    assert torch.load(run / "model.pt", weights_only=True)["heatmap_stride"] == saved.model.heatmap_stride == 2
    scores, _ = score_run(saved)
    assert f'"48x36": {scores.by_resolution["48x36"]}' in (run / "results.json").read_text().replace("\n", "")


def test_a_resumed_run_has_the_same_bits(run, tmp_path):
    with pytest.raises(RuntimeError, match="stopped by the test"):
        run_federation(tiny(*WORDS), tmp_path / "part", watchers=[StopAfter(1)])
    run_federation(tiny(*WORDS), tmp_path / "part", resume=True)
    one, other = (torch.load(place / "model.pt", weights_only=True)["model"] for place in (run, tmp_path / "part"))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_checkpoint_of_another_stride_is_refused_in_a_sentence_or_taken_but_for_its_last_layer(run):
    saved = torch.load(run / "model.pt", weights_only=True)["model"]
    torch.manual_seed(1)
    model = build_model("demo", 16)
    with pytest.raises(
        InputError, match=r"have stride 2, and here it is 4: set model\.heatmap_stride=2, or model\.part"
    ):
        load_checkpoint(model, run / "model.pt")
    report = load_checkpoint(model, run / "model.pt", partial=True)
    assert report.missing == ["head.weight", "head.bias"]
    assert torch.equal(model.state_dict()["to_quarter.weight"], saved["to_quarter.weight"])
    with pytest.raises(InputError, match=r"have stride 2, and here it is 1: set model\.heatmap_stride=2$"):
        load_run(run, ["model.heatmap_stride=1"])


def test_a_file_of_before_the_key_has_stride_4(tmp_path):
    content = {"model": build_model("demo", 5).state_dict(), "model_name": "demo", "joints": list("abcde")}
    torch.save(content, tmp_path / "model.pt")
    load_checkpoint(build_model("demo", 5), tmp_path / "model.pt")
    with pytest.raises(InputError, match="have stride 4, and here it is 2"):
        load_checkpoint(build_model("demo", 5, heatmap_stride=2), tmp_path / "model.pt")


def test_a_published_vitpose_leaves_the_finer_layer_fresh(tmp_path):
    torch.manual_seed(0)
    config = {"dim": 16, "depth": 1, "heads": 2, "deconv_channels": 8, "variant": "vitpose"}
    torch.save(ViTPose(ViTPoseConfig(**config), 5).state_dict(), tmp_path / "vitpose.pth")
    report = load_checkpoint(ViTPose(ViTPoseConfig(**config, heatmap_stride=1), 5), tmp_path / "vitpose.pth")
    assert {name.split(".")[1] for name in report.missing} == {"final_layer"}
    assert "keypoint_head.deconv_layers.0.weight" in report.loaded


def test_a_search_may_try_it():
    from raf_ray.search.space import check_space, parse_space

    check_space(parse_space({"model.heatmap_stride": {"choice": [4, 2]}}), {})


# --- files that go out ------------------------------------------------------------------------------------


def test_an_exported_file_decodes_by_its_stride_and_says_it(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 4, 4), FinerLayer(4, 3, 2)).eval()
    nn.init.normal_(model[1].finer.weight)
    model.heatmap_stride = 2
    outgoing = Outgoing(model, Pose(stride=2), "argmax")
    graph = fixed_graph(outgoing, Size(32, 16))
    record = describe(graph, outgoing, {})
    assert record["output"]["heatmap_stride"] == 2
    torch_file.write(graph, tmp_path / "a.pt2", record)
    run, crops = torch_file.opened(tmp_path / "a.pt2"), crops_of(Size(32, 16), 2, seed=0)
    points, peaks = decode(model(normalise(crops).permute(0, 3, 1, 2)))
    joints, confidences = run(crops)
    assert torch.allclose(confidences, peaks, atol=1e-5)
    assert ((joints - ((points + 0.5) * 2 - 0.5)).abs() < 1e-3).float().mean() > 0.9
