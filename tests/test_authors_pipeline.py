"""The RAF authors' crops, targets and pyramid, each against loops written by hand; and what they cost an oracle."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from raf_ray.data.augment import NO_MARGINS, Augmentation, apply, draw_affines
from raf_ray.data.batches import Batches, heatmaps_of, images_at, joints_at, normalise
from raf_ray.data.codec import decode
from raf_ray.data.crop import CropRule, Margins
from raf_ray.data.shard import cut_shard
from raf_ray.data.skeletons import MPII16
from raf_ray.data.sources.synthetic import synthetic_people
from raf_ray.data.targets import counted, targets_of, to_image
from raf_ray.errors import InputError
from raf_ray.experiment.shards import prepare_shards
from raf_ray.request.assembly import prepare
from raf_ray.resolution import Size
from raf_ray.search.spec import check_search
from raf_ray.search.study import prepare_search
from tests.tiny import tiny

PEOPLE = synthetic_people(3, "test", np.arange(8), 160.0)
SIZE = Size(64, 48)
AUTHORS = CropRule(stretch=True, inner=True, reduced=False)
CPU = torch.device("cpu")


def hrnet_target(joint, size, udp):
    """One joint's heatmap and weight as HRNet and UDP write them, pixel by pixel."""
    height, width = size.height // 4, size.width // 4
    strides = ((size.width - 1) / (width - 1), (size.height - 1) / (height - 1)) if udp else (4.0, 4.0)
    peak = [joint[axis] / strides[axis] for axis in range(2)]
    middle = [int(value + 0.5) for value in peak]
    heatmap = np.zeros((height, width))
    left, top = middle[0] - 6, middle[1] - 6
    if left >= width or top >= height or middle[0] + 7 < 0 or middle[1] + 7 < 0:
        return heatmap, 0
    centre = peak if udp else middle
    for y in range(max(top, 0), min(top + 13, height)):
        for x in range(max(left, 0), min(left + 13, width)):
            heatmap[y, x] = math.exp(-((x - centre[0]) ** 2 + (y - centre[1]) ** 2) / 8)
    return heatmap, 1


@pytest.mark.parametrize("codec", ["udp", "authors"])
def test_targets_and_weights_are_those_of_a_loop_over_pixels(codec):
    joints = np.random.default_rng(0).uniform(-45, 110, (6, 16, 2)).astype(np.float32)
    joints[0, 0] = 20.0, 30.0
    found = targets_of(torch.from_numpy(joints), SIZE, codec)
    weights = counted(joints, np.ones((6, 16), bool), SIZE, codec)
    for i in range(6):
        for k in range(16):
            heatmap, weight = hrnet_target(joints[i, k].tolist(), SIZE, codec == "udp")
            assert np.abs(found[i, k].numpy() - heatmap).max() < 1e-5 and weights[i, k] == weight
    inside = counted(joints, np.ones((6, 16), bool), SIZE)
    assert (inside <= weights).all() and (inside != weights).any()  # ours counts fewer
    assert not counted(joints, np.zeros((6, 16), bool), SIZE, codec).any()
    assert (targets_of(torch.from_numpy(joints), SIZE) - found)[0, 0].abs().max() > 0.01


def test_udp_comes_back_to_the_joint_and_the_authors_rule_does_not():
    joints = torch.tensor([[[8.0, 10.0], [23.0, 31.5], [40.0, 56.0]]])
    errors = {}
    for codec in ("subpixel", "udp", "authors"):
        points, _ = decode(targets_of(joints, SIZE, codec).double(), "dark")
        errors[codec] = (to_image(points, SIZE.heatmap(), codec) - joints).abs().max().item()
    assert errors["subpixel"] < 0.3 and errors["udp"] < 0.3
    # 40 / 4 = 10 exactly, read as 10 x 47 / 11; 56 / 4 = 14 as 14 x 63 / 15
    assert errors["authors"] == pytest.approx(max(10 * 47 / 11 - 40, 14 * 63 / 15 - 56), abs=0.05)


def mmpose_point(point, centre, side, size):
    """A picture point in a UDP crop (MMPose's warp of a square): the square's sides are the outer pixels' centres."""
    return [(point[axis] - (centre[axis] - side / 2)) / side * (length - 1) for axis, length in
            enumerate((size.width, size.height))]  # fmt: skip


