"""Shards and batches: the tier is honest, coordinates are exact, augmentation is one affine map."""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np
import pytest
import torch

from raf_ray.data.augment import NO_MARGINS, Augmentation, apply, compose, draw_affines
from raf_ray.data.batches import MEAN, STD, Batches, normalise, render_pyramid
from raf_ray.data.codec import encode, image_to_heatmap
from raf_ray.data.crop import Margins, lay_patches
from raf_ray.data.people import People, PictureError
from raf_ray.data.shard import cut_shard
from raf_ray.data.skeletons import MPII16
from raf_ray.data.sources.synthetic import synthetic_people
from raf_ray.data.warp import reduce, warp_grid_sample, warp_opencv
from raf_ray.filters import area_resize
from raf_ray.resolution import Size

CPU = torch.device("cpu")


def person(picture: np.ndarray, box: tuple[float, float, float, float], joints: np.ndarray | None = None) -> People:
    """One person with a box (x, y, w, h) in pixel indices."""
    x, y, w, h = box
    points = np.zeros((1, 16, 2), np.float32) if joints is None else joints[None].astype(np.float32)
    return People(
        skeleton=MPII16, joints=points, visibility=np.full((1, 16), 2, np.uint8),
        centre=np.array([[x + w / 2, y + h / 2]], np.float32), box=np.array([[w, h]], np.float32),
        area=np.array([w * h], np.float32), head_size=np.array([np.nan], np.float32),
        person_id=np.zeros(1, np.int64), picture_id=np.zeros(1, np.int64), rows=np.zeros(1, np.int64),
        read=lambda _row: picture,
    )  # fmt: skip


@pytest.mark.parametrize("size", [Size(128, 96), Size(96, 72), Size(64, 48), Size(160, 120), Size(48, 36)])
def test_a_patch_never_holds_more_pixels_than_the_tier(size):
    people = synthetic_people(3, "train", np.arange(40), 160.0)
    shard = cut_shard(people, size, Augmentation().margins(size.aspect))
    # Pixels of the unaugmented crop per pixel of the patch: at least one, so nothing finer is stored.
    assert (shard.scale >= 1 - 1e-6).all()
    assert (shard.scale < 1.1).all()
    assert not shard.upsampled.any()


def test_a_zoom_shows_no_finer_pixels_than_the_tier():
    """A checkerboard finer than the tier is grey in the patch, and so in whatever is cut from it."""
    board = np.indices((2000, 1600)).sum(0) % 2 * 255
    picture = np.repeat(board[..., None], 3, 2).astype(np.uint8)
    shard = cut_shard(person(picture, (600, 700, 400, 600)), Size(64, 48), Augmentation().margins(0.75))
    inside = shard.patch(0)[20:-20, 20:-20]
    assert inside.std() < 10


def test_a_person_smaller_than_the_tier_is_warped_directly_and_counted():
    picture = np.random.default_rng(0).integers(0, 255, (100, 100, 3), dtype=np.uint8)
    people = person(picture, (30, 20, 30, 40))
    shard = cut_shard(people, Size(128, 96), NO_MARGINS)
    assert shard.upsampled.tolist() == [True]
    assert shard.picture_scale.tolist() == [[1.0, 1.0]]
    lay = lay_patches(people, Size(128, 96), NO_MARGINS)
    x, y = lay.start[0]
    assert np.array_equal(shard.patch(0)[5, 5], picture[y + 5, x + 5])


def test_margins_cover_the_augmentation():
    margins = Augmentation().margins(0.75)
    assert margins.width == pytest.approx(1.91, abs=0.01)
    assert margins.height == pytest.approx(1.55, abs=0.01)
    assert margins.cover(Margins()) and not Margins().cover(margins)


@pytest.mark.parametrize("size", [Size(256, 192), Size(96, 72), Size(100, 76)])
def test_joints_keep_their_place_from_picture_to_crop_and_back(size):
    people = synthetic_people(4, "train", np.arange(30), 160.0)
    shard = cut_shard(people, size, Augmentation().margins(size.aspect))
    crops = apply(shard.to_crop(np.arange(30)), shard.joints)
    assert np.abs(shard.crop_to_picture(crops) - people.joints).max() < 0.01


def test_a_dot_in_the_picture_is_found_at_its_joint_in_the_crop():
    picture = np.zeros((400, 300, 3), np.uint8)
    cv2.circle(picture, (170, 210), 6, (255, 255, 255), -1)
    joints = np.zeros((16, 2))
    joints[0] = (170, 210)
    batches = Batches(cut_shard(person(picture, (60, 60, 200, 280), joints), Size(128, 96), NO_MARGINS), 1, None, CPU)
    batch = batches.collate(np.array([0]), np.random.default_rng(0))
    light = batch.crops[0].float().mean(-1).numpy()
    y, x = np.indices(light.shape)
    centre = np.array([(light * x).sum(), (light * y).sum()]) / light.sum()
    assert np.abs(centre - batch.joints[0, 0].numpy()).max() < 0.1


