"""What a run's rounds came to on the virtual clock: columns of rounds.csv, costs by tier, hours to a score.

Columns, after those of `raf_ray.federation.accounting`:

    virtual_s                       of the round, see `raf_ray.devices.clock`
    asked, answered, dropped, late  clients; the last three add up to the first
    virtual_mb_down, virtual_mb_up  moved by all who were asked, those who were lost or late up to where they came.
                                    mb_down and mb_up are of those who answered alone
    staleness                       where the server does not wait for whole rounds: mean over the answers, in rounds
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from raf_ray.devices.clock import RoundPlan

COLUMNS = ("virtual_s", "asked", "answered", "dropped", "late", "virtual_mb_down", "virtual_mb_up")
COSTS = ("virtual_s", "virtual_macs", "virtual_mb_down", "virtual_mb_up")


@dataclass
class VirtualAccount:
    """Running sums over the rounds. `state` is all of it."""

    tier: np.ndarray
    """(N,) int, place of each client's tier in `tier_names`"""
    tier_names: Sequence[str]
    is_buffered: bool = False
    """Whether answers may come from older states"""
    seconds: float = 0.0
    """Of the rounds so far"""
    _costs: dict[str, dict[str, float]] = field(default_factory=dict)
    """Tier -> sums of `COSTS`, of the tiers that were asked"""

    def columns(self) -> tuple[str, ...]:
        return (*COLUMNS, "staleness") if self.is_buffered else COLUMNS

    def add(self, plan: RoundPlan) -> dict[str, float]:
        """Count a round in; its columns."""
        of = self.tier[plan.asked]
        columns = (plan.busy_s, plan.macs, plan.mb_down, plan.mb_up)
        for place in np.unique(of).tolist():
            cost = self._costs.setdefault(self.tier_names[place], dict.fromkeys(COSTS, 0.0))
            for name, values in zip(COSTS, columns, strict=True):
                cost[name] += math.fsum(values[of == place].tolist())
        seconds = round(plan.seconds, 6)
        self.seconds += seconds
        row = [seconds, len(plan.asked), len(plan.answered), plan.dropped, plan.late,
               round(math.fsum(plan.mb_down.tolist()), 6), round(math.fsum(plan.mb_up.tolist()), 6)]  # fmt: skip
        if plan.staleness is not None:
            row.append(round(float(plan.staleness.mean()), 6))
        return dict(zip(self.columns(), row, strict=True))

    def totals(self) -> dict[str, float]:
        """What results.json's totals say besides."""
        return {"virtual_hours": self.seconds / 3600}

    def tiers(self) -> set[str]:
        """Those that were asked."""
        return set(self._costs)

    def costs(self, tier: str) -> dict[str, float]:
        """What a tier's clients cost so far, whether their work was taken or lost."""
        cost = self._costs.get(tier, dict.fromkeys(COSTS, 0.0))
        rest = {name: value for name, value in cost.items() if name != "virtual_s"}
        return {"virtual_hours": cost["virtual_s"] / 3600, **rest}

    def state(self) -> dict[str, Any]:
        """Plain containers, for a checkpoint."""
        return {"seconds": self.seconds, "costs": {tier: dict(cost) for tier, cost in self._costs.items()}}

    def restore(self, state: object) -> None:
        """Go on from what `state` gave. Raises ValueError where that is of no such run."""
        if not isinstance(state, dict) or set(state) != {"seconds", "costs"}:
            raise ValueError("its virtual clock is none")
        seconds, costs = state["seconds"], state["costs"]
        whole = isinstance(costs, dict) and all(isinstance(c, dict) and set(c) == set(COSTS) for c in costs.values())
        if not whole or not set(costs) <= set(self.tier_names):
            raise ValueError("its virtual costs are not those of these clients")
        numbers = [seconds, *(value for cost in costs.values() for value in cost.values())]
        if not all(isinstance(v, int | float) and math.isfinite(v) and v >= 0 for v in numbers):
            raise ValueError("its virtual costs are no numbers")
        self.seconds, self._costs = seconds, {tier: dict(cost) for tier, cost in costs.items()}


def hours_to(target: float, scored: Iterable[tuple[int, float]], rows: Iterable[Mapping[str, Any]]) -> float | None:
    """Virtual hours to the end of the first round whose score reaches `target`; None where none does.

    Args:
        scored: (round, score).
        rows: of rounds.csv.
    """
    reached = min((done for done, score in scored if score >= target), default=None)
    if reached is None:
        return None
    return sum(float(row["virtual_s"]) for row in rows if int(row["round"]) <= reached) / 3600
