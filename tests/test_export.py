"""A model that goes out: files that compute what the model does and run without raf-ray, or are refused."""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path

import cv2
import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from examples import predict_onnx
from raf_ray import export, run_federation
from raf_ray.cli import run_command
from raf_ray.data.augment import NO_MARGINS
from raf_ray.data.batches import normalise
from raf_ray.data.codec import decode, encode, heatmap_to_image
from raf_ray.data.crop import CropRule
from raf_ray.data.crops import PlainCrops
from raf_ray.data.shard import cut_shard
from raf_ray.data.sources.synthetic import synthetic_people
from raf_ray.deploy import check, exporting, onnx_file
from raf_ray.deploy.check import differences
from raf_ray.deploy.exporting import export_model
from raf_ray.deploy.graph import Graph, Outgoing, any_size_graphs, fixed_graph
from raf_ray.deploy.onnx_file import _solved
from raf_ray.errors import InputError, RunError
from raf_ray.export import crop_record
from raf_ray.models import build_model
from raf_ray.models.vitpose import ViTPose, ViTPoseConfig
from raf_ray.resolution import Size
from raf_ray.saved import load_run, predict, skeleton_of_run
from raf_ray.tasks.classification import Classification
from raf_ray.tasks.pose import Pose
from tests.tiny import tiny

SMALL = Size(32, 16)
TIERS = "resolution.tiers={high: 64x48, mid: 48x36, low: 32x24}"


@pytest.fixture(autouse=True, scope="module")
def quiet_tracing() -> Iterator[None]:
    """torch formats a record of all that it traces where a logger takes any, as pytest's does: slow."""
    logger = logging.getLogger("torch.__trace")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    yield
    logger.setLevel(before)


@pytest.fixture(scope="module")
def saved_run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "run"
    words = ("federation.engine=in_process", "federation.rounds=1", TIERS, "evaluation.resolutions=[32x24]",
             "federation.clients=[low]")  # fmt: skip
    return Path(run_federation(tiny(*words), folder).folder)


@pytest.fixture(scope="module")
def exported(saved_run, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("exported")
    words = [str(saved_run), "--format", "onnx", "--decode", "--output", str(folder), "--json"]
    assert run_command(export.main, words) == 0
    return folder


class Tiny(nn.Module):
    """A stride of 4 and a head, with values of its own."""

    size_divisor = 4
    head_name = "head"

    def __init__(self, joints: int = 3) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 4, 4, 4)
        self.head = nn.Conv2d(4, joints, 1)

    def features(self, images):
        return self.stem(images).relu()

    def forward(self, images):
        return self.head(self.features(images))


# --- the command ------------------------------------------------------------------------------------------


def test_one_file_a_tier_and_one_of_any_size_that_say_what_they_take(exported):
    assert sorted(path.name for path in exported.iterdir()) == ["model-32x24.onnx", "model-any.onnx"]
    fixed = onnxruntime.InferenceSession(str(exported / "model-32x24.onnx"))
    free = onnxruntime.InferenceSession(str(exported / "model-any.onnx"))
    assert fixed.get_inputs()[0].shape == ["batch", 32, 24, 3]
    assert free.get_inputs()[0].shape == ["batch", "height", "width", 3]
    record = json.loads(fixed.get_modelmeta().custom_metadata_map["raf_ray"])
    assert record["input"]["size"] == [32, 24] and record["trained_sizes"] == [[32, 24]]
    assert record["names"][:2] == ["right_ankle", "right_knee"] and [0, 1] in record["limbs"]


@pytest.mark.parametrize("name", ["model-32x24.onnx", "model-any.onnx"])
def test_joints_and_confidences_are_the_models_own_for_any_batch(exported, saved_run, name):
    run = load_run(saved_run)
    session = onnxruntime.InferenceSession(str(exported / name))
    for count, height, width in ((1, 32, 24), (5, 32, 24), *([(2, 20, 36)] if "any" in name else [])):
        crops = check.crops_of(Size(height, width), count, seed=3)
        joints, confidences = session.run(None, {"pictures": crops.numpy()})
        with torch.no_grad():
            points, peaks = decode(run.model(normalise(crops).permute(0, 3, 1, 2)))
        np.testing.assert_allclose(confidences, peaks.numpy(), atol=1e-5)
        same = np.abs(joints - heatmap_to_image(points).numpy()).max(-1) < 1e-3
        assert same.mean() > 0.97


