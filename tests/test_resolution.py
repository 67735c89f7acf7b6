"""Sizes, pyramids, exact area averaging."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from raf_ray.errors import InputError
from raf_ray.filters import area_resize, gaussian_blur
from raf_ray.resolution import Size, check_divides, find_size, parse_size, pyramid_levels

TIERS = {"high": "256x192", "mid": "192x144", "low": "128x96"}


def test_sizes_are_height_by_width():
    assert parse_size("256x192") == Size(256, 192)
    assert str(Size(96, 72)) == "96x72"
    assert Size(128, 96).heatmap() == Size(32, 24)


@pytest.mark.parametrize("text", ["256", "0x4", "axb", "12x-4", ""])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(InputError, match="is not a size"):
        parse_size(text)


@pytest.mark.parametrize("text", ["100000x8", "8x4097", "9" * 400 + "x3", "9" * 5000 + "x3"])
def test_a_size_that_no_memory_holds_is_refused(text):
    with pytest.raises(InputError, match=r"is too large a size; a side has at most 4096 pixels|is not a size") as error:
        parse_size(text)
    assert len(str(error.value)) < 200


def test_an_unknown_tier_names_the_nearest():
    with pytest.raises(InputError, match="did you mean 'high'"):
        find_size("hihg", TIERS, "federation.clients")


def test_a_size_the_stride_does_not_divide_names_the_nearest_valid_ones():
    with pytest.raises(InputError, match="240x176 and 256x192"):
        check_divides(Size(255, 191), 16, "evaluation.resolutions")


def test_a_pyramid_is_the_own_size_then_what_lies_below_highest_first():
    below = [Size(64, 48), Size(256, 192), Size(128, 96)]
    assert pyramid_levels(Size(192, 144), below) == (Size(192, 144), Size(128, 96), Size(64, 48))
    assert pyramid_levels(Size(64, 48), below) == (Size(64, 48),)


def test_a_level_of_another_shape_is_refused():
    with pytest.raises(InputError, match="another aspect ratio"):
        pyramid_levels(Size(192, 144), [Size(128, 128)])


@pytest.mark.parametrize(("source", "target"), [((256, 192), (192, 144)), ((128, 96), (96, 72)), ((128, 96), (64, 48)),
                                                ((97, 71), (31, 20))])  # fmt: skip
def test_area_averaging_equals_opencvs_inter_area_within_one_grey_level(source, target):
    noise = np.random.default_rng(0).integers(0, 256, (*source, 3), dtype=np.uint8)
    ours = area_resize(torch.from_numpy(noise).permute(2, 0, 1).float(), Size(*target)).permute(1, 2, 0).numpy()
    theirs = cv2.resize(noise, (target[1], target[0]), interpolation=cv2.INTER_AREA)
    assert np.abs(ours - theirs).max() <= 1.0
    exact = cv2.resize(noise.astype(np.float32), (target[1], target[0]), interpolation=cv2.INTER_AREA)
    assert np.abs(ours - exact).max() < 0.01


def test_area_averaging_keeps_the_mean():
    image = torch.rand(1, 3, 256, 192)
    assert area_resize(image, Size(192, 144)).mean().item() == pytest.approx(image.mean().item(), abs=1e-6)


def test_gaussian_blur_equals_opencvs():
    image = np.random.default_rng(0).random((20, 30)).astype(np.float32)
    ours = gaussian_blur(torch.from_numpy(image)[None], sigma=1.3)[0].numpy()
    theirs = cv2.GaussianBlur(image, (9, 9), 1.3, borderType=cv2.BORDER_CONSTANT)
    assert np.abs(ours - theirs).max() < 1e-5
