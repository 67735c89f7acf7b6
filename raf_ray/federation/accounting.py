"""What a run's rounds came to: the rows of rounds.csv, and the totals and costs by tier of results.json.

One rule for every mean: what a client reports weighs by the people it is a mean over, and sums are exact, so that the
order in which clients answer does not show. Columns of rounds.csv, in order:

    round           from 1
    loss            mean over the people that were trained on (epochs counted) of their batches' total losses
    gt_HxW, kd_HxW  the loss's terms at a level, against target and teacher: mean over the people whose batch drew it
    update_norm_T   L2 norm of a client's change of the weights, before its share: mean over tier T's people. Norm
                    statistics (running means and variances) are no weights, and what a method leaves with its client
                    is not counted. Empty where none of T took part
    seconds         from the broadcast to the next state
    wait_seconds    from a client's answer to the last one's, mean over the clients
    people          trained on, epochs counted
    people_per_s    of the round
    forward_pixels  image pixels that went through the models, all levels
    mb_down, mb_up  states sent to clients, updates sent back as transforms code them, and further vectors with them
    left_out        clients whose own work failed, with federation.on_client_failure=drop
    (more)          what transforms tell of the run so far
    virtual_s ...   with devices, see `raf_ray.devices.account`

A round that nobody answers has no loss. A tier's `forward_macs` are its forward pixels times the MACs a pixel that its
levels are expected to cost: exact where every batch trains all of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from raf_ray.devices.account import VirtualAccount
from raf_ray.devices.clock import RoundPlan
from raf_ray.files import Json
from raf_ray.training.exchange import Receipt

TOTALS = ("seconds", "forward_pixels", "mb_up", "mb_down")
COSTS = ("people", "seconds", "mb_sent", "forward_pixels", "peak_memory_mb", "bad_pictures")


@dataclass
class Account:
    """Running sums over the rounds. `state` is all of it: a resumed run that is given it back tells the same."""

    tiers: Mapping[str, str]
    """Client -> its tier, of all clients."""
    tier_names: Sequence[str]
    level_sizes: Sequence[str]
    """All sizes that some client trains on."""
    counts_left_out: bool = False
    """Whether rows have that column"""
    figures: Sequence[str] = ()
    """What transforms tell"""
    macs_a_pixel: Mapping[str, float] = field(default_factory=dict)
    """Tier -> forward MACs a forward pixel; {}: not known"""
    virtual: VirtualAccount | None = None
    """Of the virtual clock, with devices"""
    totals: dict[str, float] = field(default_factory=dict)
    """Of `TOTALS`, and the last `figures`; empty before the first round."""
    _costs: dict[str, dict[str, float]] = field(default_factory=dict)
    """Tier -> sums of `COSTS`, of the tiers that have trained."""
    _bad: dict[str, int] = field(default_factory=dict)
    """Client -> its people left out, as it last said, where it ever left some out: a new process knows of them only
    when it has trained."""

    def state(self) -> Json:
        """Plain containers, for a checkpoint."""
        return {
            "totals": dict(self.totals),
            "costs": {t: dict(c) for t, c in self._costs.items()},
            "bad": {**self._bad},
            **({"virtual": self.virtual.state()} if self.virtual is not None else {}),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` gave. Raises ValueError where that is of no such run."""
        totals, costs, bad = (state.get(name, {}) for name in ("totals", "costs", "bad"))
        if not all(isinstance(values, dict) for values in (totals, costs, bad)):
            raise ValueError("its totals are no mappings")
        names = {"totals", "costs", "bad", *(["virtual"] if self.virtual is not None else [])}
        if set(state) != names or not set(costs) <= set(self.tier_names):
            raise ValueError("its totals are not those of these clients")
        if not (
            _are_numbers(totals, (*TOTALS, *self.figures)) and all(_are_numbers(cost, COSTS) for cost in costs.values())
        ):
            raise ValueError("its totals are no numbers")
        if not _are_numbers(bad, tuple(bad)) or not set(bad) <= set(self.tiers):
            raise ValueError("its counts of pictures are not those of these clients")
        if self.virtual is not None:
            self.virtual.restore(state["virtual"])
        self.totals, self._bad = dict(totals), dict(bad)
        self._costs = {tier: dict(cost) for tier, cost in costs.items()}

    def columns(self) -> list[str]:
        sizes = self.level_sizes
        norms = (f"update_norm_{tier}" for tier in self.tier_names)
        left_out = ["left_out"] if self.counts_left_out else []
        return ["round", "loss", *(f"gt_{s}" for s in sizes), *(f"kd_{s}" for s in sizes), *norms, "seconds",
                "wait_seconds", "people", "people_per_s", "forward_pixels", "mb_down", "mb_up", *left_out,
                *self.figures, *(self.virtual.columns() if self.virtual is not None else ())]  # fmt: skip

    def add_round(
        self,
        done: int,
        receipts: Sequence[Receipt],
        arrived: Sequence[float],
        seconds: float,
        left_out: int = 0,
        figures: Mapping[str, float] | None = None,
        plan: RoundPlan | None = None,
    ) -> Json:
        """Count a round in; its row.

        Args:
            done: the round, from 1.
            receipts: of all its clients.
            arrived: when each answered, in seconds of any clock.
            seconds: of the whole round.
            left_out: clients whose own work failed.
            figures: what transforms tell of the run to this round.
            plan: of the round on the virtual clock, with devices.
        """
        people, last = sum(receipt.people for receipt in receipts), max(arrived, default=0.0)
        row: Json = {
            "round": done,
            **({"loss": _mean((receipt.loss, receipt.people) for receipt in receipts)} if receipts else {}),
            "seconds": round(seconds, 4),
            "wait_seconds": round(math.fsum(last - at for at in arrived) / max(len(arrived), 1), 4),
            "people": people,
            "people_per_s": round(people / seconds, 2),
            "forward_pixels": sum(receipt.forward_pixels for receipt in receipts),
            "mb_down": round(math.fsum(receipt.mb_received for receipt in receipts), 6),
            "mb_up": round(math.fsum(receipt.mb_sent for receipt in receipts), 6),
        }
        if self.counts_left_out:
            row["left_out"] = left_out
        if self.virtual is not None and plan is not None:
            row |= self.virtual.add(plan)
        for name in sorted({name for receipt in receipts for name in receipt.terms}):
            drawn = [receipt for receipt in receipts if name in receipt.terms]
            row[name] = _mean((receipt.terms[name], receipt.term_people[name]) for receipt in drawn)
        by_tier: dict[str, list[Receipt]] = {}
        for receipt in receipts:
            by_tier.setdefault(self.tiers[receipt.client], []).append(receipt)
        for tier in self.tier_names:
            if own := by_tier.get(tier):
                row[f"update_norm_{tier}"] = _mean((receipt.norm, receipt.people) for receipt in own)
                self._add_costs(tier, own)
        for name in TOTALS:
            self.totals[name] = self.totals.get(name, 0) + (seconds if name == "seconds" else row[name])
        row |= figures or {}
        self.totals |= figures or {}
        return row

    def costs(self) -> dict[str, dict[str, float]]:
        """Tier -> what its clients cost so far, in the tiers' order."""
        asked = {*self._costs, *(self.virtual.tiers() if self.virtual is not None else ())}
        return {tier: self._cost(tier) for tier in self.tier_names if tier in asked}

    def sums(self) -> dict[str, float]:
        """The totals of results.json."""
        return {**self.totals, **(self.virtual.totals() if self.virtual is not None else {})}

    def _cost(self, tier: str) -> dict[str, float]:
        cost = self._costs.get(tier, dict.fromkeys(COSTS, 0))
        return {
            **cost,
            "people_per_s": cost["people"] / cost["seconds"] if cost["seconds"] else 0.0,
            **({"forward_macs": cost["forward_pixels"] * self.macs_a_pixel[tier]} if self.macs_a_pixel else {}),
            **(self.virtual.costs(tier) if self.virtual is not None else {}),
        }

    def _add_costs(self, tier: str, receipts: Sequence[Receipt]) -> None:
        cost = self._costs.setdefault(tier, dict.fromkeys(COSTS, 0))
        for name in ("people", "seconds", "mb_sent", "forward_pixels"):
            cost[name] += _sum(getattr(receipt, name) for receipt in receipts)
        cost["peak_memory_mb"] = max(cost["peak_memory_mb"], *(receipt.peak_memory_mb for receipt in receipts))
        for receipt in receipts:
            if receipt.bad_pictures or receipt.client in self._bad:
                self._bad[receipt.client] = receipt.bad_pictures
        cost["bad_pictures"] = sum(count for name, count in self._bad.items() if self.tiers[name] == tier)


def _mean(pairs: Iterable[tuple[float, int]]) -> float:
    """Of (value, weight) pairs; NaN of none."""
    found = list(pairs)
    if not found:
        return math.nan
    values, weights = zip(*found, strict=True)
    return math.fsum(v * w for v, w in zip(values, weights, strict=True)) / max(sum(weights), 1)


def _sum(values: Iterable[float]) -> float:
    """Whole numbers stay whole."""
    found = list(values)
    return sum(found) if all(isinstance(value, int) for value in found) else math.fsum(found)


def _are_numbers(values: Mapping[str, Any], names: Sequence[str]) -> bool:
    whole = isinstance(values, dict) and set(values) in (set(names), set())
    return whole and all(isinstance(v, int | float) and math.isfinite(v) and v >= 0 for v in values.values())
