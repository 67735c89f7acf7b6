"""Tasks: labels against the drawing, losses against numbers by hand, and whole federations of each."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from examples.segmentation import Segmentation, overlap
from raf_ray import run_federation
from raf_ray.compare import methods_of
from raf_ray.data.augment import NO_MARGINS, Augmentation
from raf_ray.data.batches import Batches
from raf_ray.data.shard import cut_shard
from raf_ray.data.skeletons import MPII16
from raf_ray.data.sources.silhouettes import silhouettes
from raf_ray.data.sources.synthetic import synthetic_people
from raf_ray.errors import InputError
from raf_ray.metrics.top1 import top1
from raf_ray.models import build_model, head_of, size_divisor
from raf_ray.models.pooled_head import with_pooled_head
from raf_ray.objectives import build_objective
from raf_ray.request.assembly import prepare
from raf_ray.resolution import Size
from raf_ray.saved import load_run, score_run
from raf_ray.tasks.classification import Classification, faces_us
from raf_ray.tasks.interface import Task
from raf_ray.tasks.pose import Pose
from tests.tiny import tiny

PEOPLE = synthetic_people(5, "test", np.arange(24), 160.0)
SIZES = [Size(128, 96), Size(96, 72), Size(64, 48)]
J = {name: i for i, name in enumerate(MPII16.joints)}
TASKS = {"classification": Classification(), "examples.segmentation:Segmentation": Segmentation()}


class Flat(nn.Module):
    """Gives no features."""

    def __init__(self, joints: int) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, joints, 4, 4)

    def forward(self, images):
        return self.layer(images)


def flat(joints):
    return Flat(joints)


def batch_of(people, size, augmentation=None, count=None):
    margins = NO_MARGINS if augmentation is None else augmentation.margins(size.aspect)
    shard, maps = (cut_shard(of, size, margins) for of in (people, silhouettes(people)))
    batches = Batches(shard, 8, augmentation, torch.device("cpu"), maps=maps)
    return batches.collate(np.arange(count or len(people)), np.random.default_rng(1))


def in_process(path, *words, **options):
    return run_federation(tiny("federation.engine=in_process", *words), path, **options)


def state(folder) -> torch.Tensor:
    saved = torch.load(folder / "model.pt", weights_only=True)["model"]
    return torch.cat([values.flatten().double() for values in saved.values()])


# --- classes --------------------------------------------------------------------------------------------


def upright(left_shoulder: float, right_shoulder: float) -> np.ndarray:
    """(1, 16, 2): a trunk of height 100, whose shoulders are that far to the picture's right."""
    joints = np.zeros((1, 16, 2), np.float32)
    places = {"left_hip": (0, 0), "right_hip": (0, 0), "left_shoulder": (left_shoulder, -100),
              "right_shoulder": (right_shoulder, -100)}  # fmt: skip
    for name, place in places.items():
        joints[0, J[name]] = place
    return joints


@pytest.mark.parametrize(("left", "right", "front"), [(20, -20, True), (-20, 20, False), (90, 80, True), (1, 2, False)])
def test_a_person_whose_left_shoulder_is_on_the_pictures_right_is_seen_from_the_front(left, right, front):
    assert faces_us(upright(left, right), MPII16).tolist() == [front]


def test_the_class_is_the_persons_whatever_the_lean_the_size_and_the_mirror():
    joints, drawn = PEOPLE.joints.astype(np.float64), PEOPLE.read.figures.facing
    turn = np.array([[np.cos(2.0), -np.sin(2.0)], [np.sin(2.0), np.cos(2.0)]])
    assert 0 < drawn.sum() < len(drawn)
    np.testing.assert_array_equal(faces_us(joints, MPII16), drawn, "a face is drawn, or the back of a head")
    np.testing.assert_array_equal(faces_us(0.3 * joints @ turn.T + 40, MPII16), drawn)
    np.testing.assert_array_equal(faces_us((joints * (-1, 1))[:, MPII16.flip_order], MPII16), drawn)
    upside_down = joints @ -np.eye(2)
    by_picture = upside_down[:, J["left_shoulder"], 0] > upside_down[:, J["right_shoulder"], 0]
    assert (by_picture != drawn).any(), "by the picture's own right it would be another class"


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_a_batchs_classes_are_those_of_its_people_at_every_size(size):
    visibility = PEOPLE.visibility.copy()
    visibility[3, J["left_hip"]] = visibility[5, J["right_shoulder"]] = 0
    people = replace(PEOPLE, visibility=visibility)
    task, batch = Classification(), batch_of(people, size)
    assert task.targets(batch, size).tolist() == faces_us(people.joints, MPII16).astype(int).tolist()
    assert task.weights(batch).tolist() == task.targeted(people).astype(float).tolist()
    assert np.flatnonzero(~task.targeted(people)).tolist() == [3, 5]


