"""From a person to what a step needs: this project's batches against a DataLoader with OpenCV and numpy."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from benchmarks.figures import Section
from raf_ray.data.augment import Augmentation
from raf_ray.data.batches import MEAN, STD, Batches, render_pyramid
from raf_ray.data.people import People
from raf_ray.data.shard import cut_shard
from raf_ray.data.sources.synthetic import synthetic_people
from raf_ray.resolution import Size

LEVELS = (Size(256, 192), Size(192, 144), Size(128, 96))
"""The paper's, of a high client"""
PEOPLE, BATCH, TURNS = 256, 32, 7
REACH, SIGMA = 6, 2.0
"""Of a target's window, 3 sigma each way"""


class ByHand(Dataset[Any]):
    """As MMPose augments and encodes: a random box, warped from the picture a level; a 13 x 13 window a joint."""

    def __init__(self, people: People) -> None:
        self._pictures = [people.picture(i) for i in range(len(people))]
        self._people = people
        self._rng = np.random.default_rng(0)
        reach = np.arange(-REACH, REACH + 1)
        self._window = np.exp(-(reach[:, None] ** 2 + reach[None] ** 2) / (2 * SIGMA**2)).astype(np.float32)
        self._mean, self._std = np.array(MEAN, np.float32), np.array(STD, np.float32)

    def __len__(self) -> int:
        return len(self._pictures)

    def __getitem__(self, index: int) -> list[np.ndarray]:
        people, rng = self._people, self._rng
        picture, joints = self._pictures[index], people.joints[index]
        visible, centre = people.visibility[index] > 0, people.centre[index]
        if rng.random() < 0.5:
            width, order = picture.shape[1], people.skeleton.flip_order
            picture = np.ascontiguousarray(picture[:, ::-1])
            joints = np.stack([width - 1 - joints[order, 0], joints[order, 1]], axis=1)
            visible, centre = visible[order], np.array([width - 1 - centre[0], centre[1]])
        zoom = float(np.clip(1 + 0.25 * rng.standard_normal(), 0.75, 1.25))
        angle = float(np.clip(30 * rng.standard_normal(), -30, 30)) if rng.random() < 0.6 else 0.0
        height = 1.25 * float(people.box[index].max()) * zoom
        found: list[np.ndarray] = []
        for size in LEVELS:
            warp = cv2.getRotationMatrix2D((float(centre[0]), float(centre[1])), angle, size.height / height)
            warp[:, 2] += np.array([size.width / 2, size.height / 2]) - centre
            found += self._level(picture, joints @ warp[:, :2].T + warp[:, 2], visible, size, warp)
        return found

    def _level(
        self, picture: np.ndarray, places: np.ndarray, visible: np.ndarray, size: Size, warp: np.ndarray
    ) -> list[np.ndarray]:
        """Image (3, h, w), targets (K, h/4, w/4), weights (K,)."""
        crop = cv2.warpAffine(picture, warp, (size.width, size.height), flags=cv2.INTER_LINEAR)
        image = ((crop.astype(np.float32) - self._mean) / self._std).transpose(2, 0, 1)
        h, w = size.heatmap().height, size.heatmap().width
        targets, weights = np.zeros((len(places), h, w), np.float32), np.zeros(len(places), np.float32)
        for joint, (x, y) in enumerate(np.floor(places / 4 + 0.5).astype(int)):
            left, top, right, bottom = x - REACH, y - REACH, x + REACH + 1, y + REACH + 1
            if not visible[joint] or left >= w or top >= h or right <= 0 or bottom <= 0:
                continue
            weights[joint] = 1
            rows, columns = slice(max(0, top), min(h, bottom)), slice(max(0, left), min(w, right))
            window = self._window[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
            targets[joint, rows, columns] = window
        return [np.ascontiguousarray(image), targets, weights]


def pipeline(quick: bool = False) -> Section:
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    count = 32 if quick else PEOPLE
    people, augmentation = synthetic_people(0, "train", np.arange(count), 300.0), Augmentation()
    loader = DataLoader(ByHand(people), batch_size=BATCH, shuffle=True)
    shard = cut_shard(people, LEVELS[0], augmentation.margins(LEVELS[0].aspect), 4000)
    batches, rng = Batches(shard, BATCH, augmentation, torch.device("cpu")), np.random.default_rng(0)

    def by_hand() -> None:
        for _ in loader:
            pass

    def ours() -> None:
        for draw in batches.draws(rng):
            render_pyramid(batches.render(draw), LEVELS)

    ours()
    by_hand()
    pairs = [(seconds(by_hand), seconds(ours)) for _ in range(2 if quick else TURNS)]
    about = (
        "a person to crop, pyramid of 256x192, 192x144, 128x96 and targets, augmented, one core: batches against a "
        "DataLoader that warps each level from the picture and encodes joint by joint"
    )
    section = Section("pipeline", about)
    section.ratio("batches / DataLoader", [a / b for a, b in pairs], "at least", 2.0)
    speeds = [count / statistics.median(column) for column in zip(*pairs, strict=True)]
    section.add("people/s: batches, DataLoader", f"{speeds[1]:.0f}, {speeds[0]:.0f}")
    return section


def seconds(work: Callable[[], None]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin
