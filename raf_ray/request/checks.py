"""What may be wrong with a request whose parts are each right: method, cohorts, people and model together."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from raf_ray.aggregators.interface import Aggregator
from raf_ray.config.tree import Config
from raf_ray.data.people import People
from raf_ray.devices.profiles import Fleet
from raf_ray.errors import InputError
from raf_ray.federation.cohort import CohortSpec, plan_cohort
from raf_ray.federation.spec import setting_of
from raf_ray.request.method import algorithm_of
from raf_ray.request.parts import aggregator_of, shorten, transforms_of
from raf_ray.request.plans import trainers
from raf_ray.request.task import check_can_be_stored, metrics_of
from raf_ray.resolution import Size
from raf_ray.state import Layout
from raf_ray.tasks import Task
from raf_ray.training.clients import Owned, OwnedShards, Plans


def smallest_clients(plans: Plans, people: np.ndarray) -> list[tuple[str, int, Size]]:
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


def check_labels(config: Config, task: Task, data: Owned, held_out: dict[str, People]) -> None:
    """Raise InputError where the people lack what the task learns, or is scored by."""
    for split, people in held_out.items():
        task.check(people, split, metrics_of(config)[split])
        if isinstance(data, OwnedShards):
            check_can_be_stored(config, task, people)
        else:
            task.maps(people)


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
    cohort = _cohorts(config, plans, people, fleet)(profile.round - 1)
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
    trained_in = _cohorts(config, plans, people, fleet)
    for index in range(config.federation.rounds):
        answers = len(trained_in(index))
        fault = aggregator.fault(answers) if answers else None
        if fault:
            by = "devices" if fleet else "federation.cohort.draw=poisson"
            name = config.aggregation.name
            raise InputError(f"aggregation.name={name}: by {by} round {index + 1} is too small: {fault}")


def _cohorts(config: Config, plans: Plans, people: np.ndarray, fleet: Fleet | None) -> Callable[[int], list[int]]:
    """Round, from 0 -> numbers of the clients that it trains."""
    spec, tiers = cohort_spec(config), np.array([tier.name for tier in plans.tiers])[plans.tier]
    return lambda index: plan_cohort(spec, fleet, tiers, people, config.seed, index).clients


def check_finite(config: Config, layout: Layout, initial: np.ndarray) -> None:
    """Raise InputError where the model does not begin from finite weights."""
    bad = layout.not_finite(initial)
    if bad:
        raise InputError(f"model.name={config.model.name}: its initial {shorten(bad, 3)} is not finite; correct it")


def cohort_spec(config: Config) -> CohortSpec:
    asked = config.federation
    return CohortSpec(asked.participation, asked.cohort.size, asked.cohort.draw)
