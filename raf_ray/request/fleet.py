"""What `devices` asks for: each client's device, its round's cost, and whether anybody can answer in time."""

from __future__ import annotations

from functools import cache

import numpy as np
from torch import nn

from raf_ray.aggregators.interface import OneByOne
from raf_ray.config.devices import DevicesConfig
from raf_ray.config.loading import nearest
from raf_ray.config.tree import Config
from raf_ray.devices.profiles import PRESETS, Fleet, Profile, Rules, Work, make_fleet
from raf_ray.errors import InputError, one_line
from raf_ray.models.macs import forward_macs
from raf_ray.request.method import algorithm_of
from raf_ray.request.parts import aggregator_of, transforms_of
from raf_ray.request.plans import expected_macs
from raf_ray.resolution import Size
from raf_ray.state import Layout
from raf_ray.training.clients import Plans
from raf_ray.training.traffic import traffic


def macs_of(config: Config, plans: Plans, people: np.ndarray, model: nn.Module) -> tuple[np.ndarray | None, str]:
    """(N,) expected forward MACs of each client's round; None, and why, where the model cannot be run to count them."""

    at: Size | None = None

    @cache
    def of_image(size: Size) -> float:
        nonlocal at
        at = size
        return forward_macs(model, size)

    try:
        return expected_macs(config, plans, people, of_image), ""
    except Exception as error:  # whatever a model of one's own raises
        return None, f"the model fails on an image of {at} ({type(error).__name__}: {one_line(error)[:200]})"


def fleet_of(
    config: Config, plans: Plans, macs: np.ndarray | None, why: str, model: nn.Module, layout: Layout
) -> tuple[Fleet | None, tuple[str, ...]]:
    """The clients' devices, and notes on tiers that can never answer; None where `devices` is null.

    Args:
        macs: (N,), or None and `why`; see `macs_of`.

    Raises InputError where a tier has no device, a device no client, or no client can answer within the deadline.
    """
    asked = config.devices
    if asked is None:
        if algorithm_of(config).pace(len(plans)) is not None:
            raise InputError(
                f"algorithm.name={config.algorithm.name} goes by the virtual clock; say what devices the clients have, "
                f"such as devices.profiles={{{', '.join(f'{tier.name}: phone' for tier in plans.tiers)}}}"
            )
        return None, ()
    if config.federation.cohort.draw == "poisson":
        raise InputError(
            "devices: a Poisson draw (federation.cohort.draw=poisson) has each client by itself, and devices ask more "
            "clients than are wanted and take the first; leave one of them out"
        )
    if algorithm_of(config).pools:
        raise InputError(
            f"devices: {config.algorithm.name} trains in one place, on no client's device; set devices=null"
        )
    _check_pace(config, asked, len(plans))
    kinds, kind = _kinds(asked, config, plans)
    if macs is None:
        raise InputError(f"devices: {why}, so its work cannot be counted; set devices=null, or correct the model")
    try:
        down, up = traffic(algorithm_of(config), transforms_of(config), model, layout)
    except Exception as error:  # whatever a method of one's own raises
        raise InputError(
            f"devices: algorithm.name={config.algorithm.name} cannot say what it sends before it trains "
            f"({type(error).__name__}: {one_line(error)[:200]}); set devices=null, or correct it"
        ) from error
    rules = Rules(asked.over_select, asked.deadline_s, asked.retry_s)
    fleet = make_fleet(kinds, kind, Work(macs, down, up), rules, config.seed)
    return fleet, _check_deadline(fleet, plans)


def _check_pace(config: Config, devices: DevicesConfig, clients: int) -> None:
    """Raise InputError where a method that does not wait for whole rounds is combined with what needs them."""
    pace = algorithm_of(config).pace(clients)
    if pace is None:
        return
    name, federation = f"algorithm.name={config.algorithm.name}", config.federation
    if pace.concurrency > clients:
        raise InputError(f"{name}: {pace.concurrency} clients cannot be at work, there are {clients}; ask for fewer")
    if pace.buffer > clients:
        raise InputError(
            f"{name}: a buffer of {pace.buffer} updates never fills with {clients} clients, of which each answers once "
            "from a state; make it smaller"
        )
    if (federation.participation, federation.cohort.size, federation.cohort.draw) != (1.0, None, "uniform"):
        raise InputError(
            f"{name} draws no cohort of a round; leave federation.participation and federation.cohort as they are, and "
            "say by the method's own parameters how many clients are at work"
        )
    if devices.deadline_s is not None:
        raise InputError(f"devices.deadline_s: {name} waits for no round to end; set it to null")
    if isinstance(aggregator_of(config), OneByOne):
        raise InputError(
            f"aggregation.name={config.aggregation.name} ranks updates of one state, and {name} combines those of "
            "several; set it to mean"
        )
    if any(transform.over_expected for transform in transforms_of(config)):
        raise InputError(f"transforms.apply: what counts on the clients that a round draws does not go with {name}")
    if config.resources.profile is not None:
        raise InputError(f"resources.profile traces a round, which {name} has not; set it to null")


def _kinds(asked: DevicesConfig, config: Config, plans: Plans) -> tuple[list[Profile], np.ndarray]:
    """The kinds of devices, and (N,) the place among them of each client's: its own, else its tier's."""
    tiers = {tier.name: number for number, tier in enumerate(plans.tiers)}
    names = list(asked.profiles)
    kind = np.full(len(plans), -1)
    for place, name in enumerate(names):
        if name in tiers:
            kind[plans.tier == tiers[name]] = place
    others = {name: place for place, name in enumerate(names) if name not in tiers}
    clients = {name: i for i, name in enumerate(plans.names().tolist())} if others else {}
    for name, place in others.items():
        if name in clients:
            kind[clients[name]] = place
        elif name not in config.resolution.tiers:
            known = [*tiers, *clients]
            raise InputError(f"devices.profiles: there is no tier or client '{name[:80]}'{nearest(name, known)}")
    if (kind < 0).any():
        tier = plans[int(np.flatnonzero(kind < 0)[0])].tier
        raise InputError(f"devices.profiles names no device for tier '{tier}', which has clients; add it")
    return [_profile(asked, name) for name in names], kind


def _profile(asked: DevicesConfig, name: str) -> Profile:
    device = asked.profiles[name]
    known = vars(PRESETS[device.preset]) if device.preset is not None else {}
    return Profile(**{**known, **device.given})


def _check_deadline(fleet: Fleet, plans: Plans) -> tuple[str, ...]:
    deadline = fleet.rules.deadline_s
    if deadline is None:
        return ()
    best = int(fleet.seconds.argmin())
    if fleet.seconds[best] > deadline:
        raise InputError(
            f"devices.deadline_s={deadline:g}: no client can answer in that; the fastest, {plans[best].name}, takes "
            f"{fleet.seconds[best]:.3g} s; raise it, or give the devices more speed"
        )
    return tuple(
        f"warning: no client of tier {tier.name} can answer within devices.deadline_s={deadline:g} (its fastest takes "
        f"{fleet.seconds[plans.tier == number].min():.3g} s), so none will be trained"
        for number, tier in enumerate(plans.tiers)
        if fleet.seconds[plans.tier == number].min() > deadline
    )