def test_top_1_by_hand():
    predicted, truth = np.array([0, 1, 1, 0, 1, 1]), np.array([0, 1, 0, 0, 0, 0])
    score = top1(predicted, truth, np.array([True, True, True, True, False, True]), 2)
    assert (score.value, score.per_joint, score.people) == (0.75, (0.5, 1.0), 5)
    always = top1(np.ones(10, int), np.repeat([0, 1], [3, 7]), np.ones(10, bool), 2)
    assert always.value == 0.5, "seven of ten are right, and nothing was told"
    nothing = top1(np.zeros(2, int), np.zeros(2, int), np.zeros(2, bool), 2)
    assert np.isnan(nothing.value) and np.isnan(nothing.per_joint).all()
    one = top1(np.zeros(2, int), np.zeros(2, int), np.ones(2, bool), 2)
    assert one.value == 1.0 and np.isnan(one.per_joint[1])
    with pytest.raises(ValueError, match="must be"):
        top1(np.zeros(2, int), np.zeros((2, 1), int), np.zeros(2, bool), 2)


@pytest.mark.parametrize("name", ["demo", "simple_baseline", "vitpose_small"])
def test_a_pooled_head_is_the_mean_over_places_then_one_linear_layer(name):
    torch.manual_seed(0)
    model = with_pooled_head(build_model(name, 2), 2).eval()
    images = torch.rand(2, 3, 64, 48)
    with torch.no_grad():
        features = model.features(images)
        by_hand = head_of(model).linear(features.flatten(2).mean(2))
        assert model(images).shape == (2, 2, 1, 1) and size_divisor(model) in (4, 16)
        torch.testing.assert_close(model(images)[:, :, 0, 0], by_hand)


# --- masks ----------------------------------------------------------------------------------------------


def measured(row: int, reach: float) -> np.ndarray:
    """(H, W) bool of person `row`, by distances: within half a stroke of a limb, in the trunk or the head, each wider
    by `reach` pixels."""
    figures = PEOPLE.read.figures
    (width, height), torso, points = figures.picture[row], figures.torso[row], figures.joints[row]
    pixels = np.stack(np.meshgrid(np.arange(width), np.arange(height)), axis=-1).astype(float)

    def along(a: str, b: str, thickness: float) -> np.ndarray:
        start, way = points[J[a]], points[J[b]] - points[J[a]]
        place = np.clip(((pixels - start) @ way) / (way @ way), 0, 1)
        gap = np.linalg.norm(pixels - start - place[..., None] * way, axis=-1)
        return gap <= round(thickness * torso) / 2 + reach

    found = along("pelvis", "thorax", 0.36) | along("thorax", "upper_neck", 0.16)
    for side in ("left", "right"):
        for a, b, thickness in (("shoulder", "elbow", 0.19), ("elbow", "wrist", 0.15), ("hip", "knee", 0.25),
                                ("knee", "ankle", 0.19)):  # fmt: skip
            found |= along(f"{side}_{a}", f"{side}_{b}", thickness)
    neck, top = points[J["upper_neck"]], points[J["head_top"]]
    axis = (top - neck) / np.linalg.norm(top - neck)
    long, wide = 0.21 * torso + reach, 0.36 * 0.42 * torso + reach

    def oval(middle: np.ndarray, length: float) -> tuple[np.ndarray, np.ndarray]:
        """Inside, and how far towards the top of the head."""
        up, aside = (pixels - middle) @ axis, (pixels - middle) @ np.array([-axis[1], axis[0]])
        return (up / length) ** 2 + (aside / wide) ** 2 <= 1, up

    found |= oval((neck + top) / 2, long)[0]
    if figures.facing[row]:
        hair, up = oval((neck + top) / 2 + 0.3 * (top - neck), long / 2 + reach)
        found |= hair & (up >= 0)
    corners = np.stack([points[J[n]] for n in ("left_shoulder", "right_shoulder", "right_hip", "left_hip")])
    corners = corners if _area(corners) > 0 else corners[::-1]
    inside = np.ones(found.shape, bool)
    for a, b in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        side = (b[0] - a[0]) * (pixels[..., 1] - a[1]) - (b[1] - a[1]) * (pixels[..., 0] - a[0])
        inside &= side >= -reach * np.linalg.norm(b - a)
    return found | inside


