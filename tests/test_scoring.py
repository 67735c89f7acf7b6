"""Scoring: a perfect model gets 1.0 at every size, a mirrored one does not; the flip test by hand; nothing to score."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from torch import nn

from raf_ray.data.augment import NO_MARGINS, apply
from raf_ray.data.codec import encode, image_to_heatmap
from raf_ray.data.people import People, PictureError
from raf_ray.data.shard import cut_shard
from raf_ray.data.skeletons import MPII16
from raf_ray.data.sources.synthetic import synthetic_people
from raf_ray.errors import InputError, RunError
from raf_ray.evaluation.scorer import Scorer
from raf_ray.metrics import Labels, built_in
from raf_ray.request.plans import plan_clients, upsampled_sizes
from raf_ray.resolution import Size, parse_size
from raf_ray.tasks.pose import check_metric, labels_of
from tests.tiny import tiny

PEOPLE = synthetic_people(7, "test", np.arange(12), 160.0)


class Oracle(nn.Module):
    """Gives the targets of PEOPLE in order, whatever the picture; `mirrored` exchanges left and right."""

    def __init__(self, mirrored: bool = False) -> None:
        super().__init__()
        self.mirrored = mirrored
        self.next = 0
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        size = Size(*images.shape[-2:])
        shard = cut_shard(PEOPLE, size, NO_MARGINS)
        index = np.arange(self.next, self.next + len(images))
        self.next = (self.next + len(images)) % len(PEOPLE)
        joints = torch.tensor(apply(shard.to_crop(index), shard.joints[index]), dtype=torch.float32)
        if self.mirrored:
            joints = joints[:, PEOPLE.skeleton.flip_order]
        return encode(image_to_heatmap(joints), size.heatmap()) * self.scale


def scorer(model: nn.Module, metric: str = "pck_torso_0.2", flip_test: bool = False) -> Scorer:
    return Scorer(
        model=model, people={"test": PEOPLE}, metrics={"test": metric}, decode="dark", flip_test=flip_test,
        batch_size=5, device=torch.device("cpu"), bf16=False, on_bad_image="stop", cache_mb=64,
    )  # fmt: skip


@pytest.mark.parametrize("metric", ["pck_torso_0.2", "pckh_0.5", "pckh_neck_0.5", "oks_ap"])
def test_a_perfect_model_scores_one_at_every_size_and_a_mirrored_one_does_not(metric):
    sizes = ["160x120", "128x96", "64x48"]
    perfect = scorer(Oracle(), metric).score("test", [parse_size(size) for size in sizes])
    assert perfect.by_resolution == {size: pytest.approx(1.0) for size in sizes}
    mirrored = scorer(Oracle(mirrored=True), metric).score("test", [parse_size(size) for size in sizes])
    assert all(value < 0.9 for value in mirrored.by_resolution.values())


def test_samples_are_drawn_at_the_sizes_asked_for_with_joints_in_crop_pixels():
    scores = scorer(Oracle()).score("test", [Size(128, 96), Size(64, 48)], [Size(64, 48)])
    assert len(scores.samples) == 6 and {s.size for s in scores.samples} == {"64x48"}
    for sample in scores.samples:
        shown = sample.labelled
        assert np.abs(sample.predicted[shown] - sample.truth[shown]).max() < 2.0  # half a heatmap pixel, at the edge
        assert sample.crop.shape == (64, 48, 3)


def test_the_flip_test_averages_with_the_mirror_images_heatmaps():
    torch.manual_seed(0)
    model = nn.Conv2d(3, 16, 4, 4)
    found = scorer(model, flip_test=True)
    batches = found._batches_of("test", Size(64, 48))
    from raf_ray.data.batches import render_pyramid

    level = render_pyramid(batches.collate(np.arange(4), np.random.default_rng(0)), [parse_size("64x48")])[0]
    with torch.no_grad():
        plain = model(level.images)
        mirrored = model(level.images.flip(-1))
    by_hand = torch.empty_like(plain)
    for k in range(16):
        partner = int(PEOPLE.skeleton.flip_order[k])
        for x in range(12):
            by_hand[:, k, :, x] = (plain[:, k, :, x] + mirrored[:, partner, :, 11 - x]) / 2
    assert torch.allclose(found._outputs(level.images, PEOPLE.skeleton), by_hand, atol=1e-6)


def test_threads_score_to_the_same_bits():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 16, 4, 4), nn.BatchNorm2d(16))
    by_turns, at_once = (replace(scorer(model, flip_test=True), threads=threads) for threads in (1, 3))
    for one in (by_turns, at_once):
        one.batch_size = 2
    size = Size(64, 48)
    judged, read = by_turns._judge(by_turns._batches_of("test", size))
    assert len(np.unique(judged)) > 100 and read.all()  # answers differ from person to person
    for _ in range(5):
        assert np.array_equal(at_once._judge(at_once._batches_of("test", size))[0], judged)


# --- test-time interpolation ----------------------------------------------------------------------------------


class Watched(Oracle):
    """Remembers the images that it saw."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.seen = images
        return super().forward(images)


