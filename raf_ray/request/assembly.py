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

from raf_ray.aggregators.interface import Aggregator
from raf_ray.config.tree import Config
from raf_ray.data.people import People
from raf_ray.data.shard import cut_shard
from raf_ray.data.skeletons import Skeleton
from raf_ray.devices.profiles import Fleet
from raf_ray.errors import InputError
from raf_ray.evaluation.own import OwnSizes, sizes_of_clients
from raf_ray.evaluation.scorer import CutShard, check_metric
from raf_ray.federation.cohort import CohortSpec, plan_cohort
from raf_ray.federation.spec import Clients, FederationSpec, HostsSpec, RoundsSpec, setting_of
from raf_ray.files import Json
from raf_ray.models import size_divisor
from raf_ray.models.norms import check_norms
from raf_ray.models.saving import save_model
from raf_ray.request.attackers import attack_notes, bad_clients, check_aggregation
from raf_ray.request.fleet import fleet_of, macs_of
from raf_ray.request.method import algorithm_of, check_method
from raf_ray.request.needs import check_shares, wants_gpu
from raf_ray.request.parts import (
    aggregator_of,
    client_spec,
    initial_model,
    loss_spec,
    metrics_of,
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
from raf_ray.resolution import Size, check_divides
from raf_ray.state import Layout
from raf_ray.training.clients import Owned, Plans, client_name
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
    macs: np.ndarray | None = None
    """(N,) expected forward MACs of each client's round; None: they could not be counted"""
    fleet: Fleet | None = None
    """The clients' devices, where `devices` asks for them"""

    @property
    def trainers(self) -> Plans:
        """Who trains: the clients, or the one that has all their people."""
        return trainers(self.config, self.plans)

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
    for tier in plans.tiers:
        for size in tier.levels:
            check_divides(size, divisor, f"client {client_name(tier.name, 0)}")
    for size in final_sizes(config, plans):
        check_divides(size, divisor, "evaluation.resolutions")
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
    loss_spec(config.objective).build()
    notes = (*notes, *check_method(config, model, layout))
    check_aggregation(config, cohort_spec(config).size(len(trainers(config, plans))), len(skeleton))
    check_transforms(config, layout, len(trainers(config, plans)))
    initial = layout.read(model)
    check_finite(config, layout, initial)
    check_norms(model, config.model.name, _smallest(plans, data.counts), config.optimizer.batch_size)
    macs, why = macs_of(config, plans, data.counts, model)
    fleet, late = fleet_of(config, plans, macs, why, model, layout)
    check_profile(config, plans, data.counts, fleet)
    check_answers(config, plans, data.counts, fleet)
    notes = (
        *data.notes,
        *notes,
        *late,
        *attack_notes(config, plans),
        *pool_notes(config, plans),
        *([f"forward MACs are not told: {why}"] if why else []),
    )
    if check_pictures:
        notes = (*notes, *(f"warning: {note}" for note in picture_notes([data], [held_out])))
    return Prepared(config, plans, data, held_out, layout, initial, notes=notes, macs=macs, fleet=fleet)


def _smallest(plans: Plans, people: np.ndarray) -> list[tuple[str, int, Size]]:
    """(name, people, smallest level) of a client of each tier and number of people."""
    of, first = np.unique(np.stack([plans.tier, people]), axis=1, return_index=True)
    return [(plans[i].name, int(n), plans.tiers[t].levels[-1]) for (t, n), i in zip(of.T, first, strict=True)]


def pool_notes(config: Config, plans: Plans) -> tuple[str, ...]:
    """A warning where a method with one place for all people leaves a draw of clients out. Raises InputError."""
    if trainers(config, plans) is plans:
        return ()
    name = config.algorithm.name
    if config.federation.cohort.draw == "poisson":
        raise InputError(
            f"federation.cohort.draw=poisson: {name} trains in one place, which such a draw would leave out of rounds; "
            "set it to uniform"
        )
    if cohort_spec(config).size(len(plans)) == len(plans):
        return ()
    return (f"warning: {name} trains on everybody's people in each round, whatever share of the clients a round draws",)


def check_transforms(config: Config, layout: Layout, clients: int) -> None:
    """Raise InputError where a transform cannot work in this federation."""
    transforms = transforms_of(config)
    setting = setting_of(
        algorithm_of(config), transforms, layout, cohort_spec(config), clients, aggregator_of(config),
        devices=config.devices is not None,
    )  # fmt: skip
    for name, transform in zip(config.transforms.apply, transforms, strict=True):
        unfit = transform.requires(setting)
        if unfit:
            raise InputError(f"transforms.apply: {name}: {unfit}")


def check_profile(config: Config, plans: Plans, people: np.ndarray, fleet: Fleet | None) -> None:
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
    cohort = _trained_in(config, plans, people, fleet, profile.round - 1)
    if names.index(profile.client) not in cohort:
        who = shorten([names[i] for i in cohort]) or "nobody"
        raise InputError(
            f"resources.profile: {profile.client} does not train in round {profile.round} (federation.participation="
            f"{federation.participation:g}, federation.cohort{', devices' if fleet else ''}); that round trains {who}"
        )


def check_answers(config: Config, plans: Plans, people: np.ndarray, fleet: Fleet | None) -> None:
    """Raise InputError where the aggregator cannot combine what some round brings: devices or a Poisson draw leave some
    smaller than asked for. `people` (N,)."""
    aggregator = aggregator_of(config)
    if type(aggregator).fault is Aggregator.fault or (fleet is None and config.federation.cohort.draw != "poisson"):
        return
    for index in range(config.federation.rounds):
        answers = len(_trained_in(config, plans, people, fleet, index))
        fault = aggregator.fault(answers) if answers else None
        if fault:
            by = "devices" if fleet else "federation.cohort.draw=poisson"
            name = config.aggregation.name
            raise InputError(f"aggregation.name={name}: by {by} round {index + 1} is too small: {fault}")


def _trained_in(config: Config, plans: Plans, people: np.ndarray, fleet: Fleet | None, index: int) -> list[int]:
    """Numbers of the clients that round `index`, from 0, trains."""
    tiers = np.array([tier.name for tier in plans.tiers])[plans.tier]
    return plan_cohort(cohort_spec(config), fleet, tiers, people, config.seed, index)[0]


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
        target=config.devices.target if config.devices is not None else None,
    )


