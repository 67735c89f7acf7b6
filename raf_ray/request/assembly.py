"""From a config to the parts of a federation: model, objective, clients, scorer, initial state.

Everything that can be wrong with a request is found here, before a folder is made or an actor starts.
"""

from __future__ import annotations

import inspect
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from torch import nn

from raf_ray.algorithms import built_in
from raf_ray.algorithms.interface import Algorithm
from raf_ray.config.tree import Config, ModelConfig, ObjectiveConfig
from raf_ray.data.codec import SIGMA
from raf_ray.data.people import People
from raf_ray.data.shard import cut_shard
from raf_ray.data.skeletons import Skeleton
from raf_ray.errors import InputError, one_line
from raf_ray.evaluation.scorer import CutShard, check_metric
from raf_ray.evaluation.spec import ScorerSpec
from raf_ray.federation.cohort import draw_cohort
from raf_ray.federation.spec import ClientInfo, FederationSpec, RoundsSpec
from raf_ray.models import ModelSpec, size_divisor
from raf_ray.models.norms import check_norms
from raf_ray.models.saving import save_model
from raf_ray.paths import given_path
from raf_ray.plugins import is_import_path, load_object
from raf_ray.request.people import Split, augmentation_of, load_data, margins_of, picture_notes, splits_of
from raf_ray.request.plans import expected_pixels, final_sizes, plan_clients, round_sizes, trained_sizes
from raf_ray.resolution import check_divides
from raf_ray.state import Layout
from raf_ray.training.client import LocalTraining
from raf_ray.training.optimizer import OptimizerSpec
from raf_ray.training.spec import ClientData, ClientPlan, ClientSpec, DeviceSpec, LossSpec

LoadData = Callable[[Config, Sequence[ClientPlan], Sequence[Split]], tuple[tuple[ClientData, ...], dict[str, People]]]


@dataclass(frozen=True)
class Prepared:
    """A checked request, ready to run."""

    config: Config
    plans: tuple[ClientPlan, ...]
    data: tuple[ClientData, ...]
    held_out: dict[str, People]
    """`val`, and `test` unless the run is scored on `val` to the end"""
    layout: Layout
    initial: np.ndarray
    """(num_bytes,) uint8 initial global state"""
    cut: CutShard = cut_shard
    """How the scorer gets its crops."""
    notes: tuple[str, ...] = ()
    """Sentences for the user: what a checkpoint did not fill ..."""

    @property
    def skeleton(self) -> Skeleton:
        return self.held_out["val"].skeleton


def prepare(config: Config, load: LoadData = load_data, check_pictures: bool = True) -> Prepared:
    """Check a request as a whole. Raises InputError for what is wrong with it.

    `check_pictures`: note pictures whose size is not the annotations'; their headers are read.
    """
    plans = plan_clients(config)
    data, held_out = load(config, plans, splits_of(config))
    skeleton = held_out["val"].skeleton
    for split, people in held_out.items():
        check_metric(metrics_of(config)[split], people, split)
    model, notes = initial_model(config.model, len(skeleton), config.seed)
    divisor = size_divisor(model)
    for plan in plans:
        for size in plan.levels:
            check_divides(size, divisor, f"client {plan.name}")
    for size in final_sizes(config, plans):
        check_divides(size, divisor, "evaluation.resolutions")
    check_profile(config, plans)
    if config.optimizer.layer_decay < 1 and not hasattr(model, "layer_id"):
        raise InputError(f"optimizer.layer_decay: model {config.model.name} names no layers; set it to 1")
    wants_gpu_here = config.resources.gpus_per_client > 0 and config.federation.engine == "in_process"
    if wants_gpu_here and not torch.cuda.is_available():
        raise InputError("resources.gpus_per_client: this machine has no usable GPU; set it to 0")
    try:
        layout = Layout.of(model)
    except ValueError as error:
        raise InputError(f"model.name={config.model.name}: {error}") from error
    loss_spec(config.objective).build()
    unfit = algorithm_of(config).requires(config.optimizer.name)
    if unfit:
        raise InputError(f"algorithm.name={config.algorithm.name} with optimizer.name={config.optimizer.name}: {unfit}")
    initial = layout.read(model)
    check_finite(config, layout, initial)
    trained = [(plan.name, own.count, plan.levels[-1]) for plan, own in zip(plans, data, strict=True)]
    check_norms(model, config.model.name, trained, config.optimizer.batch_size)
    notes = (*data[0].notes, *notes)
    if check_pictures:
        notes = (*notes, *(f"warning: {note}" for note in picture_notes(data, [held_out])))
    return Prepared(config, plans, data, held_out, layout, initial, notes=notes)


