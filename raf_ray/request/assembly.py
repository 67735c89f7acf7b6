"""A request as a whole: checked, and resolved into one spec.

Everything that can be wrong with a request is found here, before a folder is made or an actor starts.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version

import numpy as np
import torch

from raf_ray.algorithms.interface import Setting
from raf_ray.config.tree import Config
from raf_ray.data.people import People
from raf_ray.data.shard import cut_shard
from raf_ray.data.skeletons import Skeleton
from raf_ray.errors import InputError
from raf_ray.evaluation.own import OwnSizes, sizes_of_clients
from raf_ray.evaluation.scorer import CutShard
from raf_ray.federation.cohort import CohortSpec, draw_cohort
from raf_ray.federation.spec import Clients, FederationSpec, HostsSpec, RoundsSpec
from raf_ray.files import Json
from raf_ray.models import head_of, size_divisor
from raf_ray.models.norms import check_norms
from raf_ray.models.saving import save_model
from raf_ray.request.method import algorithm_of
from raf_ray.request.needs import check_shares, wants_gpu
from raf_ray.request.parts import (
    client_spec,
    initial_model,
    loss_spec,
    model_spec,
    scorer_spec,
    shorten,
    transforms_of,
)
from raf_ray.request.people import Split, load_data, picture_notes, splits_of
from raf_ray.request.plans import (
    expected_pixels,
    final_sizes,
    plan_clients,
    round_sizes,
    trained_sizes,
    trainers,
    upsampled_sizes,
)
from raf_ray.request.task import check_can_be_stored, check_task, metrics_of, task_of
from raf_ray.resolution import Size, check_divides
from raf_ray.state import Layout
from raf_ray.tasks import Task
from raf_ray.training.clients import Owned, OwnedShards, Plans, client_name
from raf_ray.training.pool import OpenPool
from raf_ray.training.spec import OpenClients

LoadData = Callable[[Config, Plans, Sequence[Split]], tuple[Owned, dict[str, People]]]


@dataclass(frozen=True, eq=False)
class Prepared:
    """A checked request, ready to run. It is equal to itself alone."""

    config: Config
    plans: Plans
    data: Owned
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
    def trainers(self) -> Plans:
        """Who trains: the clients, or the one that has all their people."""
        return trainers(self.config, self.plans)

    @property
    def outputs(self) -> tuple[str, ...]:
        """What the model's outputs are of"""
        return task_of(self.config).outputs(self.skeleton)

    @property
    def skeleton(self) -> Skeleton:
        return self.held_out["val"].skeleton


def prepare(config: Config, load: LoadData = load_data, check_pictures: bool = True) -> Prepared:
    """Check a request as a whole. Raises InputError for what is wrong with it.

    `check_pictures`: note pictures whose size is not the annotations'; their headers are read.
    """
    plans = plan_clients(config)
    task = task_of(config)
    check_task(config, task)
    data, held_out = load(config, plans, splits_of(config))
    check_labels(config, task, data, held_out)
    outputs = len(task.outputs(held_out["val"].skeleton))
    model, notes = initial_model(model_spec(config, outputs), config.model, config.seed)
    divisor = size_divisor(model)
    for tier in plans.tiers:
        for size in tier.levels:
            check_divides(size, divisor, f"client {client_name(tier.name, 0)}")
    for size in final_sizes(config, plans):
        check_divides(size, divisor, "evaluation.resolutions")
    check_profile(config, plans, data.counts)
    if config.optimizer.layer_decay < 1 and not hasattr(model, "layer_id"):
        raise InputError(f"optimizer.layer_decay: model {config.model.name} names no layers; set it to 1")
    check_shares(config, plans)
    needs_gpu_here = wants_gpu(config) and config.resources.gpus_per_client != "auto"
    if needs_gpu_here and config.federation.engine == "in_process" and not torch.cuda.is_available():
        raise InputError("resources.gpus_per_client: this machine has no usable GPU; set it to 0")
    try:
        layout = Layout.of(model)
    except ValueError as error:
        raise InputError(f"model.name={config.model.name}: {error}") from error
    loss_spec(config.objective).build(task)
    algorithm = algorithm_of(config)
    setting = Setting(
        config.optimizer.name, layout, has_features=head_of(model) is not None, compiled=config.resources.compile
    )
    if unfit := algorithm.requires(setting):
        raise InputError(f"algorithm.name={config.algorithm.name}: {unfit}")
    if told := algorithm.says(setting):
        notes = (*notes, told)
    initial = layout.read(model)
    check_finite(config, layout, initial)
    check_norms(model, config.model.name, _smallest(plans, data.counts), config.optimizer.batch_size)
    notes = (*data.notes, *notes)
    if check_pictures:
        notes = (*notes, *(f"warning: {note}" for note in picture_notes([data], [held_out])))
    return Prepared(config, plans, data, held_out, layout, initial, notes=notes)


def _smallest(plans: Plans, people: np.ndarray) -> list[tuple[str, int, Size]]:
    """(name, people, smallest level) of a client of each tier and number of people."""
    of, first = np.unique(np.stack([plans.tier, people]), axis=1, return_index=True)
    return [(plans[i].name, int(n), plans.tiers[t].levels[-1]) for (t, n), i in zip(of.T, first, strict=True)]


def check_labels(config: Config, task: Task, data: Owned, held_out: dict[str, People]) -> None:
    """Raise InputError where the people lack what the task learns, or is scored by."""
    for split, people in held_out.items():
        task.check(people, split, metrics_of(config)[split])
        if isinstance(data, OwnedShards):
            check_can_be_stored(config, task, people)
        else:
            task.maps(people)