def test_a_stretched_crop_holds_a_square_of_the_persons_scale_by_pixel_and_by_joint():
    shard = cut_shard(PEOPLE, SIZE, NO_MARGINS, rule=AUTHORS)
    batch = Batches(shard, 8, None, CPU).collate(np.arange(8), np.random.default_rng(0))
    for i in range(3):
        picture = PEOPLE.picture(i).astype(np.float64)
        side = 1.25 * max(PEOPLE.box[i])
        centre = PEOPLE.centre[i].tolist()
        for k in range(16):
            assert batch.joints[i, k].tolist() == pytest.approx(
                mmpose_point(PEOPLE.joints[i, k].tolist(), centre, side, SIZE), abs=1e-3
            )
        for y, x in ((20, 15), (31, 24), (50, 30)):
            px, py = centre[0] + side * (x / 47 - 0.5), centre[1] + side * (y / 63 - 0.5)
            assert batch.crops[i, y, x].tolist() == pytest.approx(bilinear(picture, px, py), abs=6)
    back = shard.crop_to_picture(batch.joints.numpy())
    assert np.abs(back - PEOPLE.joints).max() < 1e-3
    fit = Batches(cut_shard(PEOPLE, SIZE, NO_MARGINS), 8, None, CPU).plain.labels[0]
    assert (fit - batch.joints).abs().max() > 2  # ours is another crop


def bilinear(picture, x, y):
    """(3,) of a picture between its pixels; black outside."""
    value = np.zeros(3)
    for row in (math.floor(y), math.floor(y) + 1):
        for column in (math.floor(x), math.floor(x) + 1):
            if 0 <= row < picture.shape[0] and 0 <= column < picture.shape[1]:
                value += (1 - abs(y - row)) * (1 - abs(x - column)) * picture[row, column]
    return value


def test_resampled_levels_are_read_from_the_picture_at_every_size_with_their_own_targets():
    shard = cut_shard(PEOPLE, SIZE, NO_MARGINS, rule=AUTHORS)
    batches, low = Batches(shard, 8, None, CPU), Size(32, 24)
    draw = batches.draw(np.arange(8), np.random.default_rng(0))
    batch = batches.render(draw, [SIZE, low])
    level = batch.warped[low]
    assert torch.equal(images_at(batch, [low])[0], normalise(level).permute(0, 3, 1, 2))
    for i in range(3):
        picture, side = PEOPLE.picture(i).astype(np.float64), 1.25 * max(PEOPLE.box[i])
        for y, x in ((8, 7), (15, 12), (24, 14)):
            px, py = PEOPLE.centre[i] + side * (np.array([x / 23, y / 31]) - 0.5)
            assert level[i, y, x].tolist() == pytest.approx(bilinear(picture, px, py), abs=6)
        for k in range(16):
            point = mmpose_point(PEOPLE.joints[i, k].tolist(), PEOPLE.centre[i].tolist(), side, low)
            target = heatmaps_of(batch, low, "udp")[i, k].numpy()
            assert np.abs(target - hrnet_target(point, low, udp=True)[0]).max() < 1e-3
    averaged = images_at(batches.render(draw), [low])[0]
    assert (averaged - images_at(batch, [low])[0]).abs().max() > 0.1  # an average is smoother


@pytest.mark.parametrize("rule", [AUTHORS, CropRule(reduced=False), CropRule(inner=True, reduced=False)])
def test_moved_and_mirrored_people_keep_their_joints_on_their_pixels_at_every_level(rule):
    """A picture whose colours are its coordinates: below a joint lies the place where the joint was."""
    ramp = np.zeros((250, 250, 3), np.uint8)
    ramp[..., 0], ramp[..., 1] = np.meshgrid(np.arange(250), np.arange(250))
    truth = np.random.default_rng(1).uniform((100, 85), (140, 155), (8, 16, 2)).astype(np.float32)
    people = replace(PEOPLE, joints=truth, centre=np.full((8, 2), 120, np.float32), read=lambda row: ramp,
                     box=np.full((8, 2), (60, 100), np.float32), visibility=np.full((8, 16), 2, np.uint8))  # fmt: skip
    asked = Augmentation(flip=0.5, scale=0.2, rotation=40, rotation_share=1, half_body=0, shift=0.12, rotation_cut=60)
    shard = cut_shard(people, SIZE, asked.margins(rule.aspect(SIZE)), rule=rule)
    batches = Batches(shard, 8, asked, CPU)
    draw = batches.draw(np.arange(8), np.random.default_rng(2))
    batch, low, read = batches.render(draw, [Size(32, 24)]), Size(32, 24), 0
    mirrored = np.linalg.det(draw.moved.maps[:, :, :2]) < 0
    assert mirrored.any() and not mirrored.all()
    for size, crops in ((SIZE, batch.crops), (low, batch.warped[low])):
        joints = joints_at(batch, size).numpy()
        for i in range(8):
            for k in range(16):
                x, y = joints[i, k]
                if 1 <= x <= size.width - 2 and 1 <= y <= size.height - 2:
                    which = MPII16.flip_order[k] if mirrored[i] else k
                    found = bilinear(crops[i].numpy().astype(float), float(x), float(y))[:2]
                    assert np.abs(found - truth[i, which]).max() < 1.5  # whole numbers, and OpenCV's 1/32 of a pixel
                    read += 1
    assert read > 150