def check_profile(config: Config, plans: Sequence[ClientPlan]) -> None:
    """Raise InputError where no such client trains in the round to be traced."""
    profile = config.resources.profile
    if profile is None:
        return
    names = [plan.name for plan in plans]
    if profile.client not in names:
        raise InputError(f"resources.profile.client: no client '{profile.client}' (clients: {_shorten(names)})")
    federation = config.federation
    if profile.round > federation.rounds:
        raise InputError(f"resources.profile.round={profile.round} is beyond the run's {federation.rounds} rounds")
    cohort = draw_cohort(len(plans), federation.participation, config.seed, profile.round - 1)
    if names.index(profile.client) not in cohort:
        raise InputError(
            f"resources.profile: {profile.client} does not train in round {profile.round} (federation.participation="
            f"{federation.participation:g}); that round trains {_shorten([names[i] for i in cohort])}"
        )


def check_finite(config: Config, layout: Layout, initial: np.ndarray) -> None:
    """Raise InputError where the model does not begin from finite weights."""
    bad = layout.not_finite(initial)
    if bad:
        raise InputError(f"model.name={config.model.name}: its initial {_shorten(bad, 3)} is not finite; correct it")


# --- model and objective --------------------------------------------------------------------------------


def model_spec(config: ModelConfig, num_joints: int) -> ModelSpec:
    return ModelSpec(config.name, config.depth, num_joints)


def initial_model(config: ModelConfig, num_joints: int, seed: int) -> tuple[nn.Module, tuple[str, ...]]:
    """The model with its initial weights, the same for the same seed; and notes on its checkpoint."""
    torch.manual_seed(seed)
    model = model_spec(config, num_joints).build()
    if config.checkpoint is None:
        return model, ()
    from raf_ray.models.checkpoint import load_checkpoint, percent  # late: torchvision takes two seconds

    report = load_checkpoint(model, given_path(config.checkpoint, "model.checkpoint"), config.partial)
    kept = [*report.missing, *report.mismatched]
    notes = [f"model.checkpoint: {len(report.loaded)} entries loaded from {config.checkpoint}"]
    if report.source not in ("", "model") or report.prefix:
        place = f"  under its key '{report.source}'" if report.source else "  at its top"
        notes.append(place + (f", their names without '{report.prefix}'" if report.prefix else ""))
    if report.others:
        notes.append(f"  it has further weights that were not used: {_shorten(report.others)}")
    if report.share < 1:
        notes.append(f"  they fill {percent(report.share)} of the model's parameters")
    if kept:
        notes.append(f"  kept their fresh values: {_shorten(kept)}")
    if report.unexpected:
        notes.append(f"  in the file, not in the model: {_shorten(report.unexpected)}")
    return model, tuple(notes)


def _shorten(names: Sequence[str], most: int = 6) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def loss_spec(config: ObjectiveConfig) -> LossSpec:
    names = ("alpha", "teacher", "weighting", "kd_weight", "loss", "temperature", "resize")
    return LossSpec(config.name, {**{name: getattr(config, name) for name in names}, "sigma": SIGMA})


# --- what actors are sent ---------------------------------------------------------------------------------


def device_spec(config: Config) -> DeviceSpec:
    resources = config.resources
    return DeviceSpec(resources.threads, resources.gpus_per_client > 0, resources.precision == "bf16")


def client_spec(config: Config, plan: ClientPlan, data: ClientData, skeleton: Skeleton) -> ClientSpec:
    profile = config.resources.profile
    return ClientSpec(
        plan=plan,
        data=data,
        model=model_spec(config.model, len(skeleton)),
        loss=loss_spec(config.objective),
        sampling=config.objective.sampling,
        own_share=config.objective.own_share,
        algorithm=algorithm_of(config),
        training=training_of(config),
        device=device_spec(config),
        batch_size=config.optimizer.batch_size,
        augmentation=augmentation_of(config),
        margins=margins_of(config, plan.size.aspect),
        on_bad_image=config.data.on_bad_image,
        cache_mb=config.data.cache_mb,
        traced_round=profile.round - 1 if profile is not None and profile.client == plan.name else None,
    )


def training_of(config: Config) -> LocalTraining:
    asked = config.optimizer.model_dump(exclude={"batch_size"})
    spec = OptimizerSpec(**{**asked, "steps": tuple(asked["steps"])})
    return LocalTraining(config.seed, config.federation.rounds, config.federation.local_epochs, spec)


