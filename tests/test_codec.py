"""Heatmaps: encode and decode are inverses, in half-pixel coordinates."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from raf_ray.data.codec import decode, encode, flip_back, heatmap_to_image, image_to_heatmap
from raf_ray.data.skeletons import COCO17, LSP14, MPII16
from raf_ray.resolution import Size


def test_encode_equals_the_formula_looped_over_pixels():
    points = torch.tensor([[[3.3, 4.1], [0.0, 9.7]]])
    found = encode(points, Size(12, 9))
    for k in range(2):
        for y in range(12):
            for x in range(9):
                px, py = points[0, k].tolist()
                expected = np.exp(-((x - px) ** 2 + (y - py) ** 2) / (2 * 2.0**2))
                assert found[0, k, y, x].item() == pytest.approx(expected, rel=1e-4, abs=1e-7)


def test_image_and_heatmap_coordinates_are_inverses_with_half_pixel_centres():
    assert image_to_heatmap(torch.tensor([1.5])).item() == 0.0  # the centre of the first four pixels
    points = torch.rand(5, 2) * 100
    assert torch.allclose(heatmap_to_image(image_to_heatmap(points)), points, atol=1e-4)


@pytest.mark.parametrize("size", [Size(64, 48), Size(32, 24), Size(48, 36), Size(16, 12)])
def test_dark_recovers_the_point_to_a_ten_thousandth_of_a_pixel(size):
    torch.manual_seed(0)
    # Away from the edge, where the blur's window is cut.
    low, high = 6.0, torch.tensor([size.width - 7.0, size.height - 7.0])
    if (high <= low).any():
        low, high = 4.0, torch.tensor([size.width - 5.0, size.height - 5.0])
    points = (low + torch.rand(20, 17, 2) * (high - low)).double()
    found, confidence = decode(encode(points, size), "dark")
    margin = 1e-4 if size.height > 20 else 0.05
    assert (found - points).abs().max().item() < margin
    assert confidence.min() > 0.9


def test_argmax_is_within_half_a_pixel_and_leans_towards_the_higher_neighbour():
    points = torch.tensor([[[5.3, 7.0], [5.7, 7.0]]])
    found, _ = decode(encode(points, Size(16, 12)), "argmax")
    assert found[0, :, 0].tolist() == [5.25, 5.75]


def test_argmax_equals_a_brute_force_search():
    maps = torch.rand(3, 4, 9, 7)
    found, confidence = decode(maps, "argmax")
    for i in range(3):
        for k in range(4):
            y, x = np.unravel_index(int(maps[i, k].argmax()), (9, 7))
            assert abs(found[i, k, 0] - x) <= 0.25 and abs(found[i, k, 1] - y) <= 0.25
            assert confidence[i, k] == maps[i, k, y, x]


@pytest.mark.parametrize("skeleton", [COCO17, MPII16, LSP14])
def test_flip_back_undoes_a_mirror_image(skeleton):
    size = Size(16, 12)
    points = torch.rand(2, len(skeleton), 2) * torch.tensor([11.0, 15.0])
    mirrored = points.clone()
    mirrored[..., 0] = size.width - 1 - mirrored[..., 0]
    order = torch.tensor(skeleton.flip_order)
    assert torch.allclose(flip_back(encode(mirrored[:, order], size), order), encode(points, size), atol=1e-5)


@pytest.mark.parametrize("skeleton", [COCO17, MPII16, LSP14])
def test_every_left_joint_has_its_mirror_image(skeleton):
    lefts = [name for name in skeleton.joints if name.startswith("left_")]
    assert len(skeleton.flip_pairs) == len(lefts)
    for left, right in skeleton.flip_pairs:
        assert skeleton.joints[left].replace("left", "right") == skeleton.joints[right]
