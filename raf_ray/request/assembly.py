"""A request as a whole: checked, and resolved into one spec.

Everything that can be wrong with a request is found here, before a folder is made or an actor starts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch

from raf_ray.config.tree import Config
from raf_ray.data.people import People
from raf_ray.errors import InputError
from raf_ray.evaluation.own import OwnSizes, sizes_of_clients
from raf_ray.federation.spec import Clients, FederationSpec, HostsSpec, RoundsSpec
from raf_ray.models import size_divisor
from raf_ray.models.norms import check_norms
from raf_ray.models.saving import save_model
from raf_ray.request.attackers import attack_notes, bad_clients, check_aggregation
from raf_ray.request.checks import (
    check_answers,
    check_finite,
    check_labels,
    check_profile,
    check_transforms,
    cohort_spec,
    pool_notes,
    smallest_clients,
)
from raf_ray.request.facts import facts_of
from raf_ray.request.fleet import fleet_of, macs_of
from raf_ray.request.method import algorithm_of, check_method
from raf_ray.request.needs import check_shares, wants_gpu
from raf_ray.request.parts import (
    aggregator_of,
    backbone_notes,
    client_spec,
    initial_model,
    loss_spec,
    model_spec,
    scorer_spec,
    transforms_of,
)
from raf_ray.request.people import Split, load_data, picture_notes, splits_of, train_sample
from raf_ray.request.plans import (
    expected_pixels,
    final_sizes,
    plan_clients,
    round_sizes,
    trained_sizes,
    trainers,
    upsampled_sizes,
)
from raf_ray.request.prepared import Prepared
from raf_ray.request.task import check_task, task_of
from raf_ray.resolution import check_divides
from raf_ray.state import Layout
from raf_ray.training.clients import Owned, Plans, client_name
from raf_ray.training.pool import OpenPool
from raf_ray.training.spec import OpenClients

LoadData = Callable[[Config, Plans, Sequence[Split]], tuple[Owned, dict[str, People]]]


def prepare(config: Config, load: LoadData = load_data, check_pictures: bool = True) -> Prepared:
    """Check a request as a whole. Raises InputError for what is wrong with it.

    `check_pictures`: note pictures whose size is not the annotations'; their headers are read.
    """
    plans = plan_clients(config)
    task = task_of(config)
    check_task(config, task)
    data, held_out = load(config, plans, splits_of(config))
    train = train_sample(config, data)
    check_labels(config, task, data, held_out | train)
    outputs = len(task.outputs(held_out["val"].skeleton))
    model, notes = initial_model(model_spec(config, outputs), config.model, config.seed)
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
    loss_spec(config).build(task)
    notes = (*notes, *check_method(config, model, layout))
    check_aggregation(config, cohort_spec(config).size(len(trainers(config, plans))), len(held_out["val"].skeleton))
    check_transforms(config, layout, len(trainers(config, plans)))
    initial = layout.read(model)
    check_finite(config, layout, initial)
    check_norms(model, config.model.name, smallest_clients(plans, data.counts), config.optimizer.batch_size)
    macs, why = macs_of(config, plans, data.counts, model)
    fleet, late = fleet_of(config, plans, macs, why, model, layout)
    check_profile(config, plans, data.counts, fleet)
    check_answers(config, plans, data.counts, fleet)
    notes = (
        *data.notes,
        *backbone_notes(config),
        *notes,
        *late,
        *attack_notes(config, plans),
        *pool_notes(config, plans),
        *([f"forward MACs are not told: {why}"] if why else []),
    )
    if check_pictures:
        notes = (*notes, *(f"warning: {note}" for note in picture_notes([data], [held_out])))
    return Prepared(
        config, plans, data, held_out, layout, initial, notes=notes, macs=macs, fleet=fleet, train_sample=train
    )


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
        round_splits=("val", *prepared.train_sample),
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
        make_scorer=scorer_spec(config, prepared.scored, prepared.cut).build,
        algorithm=algorithm_of(config),
        transforms=transforms_of(config),
        layout=prepared.layout,
        initial=prepared.initial,
        rounds=rounds_spec(prepared),
        hosts=HostsSpec(config.data.cache_mb, config.resources.retries, config.resources.wait_for_room_s),
        facts=facts_of(prepared, name),
        fleet=prepared.fleet,
        save_model=partial(
            save_model,
            prepared.layout,
            config.model.name,
            config.model.heatmap_stride,
            prepared.outputs,
            prepared.labels,
        ),
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
