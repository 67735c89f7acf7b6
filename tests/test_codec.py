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


FROM_BORDER = [0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0, 2.25, 2.5, 2.75, 3.0]
small_and_large = pytest.mark.parametrize("size", [Size(64, 48), Size(16, 12), Size(12, 9)], ids=str)


@small_and_large
@pytest.mark.parametrize("side", ["left", "right", "top", "bottom"])
def test_dark_is_exact_at_every_distance_from_a_border_and_never_worse_than_the_quarter_offset(size, side):
    axis, length = (0, size.width) if side in ("left", "right") else (1, size.height)
    along = torch.linspace(-0.5, (size.height if axis == 0 else size.width) - 0.5, 97, dtype=torch.float64)
    for distance in FROM_BORDER:
        points = torch.empty(1, len(along), 2, dtype=torch.float64)
        points[0, :, axis] = distance if side in ("left", "top") else length - 1 - distance
        points[0, :, 1 - axis] = along
        errors = [(decode(encode(points, size), method)[0] - points).norm(dim=-1) for method in ("dark", "argmax")]
        assert errors[0].max() < 1e-4
        assert (errors[0] <= errors[1] + 1e-4).all()


@small_and_large
@pytest.mark.parametrize("sigma", [1.5, 2.0, 3.0])
def test_near_a_border_dark_is_exact_for_peaks_of_any_width(size, sigma):
    points = torch.tensor([[[-0.5, -0.5], [0.2, 0.3], [1.3, 0.0], [2.6, 1.9], [size.width - 1.1, size.height - 0.6]]])
    found, _ = decode(encode(points, size, sigma), "dark")
    assert (found - points).abs().max() < 1e-3


def test_away_from_the_border_dark_is_the_newton_step_of_the_smoothed_log():
    """Zhang et al. 2020, eq. 9, by numpy and OpenCV on a noisy map."""
    import cv2

    torch.manual_seed(0)
    heatmap = (encode(torch.tensor([[[20.3, 30.8]]]), Size(64, 48)) + 0.05 * torch.rand(1, 1, 64, 48)).double()
    found, _ = decode(heatmap, "dark")
    logs = np.log(cv2.GaussianBlur(heatmap[0, 0].numpy(), (13, 13), 2.0, borderType=cv2.BORDER_CONSTANT))
    y, x = np.unravel_index(int(heatmap.argmax()), (64, 48))
    gy, gx = (np.gradient(logs, axis=axis) for axis in (0, 1))
    hessian = [[logs[y, x + 1] - 2 * logs[y, x] + logs[y, x - 1], np.gradient(gx, axis=0)[y, x]],
               [np.gradient(gx, axis=0)[y, x], logs[y + 1, x] - 2 * logs[y, x] + logs[y - 1, x]]]  # fmt: skip
    expected = np.array([x, y]) - np.linalg.solve(hessian, [gx[y, x], gy[y, x]])
    assert found[0, 0].tolist() == pytest.approx(expected.tolist(), abs=1e-6)


def udp_dark_by_loops(heatmap: np.ndarray) -> np.ndarray:
    """Huang et al. 2020, as their code and MMPose's go about it, on one map: x, y."""
    import cv2

    y, x = np.unravel_index(int(heatmap.argmax()), heatmap.shape)
    smooth = cv2.GaussianBlur(heatmap, (11, 11), 0)
    log = np.pad(np.log(np.clip(smooth, 0.001, 50)), 1, mode="edge")
    near = {(i, j): log[y + 1 + j, x + 1 + i] for i in (-1, 0, 1) for j in (-1, 0, 1)}
    slope = np.array([near[1, 0] - near[-1, 0], near[0, 1] - near[0, -1]]) / 2
    bend = np.empty((2, 2))
    bend[0, 0] = near[1, 0] - 2 * near[0, 0] + near[-1, 0]
    bend[1, 1] = near[0, 1] - 2 * near[0, 0] + near[0, -1]
    bend[0, 1] = bend[1, 0] = 0.5 * (
        near[1, 1] - near[1, 0] - near[0, 1] + 2 * near[0, 0] - near[-1, 0] - near[0, -1] + near[-1, -1]
    )
    return np.array([x, y]) - np.linalg.inv(bend + np.finfo(np.float32).eps * np.eye(2)) @ slope


@pytest.mark.parametrize("size", [Size(64, 48), Size(16, 12), Size(8, 6), Size(4, 3)], ids=str)
def test_udps_dark_is_the_published_step_on_clean_and_on_noisy_maps_also_at_borders(size):
    torch.manual_seed(0)
    points = torch.rand(3, 5, 2, dtype=torch.float64) * torch.tensor([size.width, size.height]) - 0.5
    points[:, 0] = torch.tensor([0.3, size.height - 1.2])
    clean = encode(points, size)
    for maps in (clean, clean + 0.1 * torch.rand(clean.shape, dtype=torch.float64)):
        found, confidence = decode(maps, "udp_dark")
        wanted = np.array([[udp_dark_by_loops(one) for one in person] for person in maps.numpy()])
        np.testing.assert_allclose(found.numpy(), wanted, rtol=1e-6, atol=1e-6)
        assert torch.equal(confidence, maps.amax((2, 3)))


def test_udps_dark_goes_where_its_step_leads_however_far():
    """On noise some peaks lie at saddles; our own decoder stays within a pixel of the highest."""
    torch.manual_seed(2)
    maps = torch.rand(1, 400, 16, 12)
    place = maps.flatten(2).argmax(-1)
    peaks = torch.stack([place % 12, place // 12], -1)
    steps = {method: decode(maps, method)[0] - peaks for method in ("dark", "udp_dark")}
    assert steps["dark"].abs().max() <= 1 < steps["udp_dark"].abs().max()
    assert steps["udp_dark"].isfinite().all()


@pytest.mark.parametrize("size", [Size(1, 1), Size(2, 2), Size(3, 8), Size(8, 3), Size(12, 9)], ids=str)
@pytest.mark.parametrize("kind", ["zero", "constant", "negative", "one pixel", "ridge", "noise"])
def test_dark_stays_within_a_pixel_of_the_peak_whatever_the_map_holds(size, kind):
    torch.manual_seed(0)
    maps = torch.zeros(2, 3, size.height, size.width)
    if kind == "constant":
        maps += 1
    if kind in ("negative", "noise"):
        maps += torch.rand(maps.shape) * (-1 if kind == "negative" else 1)
    if kind == "one pixel":
        maps[..., 0, -1] = 1
    if kind == "ridge":
        maps[..., 0, :] = 1
    found, confidence = decode(maps, "dark")
    place = maps.flatten(2).argmax(-1)
    peaks = torch.stack([place % size.width, place // size.width], -1)
    assert found.isfinite().all() and confidence.isfinite().all()
    assert (found - peaks).abs().max() <= 1
