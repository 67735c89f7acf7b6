"""Which clients are bad, and whether that and the aggregator fit the federation."""

from __future__ import annotations

import numpy as np

from raf_ray.attacks.interface import Attack
from raf_ray.config.tree import Config
from raf_ray.errors import InputError
from raf_ray.request.method import algorithm_of
from raf_ray.request.parts import aggregator_of, attack_of
from raf_ray.training.clients import Plans

BAD = 2**31 + 3
"""Stream of the seed that bad clients are drawn from; cohorts have 2**31, the server's transforms the next but one."""


def bad_clients(config: Config, plans: Plans) -> list[int]:
    """Numbers of the bad clients, in order; none without an attack. Raises InputError where there cannot be so many.

    One order is drawn by the seed and its first clients are bad: a larger share has the same ones and more.
    """
    asked = config.attack
    if asked.name is None:
        return []
    if algorithm_of(config).pools:
        raise InputError(
            f"attack.name={asked.name}: {config.algorithm.name} trains in one place; leave one of them out"
        )
    among = np.arange(len(plans))
    if asked.tier is not None:
        tiers = [tier.name for tier in plans.tiers]
        if asked.tier not in tiers:
            raise InputError(f"attack.tier={asked.tier}: no client is of that tier (tiers: {', '.join(tiers)})")
        among = np.flatnonzero(plans.tier == tiers.index(asked.tier))
    count = round(asked.share * len(plans))
    said = f"attack.share={asked.share:g} of {len(plans)} clients"
    if count == 0:
        raise InputError(f"{said} is none; raise it, or leave attack.name out")
    if count > len(among):
        raise InputError(
            f"{said} is {count}, but tier {asked.tier} has {len(among)}; lower it or leave attack.tier out"
        )
    order = np.random.default_rng([config.seed, 0, BAD]).permutation(among)
    return sorted(order[:count].tolist())


def check_aggregation(config: Config, clients: int, joints: int) -> None:
    """Raise InputError where a round of so many clients, or an attack on so many joints, cannot be."""
    fault = aggregator_of(config).fault(clients)
    if fault:
        raise InputError(f"aggregation.name={config.aggregation.name}: {fault}")
    attack = attack_of(config)
    if attack is not None and type(attack).labels is not Attack.labels and config.task.name != "pose":
        raise InputError(
            f"attack.name={config.attack.name} mislabels joints, and task.name={config.task.name} has none"
        )
    fault = attack.fault(joints) if attack is not None else None
    if fault:
        raise InputError(fault)


def attack_notes(config: Config, plans: Plans) -> tuple[str, ...]:
    """A sentence on who is bad; a warning where they are half of the clients or more. Raises InputError."""
    bad = bad_clients(config, plans)
    if not bad:
        return ()
    told = f"attack.name={config.attack.name}: {len(bad)} of {len(plans)} clients are bad"
    if 2 * len(bad) < len(plans):
        return (told,)
    return (f"warning: {told}, against which no aggregator is meant to hold",)
