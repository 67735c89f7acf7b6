"""Objectives against numbers by hand and a slow, loop-style second implementation."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from raf_ray.data.codec import encode, image_to_heatmap
from raf_ray.objectives.heatmap import heatmap, weighted_mse
from raf_ray.objectives.levels import draw_levels, level_weights
from raf_ray.objectives.mrkd import matched_teacher, mrkd, multires, spatial_kl
from raf_ray.resolution import Size

SHAPES = [(8, 6), (6, 4), (4, 3)]


def levels(seed: int = 0, batch: int = 2, joints: int = 3):
    generator = torch.Generator().manual_seed(seed)
    heatmaps = [torch.rand(batch, joints, *s, generator=generator, requires_grad=True) for s in SHAPES]
    targets = [torch.rand(batch, joints, *s, generator=generator) for s in SHAPES]
    weights = torch.tensor([[1.0, 0.0, 1.0], [1.0, 1.0, 0.0]])
    return heatmaps, targets, weights


def slow_mse(a, b, weights) -> float:
    """Loop over every number: weight x squared difference, over the number of all of them."""
    total, count = 0.0, 0
    a, b = a.detach(), b.detach()
    batch, joints, height, width = a.shape
    for i in range(batch):
        for k in range(joints):
            for y in range(height):
                for x in range(width):
                    total += float(weights[i, k]) * (float(a[i, k, y, x]) - float(b[i, k, y, x])) ** 2
                    count += 1
    return total / count


def slow_nearest(maps, size):
    """torch's `nearest`: source index floor(i * in / out)."""
    height, width = maps.shape[-2:]
    out = torch.empty(*maps.shape[:2], *size)
    for y in range(size[0]):
        for x in range(size[1]):
            out[..., y, x] = maps[..., math.floor(y * height / size[0]), math.floor(x * width / size[1])]
    return out


def slow_kl(student, teacher, weights, temperature) -> float:
    total = 0.0
    batch, joints = student.shape[:2]
    for i in range(batch):
        for k in range(joints):
            q = np.exp(student[i, k].detach().double().numpy() / temperature)
            p = np.exp(teacher[i, k].detach().double().numpy() / temperature)
            q, p = q / q.sum(), p / p.sum()
            total += float(weights[i, k]) * float((p * np.log(p / q)).sum())
    return total / (batch * joints) * temperature**2


def slow_mrkd(heatmaps, targets, weights, factors, *, alpha=0.5, teacher="previous", kd=slow_mse, additive=None):
    total = 0.0
    for level, (student, target) in enumerate(zip(heatmaps, targets, strict=True)):
        gt = slow_mse(student, target, weights)
        if level == 0:
            total += factors[level] * gt
            continue
        if teacher == "ensemble":
            size = heatmaps[0].shape[-2:]
            taught = sum(slow_nearest(h, size) for h in heatmaps[:level]) / level
        else:
            taught = heatmaps[level - 1] if teacher == "previous" else heatmaps[0]
        loss_kd = kd(slow_nearest(student, taught.shape[-2:]), taught, weights)
        mixed = alpha * gt + (1 - alpha) * loss_kd if additive is None else gt + additive * loss_kd
        total += factors[level] * mixed
    return total / len(heatmaps)


def test_mse_by_hand_keeps_unlabelled_joints_in_the_denominator():
    heatmaps = torch.zeros(1, 2, 1, 2)
    targets = torch.tensor([[[[1.0, 3.0]], [[5.0, 5.0]]]])
    weights = torch.tensor([[1.0, 0.0]])
    assert weighted_mse(heatmaps, targets, weights).item() == pytest.approx((1 + 9) / 4)


def test_heatmap_objective_is_the_first_level_alone():
    heatmaps, targets, weights = levels()
    loss = heatmap(heatmaps, targets, weights, [1.0, 1.0, 1.0])
    assert loss.total.item() == pytest.approx(slow_mse(heatmaps[0], targets[0], weights), rel=1e-5)
    assert loss.kd == []


@pytest.mark.parametrize("teacher", ["previous", "highest", "ensemble"])
@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.5])
def test_mrkd_equals_the_slow_implementation(teacher, alpha):
    heatmaps, targets, weights = levels()
    factors = [1.0, 0.7, 0.2]
    loss = mrkd(heatmaps, targets, weights, factors, alpha=alpha, teacher=teacher)
    expected = slow_mrkd(heatmaps, targets, weights, factors, alpha=alpha, teacher=teacher)
    assert loss.total.item() == pytest.approx(expected, rel=1e-5)


