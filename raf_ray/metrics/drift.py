"""Resolution drift as numbers: how far a model's scores lie apart, and below one-tier federations'."""

from __future__ import annotations

from collections.abc import Mapping


def drift_spread(by_tier: Mapping[str, float]) -> float:
    """Best minus mean score of one model over the trained tiers; 0 where it does as well at all of them.

    Our own summary of the drift curve (the RAF paper shows the curve). Raises ValueError without a tier.
    """
    scores = _scores(by_tier)
    return max(scores) - sum(scores) / len(scores)


def drift_to_reference(by_tier: Mapping[str, float], references: Mapping[str, float]) -> float | None:
    """Mean over the trained tiers of (the reference's score - this model's); positive: this is worse.

    `references` holds for each tier the score, at that tier, of the federation whose clients are all of it
    (HHH at high, and so on). None where any of them is missing. Raises ValueError without a tier.
    """
    scores = _scores(by_tier)
    if any(tier not in references for tier in by_tier):
        return None
    return sum(references[tier] - score for tier, score in by_tier.items()) / len(scores)


def _scores(by_tier: Mapping[str, float]) -> list[float]:
    if not by_tier:
        raise ValueError("drift needs the score of at least one trained tier")
    return list(by_tier.values())