def augmented(people=24, seed=0):
    size = Size(128, 96)
    source = synthetic_people(seed, "train", np.arange(people), 160.0)
    shard = cut_shard(source, size, Augmentation().margins(size.aspect))
    index = np.arange(people)
    maps = shard.to_crop(index)
    joints = apply(maps, shard.joints)
    rng = np.random.default_rng(seed)
    drawn, mirrored = draw_affines(Augmentation(), joints, shard.visibility > 0, size, MPII16, rng)
    return shard, compose(drawn, maps), drawn, joints, mirrored


def test_opencv_and_grid_sample_give_the_same_pictures():
    shard, maps, *_ = augmented()
    patches = [shard.patch(i) for i in range(len(shard))]
    one = warp_opencv(patches, maps, shard.size).float()
    other = warp_grid_sample(patches, maps, shard.size, CPU).float()
    assert (one - other).abs().mean().item() < 2.0
    assert one.std() > 20


def test_the_augmentation_moves_joints_with_the_picture():
    shard, maps, drawn, joints, _ = augmented()
    moved = apply(drawn, joints)
    assert np.abs(apply(maps, shard.joints) - moved).max() < 0.01


def test_draws_stay_within_their_bounds():
    size = Size(128, 96)
    joints = np.tile(np.array([[40.0, 60.0]]), (2000, 16, 1))
    rng = np.random.default_rng(0)
    settings = Augmentation(half_body=0.0)
    maps, mirrored = draw_affines(settings, joints, np.ones((2000, 16), bool), size, MPII16, rng)
    zoom = 1 / np.sqrt(np.abs(np.linalg.det(maps[:, :, :2])))
    assert zoom.min() >= 0.75 - 1e-9 and zoom.max() <= 1.25 + 1e-9
    angle = np.degrees(np.arctan2(maps[:, 1, 0], maps[:, 1, 1]))
    assert np.abs(angle).max() <= 30 + 1e-9
    assert (np.abs(angle) > 0).mean() == pytest.approx(0.6, abs=0.05)
    assert mirrored.mean() == pytest.approx(0.5, abs=0.05)


def test_a_mirror_image_exchanges_left_and_right():
    people = synthetic_people(0, "train", np.arange(4), 160.0)
    shard = cut_shard(people, Size(128, 96), Margins(2, 2))
    always = Augmentation(flip=1.0, scale=0.0, rotation=0.0, half_body=0.0)
    rng = np.random.default_rng(0)
    plain = Batches(shard, 4, None, CPU).collate(np.arange(4), rng)
    flipped = Batches(shard, 4, always, CPU).collate(np.arange(4), rng)
    expected = plain.joints[:, MPII16.flip_order].clone()
    expected[..., 0] = 95 - expected[..., 0]
    assert torch.allclose(flipped.joints, expected, atol=1e-3)
    assert (flipped.crops.flip(2).float() - plain.crops.float()).abs().mean() < 1


def test_half_body_shows_the_half_larger():
    people = synthetic_people(0, "train", np.arange(50), 160.0)
    shard = cut_shard(people, Size(128, 96), Margins(2, 2))
    joints = apply(shard.to_crop(np.arange(50)), shard.joints)
    only = Augmentation(flip=0.0, scale=0.0, rotation=0.0, half_body=1.0)
    rng = np.random.default_rng(0)
    maps, _ = draw_affines(only, joints, shard.visibility > 0, shard.size, MPII16, rng)
    zoom = np.sqrt(np.linalg.det(maps[:, :, :2]))
    assert (zoom >= 1 - 1e-9).all() and zoom.mean() > 1.15


def test_pyramid_levels_come_from_the_same_crop_and_the_same_joints():
    people = synthetic_people(0, "train", np.arange(4), 160.0)
    batch = Batches(cut_shard(people, Size(128, 96), NO_MARGINS), 4, None, CPU).collate(
        np.arange(4), np.random.default_rng(0)
    )
    high, low = render_pyramid(batch, [Size(128, 96), Size(64, 48)])
    crop = batch.crops[0].numpy()
    reduced = cv2.resize(crop, (48, 64), interpolation=cv2.INTER_AREA)
    expected = normalise(torch.from_numpy(reduced)[None]).permute(0, 3, 1, 2)
    assert (low.images[:1] - expected).abs().max() < 1.0 / 55
    assert high.targets.shape == (4, 16, 32, 24) and low.targets.shape == (4, 16, 16, 12)
    points = image_to_heatmap((batch.joints + 0.5) / 2 - 0.5)
    assert torch.allclose(low.targets, encode(points, Size(16, 12)), atol=1e-6)


