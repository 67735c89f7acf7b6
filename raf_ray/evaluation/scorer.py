"""Score a model on people at any sizes: crops by the tier's rule, outputs, and the task's answer and metric."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from raf_ray.data.ahead import made_ahead
from raf_ray.data.annotations.detections import Detections
from raf_ray.data.augment import NO_MARGINS, apply
from raf_ray.data.batches import Batch, Batches, images_at
from raf_ray.data.crop import Margins
from raf_ray.data.people import People
from raf_ray.data.shard import Shard, cut_shard
from raf_ray.data.skeletons import Skeleton
from raf_ray.errors import RunError
from raf_ray.evaluation.own import OwnModel, OwnSizes
from raf_ray.evaluation.scores import Sample, Scores, mean_scores
from raf_ray.metrics import Score
from raf_ray.metrics.detections import oks_nms, pose_scores
from raf_ray.metrics.oks import ap_of_results, coco_results
from raf_ray.resolution import Size
from raf_ray.state import Entry, Layout
from raf_ray.tasks import Task
from raf_ray.tasks.interface import Decode
from raf_ray.tasks.pose import Pose, labels_of

SAMPLES_PER_SIZE = 6

SHARDS = 16
"""Splits x sizes that share the memory for crops: a choice, room for two splits at the seven sizes of a drift curve."""
CutShard = Callable[[People, Size, Margins, float], Shard]
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
    detected: Mapping[str, Detections] = field(default_factory=dict)
    """Split -> detected boxes to score beside its people's own"""
    keep_results: bool = False
    """Keep detections in COCO's result form"""
    task: Task = field(default_factory=Pose)
    threads: int = 1
    """Batches judged at a time; the same bits however many."""
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
        part, models = self.layout.part(self.is_private), {one.client: one for one in own}

        def state_of(client: str) -> np.ndarray:
            return models[client].state(self.layout, part, buffer)

        return self.score_each({one.client: one.sizes for one in own}, state_of, split, sizes, sample_sizes)

    def score_each(
        self,
        asked: OwnSizes,
        state_of: Callable[[str], np.ndarray],
        split: str,
        sizes: Sequence[Size],
        sample_sizes: Sequence[Size] = (),
    ) -> Scores:
        """Score clients' own models, each at those of `sizes` that `asked` gives it, and the mean over them.

        `state_of`: a client's state, (num_bytes,) uint8; asked for when its turn comes.
        """
        found: dict[str, Scores] = {}
        to_draw = list(sample_sizes)
        for client, own_sizes in asked.items():
            if own := [size for size in sizes if size in own_sizes]:
                self.layout.write(state_of(client), self.model)
                found[client] = self.score(split, own, [size for size in own if size in to_draw])
                to_draw = [size for size in to_draw if size not in own]
        return mean_scores(found, sizes)

    def score(self, split: str, sizes: Sequence[Size], sample_sizes: Sequence[Size] = ()) -> Scores:
        """Score the model as it is. Raises RunError where nothing can be scored at any of the sizes."""
        people, metric = self.people[split], self.metrics[split]
        found: dict[str, Score] = {}
        upsampled: dict[str, float] = {}
        drawn: list[Sample] = []
        results: dict[str, list[dict[str, Any]]] = {}
        bad = 0
        for size in sizes:
            batches = self._batches_of(split, size)
            shard = batches.shard
            judged, read = self._judge(batches)
            bad = max(bad, int((~read).sum()))
            score = self._score(people, shard, judged, read, metric)
            if split in self.detected or (self.keep_results and self.task.draws_joints):
                results[str(size)] = self._results(split, size, judged, read)
            if split in self.detected:
                figures = ap_of_results(labels_of(people.take(read)), results[str(size)])
                score = replace(score, extra={**score.extra, **{f"{k}_boxes": v for k, v in figures.items()}})
            found[str(size)] = score
            upsampled[str(size)] = float(shard.upsampled.mean())
            if size in sample_sizes and self.task.draws_joints:
                drawn += self._samples(batches, judged[..., :2], np.flatnonzero(read)[:SAMPLES_PER_SIZE], str(size))
        if not any(np.isfinite(score.value) for score in found.values()):
            raise RunError(_nothing_scored(split, metric, self.task.needs(metric), len(people), bad))
        names = self.task.outputs(people.skeleton)
        return Scores(
            split=split,
            metric=metric,
            by_resolution={size: score.value for size, score in found.items()},
            per_joint={size: dict(zip(names, score.per_joint, strict=True)) for size, score in found.items()},
            people=len(people),
            bad_pictures=bad,
            upsampled=upsampled,
            samples=tuple(drawn),
            results=results if self.keep_results else {},
            extra={size: dict(score.extra) for size, score in found.items() if score.extra},
        )

    def _score(self, people: People, shard: Shard, judged: np.ndarray, read: np.ndarray, metric: str) -> Score:
        if not read.any():
            return Score(np.nan, (np.nan,) * len(self.task.outputs(people.skeleton)), 0, 0)
        return self.task.score(people, shard, judged, read, metric)

    def _results(self, split: str, size: Size, judged: np.ndarray, read: np.ndarray) -> list[dict[str, Any]]:
        """Detections in COCO's result form: of detected boxes where the split has some, else of its people's own."""
        detected, people = self.detected.get(split), self.people[split]
        if detected is None:
            shard = self._batches_of(split, size).shard
            joints, confidence = shard.crop_to_picture(judged[..., :2])[read], judged[read][..., 2]
            scores = confidence.mean(axis=1)
            return coco_results(joints, confidence, people.picture_id[read], scores, people.category_id)
        batches = self._batches_of(split, size, detected.people)
        judged, read = self._judge(batches)
        boxes = detected.people.take(read)
        joints, confidence = batches.shard.crop_to_picture(judged[..., :2])[read], judged[read][..., 2]
        scores = pose_scores(detected.scores[read], confidence)
        kept = oks_nms(joints, scores, boxes.area, boxes.picture_id, np.array(people.skeleton.sigmas))
        pictures = boxes.picture_id[kept]
        return coco_results(joints[kept], confidence[kept], pictures, scores[kept], people.category_id)

    def _batches_of(self, split: str, size: Size, boxes: People | None = None) -> Batches:
        """Of a split's people, or of detected `boxes` in their pictures."""
        people = self.people[split] if boxes is None else boxes
        key = (split if boxes is None else f"{split} boxes", size)
        if key not in self._batches:
            if boxes is None:
                shard = self.cut(people, size, NO_MARGINS, self.cache_mb / SHARDS)
            else:
                rule = self._batches_of(split, size).shard.rule
                shard = cut_shard(people, size, NO_MARGINS, self.cache_mb / SHARDS, rule=rule)
            maps = self.task.maps(people)
            maps_shard = (
                None if maps is None else cut_shard(maps, size, NO_MARGINS, self.cache_mb / SHARDS, rule=shard.rule)
            )
            self._batches[key] = Batches(shard, self.batch_size, None, self.device, self.on_bad_image, maps=maps_shard)
        return self._batches[key]

    def _judge(self, batches: Batches) -> tuple[np.ndarray, np.ndarray]:
        """(N, ...) what the task's score needs of each person, (N,) bool: the picture could be read."""
        shard, count = batches.shard, len(batches.shard)

        def judge(kept: np.ndarray, batch: Batch, images: Tensor) -> tuple[np.ndarray, np.ndarray]:
            answer = self.task.answer(self._outputs(images, shard.skeleton), self.decode)
            return kept, self.task.judged(answer, batch, Size(*images.shape[-2:]), shard.size)

        judged = np.zeros((count, 0), np.float32)
        makes = (partial(judge, *shown) for shown in self._shown(batches))
        for kept, found in made_ahead(makes, self.threads):
            if judged.shape[1:] != found.shape[1:]:
                judged = np.zeros((count, *found.shape[1:]), np.float32)
            judged[kept] = found
        read = np.ones(count, bool)
        read[list(batches.bad)] = False
        return judged, read

    @torch.inference_mode()
    def pooled(self, split: str, size: Size) -> tuple[np.ndarray, np.ndarray]:
        """(N, C) float32 means over all places of the model's ``features(images)``, (N,) bool: the picture could be
        read. The model must have features (`raf_ray.models.head_of`)."""
        batches = self._batches_of(split, size)
        self.model.eval()
        found: list[np.ndarray] = []
        read = np.zeros(len(batches.shard), bool)
        for kept, _, images in self._shown(batches):
            found.append(self.model.features(images).float().mean((2, 3)).cpu().numpy())  # type: ignore[operator]
            read[kept] = True
        pooled = np.zeros((len(read), found[0].shape[1] if found else 0), np.float32)
        pooled[read] = np.concatenate([*found, pooled[:0]])
        return pooled, read

    def _shown(self, batches: Batches) -> Iterator[tuple[np.ndarray, Batch, Tensor]]:
        """(n,) places of people whose picture can be read, their batch, and (n, 3, H, W) as the model sees them."""
        size, count = batches.shard.size, len(batches.shard)
        for start in range(0, count, batches.batch_size):
            index = np.arange(start, min(start + batches.batch_size, count))
            batch = batches.collate(index, np.random.default_rng(0))
            if batch is not None:
                kept = np.array([i for i in index if int(i) not in batches.bad])
                yield kept, batch, self._seen(images_at(batch, [size])[0], size)

    def _seen(self, images: Tensor, size: Size) -> Tensor:
        """(B, 3, H, W) of a test size as the model sees them."""
        to = self.upsampled.get(size)
        if to is None or self.upsample == "none":
            return images
        return F.interpolate(images, (to.height, to.width), mode=self.upsample)

    @torch.inference_mode()
    def _outputs(self, images: Tensor, skeleton: Skeleton) -> Tensor:
        self.model.eval()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            outputs: Tensor = self.model(images).float()
            if self.flip_test:
                mirrored = self.model(images.flip(-1)).float()
                outputs = (outputs + self.task.mirrored(mirrored, skeleton)) / 2
        return outputs

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


def _nothing_scored(split: str, metric: str, needs: str, people: int, bad: int) -> str:
    begin = f"nothing could be scored on {split}"
    if bad == people:
        return (
            f"{begin}: none of its {people} people has a picture that can be read, and data.on_bad_image=skip leaves "
            "them out; check data.root and data.images"
        )
    left = f"{bad} of its {people} people were left out, since their picture cannot be read, and " if bad else ""
    return f"{begin} by {metric}: {left}none of the {people - bad} others has {needs}"
