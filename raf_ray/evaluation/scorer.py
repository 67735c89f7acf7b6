"""Score a model on people at any sizes: crops by the tier's rule, heatmaps, decoding, metric."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from raf_ray.data.augment import NO_MARGINS, apply
from raf_ray.data.batches import Batches, render_pyramid
from raf_ray.data.codec import decode, flip_back, heatmap_to_image
from raf_ray.data.crop import Margins
from raf_ray.data.people import People
from raf_ray.data.shard import Shard, cut_shard
from raf_ray.data.skeletons import Skeleton
from raf_ray.errors import InputError, RunError
from raf_ray.evaluation.own import OwnModel, mean_scores
from raf_ray.evaluation.scores import Sample, Scores
from raf_ray.metrics import Labels, Metric, Score, built_in
from raf_ray.metrics.interface import Regions
from raf_ray.resolution import Size
from raf_ray.state import Entry, Layout

SAMPLES_PER_SIZE = 6

SHARDS = 16
"""Splits x sizes that share the memory for crops: a choice, room for two splits at the seven sizes of a drift curve."""
CutShard = Callable[[People, Size, Margins, float], Shard]
Decode = Literal["argmax", "dark"]
Upsample = Literal["none", "nearest", "bilinear", "bicubic"]


@dataclass
class Scorer:
    """Holds a model and the people of each split; crops stay in memory between scorings."""

    model: nn.Module
    people: Mapping[str, People]
    """Split -> its people."""
    metrics: Mapping[str, str]
    """Split -> the name of its metric."""
    decode: Decode
    flip_test: bool
    batch_size: int
    device: torch.device
    bf16: bool
    on_bad_image: Literal["stop", "skip"]
    cache_mb: float
    cut: CutShard = cut_shard
    is_private: Callable[[Entry], bool] = lambda entry: False
    """Which entries a client keeps to itself"""
    upsample: Upsample = "none"
    """How the images of some sizes are brought to another before the model"""
    upsampled: Mapping[Size, Size] = field(default_factory=dict)
    """Those sizes, and which other"""
    layout: Layout = field(init=False)
    _batches: dict[tuple[str, Size], Batches] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.model.to(self.device)
        self.layout = Layout.of(self.model)

    def __call__(
        self,
        buffer: np.ndarray,
        split: str,
        sizes: Sequence[Size],
        sample_sizes: Sequence[Size] = (),
        own: Sequence[OwnModel] = (),
    ) -> Scores:
        """Score the state in `buffer` on `split` at each of `sizes`; people to draw at `sample_sizes`.

        With `own`, each of those models at its sizes, and the mean over them; people are drawn by a size's first.
        """
        if not own:
            self.layout.write(buffer, self.model)
            return self.score(split, sizes, sample_sizes)
        part, to_draw = self.layout.part(self.is_private), list(sample_sizes)
        found: dict[str, Scores] = {}
        for one in own:
            asked = [size for size in sizes if size in one.sizes]
            if asked:
                self.layout.write(one.state(self.layout, part, buffer), self.model)
                found[one.client] = self.score(split, asked, [size for size in asked if size in to_draw])
                to_draw = [size for size in to_draw if size not in asked]
        return mean_scores(found, sizes)

    def score(self, split: str, sizes: Sequence[Size], sample_sizes: Sequence[Size] = ()) -> Scores:
        """Score the model as it is. Raises RunError where nothing can be scored at any of the sizes."""
        people, metric = self.people[split], built_in()[self.metrics[split]]
        found: dict[str, Score] = {}
        upsampled: dict[str, float] = {}
        drawn: list[Sample] = []
        bad = 0
        for size in sizes:
            batches = self._batches_of(split, size)
            shard = batches.shard
            crops, confidence, read = self._predict(batches)
            bad = max(bad, int((~read).sum()))
            in_picture = shard.crop_to_picture(crops)
            found[str(size)] = metric.measure(labels_of(people.take(read)), in_picture[read], confidence[read])
            upsampled[str(size)] = float(shard.upsampled.mean())
            if size in sample_sizes:
                drawn += self._samples(batches, crops, np.flatnonzero(read)[:SAMPLES_PER_SIZE], str(size))
        if not any(np.isfinite(score.value) for score in found.values()):
            raise RunError(_nothing_scored(split, metric, len(people), bad))
        return Scores(
            split=split,
            metric=metric.name,
            by_resolution={size: score.value for size, score in found.items()},
            per_joint={
                size: dict(zip(people.skeleton.joints, score.per_joint, strict=True)) for size, score in found.items()
            },
            people=len(people),
            bad_pictures=bad,
            upsampled=upsampled,
            samples=tuple(drawn),
            extra={size: dict(score.extra) for size, score in found.items() if score.extra},
        )

    def _batches_of(self, split: str, size: Size) -> Batches:
        key = (split, size)
        if key not in self._batches:
            shard = self.cut(self.people[split], size, NO_MARGINS, self.cache_mb / SHARDS)
            self._batches[key] = Batches(shard, self.batch_size, None, self.device, self.on_bad_image)
        return self._batches[key]

    def _predict(self, batches: Batches) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(N, K, 2) joints in crop pixels, (N, K) confidences, (N,) bool: the picture could be read."""
        shard = batches.shard
        count, joints = len(shard), len(shard.skeleton)
        points = np.zeros((count, joints, 2), np.float32)
        confidence = np.zeros((count, joints), np.float32)
        for start in range(0, count, batches.batch_size):
            index = np.arange(start, min(start + batches.batch_size, count))
            batch = batches.collate(index, np.random.default_rng(0))
            if batch is None:
                continue
            kept = np.array([i for i in index if int(i) not in batches.bad])
            images = self._seen(render_pyramid(batch, [shard.size])[0].images, shard.size)
            found, peak = decode(self._heatmaps(images, shard.skeleton), self.decode)
            points[kept] = _in_size(heatmap_to_image(found).cpu().numpy(), images, shard.size)
            confidence[kept] = peak.cpu().numpy()
        read = np.ones(count, bool)
        read[list(batches.bad)] = False
        return points, confidence, read

    def _seen(self, images: Tensor, size: Size) -> Tensor:
        """(B, 3, H, W) of a test size as the model sees them."""
        to = self.upsampled.get(size)
        if to is None or self.upsample == "none":
            return images
        return F.interpolate(images, (to.height, to.width), mode=self.upsample)

    @torch.inference_mode()
    def _heatmaps(self, images: Tensor, skeleton: Skeleton) -> Tensor:
        self.model.eval()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            heatmaps: Tensor = self.model(images).float()
            if self.flip_test:
                order = torch.tensor(skeleton.flip_order, device=self.device)
                mirrored = self.model(images.flip(-1)).float()
                heatmaps = (heatmaps + flip_back(mirrored, order)) / 2
        return heatmaps

    def _samples(self, batches: Batches, crops: np.ndarray, index: np.ndarray, size: str) -> list[Sample]:
        if not len(index):
            return []
        shard = batches.shard
        truth = apply(shard.to_crop(index), shard.joints[index])
        batch = batches.collate(index, np.random.default_rng(0))
        assert batch is not None
        pictures = batch.crops.cpu().numpy()
        labelled = batch.weights.cpu().numpy() > 0
        return [Sample(size, pictures[row], crops[i], truth[row], labelled[row]) for row, i in enumerate(index)]