@pytest.mark.parametrize("mode", ["nearest", "bilinear", "bicubic"])
def test_a_small_test_size_is_interpolated_before_the_model_and_its_joints_come_back_to_it(mode):
    small, large = Size(48, 36), Size(128, 96)
    found = replace(scorer(Watched()), upsample=mode, upsampled={small: large})
    scores = found.score("test", [small, Size(64, 48)], [small])
    assert scores.by_resolution == {"48x36": pytest.approx(1.0), "64x48": pytest.approx(1.0)}
    for sample in scores.samples:
        # The oracle answers at 128x96, so joints are right to half a pixel of its heatmap: 2 x 48 / 128 = 0.75 px.
        assert np.abs(sample.predicted[sample.labelled] - sample.truth[sample.labelled]).max() < 0.75
    assert found.model.seen.shape[-2:] == (64, 48)  # the other size is as it is


def test_nearest_doubles_every_pixel():
    found = replace(scorer(Watched()), upsample="nearest", upsampled={Size(32, 24): Size(64, 48)}, batch_size=12)
    plain = scorer(Watched())
    plain.batch_size = 12
    for one in (found, plain):
        one.score("test", [Size(32, 24)])
    doubled = plain.model.seen.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    assert torch.equal(found.model.seen, doubled)


@pytest.mark.parametrize(
    ("words", "expected"),
    [((), {}),
     (("evaluation.upsample=bilinear",), {"112x84": "128x96", "80x60": "96x72", "48x36": "64x48"}),
     (("evaluation.upsample=bilinear", "evaluation.upsample_to=largest"),
      dict.fromkeys(["112x84", "96x72", "80x60", "64x48", "48x36"], "128x96")),
     (("evaluation.upsample=nearest", "federation.clients=[high,high]"),
      dict.fromkeys(["112x84", "96x72", "80x60", "64x48", "48x36"], "128x96"))],
)  # fmt: skip
def test_sizes_go_to_a_trained_one_above_them_and_none_comes_down(words, expected):
    config = tiny(*words)
    found = upsampled_sizes(config, plan_clients(config))
    assert {str(size): str(to) for size, to in found.items()} == expected


# --- nothing to score ---------------------------------------------------------------------------------------


def changed(**arrays: np.ndarray) -> People:
    return replace(PEOPLE, **arrays)


def score_of(metric: str, people: People, joints: np.ndarray) -> float:
    return built_in()[metric].measure(labels_of(people), joints, np.ones(people.visibility.shape)).value


def without(*joints: str) -> People:
    visibility = PEOPLE.visibility.copy()
    visibility[:, [PEOPLE.skeleton.index(joint) for joint in joints]] = 0
    return changed(visibility=visibility)


def only(*joints: str) -> People:
    return without(*(joint for joint in PEOPLE.skeleton.joints if joint not in joints))


ONES = np.ones(len(PEOPLE), np.float32)
UNFIT = [
    ("pck_torso_0.2", without("left_hip", "right_hip")),
    ("pck_torso_0.2", without("left_shoulder", "right_hip", "right_shoulder")),
    ("pck_torso_0.2", changed(joints=np.full_like(PEOPLE.joints, 40.0))),
    ("pckh_neck_0.5", without("upper_neck")),
    ("pckh_neck_0.5", without("head_top")),
    ("pckh_0.5", changed(head_size=0 * ONES)),
    ("pckh_0.5", only("pelvis", "thorax")),
    ("oks_ap", changed(area=np.inf * ONES)),
    ("oks_ap", changed(area=np.nan * ONES)),
    ("oks_ap", changed(area=3e10 * ONES)),
    ("oks_ap", changed(visibility=np.zeros_like(PEOPLE.visibility))),
]