def test_a_person_is_turned_before_being_squeezed():
    joints = np.full((1, 16, 2), 30.0)
    turned = Augmentation(0, 0, 90, 1, 0)
    rng, squeeze = np.random.default_rng(5), AUTHORS.squeeze(SIZE)
    maps, _ = draw_affines(turned, joints, np.ones((1, 16), bool), SIZE, MPII16, rng, squeeze)
    a, b, c, d = maps[0, :, :2].ravel()
    # In the picture's proportions it is a rotation: x of the crop is squeeze times as dense as y.
    real = np.array([[a, b / squeeze], [c * squeeze, d]])
    assert np.allclose(real @ real.T, np.eye(2)) and abs(real[0, 1]) > 0.05 and squeeze == pytest.approx(47 / 63)


def test_the_box_is_shifted_and_turns_are_cut_as_said():
    asked = Augmentation(flip=0, scale=0, rotation=30, rotation_share=1, half_body=0, shift=0.12, rotation_cut=60)
    joints, labelled = np.zeros((4000, 16, 2)), np.zeros((4000, 16), bool)
    maps, _ = draw_affines(asked, joints, labelled, SIZE, MPII16, np.random.default_rng(0))
    angle = np.degrees(np.arctan2(maps[:, 1, 0], maps[:, 0, 0]))
    assert np.abs(angle).max() == pytest.approx(60) and 0.02 < (np.abs(angle) > 59.99).mean() < 0.07  # 2 sigma: 4.6 %
    middle = np.array([[[23.5, 31.5]]]).repeat(4000, 0)
    moved = np.abs(np.einsum("bji,bj->bi", maps[:, :, :2], apply(maps, middle)[:, 0] - middle[:, 0])) / (48, 64)
    shifted = moved.max(1) > 1e-9
    assert 0.27 < shifted.mean() < 0.33 and 0.115 < moved.max() < 0.12 + 1e-9
    assert abs(moved[shifted].mean() - 0.06) < 0.003  # uniform to 0.12


def test_patches_hold_what_the_widest_turn_and_shift_reach():
    asked = Augmentation(scale=0.1, rotation=30, rotation_cut=60, shift=0.12)
    for rule in (CropRule(), AUTHORS):
        margins = asked.margins(rule.aspect(SIZE))
        width, height = rule.aspect(SIZE), 1.0
        for degrees in range(61):
            turn = math.radians(degrees)
            wide = 1.1 * (width * math.cos(turn) + height * math.sin(turn)) / width + 0.24
            tall = 1.1 * (height * math.cos(turn) + width * math.sin(turn)) / height + 0.24
            assert margins.cover(Margins(wide, tall))


@pytest.mark.parametrize("word", ["data.crop=stretch", "data.codec=udp", "data.pyramid=resample"])
def test_prepared_shards_and_searches_hold_our_crops_alone(word, tmp_path):
    key, value = word.removeprefix("data.").split("=")
    with pytest.raises(InputError, match=f"data.{key}={value}: a folder of prepared shards holds people cut by"):
        prepare_shards(tiny(word), tmp_path / "shards")
    base = {"data": {key: value, "people_per_client": 12}}
    asked = {"base": base, "param_space": {"objective.alpha": {"choice": [0.2]}}, "search_alg": "grid"}
    with pytest.raises(InputError, match=f"data.{key}={value}: a search holds people cut by"):
        prepare_search(check_search("mine", asked), tmp_path / "search", resume=False, overwrite=False)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["task.name=classification", "data.codec=udp"], "data.codec=udp is of heatmaps, which task.name=classif"),
        (["objective.resize=matched", "data.codec=authors"], "objective.resize=matched brings teachers to the Gaussi"),
        (["data.name=shards", "data.root=somewhere", "data.crop=stretch"], "a folder of prepared shards holds people"),
    ],
)
def test_what_does_not_go_together_is_refused(words, says):
    with pytest.raises(InputError, match=says):
        prepare(tiny(*words))