def test_a_joint_outside_the_crop_or_without_label_weighs_nothing():
    joints = np.full((16, 2), 100.0)
    joints[0] = (5000, 100)
    people = person(np.zeros((300, 200, 3), np.uint8), (50, 50, 100, 150), joints)
    people = dataclasses.replace(people, visibility=np.array([[2] * 15 + [0]], np.uint8))
    batch = Batches(cut_shard(people, Size(64, 48), NO_MARGINS), 1, None, CPU).collate(
        np.array([0]), np.random.default_rng(0)
    )
    assert batch.weights[0, 0] == 0 and batch.weights[0, 15] == 0 and batch.weights[0, 1] == 1


@pytest.mark.parametrize("augmentation", [None, Augmentation()])
def test_an_epoch_shows_every_person_once_in_a_seeded_order(augmentation):
    people = synthetic_people(0, "train", np.arange(21), 160.0)
    batches = Batches(cut_shard(people, Size(64, 48), Margins(2, 2), 100), 8, augmentation, CPU)
    first, again, other = (
        [batches.render(draw) for draw in batches.draws(np.random.default_rng(n))] for n in (5, 5, 6)
    )
    assert [len(b) for b in first] == [8, 8, 5]
    assert all(torch.equal(a.crops, b.crops) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0].crops, other[0].crops)


@pytest.mark.parametrize("augmentation", [None, Augmentation()])
def test_a_bad_picture_stops_or_is_left_out_and_counted(augmentation):
    people = synthetic_people(0, "train", np.arange(6), 160.0)
    draw = people.read

    def read(row: int) -> np.ndarray:
        if row == 2:
            raise PictureError("picture two.jpg is missing")
        return draw(row)

    shard = cut_shard(dataclasses.replace(people, read=read), Size(64, 48), Margins(2, 2))
    with pytest.raises(PictureError, match=r"two\.jpg"):
        Batches(shard, 6, augmentation, CPU).collate(np.arange(6), np.random.default_rng(0))
    skipping = Batches(shard, 6, augmentation, CPU, "skip")
    (shown,) = skipping.draws(np.random.default_rng(0))
    assert len(skipping.render(shown)) == 5 and len(skipping) == 5 and skipping.bad == {2}


def test_only_crops_that_fit_the_cache_are_kept_and_the_others_are_cut_again():
    people = synthetic_people(0, "train", np.arange(6), 160.0)
    asked = []

    def read(row: int) -> np.ndarray:
        asked.append(row)
        return people.read(row)

    def batches(cache_mb: float) -> Batches:
        return Batches(
            cut_shard(dataclasses.replace(people, read=read), Size(64, 48), NO_MARGINS, cache_mb), 6, None, CPU
        )

    rng, index = np.random.default_rng(0), np.array([5, 0, 3, 1, 4, 2])
    without, some, every = batches(0), batches(2.5 * 64 * 48 * 3 / 2**20), batches(1)
    expected = without.collate(index, rng).crops
    for kept, count in ((without, 0), (some, 2), (every, 6)):
        kept.collate(index, rng)
        asked.clear()
        assert torch.equal(kept.collate(index, rng).crops, expected)
        assert len(asked) == 6 - count and kept.cached_mb == count * 64 * 48 * 3 / 2**20


@pytest.mark.parametrize("size", [Size(64, 48), Size(96, 72), Size(40, 36), Size(128, 96), Size(128, 48)])
def test_crops_are_reduced_by_the_same_areas_on_every_device(size):
    crops = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 128, 96, 3)).astype(np.float32))
    expected = area_resize(crops.permute(0, 3, 1, 2), size).permute(0, 2, 3, 1)
    assert (reduce(crops, size) - expected).abs().max() < 1e-3


def test_normalised_crops_have_imagenets_statistics():
    crops = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 64, 48, 3), np.uint8))
    assert torch.equal(normalise(crops), (crops.float() - torch.tensor(MEAN)) / torch.tensor(STD))


def test_images_of_a_pyramid_lie_channels_last_in_memory():
    people = synthetic_people(0, "train", np.arange(4), 160.0)
    batch = Batches(cut_shard(people, Size(64, 48), NO_MARGINS), 4, None, CPU).collate(
        np.arange(4), np.random.default_rng(0)
    )
    for level in render_pyramid(batch, [Size(64, 48), Size(48, 36)]):
        assert level.images.is_contiguous(memory_format=torch.channels_last)