@pytest.mark.parametrize(("metric", "people"), UNFIT, ids=lambda v: v if isinstance(v, str) else "")
def test_people_of_whom_nothing_can_be_scored_are_refused_before_the_start(metric, people):
    with pytest.raises(InputError, match=rf"^nothing can be scored on val by {metric}: none of its 12 people has"):
        check_metric(metric, people, "val")
    assert not np.isfinite(score_of(metric, people, people.joints))


@pytest.mark.parametrize("metric", ["pck_torso_0.2", "pckh_0.5", "pckh_neck_0.5", "oks_ap"])
def test_one_person_who_can_be_scored_is_enough(metric):
    for unfit in (people for name, people in UNFIT if name == metric):
        arrays = {
            f.name: np.concatenate([getattr(unfit, f.name), getattr(PEOPLE, f.name)[:1]])
            for f in fields(People) if isinstance(getattr(PEOPLE, f.name), np.ndarray)
        }  # fmt: skip
        check_metric(metric, replace(unfit, **arrays), "test")


def test_an_infinite_head_is_no_measure():
    people = changed(head_size=np.where(np.arange(len(PEOPLE)) < 6, np.inf, PEOPLE.head_size).astype(np.float32))
    assert score_of("pckh_0.5", people, people.joints + 1e4) == 0


def skips(people: People) -> Scorer:
    found = scorer(nn.Conv2d(3, 16, 4, 4))
    return replace(found, people={"test": people}, on_bad_image="skip")


def test_scoring_ends_with_the_cause_where_no_picture_can_be_read():
    def read(row: int) -> np.ndarray:
        raise PictureError("picture 7.jpg is missing")

    with pytest.raises(RunError, match=r"^nothing could be scored on test: none of its 12 people has a picture that "):
        skips(changed(read=read)).score("test", [Size(64, 48)])


def test_scoring_ends_with_the_cause_where_those_with_a_picture_have_not_the_labels():
    def read(row: int) -> np.ndarray:
        if row < 3:
            raise PictureError("picture 7.jpg is missing")
        return PEOPLE.read(row)

    visibility = without("left_hip", "right_hip").visibility.copy()
    visibility[:3] = 2
    people = changed(read=read, visibility=visibility)
    check_metric("pck_torso_0.2", people, "test")
    with pytest.raises(
        RunError, match=r"3 of its 12 people were left out, .* none of the 9 others has labels of a sho"
    ):
        skips(people).score("test", [Size(64, 48), Size(48, 36)])


def test_a_joint_without_a_score_is_no_fault():
    scores = replace(scorer(Oracle()), people={"test": without("head_top")}).score("test", [Size(64, 48)])
    assert np.isnan(scores.per_joint["64x48"]["head_top"]) and scores.by_resolution["64x48"] > 0.9


# --- MPII's table -------------------------------------------------------------------------------------------


def test_pckh_has_mpiis_strict_mean_and_groups_of_joints() -> None:
    """Two people with a head of 10 px, so 5 px are near and 1 px is very near; worked out by hand."""
    k = len(MPII16)
    labelled = np.ones((2, k), np.uint8) * 2
    truth = np.zeros((2, k, 2))
    predicted = truth.copy()
    left, right = MPII16.joints.index("left_elbow"), MPII16.joints.index("right_elbow")
    predicted[:, left, 0] = 6  # both miss
    predicted[0, right, 0] = 4  # near, not very near
    predicted[1, MPII16.joints.index("head_top"), 0] = 7  # one misses
    predicted[:, MPII16.joints.index("pelvis"), 0] = 99  # does not count
    labels = Labels("mpii16", MPII16.joints, np.array(MPII16.sigmas), truth, labelled, np.ones(2), np.ones((2, 4)),
                    np.full(2, 10.0), np.arange(2))  # fmt: skip
    score = built_in()["pckh_0.5"].measure(labels, predicted, np.ones((2, k)))
    assert score.value == pytest.approx(25 / 28)
    groups = {"Head": 0.5, "Shoulder": 1, "Elbow": 0.5, "Wrist": 1, "Hip": 1, "Knee": 1, "Ankle": 1}
    assert dict(score.extra) == pytest.approx({"Mean@0.1": 24 / 28, **groups})