def check_profile(config: Config, plans: Plans, people: np.ndarray) -> None:
    """Raise InputError where no such client trains in the round to be traced."""
    profile = config.resources.profile
    if profile is None:
        return
    pool = trainers(config, plans)
    if pool is not plans:
        plans, people = pool, people.sum(keepdims=True)
    names = plans.names().tolist()
    if profile.client not in names:
        raise InputError(f"resources.profile.client: no client '{profile.client}' (clients: {shorten(names)})")
    federation = config.federation
    if profile.round > federation.rounds:
        raise InputError(f"resources.profile.round={profile.round} is beyond the run's {federation.rounds} rounds")
    tiers = np.array([tier.name for tier in plans.tiers])[plans.tier]
    cohort = draw_cohort(cohort_spec(config), tiers, people, config.seed, profile.round - 1)
    if names.index(profile.client) not in cohort:
        raise InputError(
            f"resources.profile: {profile.client} does not train in round {profile.round} (federation.participation="
            f"{federation.participation:g}, federation.cohort); that round trains {shorten([names[i] for i in cohort])}"
        )


def check_finite(config: Config, layout: Layout, initial: np.ndarray) -> None:
    """Raise InputError where the model does not begin from finite weights."""
    bad = layout.not_finite(initial)
    if bad:
        raise InputError(f"model.name={config.model.name}: its initial {shorten(bad, 3)} is not finite; correct it")


def cohort_spec(config: Config) -> CohortSpec:
    asked = config.federation
    return CohortSpec(asked.participation, asked.cohort.size, asked.cohort.draw)


def rounds_spec(prepared: Prepared) -> RoundsSpec:
    config, plans = prepared.config, prepared.plans
    levels = sorted({s for tier in plans.tiers for s in tier.levels}, key=lambda s: s.pixels, reverse=True)
    return RoundsSpec(
        seed=config.seed,
        rounds=config.federation.rounds,
        cohort=cohort_spec(config),
        drops_failed=config.federation.on_client_failure == "drop",
        checkpoint_every=config.federation.checkpoint_every,
        score_every=config.evaluation.every,
        trained_sizes=tuple(trained_sizes(plans)),
        round_sizes=tuple(round_sizes(config, plans)),
        final_split=config.evaluation.split,
        final_sizes=tuple(final_sizes(config, plans)),
        level_sizes=tuple(levels),
        own_sizes=own_sizes(prepared) if any(map(algorithm_of(config).is_private, prepared.layout.entries)) else {},
    )


def own_sizes(prepared: Prepared) -> OwnSizes:
    """Whose own models are scored at which sizes."""
    config, plans = prepared.config, prepared.plans
    clients = [(plan.name, plan.size) for plan in plans]
    return sizes_of_clients(clients, final_sizes(config, plans), config.evaluation.own_models)


def federation_spec(prepared: Prepared, name: str) -> FederationSpec:
    """The whole federation, resolved; `name` is the run's."""
    config = prepared.config
    return FederationSpec(
        clients=clients_of(prepared),
        make_scorer=scorer_spec(config, prepared.held_out, prepared.cut).build,
        algorithm=algorithm_of(config),
        transforms=transforms_of(config),
        layout=prepared.layout,
        initial=prepared.initial,
        rounds=rounds_spec(prepared),
        hosts=HostsSpec(config.data.cache_mb, config.resources.retries, config.resources.wait_for_room_s),
        facts=facts_of(prepared, name),
        save_model=partial(save_model, prepared.layout, config.model.name, prepared.outputs),
    )


def clients_of(prepared: Prepared) -> Clients:
    """Those who train."""
    config, plans, data, who = prepared.config, prepared.plans, prepared.data, prepared.trainers
    people, cost = data.counts, expected_pixels(config, plans, data.counts)
    owners = OpenClients(client_spec(config, prepared.skeleton), plans, data)
    pooled = who is not plans
    return Clients(
        names=who.names(),
        tier_names=tuple(tier.name for tier in who.tiers),
        tier=who.tier,
        people=people.sum(keepdims=True) if pooled else people,
        cost=cost.sum(keepdims=True) if pooled else cost,
        open=OpenPool(owners, who[0]) if pooled else owners,
    )


def facts_of(prepared: Prepared, name: str) -> Json:
    """What results.json says whatever comes out."""
    config, plans, data = prepared.config, prepared.plans, prepared.data
    clients = plans.counts()

    def by_tier(values: np.ndarray) -> dict[str, float]:
        return dict(zip(clients, np.bincount(plans.tier, values).tolist(), strict=True))

    return {
        "name": name,
        "seed": config.seed,
        "task": config.task.name,
        "metric": metrics_of(config)["test"],
        "objective": config.objective.name,
        "algorithm": config.algorithm.name,
        "rounds": config.federation.rounds,
        "train_resolutions": [str(size) for size in trained_sizes(plans)],
        "train_clients": clients,
        "train_people": {tier: int(count) for tier, count in by_tier(data.counts).items()},
        "val_people": len(prepared.held_out["val"]),
        "upsampled_train": {tier: total / clients[tier] for tier, total in by_tier(data.upsampled).items()},
        "upsampled_test_to": {str(size): str(to) for size, to in upsampled_sizes(config, plans).items()},
        "parameters": prepared.layout.count("weights"),
        "versions": {
            "python": platform.python_version(),
            **{package: version(package) for package in ("raf-ray", "ray", "torch", "numpy")},
        },
        "machine": f"{platform.system()} {platform.machine()}",
    }
