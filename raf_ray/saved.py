"""A finished run's model, opened again: to be scored on other data, or to draw joints on pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import TypeAdapter, ValidationError
from torch import nn

from raf_ray.config import Config
from raf_ray.config.loading import merge, parse_override, read_yaml, validate
from raf_ray.data.annotations.joints import UNKNOWN_SIGMA
from raf_ray.data.augment import NO_MARGINS
from raf_ray.data.batches import Batches, images_at
from raf_ray.data.people import PERSON, People
from raf_ray.data.shard import cut_shard
from raf_ray.data.skeletons import SKELETONS, Skeleton
from raf_ray.errors import InputError
from raf_ray.evaluation.own import sizes_of_clients
from raf_ray.evaluation.scorer import Scorer
from raf_ray.evaluation.scores import Scores
from raf_ray.models import size_divisor
from raf_ray.models.saving import load_model
from raf_ray.request import parts
from raf_ray.request.crops import crop_rule
from raf_ray.request.people import load_held_out, skeleton_of, splits_of
from raf_ray.request.plans import final_sizes, plan_clients
from raf_ray.request.task import check_task, metrics_of, task_of
from raf_ray.resolution import Size, check_divides
from raf_ray.runs.folder import client_of, model_file


def files_of(client: str | None) -> tuple[str, ...]:
    """Patterns of what is read of a run folder: its config, and its model with all clients' own, or one client's."""
    return ("config.yaml", model_file(None), model_file("*")) if client is None else ("config.yaml", model_file(client))


@dataclass(frozen=True)
class Labels:
    """Of the people that a run has learnt from, as its model's file says; an older one does not."""

    skeleton: Skeleton | None = None
    category_id: int = PERSON


@dataclass(frozen=True)
class SavedRun:
    folder: Path
    config: Config
    """The run's own, with the words of the command over it."""
    model: nn.Module
    """In evaluation mode, on the CPU."""
    joints: tuple[str, ...]
    own: Mapping[str, Path]
    """Client -> the file of its own model, where the method left them some of it and none alone was asked for"""
    labels: Labels


def load_run(folder: Path, overrides: Sequence[str] = (), client: str | None = None) -> SavedRun:
    """Open a run folder, with its model or a client's own. Raises InputError where it holds no such finished model."""
    whose = "; the first clients of a size have one where they keep part of it, as with fedbn" if client else ""
    for name, told in (("config.yaml", ""), (model_file(client), whose)):
        if not (folder / name).is_file():
            raise InputError(f"{folder} holds no finished run: there is no {name} in it{told}")
    values = read_yaml(folder / "config.yaml")
    for word in overrides:
        merge(values, parse_override(word))
    config = validate(Config, values)
    check_task(config, task_of(config))
    path = folder / model_file(client)
    saved = load_model(path, partial(parts.model_spec, config))
    own = {client_of(file.name): file for file in folder.glob(model_file("*"))} if client is None else {}
    return SavedRun(folder, config, saved.model, saved.joints, own, labels_of(saved.labels, path))


def labels_of(values: Any, path: Path) -> Labels:
    """What the model's file at `path` says of its run's people. Raises InputError where that is damaged."""
    try:
        return TypeAdapter(Labels).validate_python(values)
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        place = ".".join(map(str, ("labels", *first["loc"])))
        raise InputError(f"{path} is damaged ({place}: {first['msg']}); run it again") from error


def score_run(run: SavedRun, keep_results: bool = False) -> tuple[Scores, People]:
    """Scores on the configured split as the run's own: of its model, or of its clients' own; and whose they are.

    `keep_results`: with the detections in COCO's result form. Raises InputError where several models would have some.
    """
    if keep_results and run.own:
        raise InputError(
            f"--detections: clients have models of their own; name one by --client, such as {min(run.own)}"
        )
    if keep_results and not task_of(run.config).draws_joints:
        raise InputError(f"--detections: {run.config.task.name} has no joints to write; leave it out")
    scorer, sizes = scorer_of_run(run)
    scorer.keep_results = keep_results
    split, config = run.config.evaluation.split, run.config
    if not run.own:
        return scorer.score(split, sizes), scorer.people[split]
    clients = [(plan.name, plan.size) for plan in plan_clients(config) if plan.name in run.own]
    asked = sizes_of_clients(clients, sizes, len(clients), scorer.upsampled)

    def state_of(client: str) -> np.ndarray:
        return scorer.layout.read(load_model(run.own[client], partial(parts.model_spec, config)).model)

    return scorer.score_each(asked, state_of, split, sizes), scorer.people[split]


