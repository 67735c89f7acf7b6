"""Who takes part: each client's name, tier and pyramid, and the sizes that models are scored at."""

from __future__ import annotations

from collections.abc import Sequence

from raf_ray.config.tree import Config, ObjectiveConfig
from raf_ray.errors import InputError
from raf_ray.objectives.levels import level_weights
from raf_ray.resolution import Size, find_size, parse_size, pyramid_levels
from raf_ray.training.spec import ClientPlan


def plan_clients(config: Config) -> tuple[ClientPlan, ...]:
    """Names, tiers and pyramids, in order; a client is called ``client-TIER-NNN``.

    A tier that is given as a size is named by it as `Size` writes it, whatever the spaces and capitals.
    """
    listed = config.federation.clients
    names = [t for t, n in listed.items() for _ in range(n)] if isinstance(listed, dict) else list(listed)
    tiers = config.resolution.tiers
    for tier, text in tiers.items():
        try:
            parse_size(text)
        except InputError as error:
            raise InputError(f"resolution.tiers.{tier}: {error}") from error
    plans = []
    seen: dict[str, int] = {}
    for number, name in enumerate(names):
        size = find_size(name, tiers, "federation.clients")
        tier = name if name in tiers else str(size)
        levels = levels_of(config.objective, size, tiers)
        weights = level_weights(config.objective.level_weights, [level.pixels for level in levels])
        client = f"client-{tier}-{seen.get(tier, 0):03d}"
        seen[tier] = seen.get(tier, 0) + 1
        plans.append(ClientPlan(client, number, tier, size, levels, weights))
    return tuple(plans)


def levels_of(objective: ObjectiveConfig, own: Size, tiers: dict[str, str]) -> tuple[Size, ...]:
    """A client's pyramid by `objective.levels`, own size first."""
    if objective.name == "heatmap":
        return (own,)
    if objective.levels == "tiers":
        below = [parse_size(text) for text in tiers.values()]
    else:
        below = [find_size(name, tiers, "objective.levels") for name in objective.levels]
    levels = pyramid_levels(own, below)
    weights = objective.level_weights
    if isinstance(weights, list) and len(weights) < len(levels):
        raise InputError(
            f"objective.level_weights has {len(weights)} entries, but a client of {own} has {len(levels)} levels"
        )
    return levels


def trained_sizes(plans: Sequence[ClientPlan]) -> list[Size]:
    """Sizes of the clients' own tiers, largest first."""
    return sorted({plan.size for plan in plans}, key=lambda s: s.pixels, reverse=True)


def final_sizes(config: Config, plans: Sequence[ClientPlan]) -> list[Size]:
    """Sizes of the drift curve, largest first, always with the trained ones."""
    return sorted({*asked_sizes(config), *trained_sizes(plans)}, key=lambda s: s.pixels, reverse=True)


def asked_sizes(config: Config) -> list[Size]:
    """The sizes of `evaluation.resolutions`, in their order."""
    tiers = config.resolution.tiers
    return [find_size(name, tiers, "evaluation.resolutions") for name in config.evaluation.resolutions]


def round_sizes(config: Config, plans: Sequence[ClientPlan]) -> list[Size]:
    """Sizes that rounds are scored at on `val`, largest first."""
    return final_sizes(config, plans) if config.evaluation.round_sizes == "all" else trained_sizes(plans)


def expected_pixels(config: Config, plan: ClientPlan, people: int) -> float:
    """Forward pixels of one client's round, in expectation over the levels drawn."""
    objective = config.objective
    own, lower = plan.levels[0].pixels, [level.pixels for level in plan.levels[1:]]
    mean_lower = sum(lower) / len(lower) if lower else 0.0
    if not lower or objective.sampling == "all":
        a_person = float(own + sum(lower))
    elif objective.sampling == "pair":
        a_person = own + (1 - (objective.own_share or 0.0)) * mean_lower
    else:
        share = 0.5 if objective.own_share is None else objective.own_share
        a_person = share * own + (1 - share) * mean_lower
    return a_person * people * config.federation.local_epochs
