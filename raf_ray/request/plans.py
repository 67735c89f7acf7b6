"""Who takes part: each client's name, tier and pyramid, and the sizes that models are scored at."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from raf_ray.config.tree import Config, ObjectiveConfig
from raf_ray.errors import InputError
from raf_ray.objectives.levels import level_weights
from raf_ray.request.method import algorithm_of
from raf_ray.resolution import Size, find_size, parse_size, pyramid_levels
from raf_ray.training.clients import Plans, TierPlan


def plan_clients(config: Config) -> Plans:
    """Names, tiers and pyramids of the clients, in order.

    A tier that is given as a size is named by it as `Size` writes it, whatever the spaces and capitals.
    """
    listed = config.federation.clients
    runs = list(listed.items()) if isinstance(listed, dict) else [(name, 1) for name in listed]
    for given, text in config.resolution.tiers.items():
        try:
            parse_size(text)
        except InputError as error:
            raise InputError(f"resolution.tiers.{given}: {error}") from error
    common = _common_tier(config, dict(runs))
    runs = runs if common is None else [(common, count) for _, count in runs]
    plans = {name: _tier_plan(config, name) for name in dict.fromkeys(name for name, _ in runs)}
    tiers = {plan.name: plan for plan in plans.values()}
    order = list(tiers)
    of = [order.index(plans[name].name) for name, _ in runs]
    tier = np.repeat(np.array(of, np.int32), [count for _, count in runs])
    place = np.zeros(len(tier), np.int32)
    for number in range(len(tiers)):
        place[tier == number] = np.arange((tier == number).sum())
    return Plans(tuple(tiers.values()), tier, place)


def _common_tier(config: Config, names: Iterable[str]) -> str | None:
    """What all clients' people are seen at, where the method says so."""
    tiers, algorithm = config.resolution.tiers, algorithm_of(config)
    common = algorithm.common_tier({name: find_size(name, tiers, "federation.clients") for name in names})
    if common is not None:
        find_size(common, tiers, f"algorithm.{config.algorithm.name}.size")
    return common


def trainers(config: Config, plans: Plans) -> Plans:
    """Who trains: the clients, or one that has all their people where the method has them in one place."""
    if not algorithm_of(config).pools:
        return plans
    levels = sorted({s for tier in plans.tiers for s in tier.levels}, key=lambda s: s.pixels, reverse=True)
    # Its batches are of its owners' tiers, each with that tier's weights of levels.
    pool = TierPlan("pool", levels[0], tuple(levels), (1.0,) * len(levels))
    return Plans((pool,), np.zeros(1, np.int32), np.zeros(1, np.int32))


def _tier_plan(config: Config, name: str) -> TierPlan:
    """Of a tier's name or a size."""
    tiers = config.resolution.tiers
    size = find_size(name, tiers, "federation.clients")
    levels = levels_of(config.objective, size, tiers)
    weights = level_weights(config.objective.level_weights, [level.pixels for level in levels])
    return TierPlan(name if name in tiers else str(size), size, levels, weights)


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


def trained_sizes(plans: Plans) -> list[Size]:
    """Sizes of the clients' own tiers, largest first."""
    return sorted({tier.size for tier in plans.tiers}, key=lambda s: s.pixels, reverse=True)


def final_sizes(config: Config, plans: Plans) -> list[Size]:
    """Sizes of the drift curve, largest first, always with the trained ones."""
    return sorted({*asked_sizes(config), *trained_sizes(plans)}, key=lambda s: s.pixels, reverse=True)


def asked_sizes(config: Config) -> list[Size]:
    """The sizes of `evaluation.resolutions`, in their order."""
    tiers = config.resolution.tiers
    return [find_size(name, tiers, "evaluation.resolutions") for name in config.evaluation.resolutions]


def round_sizes(config: Config, plans: Plans) -> list[Size]:
    """Sizes that rounds are scored at on `val`, largest first."""
    return final_sizes(config, plans) if config.evaluation.round_sizes == "all" else trained_sizes(plans)


def upsampled_sizes(config: Config, plans: Plans) -> dict[Size, Size]:
    """Test size -> the trained size that its images are brought to before the model, by `evaluation.upsample`."""
    evaluation, trained = config.evaluation, trained_sizes(plans)
    found: dict[Size, Size] = {}
    for size in final_sizes(config, plans) if evaluation.upsample != "none" else ():
        above = [one for one in trained if size.is_below(one)]
        if above and (evaluation.upsample_to == "largest" or size not in trained):
            found[size] = above[0] if evaluation.upsample_to == "largest" else above[-1]
    return found


def expected_pixels(config: Config, plans: Plans, people: np.ndarray) -> np.ndarray:
    """(N,) forward pixels of each client's round, in expectation over the levels drawn; of `people` (N,)."""
    return _expected(config, plans, people, lambda size: size.pixels)


def expected_macs(config: Config, plans: Plans, people: np.ndarray, image_macs: Callable[[Size], float]) -> np.ndarray:
    """(N,) forward MACs of each client's round, as `expected_pixels`; `image_macs` of one image of a size."""
    return _expected(config, plans, people, image_macs)


def _expected(config: Config, plans: Plans, people: np.ndarray, cost: Callable[[Size], float]) -> np.ndarray:
    a_person = np.array([_cost_a_person(config.objective, tier, cost) for tier in plans.tiers])
    return a_person[plans.tier] * people * config.federation.local_epochs


def _cost_a_person(objective: ObjectiveConfig, tier: TierPlan, cost: Callable[[Size], float]) -> float:
    own, lower = cost(tier.levels[0]), [cost(level) for level in tier.levels[1:]]
    mean_lower = sum(lower) / len(lower) if lower else 0.0
    if not lower or objective.sampling == "all":
        return float(own + sum(lower))
    if objective.sampling == "pair":
        return own + (1 - (objective.own_share or 0.0)) * mean_lower
    share = 0.5 if objective.own_share is None else objective.own_share
    return share * own + (1 - share) * mean_lower
