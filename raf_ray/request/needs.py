"""What each tier's clients ask a cluster for: `resources.cpus_per_client`, `.gpus_per_client` and `.labels`."""

from __future__ import annotations

from collections.abc import Mapping
from math import inf
from typing import Any, Literal

import numpy as np

from raf_ray.cluster.shares import TierNeed
from raf_ray.config.tree import Config
from raf_ray.errors import InputError
from raf_ray.request.plans import expected_pixels, trainers
from raf_ray.training.clients import Plans

MEASURED = "resources.gpus_per_client=auto"


def check_shares(config: Config, plans: Plans) -> None:
    """Raise InputError where a share or label names a tier that does not exist, or leaves out one that has clients."""
    for tier in plans.tiers:
        _share(config, "gpus_per_client", tier.name)
        _share(config, "cpus_per_client", tier.name)
    for key in ("gpus_per_client", "cpus_per_client", "labels"):
        given = getattr(config.resources, key)
        known = {*config.resolution.tiers, *(tier.name for tier in plans.tiers)}
        for name in given if isinstance(given, Mapping) else ():
            if name not in known:
                raise InputError(f"resources.{key}: unknown tier {name!r} (tiers: {', '.join(sorted(known))})")


def needs_of(config: Config, plans: Plans, people: np.ndarray, gpus: Mapping[str, float] | None) -> list[TierNeed]:
    """Of each tier, in order; of all together where the method has their people in one place.

    Args:
        people: (N,) that each client owns.
        gpus: tier -> share of a GPU, where the config says `auto`.
    """
    cost = np.bincount(plans.tier, expected_pixels(config, plans, people), len(plans.tiers))
    needs = [
        TierNeed(
            tier=tier.name,
            clients=count,
            cost=float(pixels) / count,
            cpus=_share(config, "cpus_per_client", tier.name),
            gpus=gpus[tier.name] if gpus is not None else _gpus(config, tier.name),
            labels=config.resources.labels.get(tier.name, {}),
        )
        for tier, count, pixels in zip(plans.tiers, plans.counts().values(), cost, strict=True)
    ]
    return needs if trainers(config, plans) is plans else [_pooled(needs, float(cost.sum()))]


def _pooled(needs: list[TierNeed], cost: float) -> TierNeed:
    """What one actor needs that does all their work: the largest share of each kind, where any may be."""
    cpus = max((need.cpus for need in needs), key=lambda share: inf if share == "auto" else share)
    return TierNeed("pool", 1, cost, cpus, max(need.gpus for need in needs))


def wants_gpu(config: Config) -> bool:
    """Whether some client shall have a GPU, if there is one."""
    asked = config.resources.gpus_per_client
    return asked == "auto" or max(asked.values() if isinstance(asked, Mapping) else [asked]) > 0


def _gpus(config: Config, tier: str) -> float:
    share = _share(config, "gpus_per_client", tier)
    if share == "auto":
        raise InputError(
            f"{MEASURED} needs a step of each tier measured, which a search does not: give base.resources."
            "gpus_per_client a number or one for each tier"
        )
    return share


def _share(config: Config, key: Literal["cpus_per_client", "gpus_per_client"], tier: str) -> Any:
    asked = getattr(config.resources, key)
    if not isinstance(asked, Mapping):
        return asked
    if tier not in asked:
        raise InputError(f"resources.{key} names no share for tier {tier!r}, which has clients; add it")
    return asked[tier]
