"""Bundles onto nodes: an actor lives on one node, and a share of a GPU comes from one GPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import floor

Bundle = dict[str, float]
"""Resource name -> amount, in Ray's words: what an actor asks for, or what a node has."""


FINEST = 1000
"""Parts of a CPU that shares are whole numbers of; Ray counts no finer than a ten thousandth."""


SLACK = 1e-9
"""For sums of decimal shares"""


@dataclass
class Free:
    """What a node has left."""

    plain: Bundle
    """All but GPUs"""
    cards: list[float] = field(default_factory=list)
    """What is left of each GPU"""

    @classmethod
    def of(cls, node: Bundle) -> Free:
        gpus = node.get("GPU", 0.0)
        cards = [1.0] * int(gpus) if gpus >= 1 or gpus == 0 else [gpus]
        return cls({name: amount for name, amount in node.items() if name != "GPU"}, cards)

    def take(self, bundle: Bundle) -> bool:
        """Take a bundle out, if it is there as a whole."""
        plain = {name: amount for name, amount in bundle.items() if name != "GPU"}
        share = bundle.get("GPU", 0.0)
        whole = max(1, round(share)) if share else 0
        cards = [i for i, left in enumerate(self.cards) if left >= min(share, 1.0) - SLACK][:whole]
        if len(cards) < whole or any(self.plain.get(name, 0.0) < amount - SLACK for name, amount in plain.items()):
            return False
        for name, amount in plain.items():
            self.plain[name] -= amount
        for i in cards:
            self.cards[i] -= min(share, 1.0)
        return True

    def slots(self, bundle: Bundle) -> int:
        """How many such bundles there is room for."""
        share = bundle.get("GPU", 0.0)
        bounds = [floor(self.plain.get(name, 0.0) / amount + SLACK) for name, amount in bundle.items()
                  if name != "GPU" and amount]  # fmt: skip
        if share > 1:
            bounds.append(floor(sum(left > 1 - SLACK for left in self.cards) / share + SLACK))
        elif share:
            bounds.append(sum(floor(left / share + SLACK) for left in self.cards))
        return min(bounds, default=0)


def fits(bundles: Sequence[Bundle], nodes: Sequence[Bundle]) -> bool:
    """First fit: those bound to a node first, then the largest."""
    free = [Free.of(node) for node in nodes]

    def order(bundle: Bundle) -> tuple[bool, float, float]:
        return not any(name.startswith("node:") for name in bundle), -bundle.get("GPU", 0.0), -bundle.get("CPU", 0.0)

    return all(any(node.take(bundle) for node in free) for bundle in sorted(bundles, key=order))


def largest_share(most: float, is_enough: Callable[[float], bool]) -> float:
    """The largest whole number of `FINEST` parts, up to `most`, with which all find room; 0: there is none."""
    low, high = 0, floor(most * FINEST + SLACK)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if is_enough(middle / FINEST) else (low, middle - 1)
    return low / FINEST