def own_sizes(prepared: Prepared) -> OwnSizes:
    """Whose own models are scored at which sizes."""
    config, plans = prepared.config, prepared.plans
    clients = [(plan.name, plan.size) for plan in plans]
    most, upsampled = config.evaluation.own_models, upsampled_sizes(config, plans)
    return sizes_of_clients(clients, final_sizes(config, plans), most, upsampled)


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
        fleet=prepared.fleet,
        save_model=partial(save_model, prepared.layout, config.model.name, prepared.skeleton.joints),
        aggregator=aggregator_of(config),
    )


def clients_of(prepared: Prepared) -> Clients:
    """Those who train."""
    config, plans, data, who = prepared.config, prepared.plans, prepared.data, prepared.trainers
    people, cost = data.counts, expected_pixels(config, plans, data.counts)
    owners = OpenClients(client_spec(config, prepared.skeleton, frozenset(bad_clients(config, plans))), plans, data)
    pooled = who is not plans
    return Clients(
        names=who.names(),
        tier_names=tuple(tier.name for tier in who.tiers),
        tier=who.tier,
        people=people.sum(keepdims=True) if pooled else people,
        cost=cost.sum(keepdims=True) if pooled else cost,
        open=OpenPool(owners, who[0]) if pooled else owners,
        macs=prepared.macs.sum(keepdims=True) if pooled and prepared.macs is not None else prepared.macs,
    )


def attack_facts(config: Config, plans: Plans) -> Json | None:
    """What bad clients do and who they are; None where there are none."""
    bad = bad_clients(config, plans)
    return {"name": config.attack.name, "clients": plans.names()[bad].tolist()} if bad else None


def facts_of(prepared: Prepared, name: str) -> Json:
    """What results.json says whatever comes out."""
    config, plans, data = prepared.config, prepared.plans, prepared.data
    clients = plans.counts()

    def by_tier(values: np.ndarray) -> dict[str, float]:
        return dict(zip(clients, np.bincount(plans.tier, values).tolist(), strict=True))

    return {
        "name": name,
        "seed": config.seed,
        "metric": config.evaluation.metric,
        "objective": config.objective.name,
        "algorithm": config.algorithm.name,
        "aggregation": config.aggregation.name,
        "attack": attack_facts(config, plans),
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
