"""What rounds of clipped and noised sums have cost in privacy, by the library dp-accounting's Renyi accountant.

Neighbours are federations that differ in one client, whole. Which two depends on how cohorts are drawn, and so does
what the library proves:

    poisson                 one client more or fewer: Poisson-subsampled Gaussian mechanism (Mironov et al. 2019)
    uniform, a fixed size   one client replaced by another: sampling without replacement (Wang et al. 2019, theorem 27).
                            A replaced client moves the sum by up to twice the clip norm, so the accountant is given
                            half the noise multiplier
    all, in every round     one client more or fewer: the Gaussian mechanism

Orders are whole numbers, at which the library has closed sums, and which leave epsilon an upper bound.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from raf_ray.errors import InputError
from raf_ray.transforms.interface import Setting

ORDERS = (*range(2, 65), 80, 96, 128, 192, 256)
"""Of the Renyi divergence: a choice. Epsilon is the least over them."""


def unaccounted(setting: Setting) -> str | None:
    """Why the privacy of such cohorts cannot be accounted for; None where it can."""
    if not setting.is_mean:
        return "the accountant knows of sums, and aggregation.name gives no mean; set aggregation.name=mean"
    if setting.devices:
        return "devices decide who answers, and the accountant knows of draws alone; set devices=null"
    if setting.draw in ("poisson", "uniform") or setting.expected >= setting.clients:
        return None
    return (
        f"federation.cohort.draw={setting.draw} is a sampling that the accountant has no bound for; "
        "set it to poisson (or uniform)"
    )


def epsilon(noise_multiplier: float, delta: float, rounds: int, setting: Setting) -> float:
    """Epsilon at `delta` after so many rounds. Raises InputError where dp-accounting is not installed."""
    one = _divergences(noise_multiplier, setting.draw, setting.clients, setting.expected)
    found, _ = _library()[1].compute_epsilon(np.asarray(ORDERS, np.float64), rounds * np.asarray(one), delta)
    return float(found)


def check_installed() -> None:
    """Raise InputError where dp-accounting is not installed."""
    _library()


@lru_cache
def _divergences(noise_multiplier: float, draw: str, clients: int, expected: float) -> tuple[float, ...]:
    """Renyi divergence of one round, by order; those of rounds add up."""
    events, rdp = _library()
    neighbours = events.NeighboringRelation.ADD_OR_REMOVE_ONE
    if expected >= clients:
        event = events.GaussianDpEvent(noise_multiplier)
    elif draw == "poisson":
        event = events.PoissonSampledDpEvent(expected / clients, events.GaussianDpEvent(noise_multiplier))
    else:
        neighbours = events.NeighboringRelation.REPLACE_ONE
        halved = events.GaussianDpEvent(noise_multiplier / 2)
        event = events.SampledWithoutReplacementDpEvent(clients, round(expected), halved)
    accountant = rdp.RdpAccountant(ORDERS, neighbours)
    accountant.compose(event)
    return tuple(float(divergence) for divergence in accountant.rdp)


def _library() -> tuple[Any, Any]:
    """dp-accounting, late: an optional extra that takes half a second."""
    try:
        import dp_accounting
        from dp_accounting import rdp
    except ImportError as error:
        raise InputError(
            "transforms.apply: dp needs the library dp-accounting for its epsilon; "
            "install it with: pip install 'raf-ray[dp]'"
        ) from error
    return dp_accounting, rdp