def _area(corners: np.ndarray) -> float:
    x, y = corners.T
    return float((x * np.roll(y, -1) - np.roll(x, -1) * y).sum() / 2)


def test_a_mask_is_what_the_strokes_cover_counted_pixel_by_pixel():
    masks = silhouettes(PEOPLE)
    drawn = [masks.picture(row)[..., 0] >= 128 for row in range(len(PEOPLE))]
    for row, mask in enumerate(drawn):
        assert mask.shape == PEOPLE.picture(row).shape[:2]
        assert not (measured(row, -0.5) & ~mask).any(), "all that a stroke covers for sure"
        assert not (mask & ~measured(row, 2.0)).any(), "and nothing beyond its smooth edge"
        assert mask.sum() == pytest.approx(measured(row, 0.5).sum(), rel=0.1)
    height, width = (min(drawn[0].shape[axis], drawn[1].shape[axis]) for axis in (0, 1))
    missed = measured(1, -0.5)[:height, :width] & ~drawn[0][:height, :width]
    assert missed.sum() > 300, "another person's mask fails"


@pytest.mark.parametrize("augmentation", [None, Augmentation(1.0, 0.3, 40.0, 0.0)], ids=["plain", "augmented"])
def test_a_batchs_masks_lie_where_its_joints_are(augmentation):
    batch = batch_of(PEOPLE, Size(128, 96), augmentation)
    joints = batch.joints.round().long()
    shown = batch.weights > 0
    assert shown.sum() > 200
    rows = torch.arange(len(batch))[:, None].expand(shown.shape)
    on_mask = batch.maps[rows[shown], joints[..., 1][shown], joints[..., 0][shown], 0] > 0
    assert on_mask.all()
    mirrored = batch.maps.flip(2)[rows[shown], joints[..., 1][shown], joints[..., 0][shown], 0] > 0
    assert not mirrored.all(), "masks that are not moved as the pictures are do not cover them"


def test_a_levels_target_is_the_share_of_each_output_pixel_that_the_mask_covers():
    batch = batch_of(PEOPLE, Size(64, 48), count=3)
    found = Segmentation().targets(batch, Size(64, 48))
    by_hand = (batch.maps[..., 0].double() / 255).reshape(3, 16, 4, 12, 4).mean((2, 4))
    torch.testing.assert_close(found[:, 0].double(), by_hand, atol=1e-6, rtol=0)


def test_overlap_by_hand():
    found = np.array([[[1, 1, 0, 0]], [[0, 0, 0, 0]]], bool)
    truth = np.array([[[0, 1, 1, 0]], [[0, 0, 0, 0]]], bool)
    assert overlap(found, truth).tolist() == [pytest.approx(1 / 3), 1.0]


def test_people_that_are_not_drawn_have_no_masks():
    with pytest.raises(InputError, match=r"only the synthetic people have masks; take data\.name=synthetic"):
        silhouettes(replace(PEOPLE, read=lambda row: np.zeros((8, 8, 3), np.uint8)))


# --- losses ---------------------------------------------------------------------------------------------