def test_additive_weighting_is_target_plus_weighted_distillation():
    heatmaps, targets, weights = levels()
    loss = mrkd(heatmaps, targets, weights, [1, 1, 1], weighting="additive", kd_weight=0.3)
    assert loss.total.item() == pytest.approx(slow_mrkd(heatmaps, targets, weights, [1, 1, 1], additive=0.3), rel=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_kl_equals_the_slow_implementation(temperature):
    heatmaps, targets, weights = levels()
    loss = mrkd(heatmaps, targets, weights, [1, 1, 1], loss="kl", temperature=temperature)

    def kd(a, b, w):
        return slow_kl(a, b, w, temperature)

    assert loss.total.item() == pytest.approx(slow_mrkd(heatmaps, targets, weights, [1, 1, 1], kd=kd), rel=1e-5)


def test_kl_of_equal_maps_is_zero():
    maps = torch.rand(1, 2, 4, 3)
    assert spatial_kl(maps, maps, torch.ones(1, 2), 2.0).item() == pytest.approx(0, abs=1e-7)


def test_one_level_is_plain_training():
    heatmaps, targets, weights = levels()
    alone = mrkd(heatmaps[:1], targets[:1], weights, [1.0])
    plain = heatmap(heatmaps[:1], targets[:1], weights, [1.0])
    assert torch.equal(alone.total, plain.total)


def test_multires_is_mrkd_with_alpha_one():
    heatmaps, targets, weights = levels()
    control = multires(heatmaps, targets, weights, [1, 1, 1])
    expected = sum(slow_mse(h, t, weights) for h, t in zip(heatmaps, targets, strict=True)) / 3
    assert control.total.item() == pytest.approx(expected, rel=1e-5)
    assert control.kd == []


@pytest.mark.parametrize("resize", ["nearest", "bilinear", "matched"])
@pytest.mark.parametrize("teacher", ["previous", "highest", "ensemble"])
def test_no_gradient_flows_into_a_teacher(resize, teacher):
    heatmaps, targets, weights = levels()
    with_kd = mrkd(heatmaps, targets, weights, [1, 1, 1], alpha=0.5, resize=resize, teacher=teacher)
    (gradient,) = torch.autograd.grad(with_kd.total, heatmaps[0])
    top_alone = weighted_mse(heatmaps[0], targets[0], weights) / 3
    (expected,) = torch.autograd.grad(top_alone, heatmaps[0])
    assert torch.allclose(gradient, expected)


def test_students_do_learn_from_their_teacher():
    heatmaps, targets, weights = levels()
    loss = mrkd(heatmaps, targets, weights, [1, 1, 1], alpha=0.0)
    gradient = torch.autograd.grad(loss.total, heatmaps[2])[0]
    assert gradient.abs().sum() > 0


@pytest.mark.parametrize(("high", "low"), [((32, 24), (24, 18)), ((32, 24), (16, 12)), ((24, 18), (16, 12))])
def test_matched_teacher_turns_the_teachers_target_into_the_students(high, low):
    """A joint at one place of the image: both targets are the same Gaussian once matched."""
    image = torch.tensor([[[61.3, 70.2], [40.0, 50.5]]])
    scale = 4 * high[0] / 128

    def target(size):
        points = (image + 0.5) * (size[0] * 4 / 128) - 0.5
        return encode(image_to_heatmap(points), Size(*size))

    matched = matched_teacher(target(high), low, sigma=2.0)
    own = target(low)
    assert matched.amax().item() == pytest.approx(1.0, abs=0.05)
    assert (matched - own).abs().max().item() < 0.04, scale


def test_area_weights_are_the_share_of_the_own_tiers_pixels():
    assert level_weights("area", [128 * 96, 96 * 72, 64 * 48]) == pytest.approx((1, 0.5625, 0.25))
    assert level_weights("equal", [4, 2]) == (1.0, 1.0)
    assert level_weights([1, 0.5, 0.1], [4, 2]) == (1.0, 0.5)
    with pytest.raises(ValueError, match="1 entries for a pyramid of 2"):
        level_weights([1.0], [4, 2])


def draws(sampling, share, count=3, times=4000):
    rng = np.random.default_rng(0)
    return [draw_levels(sampling, share, count, rng) for _ in range(times)]


def test_all_draws_every_level_and_a_single_level_is_always_drawn():
    assert set(draws("all", None)) == {(0, 1, 2)}
    for sampling in ("all", "pair", "random"):
        assert set(draws(sampling, 0.3, count=1)) == {(0,)}


def test_pair_draws_the_own_tier_and_one_lower_level_uniformly():
    found = draws("pair", None)
    assert set(found) == {(0, 1), (0, 2)}
    assert found.count((0, 1)) / len(found) == pytest.approx(0.5, abs=0.03)
    shared = draws("pair", 0.25)
    assert shared.count((0,)) / len(shared) == pytest.approx(0.25, abs=0.03)


def test_random_draws_one_level_alone():
    found = draws("random", None)
    assert {len(levels) for levels in found} == {1}
    assert found.count((0,)) / len(found) == pytest.approx(0.5, abs=0.03)
    assert found.count((2,)) / len(found) == pytest.approx(0.25, abs=0.03)
    assert draws("random", 0.0).count((0,)) == 0


def test_the_weighted_mse_has_the_value_and_the_gradient_of_its_formula():
    torch.manual_seed(0)
    heatmaps = torch.randn(2, 3, 4, 5, dtype=torch.float64).requires_grad_()
    targets, weights = torch.rand(2, 3, 4, 5, dtype=torch.float64), torch.rand(2, 3, dtype=torch.float64)
    formula = ((heatmaps - targets) ** 2 * weights[..., None, None]).mean()
    found = weighted_mse(heatmaps, targets, weights)
    assert torch.allclose(found, formula, rtol=1e-12)
    (expected,) = torch.autograd.grad(3 * formula, heatmaps)
    (gradient,) = torch.autograd.grad(3 * found, heatmaps)
    assert torch.allclose(gradient, expected, rtol=1e-12)
    last = heatmaps.detach().contiguous(memory_format=torch.channels_last).requires_grad_()
    (gradient,) = torch.autograd.grad(weighted_mse(last, targets, weights), last)
    assert gradient.is_contiguous(memory_format=torch.channels_last)