def _in_size(points: np.ndarray, images: Tensor, size: Size) -> np.ndarray:
    """(N, K, 2) pixels of the images that the model saw, (N, 3, H, W), as pixels of the test size."""
    height, width = images.shape[-2:]
    if (height, width) == (size.height, size.width):
        return points
    return (points + 0.5) * np.array([size.width / width, size.height / height], np.float32) - 0.5


def _nothing_scored(split: str, metric: Metric, people: int, bad: int) -> str:
    begin = f"nothing could be scored on {split}"
    if bad == people:
        return (
            f"{begin}: none of its {people} people has a picture that can be read, and data.on_bad_image=skip leaves "
            "them out; check data.root and data.images"
        )
    left = f"{bad} of its {people} people were left out, since their picture cannot be read, and " if bad else ""
    return f"{begin} by {metric.name}: {left}none of the {people - bad} others has {metric.needs}"


def labels_of(people: People) -> Labels:
    """What a metric may look at."""
    corner = people.centre + 0.5 - people.box / 2
    region = people.ignored
    return Labels(
        skeleton=people.skeleton.name,
        joint_names=people.skeleton.joints,
        sigmas=np.array(people.skeleton.sigmas),
        joints=people.joints,
        visibility=people.visibility,
        area=people.area,
        box_xywh=np.concatenate([corner, people.box], axis=1),
        head_size=people.head_size,
        picture_id=people.picture_id,
        ignored=None if region is None else Regions(region.picture_id, region.box_xywh, region.area, region.crowd),
    )


def check_metric(name: str, people: People, split: str) -> None:
    """Raise InputError where the people of a split lack what the metric needs, so that nothing could be scored."""
    metric, labels = built_in()[name], labels_of(people)
    lacking = metric.lacks(labels)
    if lacking is not None:
        raise InputError(lacking)
    if not metric.is_enough(labels):
        key = "evaluation.val_metric or evaluation.metric" if split == "val" else "evaluation.metric"
        raise InputError(
            f"nothing can be scored on {split} by {name}: none of its {len(people)} people has {metric.needs}; "
            f"choose another {key}, or other people"
        )