def outputs_of(task: Task, seed: int = 0) -> list[torch.Tensor]:
    """Of three levels, highest first, for 4 people."""
    generator = torch.Generator().manual_seed(seed)
    shapes = [(2, 1, 1)] * 3 if isinstance(task, Classification) else [(1, 8, 6), (1, 6, 4), (1, 4, 3)]
    return [torch.randn(4, *shape, generator=generator).requires_grad_() for shape in shapes]


def softmax(logits: np.ndarray) -> np.ndarray:
    return np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)


def test_the_loss_of_classes_is_weighted_cross_entropy_by_hand():
    logits = outputs_of(Classification())[0]
    targets, weights = torch.tensor([0, 1, 1, 0]), torch.tensor([1.0, 1.0, 0.0, 1.0])
    chance = softmax(logits.detach().numpy()[:, :, 0, 0].astype(np.float64))
    by_hand = -(np.log(chance[0, 0]) + np.log(chance[1, 1]) + np.log(chance[3, 0])) / 4
    assert Classification().loss(logits, targets, weights).item() == pytest.approx(by_hand, rel=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_a_level_is_distilled_by_the_kl_of_softened_classes_times_the_temperature_squared(temperature):
    first, second, student = (o.detach().numpy()[:, :, 0, 0].astype(np.float64) for o in outputs_of(Classification()))
    taught = (softmax(first / temperature) + softmax(second / temperature)) / 2
    told = softmax(student / temperature)
    weights = np.array([1.0, 0.0, 1.0, 1.0])
    by_hand = ((taught * np.log(taught / told)).sum(axis=1) * weights).mean() * temperature**2
    found = Classification().distils(outputs_of(Classification())[2], outputs_of(Classification())[:2],
                                     torch.from_numpy(weights).float(), {"temperature": temperature})  # fmt: skip
    assert found.item() == pytest.approx(by_hand, rel=1e-5)


def test_masks_are_distilled_by_the_kl_of_each_pixels_two_classes():
    teacher, _, student = outputs_of(Segmentation())
    p = torch.sigmoid(teacher.double() / 2)
    q = torch.sigmoid(student.double()[:, :, [0, 0, 1, 1, 2, 2, 3, 3]][..., [0, 0, 1, 1, 2, 2]] / 2)  # nearest, by hand
    by_hand = (p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()).mean() * 4
    found = Segmentation().distils(student, [teacher.detach()], torch.ones(4), {"temperature": 2.0})
    assert found.item() == pytest.approx(by_hand.item(), rel=1e-5)
    alike = Segmentation().distils(teacher, [teacher.detach()], torch.ones(4), {})
    assert alike.item() == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("teacher", ["previous", "highest", "ensemble"])
def test_a_teacher_learns_nothing_from_its_students(name, teacher):
    task, outputs = TASKS[name], outputs_of(TASKS[name])
    targets = [torch.tensor([0, 1, 1, 0])] * 3 if name == "classification" else [torch.rand_like(o) for o in outputs]
    weights = torch.ones(4)
    task.objective("mrkd", {"alpha": 0.0, "teacher": teacher})(outputs, targets, weights, (1, 1, 1)).total.backward()
    (alone,) = torch.autograd.grad(task.loss(outputs[0], targets[0], weights) / 3, outputs[0])
    torch.testing.assert_close(outputs[0].grad, alone)
    assert outputs[1].grad.abs().sum() > 0 and outputs[2].grad.abs().sum() > 0
    leaked = torch.autograd.grad(task.distils(outputs[1], outputs[:1], weights, {}), outputs[0])[0]
    assert leaked.abs().sum() > 0, "were teachers not detached, the check above would fail"


@pytest.mark.parametrize("name", ["heatmap", "multires", "mrkd"])
@pytest.mark.parametrize("switches", [
    {}, {"alpha": 0.2, "teacher": "ensemble", "resize": "bilinear"}, {"weighting": "additive", "kd_weight": 0.3},
    {"resize": "matched", "loss": "kl", "temperature": 2.0, "teacher": "highest", "sigma": 1.5},
])  # fmt: skip
def test_the_frame_of_any_task_is_rafs_own_around_the_losses_of_heatmaps(name, switches):
    generator = torch.Generator().manual_seed(3)
    heatmaps, targets = ([torch.rand(2, 3, *s, generator=generator) for s in [(8, 6), (6, 4), (4, 3)]] for _ in "ab")
    weights = torch.tensor([[1.0, 0.0, 1.0], [1.0, 1.0, 0.0]])
    by_frame = Task.objective(Pose(), name, switches)(heatmaps, targets, weights, (1.0, 0.5, 2.0))
    by_name = build_objective(name, switches)(heatmaps, targets, weights, (1.0, 0.5, 2.0))
    assert by_frame.total.item() == by_name.total.item()
    assert [t.item() for t in (*by_frame.gt, *by_frame.kd)] == [t.item() for t in (*by_name.gt, *by_name.kd)]


def test_the_share_of_the_target_and_the_levels_weights_are_rafs_by_hand():
    task, outputs = Classification(), outputs_of(Classification())
    targets, weights = [torch.tensor([0, 1, 1, 0])] * 3, torch.ones(4)
    gt = [task.loss(o, t, weights).item() for o, t in zip(outputs, targets, strict=True)]
    kd = [task.distils(outputs[i], outputs[i - 1 : i], weights, {}).item() for i in (1, 2)]
    found = task.objective("mrkd", {"alpha": 0.2})(outputs, targets, weights, (1.0, 0.5, 2.0))
    by_hand = (gt[0] + 0.5 * (0.2 * gt[1] + 0.8 * kd[0]) + 2.0 * (0.2 * gt[2] + 0.8 * kd[1])) / 3
    assert found.total.item() == pytest.approx(by_hand, rel=1e-5)


# --- whole federations ----------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=TASKS)
def whole(request, tmp_path_factory):
    words = (f"task.name={request.param}", "objective.temperature=2", "algorithm.name=fedprox")
    return words, in_process(tmp_path_factory.mktemp("whole") / "run", *words)


def test_a_run_is_scored_by_its_task_at_every_size_and_opened_again_to_the_same_scores(whole):
    words, results = whole
    values = json.loads((results.folder / "results.json").read_text())
    metric, names = ("top1", ["back", "front"]) if "classification" in words[0] else ("IoU", ["person"])
    assert (values["task"], values["metric"]) == (words[0].removeprefix("task.name="), metric)
    assert len(values["by_resolution"]) == 7 and all(0 <= v <= 1 for v in values["by_resolution"].values())
    assert list(values["per_joint"]["64x48"]) == names
    assert not (results.folder / "samples.png").exists() and (results.folder / "drift.png").exists()
    scores, _ = score_run(load_run(results.folder))
    assert scores.by_resolution == results.by_resolution


def test_a_resumed_run_has_the_same_bits(whole, tmp_path):
    words, results = whole

    class Stops:
        def begin(self, prepared, folder): ...
        def see(self, event):
            if type(event).__name__ == "RoundFinished" and event.round == 1:
                raise RuntimeError("stopped by the test")

        def end(self, folder, results): ...

    with pytest.raises(RuntimeError, match="stopped by the test"):
        in_process(tmp_path / "part", *words, watchers=[Stops()])
    in_process(tmp_path / "part", *words, resume=True)
    assert torch.equal(state(tmp_path / "part"), state(results.folder))


@pytest.mark.parametrize("whole", ["examples.segmentation:Segmentation"], indirect=True)
def test_on_ray_a_run_has_the_same_bits(whole, tmp_path, ray_cluster):
    words, results = whole
    on_ray = run_federation(tiny(*words, "resources.clients_per_actor=3"), tmp_path / "ray")
    assert torch.equal(state(tmp_path / "ray"), state(results.folder))
    assert on_ray.by_resolution == results.by_resolution


def test_a_classifier_learns_to_tell_front_from_back_on_what_it_has_seen(tmp_path):
    words = ("task.name=classification", "federation.clients=[low]", "objective.name=heatmap", "federation.rounds=1",
             "federation.local_epochs=60", "data.people_per_client=32", "optimizer.batch_size=16",
             "optimizer.lr=0.003", "evaluation.resolutions=[64x48]")  # fmt: skip
    run = in_process(tmp_path / "run", *words)
    scored = load_run(run.folder)
    people = synthetic_people(0, "train", np.arange(32), 160.0)
    batch = batch_of(people, Size(64, 48))
    from raf_ray.data.batches import render_pyramid

    with torch.no_grad():
        answer = Classification().answer(scored.model(render_pyramid(batch, [Size(64, 48)])[0].images), "argmax")
    counted = Classification().targeted(people)
    told = (answer.argmax(1).numpy() == faces_us(people.joints, MPII16))[counted]
    assert told.mean() > 0.9 and torch.allclose(answer.sum(1), torch.ones(32))


def test_a_logged_model_answers_with_each_classs_probability(tmp_path):
    import mlflow

    from raf_ray.tracking.model_package import build_package

    run = in_process(tmp_path / "run", "task.name=classification", "federation.rounds=1")
    build_package(run.folder, tmp_path / "package", "0" * 32)
    model = mlflow.pyfunc.load_model(str(tmp_path / "package"))
    found = model.predict(np.zeros((3, 64, 48, 3), np.uint8))
    assert found.shape == (3, 2) and found.sum(axis=1) == pytest.approx(np.ones(3), rel=1e-5)


def test_a_comparison_leaves_out_what_is_of_heatmaps_alone():
    assert "raf-plus-mixed" in methods_of(tiny())
    for name in TASKS:
        assert {"fedavg-mixed", "raf-mixed"} < set(methods_of(tiny(f"task.name={name}")))
        assert "raf-plus-mixed" not in methods_of(tiny(f"task.name={name}"))


@pytest.mark.parametrize(("words", "says"), [
    (["task.name=clasification"], r"task\.name: must be 'classification' or 'pose'; .*'clasification'"),
    (["task.name=examples.segmentation:Mask"], "module 'examples.segmentation' has no 'Mask'"),
    (["task.name=tests.test_tasks:flat"], "cannot be made without parameters"),
    (["task.name=builtins:dict"], r"gives dict, not a raf_ray\.tasks\.interface\.Task"),
    (["task.name=classification", "evaluation.metric=oks_ap"], "oks_ap is of poses, .* it is scored by top1; leave"),
    (["task.name=classification", "evaluation.val_metric=oks_ap"], r"evaluation\.val_metric=oks_ap is of poses"),
    (["task.name=classification", "evaluation.decode=dark"], r"evaluation\.decode=dark is of poses"),
    (["evaluation.metric=top1"], r"evaluation\.metric: must be .*'top1'"),
    (["task.name=classification", "objective.resize=bilinear"], r"objective\.resize=bilinear is of heatmaps, which"),
    (["task.name=classification", "objective.loss=kl"], r"objective\.loss=kl is of heatmaps"),
    (["task.name=examples.segmentation:Segmentation", "objective.resize=matched"], "for Gaussian heatmaps, not for"),
    (["task.name=classification", "model.name=tests.test_tasks:flat"], "Flat cannot classify: it needs features"),
])  # fmt: skip
def test_what_does_not_go_together_is_refused_in_a_sentence(words, says):
    with pytest.raises(InputError, match=says) as error:
        prepare(tiny("federation.engine=in_process", *words))
    assert "\n" not in str(error.value)


def test_joints_cannot_be_drawn_by_a_run_that_has_learnt_none(whole, tmp_path):
    from raf_ray.predict import main

    with pytest.raises(InputError, match="of which there are no joints to draw"):
        main([str(whole[1].folder), "person.jpg"])


def test_masks_are_refused_where_pictures_are_cut_before(tmp_path):
    from raf_ray.search.spec import check_search
    from raf_ray.search.study import prepare_search

    search = check_search("mine", {
        "base": {"task": {"name": "examples.segmentation:Segmentation"}, "data": {"people_per_client": 4},
                 "tracking": {"mlflow": False}},
        "param_space": {"objective.alpha": {"choice": [0.2, 0.8]}}, "search_alg": "grid",
    })  # fmt: skip
    with pytest.raises(InputError, match="label maps, which neither prepared shards nor a search's shared data hold"):
        prepare_search(search, tmp_path / "search", resume=False, overwrite=False)