def scorer_of_run(run: SavedRun) -> tuple[Scorer, list[Size]]:
    """A scorer that holds the run's model and the configured data; and the sizes asked for."""
    config = run.config
    plans = plan_clients(config)
    held_out = load_held_out(config, plans, splits_of(config))
    record = run.labels.skeleton
    if record is not None and config.data.skeleton is None:  # of the same joints, whatever the file says of them
        same = {split: people for split, people in held_out.items() if people.skeleton.joints == record.joints}
        held_out |= {split: replace(people, skeleton=record) for split, people in same.items()}
    people = held_out[config.evaluation.split]
    task = task_of(config)
    if task.outputs(people.skeleton) != run.joints:
        raise InputError(
            f"the model of {run.folder} predicts {len(run.joints)} joints ({', '.join(run.joints[:3])} ...), "
            f"but the data have the {len(people.skeleton)} joints of {people.skeleton.name}; they must be the same"
        )
    split = config.evaluation.split
    task.check(people, split, metrics_of(config)[split])
    scorer = parts.scorer_spec(config, held_out).build()
    scorer.model.load_state_dict(run.model.state_dict())
    sizes = final_sizes(config, plans)
    for size in sizes:
        check_divides(size, size_divisor(run.model), "evaluation.resolutions")
    return scorer, sizes


def skeleton_of_run(run: SavedRun) -> Skeleton:
    """The record of the model's joints: that of the people whom it has learnt from.

    Of an older run, whose file does not hold it, the known one of these joints, or one without limbs.
    """
    saved = run.labels.skeleton
    for skeleton in (saved,) if saved is not None else (*SKELETONS.values(), skeleton_of(run.config)):
        if skeleton is not None and skeleton.joints == run.joints:
            return skeleton
    return Skeleton("own", run.joints, (UNKNOWN_SIGMA,) * len(run.joints))


@torch.inference_mode()
def predict(
    run: SavedRun, picture: np.ndarray, boxes: np.ndarray, size: Size, skeleton: Skeleton
) -> tuple[np.ndarray, np.ndarray]:
    """Joints of the people in one picture, by a run of poses.

    Args:
        picture: (H, W, 3) uint8 RGB.
        boxes: (N, 4) x, y, width, height in pixels.

    Returns:
        (N, K, 2) joints in picture pixels and (N, K) confidences (the heatmaps' peaks).
    """
    count, joints = len(boxes), len(run.joints)
    people = People(
        skeleton=skeleton,
        joints=np.zeros((count, joints, 2), np.float32),
        visibility=np.zeros((count, joints), np.uint8),
        centre=(boxes[:, :2] + boxes[:, 2:] / 2 - 0.5).astype(np.float32),
        box=boxes[:, 2:].astype(np.float32),
        area=np.prod(boxes[:, 2:], axis=1).astype(np.float32),
        head_size=np.full(count, np.nan, np.float32),
        person_id=np.arange(count),
        picture_id=np.zeros(count, np.int64),
        rows=np.zeros(count, np.int64),
        read=lambda _row: picture,
    )
    shard = cut_shard(people, size, NO_MARGINS, rule=crop_rule(run.config))
    batches = Batches(shard, count, None, torch.device("cpu"))
    batch = batches.collate(np.arange(count), np.random.default_rng(0))
    assert batch is not None
    found = task_of(run.config).answer(run.model(images_at(batch, [size])[0]), run.config.evaluation.decode).numpy()
    return shard.crop_to_picture(found[..., :2]), found[..., 2]