def scorer_spec(config: Config, held_out: dict[str, People], cut: CutShard = cut_shard) -> ScorerSpec:
    evaluation = config.evaluation
    return ScorerSpec(
        model=model_spec(config.model, len(held_out["val"].skeleton)),
        people=held_out,
        metrics=metrics_of(config),
        decode=evaluation.decode,
        flip_test=evaluation.flip_test,
        batch_size=evaluation.batch_size,
        device=device_spec(config),
        on_bad_image=config.data.on_bad_image,
        cache_mb=config.data.cache_mb,
        cut=cut,
    )


def metrics_of(config: Config) -> dict[str, str]:
    """Split -> the metric it is scored by."""
    evaluation = config.evaluation
    return {"val": evaluation.val_metric or evaluation.metric, "test": evaluation.metric}


def rounds_spec(prepared: Prepared) -> RoundsSpec:
    config, plans = prepared.config, prepared.plans
    levels = sorted({s for p in plans for s in p.levels}, key=lambda s: s.pixels, reverse=True)
    return RoundsSpec(
        seed=config.seed,
        rounds=config.federation.rounds,
        participation=config.federation.participation,
        checkpoint_every=config.federation.checkpoint_every,
        score_every=config.evaluation.every,
        trained_sizes=tuple(str(s) for s in trained_sizes(plans)),
        round_sizes=tuple(str(s) for s in round_sizes(config, plans)),
        final_split=config.evaluation.split,
        final_sizes=tuple(str(s) for s in final_sizes(config, plans)),
        level_sizes=tuple(str(s) for s in levels),
    )


def federation_spec(prepared: Prepared, name: str) -> FederationSpec:
    """The whole federation, resolved; `name` is the run's."""
    config = prepared.config
    clients = tuple(
        ClientInfo(
            plan.name,
            plan.tier,
            data.count,
            expected_pixels(config, plan, data.count),
            client_spec(config, plan, data, prepared.skeleton).build,
        )
        for plan, data in zip(prepared.plans, prepared.data, strict=True)
    )
    return FederationSpec(
        clients=clients,
        make_scorer=scorer_spec(config, prepared.held_out, prepared.cut).build,
        algorithm=algorithm_of(config),
        layout=prepared.layout,
        initial=prepared.initial,
        rounds=rounds_spec(prepared),
        facts=facts_of(prepared, name),
        save_model=partial(save_model, prepared.layout, config.model.name, prepared.skeleton.joints),
    )


def algorithm_of(config: Config) -> Algorithm:
    """The method with its parameters. Raises InputError where it is one's own and does not fit."""
    asked = config.algorithm
    if not is_import_path(asked.name):
        own = getattr(asked, asked.name, None)
        parameters = {"weighting": asked.weighting, **(own.model_dump() if own is not None else {})}
        return built_in()[asked.name](**parameters)
    make = load_object(asked.name, "algorithm.name")
    if not callable(make):
        raise InputError(f"algorithm.name={asked.name} gives {type(make).__name__}, not a class of a method")
    shared = {"weighting": asked.weighting} if "weighting" in inspect.signature(make).parameters else {}
    if not shared and asked.weighting != "people":
        raise InputError(f"algorithm.weighting={asked.weighting}, but {asked.name} takes no weighting; leave it out")
    try:
        algorithm = make(**{**shared, **asked.parameters})
    except (TypeError, ValueError) as error:
        raise InputError(f"algorithm.parameters do not fit {asked.name}: {one_line(error)}") from error
    if not isinstance(algorithm, Algorithm):
        raise InputError(
            f"algorithm.name={asked.name} gives {type(algorithm).__name__}, "
            "not a raf_ray.algorithms.interface.Algorithm"
        )
    return algorithm


def facts_of(prepared: Prepared, name: str) -> dict[str, Any]:
    """What results.json says whatever comes out."""
    config, plans = prepared.config, prepared.plans
    upsampled: dict[str, list[float]] = {}
    for plan, data in zip(plans, prepared.data, strict=True):
        upsampled.setdefault(plan.tier, []).append(data.upsampled)
    return {
        "name": name,
        "seed": config.seed,
        "metric": config.evaluation.metric,
        "objective": config.objective.name,
        "algorithm": config.algorithm.name,
        "rounds": config.federation.rounds,
        "train_resolutions": [str(size) for size in trained_sizes(plans)],
        "train_people": {plan.name: data.count for plan, data in zip(plans, prepared.data, strict=True)},
        "val_people": len(prepared.held_out["val"]),
        "upsampled_train": {tier: sum(shares) / len(shares) for tier, shares in upsampled.items()},
        "parameters": prepared.layout.count("weights"),
        "versions": {
            "python": platform.python_version(),
            **{package: version(package) for package in ("raf-ray", "ray", "torch", "numpy")},
        },
        "machine": f"{platform.system()} {platform.machine()}",
    }