def test_a_torch_file_of_the_model_alone_loads_where_there_is_no_raf_ray(saved_run, tmp_path):
    words = [str(saved_run), "--format", "torch", "--output", str(tmp_path)]
    assert run_command(export.main, words) == 0
    images = normalise(check.crops_of(Size(32, 24), 3, seed=1)).permute(0, 3, 1, 2).contiguous()
    torch.save(images, tmp_path / "images.pt")
    script = (
        "import sys; sys.modules['raf_ray'] = None\n"
        "import torch\n"
        "told = {'raf_ray.json': ''}\n"
        "model = torch.export.load('model-32x24.pt2', extra_files=told).module()\n"
        "torch.save(model(torch.load('images.pt')), 'heatmaps.pt'); print(told['raf_ray.json'])\n"
    )
    ran = subprocess.run([sys.executable, "-W", "ignore", "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    record = json.loads(ran.stdout)
    assert record["input"]["layout"] == "NCHW" and record["input"]["mean"] == [123.675, 116.28, 103.53]
    with torch.no_grad():
        wanted = load_run(saved_run).model(images)
    assert torch.allclose(torch.load(tmp_path / "heatmaps.pt"), wanted, atol=1e-6)


@pytest.mark.slow
def test_a_clients_own_model_goes_out_by_its_name(tmp_path, capsys):
    words = ("federation.engine=in_process", "federation.rounds=1", TIERS, "evaluation.resolutions=[32x24]",
             "algorithm.name=fedper", "federation.clients=[low]")  # fmt: skip
    run = run_federation(tiny(*words), tmp_path / "run").folder
    client = next(Path(run).glob("model-*.pt")).stem.removeprefix("model-")
    asked = [str(run), "--format", "torch", "--client", client, "--output", str(tmp_path / "own"), "--json"]
    assert run_command(export.main, asked) == 0
    files = json.loads(capsys.readouterr().out)["files"]
    assert [Path(one["file"]).name for one in files] == [f"model-{client}-32x24.pt2", f"model-{client}-any.pt2"]
    assert all(apart["largest"] <= apart["allowed"] for one in files for apart in one["differences"])


def test_onnx_asked_for_and_not_installed_is_a_sentence_and_nothing_is_left(saved_run, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(onnx_file, "find_spec", lambda name: None if name == "onnxscript" else True)
    asked = [str(saved_run), "--format", "onnx", "--output", str(tmp_path / "out")]
    assert run_command(export.main, asked) == 2
    assert "--format onnx needs onnxscript" in capsys.readouterr().err and not (tmp_path / "out").exists()


@pytest.mark.parametrize(("words", "says"), [(["--sizes", "30x22"], "sides that 4 divides"),
                                             (["--client", "nobody"], "no model-nobody.pt")])  # fmt: skip
def test_what_the_run_has_not_is_refused(saved_run, tmp_path, capsys, words, says):
    asked = [str(saved_run), "--format", "torch", "--output", str(tmp_path / "out"), *words]
    assert run_command(export.main, asked) == 2
    assert says in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_a_run_of_other_crops_says_so_in_its_files(saved_run, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(saved_run, other)
    config = (other / "config.yaml").read_text()
    for ours, theirs in (("  crop: fit", "  crop: stretch"), ("  codec: subpixel", "  codec: udp")):
        assert ours in config
        config = config.replace(ours, theirs)
    (other / "config.yaml").write_text(config)
    record = export.told_of(load_run(other), None)
    assert record["crop"] == crop_record(CropRule(stretch=True, inner=True)) and record["codec"] == "udp"


# --- the check --------------------------------------------------------------------------------------------


def test_a_file_that_computes_something_else_is_refused_and_nothing_is_left(tmp_path, monkeypatch):
    class Wrong:
        ENDING = "pt2"

        @staticmethod
        def check_installed(): ...

        @staticmethod
        def write(graph, path, metadata):
            path.write_text("")

        @staticmethod
        def opened(path):
            return lambda images: [Tiny()(images) * 1.001]

    monkeypatch.setattr(exporting, "files_of", lambda format: Wrong)
    with pytest.raises(RunError, match="differs from the model by"):
        export_model(Tiny().eval(), Pose(), None, [SMALL], tmp_path / "model", "torch", {})
    assert not list(tmp_path.iterdir())


def test_joints_moved_by_a_tenth_of_a_pixel_are_seen():
    outgoing = Outgoing(Tiny().eval(), Pose(), "argmax")

    def moved(crops):
        joints, confidences = outgoing(crops)
        return [joints + 0.1, confidences]

    joints, confidences = differences(moved, outgoing, SMALL)
    assert not joints.is_within and joints.largest == pytest.approx(0.1, abs=1e-4)
    assert confidences.is_within and joints.of == 4 * 3


def test_a_joint_with_two_peaks_of_one_height_is_left_out_and_counted():
    class Peaks(nn.Module):
        def forward(self, images):
            one, other = encode(torch.tensor([[[3.3, 3.3]], [[12.3, 20.3]]]), Size(24, 16), sigma=1.0)
            return torch.stack([one[0], one[0] + other[0]]).expand(len(images), 2, 24, 16)

    outgoing = Outgoing(Peaks().eval(), Pose(), "argmax")
    joints, _ = differences(lambda crops: list(outgoing(crops)), outgoing, Size(96, 64))
    assert joints.of == 8 and joints.undecided == 4 and joints.largest == 0


@pytest.mark.parametrize("format", ["onnx", "torch"])
def test_a_model_that_asks_its_tensors_has_no_file_and_says_so(tmp_path, format):
    class Asking(Tiny):
        def forward(self, images):
            return super().forward(images) * (2 if images.mean() > 0 else 1)

    with pytest.raises(InputError, match=r"torch\.export makes no graph of it"):
        export_model(Asking().eval(), Pose(), None, [SMALL], tmp_path / "model", format, {})
    assert not list(tmp_path.iterdir())


# --- models and tasks -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["demo", "simple_baseline", "vitpose_small"])
def test_every_built_in_model_is_one_graph_for_all_multiples_of_16(name):
    torch.manual_seed(0)
    model = build_model(name, 5).eval()
    if name == "vitpose_small":
        model.backbone.blocks = model.backbone.blocks[:1]
    outgoing = Outgoing(model, Pose(), None)
    graph = next(graph for graph in any_size_graphs(outgoing) if isinstance(graph, Graph) and graph.divisor == 16)
    assert graph.takes(Size(64, 32)) and not graph.takes(Size(64, 36)) and not graph.takes(Size(64, 16))

    def run(images):
        return [graph.program.module()(images)]

    assert all(difference.is_within for difference in differences(run, outgoing, Size(64, 32)))


def test_the_authors_vitpose_goes_out_for_batches_of_any_length():
    torch.manual_seed(0)
    model = ViTPose(ViTPoseConfig(dim=16, depth=1, heads=2, deconv_channels=8, variant="authors"), 5).eval()
    graph, images = fixed_graph(Outgoing(model, Pose(), None), Size(64, 32)), torch.randn(3, 3, 64, 32)
    with torch.no_grad():
        torch.testing.assert_close(graph.program.module()(images), model(images))


def written(model, task, decode_by, size, path):
    """A fixed file alone, opened."""
    outgoing = Outgoing(model.eval(), task, decode_by)
    onnx_file.write(fixed_graph(outgoing, size), path, {})
    return outgoing, onnx_file.opened(path)


@pytest.mark.parametrize(("codec", "decode_by"), [("udp", "argmax"), ("authors", "udp_dark")])
def test_every_codec_is_one_graph_for_any_size(codec, decode_by):
    outgoing = Outgoing(Tiny().eval(), Pose(codec), decode_by)
    graph = next(graph for graph in any_size_graphs(outgoing) if isinstance(graph, Graph))
    module = graph.program.module()
    for size in (Size(32, 20), Size(8, 12), Size(48, 64)):
        found = differences(lambda crops: list(module(crops)), outgoing, size)
        assert graph.takes(size) and all(difference.is_within for difference in found)


@pytest.mark.parametrize(("decode_by", "output"), [(None, "outputs"), ("argmax", "answer")])
def test_classes_go_out_too(tmp_path, decode_by, output):
    outgoing, run = written(Classification().adapt(Tiny(), 2), Classification(), decode_by, SMALL, tmp_path / "a.onnx")
    (difference,) = differences(run, outgoing, SMALL)
    assert difference.output == output and difference.is_within
    if decode_by:
        (answer,) = run(check.crops_of(SMALL, 2, seed=0))
        assert answer.shape == (2, 2) and torch.allclose(answer.sum(1), torch.ones(2))


@pytest.mark.slow
@pytest.mark.parametrize(("codec", "decode_by"), [("subpixel", "dark"), ("udp", "udp_dark")])
def test_dark_goes_out_in_onnx_with_what_it_does_at_the_border(tmp_path, codec, decode_by):
    outgoing, run = written(Tiny(2), Pose(codec), decode_by, SMALL, tmp_path / "a.onnx")
    joints, confidences = differences(run, outgoing, SMALL)
    assert joints.is_within and confidences.is_within and joints.undecided < joints.of


def test_a_model_beyond_what_onnx_can_hold_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_file, "LARGEST", 100)
    with pytest.raises(InputError, match=r"GiB of weights, and an ONNX file holds 2 at most; take --format torch"):
        export_model(Tiny().eval(), Pose(), None, [SMALL], tmp_path / "model", "onnx", {})
    assert not list(tmp_path.iterdir())


def test_the_solver_that_onnx_gets_is_torchs():
    torch.manual_seed(0)
    rows = torch.randn(7, 25, 6, dtype=torch.double)
    matrix, right = rows.mT @ rows, torch.randn(7, 6, 1, dtype=torch.double)
    wanted = torch.linalg.solve_ex(matrix, right)[0]
    assert torch.allclose(_solved(matrix, right)[0], wanted, rtol=1e-9)


# --- without raf-ray --------------------------------------------------------------------------------------


@pytest.mark.parametrize("box", [[0, 0, 60, 80], [10, 5, 20, 60], [-30, -20, 90, 50], [20, 30, 4, 6]])
@pytest.mark.parametrize("name", ["model-32x24.onnx", "model-any.onnx"])
def test_the_example_finds_what_predict_finds(exported, saved_run, box, name):
    picture = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 255, (80, 60, 3), dtype=np.uint8), (0, 0), 3)
    run = load_run(saved_run)
    size = Size(32, 24)
    joints, confidence = predict(run, picture, np.array([box], float), size, skeleton_of_run(run))
    session, record = predict_onnx.read_model(str(exported / name))
    found = predict_onnx.predict(session, record, picture, [float(side) for side in box], [32, 24])
    np.testing.assert_allclose(found[:, 2], confidence[0], atol=1e-4)
    apart = np.abs(found[:, :2] - joints[0]).max(-1)
    assert (apart < 0.01).mean() > 0.9, apart


@pytest.mark.parametrize("box", [[0, 0, 60, 80], [-30, -20, 90, 50], [20, 30, 4, 6], [10, 5, 20, 60]])
@pytest.mark.parametrize("rule", [CropRule(*switches) for switches in product((False, True), repeat=3)], ids=str)
def test_the_example_cuts_people_by_any_rule_as_raf_ray_does(rule, box):
    picture = np.random.default_rng(0).integers(0, 255, (80, 60, 3), dtype=np.uint8)
    box = np.array(box, np.float32)
    person = replace(synthetic_people(0, "test", np.arange(1), 80.0), centre=box[None, :2] + box[None, 2:] / 2 - 0.5,
                     box=box[None, 2:], read=lambda row: picture)  # fmt: skip
    shard = cut_shard(person, Size(32, 24), NO_MARGINS, rule=rule)
    crop, to_picture = predict_onnx.crop_person(picture, box.tolist(), 32, 24, crop_record(rule))
    apart = crop.astype(int) - PlainCrops(shard).take(np.arange(1))[0].numpy()
    assert np.abs(apart).max() <= 1 and (apart != 0).mean() < 0.01
    corners = np.array([[[0, 0], [23, 0], [0, 31], [11.5, 7.25]]])
    np.testing.assert_allclose(corners[0] @ to_picture[:, :2].T + to_picture[:, 2], shard.crop_to_picture(corners)[0],
                               atol=1e-4)  # fmt: skip


def test_the_example_runs_where_there_is_no_raf_ray(exported, tmp_path):
    Path(tmp_path / "predict_onnx.py").write_text(Path(predict_onnx.__file__).read_text())
    cv2.imwrite(str(tmp_path / "a.png"), np.full((80, 60, 3), 120, np.uint8))
    script = ("import sys; sys.modules['raf_ray'] = sys.modules['torch'] = None; import predict_onnx; "
              f"predict_onnx.main([{str(exported / 'model-any.onnx')!r}, 'a.png', '--output', 'b.png'])")  # fmt: skip
    ran = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert len(json.loads(ran.stdout)) == 16 and cv2.imread(str(tmp_path / "b.png")).shape == (80, 60, 3)


def test_the_heatmaps_that_a_file_gives_are_decoded_as_documented():
    """docs/deploy.md: an argmax at heatmap pixel p lies at (p + 0.5) x 4 - 0.5."""
    heatmaps = encode(torch.tensor([[[5.0, 3.0]]]), Size(12, 9))
    points, _ = decode(heatmaps)
    assert heatmap_to_image(points)[0, 0].tolist() == [(5 + 0.5) * 4 - 0.5, (3 + 0.5) * 4 - 0.5]
