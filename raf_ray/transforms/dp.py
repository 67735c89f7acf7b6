"""DP-FedAvg: a run that is differentially private in each client as a whole.

McMahan et al. 2018, "Learning differentially private recurrent language models", algorithm 1 with the estimator of a
fixed denominator; Andrew et al. 2021, "Differentially private learning with adaptive clipping", algorithm 1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass

from raf_ray.algorithms.interface import PARAMETERS, WEIGHTS, Cohort, Memory, Vectors
from raf_ray.errors import RunError
from raf_ray.transforms.clip import scaled, shorten
from raf_ray.transforms.epsilon import check_installed, epsilon, unaccounted
from raf_ray.transforms.interface import Coding, Setting, Transform

if TYPE_CHECKING:
    from raf_ray.state import Layout

NORM = "clip"
"""(1,) float32, with adaptive clipping: the clip norm of the next round, kept on the server and sent down."""
WITHIN = "within_clip"
"""(1,) float32, with adaptive clipping: whether a client's update was within the norm, 1/2 or -1/2."""
COUNT_NOISE_SHARE = 1 / 20
"""Of the expected cohort, standard deviation of the noise on the count: Andrew et al. 2021, section 3.1."""


@dataclass(frozen=True, config=PARAMETERS)
class DP(Transform):
    """Clients' updates are clipped to a norm S; on their sum comes noise N(0, (z S)^2), and it is divided by the
    expected cohort, so that how many were drawn does not show.

    With `adaptive` clipping S follows a quantile of the norms: each client tells whether its update was within S, as
    1/2 or -1/2, and with b the noised sum of these over the expected cohort, plus 1/2,
    S <- S exp(-clip_lr (b - quantile)). z is then the multiplier of both releases together: with the count's noise of
    standard deviation s, updates get (z^-2 - (2 s)^-2)^(-1/2) S.
    """

    over_expected: ClassVar[bool] = True
    figure_names: ClassVar[tuple[str, ...]] = ("epsilon", "delta", "clip_norm")

    clip: Annotated[float, Field(gt=0)] = 1.0
    """L2 norm S that no client's update exceeds; with adaptive clipping the first round's."""
    clipping: Literal["flat", "per_layer", "adaptive"] = "flat"
    """The whole update to S, each of L layers to S / sqrt(L), or the whole to a norm that follows a quantile."""
    noise_multiplier: Annotated[float, Field(gt=0)] = 1.0
    """Standard deviation z of the noise on the sum, in clip norms; more is more private."""
    delta: Annotated[float, Field(gt=0, lt=1)] = 1e-5
    """At which epsilon is told; below 1 / clients. 1e-5 is a choice."""
    quantile: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Of the clients' norms that adaptive clipping seeks (Andrew et al. 2021: the median)."""
    clip_lr: Annotated[float, Field(gt=0)] = 0.2
    """Step of adaptive clipping, in logarithms (Andrew et al. 2021)."""
    count_noise: Annotated[float, Field(gt=0)] | None = None
    """Standard deviation of the noise on adaptive clipping's count; null: a twentieth of the expected cohort."""

    def requires(self, setting: Setting) -> str | None:
        check_installed()
        return (
            unaccounted(setting)
            or self._unbounded(setting)
            or self._unprotected(setting)
            or (self._noiseless(setting.expected) if self.clipping == "adaptive" else None)
        )

    def init_server(self, layout: Layout) -> Memory:
        return {NORM: np.array([self.clip], np.float32)} if self.clipping == "adaptive" else {}

    def send(self, server: Memory) -> Vectors:
        return dict(server)

    def client(
        self, vectors: Vectors, memory: Memory, sent: Vectors, layout: Layout, rng: np.random.Generator
    ) -> tuple[Vectors, Memory]:
        if set(vectors) != {WEIGHTS}:
            raise RunError(f"it sends {', '.join(sorted(set(vectors) - {WEIGHTS}))} too, which dp does not protect")
        clipped, norm = vectors[WEIGHTS].copy(), self._norm(sent)
        layout.spare_frozen(clipped)  # they have no noise, so nothing may leave in them
        if self.clipping == "per_layer":
            trained = [entry for entry in layout.weights if not entry.frozen]
            for entry in trained:
                shorten(clipped[entry.start : entry.start + entry.size], norm / math.sqrt(len(trained)))
            return {WEIGHTS: clipped}, memory
        length = shorten(clipped[: layout.count("weights")], norm)
        if self.clipping == "flat":
            return {WEIGHTS: clipped}, memory
        return {WEIGHTS: clipped, WITHIN: np.array([0.5 if length <= norm else -0.5], np.float32)}, memory

    def coding(self, coding: Coding, layout: Layout) -> Coding:
        return scaled(coding, coding.layers if self.clipping == "per_layer" else 1)

    def server(
        self, mean: Vectors, memory: Memory, cohort: Cohort, layout: Layout, rng: np.random.Generator
    ) -> tuple[Vectors, Memory]:
        noisy, count = mean[WEIGHTS].copy(), layout.count("weights")
        noise = rng.normal(0.0, self.update_noise(cohort.expected) * self._norm(memory), count)
        layout.spare_frozen(noise)
        noisy[:count] = (noisy[:count] * cohort.answered + noise) / cohort.expected
        if self.clipping != "adaptive":
            return {WEIGHTS: noisy}, memory
        within = float(mean[WITHIN][0]) * cohort.answered if WITHIN in mean else 0.0
        share = (within + rng.normal(0.0, self._count_noise(cohort.expected))) / cohort.expected + 0.5
        norm = self._norm(memory) * math.exp(-self.clip_lr * (share - self.quantile))
        return {WEIGHTS: noisy}, {NORM: np.array([norm], np.float32)}

    def figures(self, rounds: int, memory: Memory, setting: Setting) -> Mapping[str, float]:
        spent = epsilon(self.noise_multiplier, self.delta, rounds, setting)
        return {"epsilon": spent, "delta": self.delta, "clip_norm": self._norm(memory)}

    def update_noise(self, expected: float) -> float:
        """Standard deviation of the noise on the sum of the updates, in clip norms."""
        z = self.noise_multiplier
        if self.clipping != "adaptive":
            return z
        return float((z**-2 - (2 * self._count_noise(expected)) ** -2) ** -0.5)

    def _count_noise(self, expected: float) -> float:
        return COUNT_NOISE_SHARE * expected if self.count_noise is None else self.count_noise

    def _norm(self, kept: Vectors) -> float:
        """The clip norm of a round, given what the server keeps or has sent."""
        return float(kept[NORM][0]) if NORM in kept else self.clip

    def _unbounded(self, setting: Setting) -> str | None:
        """Why one client could move the mean farther than the accountant is told."""
        if setting.transforms[-1] != self:
            return "it must be the last of transforms.apply: what comes after it may lengthen updates again"
        if any(type(other).server is not Transform.server for other in setting.transforms[:-1]):
            return "no other transform may change the round's mean before dp's noise; name none but dp that does"
        if len({setting.algorithm.weight(WEIGHTS, people) for people in (1, 2)}) > 1:
            return (
                "the accountant needs clients of equal weight, since a clipped update times its people has no bound; "
                "set algorithm.weighting=equal"
            )
        if self.delta * setting.clients >= 1:
            return (
                f"transforms.dp.delta={self.delta:g} is not below 1 / {setting.clients} clients, so that giving one "
                "client away would count as private; lower it"
            )
        return None

    def _unprotected(self, setting: Setting) -> str | None:
        """What would leave the clients beside the clipped updates."""
        further = [name for name in setting.algorithm.sends if name != WEIGHTS]
        if further:
            return f"the method sends {', '.join(further)} beside the update, which would be unprotected; take another"
        private = setting.algorithm.is_private
        gathered = [
            entry.name
            for entry in setting.layout.entries
            if entry.kind == "counters" or not (entry.is_weight or private(entry))  # counters are sent in any case
        ]
        if gathered:
            return (
                f"the model's norms gather {gathered[0]} and its like, which clients send unprotected; "
                "take a model with GroupNorm or LayerNorm"
            )
        return None

    def _noiseless(self, expected: float) -> str | None:
        """Why adaptive clipping's count would take more than all of the privacy."""
        noise = self._count_noise(expected)
        if 2 * noise > self.noise_multiplier:
            return None
        return (
            f"adaptive clipping's count has noise of {noise:.3g}, which with transforms.dp.noise_multiplier="
            f"{self.noise_multiplier:g} leaves none for the updates; set transforms.dp.count_noise above "
            f"{self.noise_multiplier / 2:g}"
        )
