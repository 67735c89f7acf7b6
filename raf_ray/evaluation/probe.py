"""How much features tell of resolution: silhouette, a linear probe, t-SNE. All seeds are fixed, one thread computes.

Features are (S, N, C): S sizes of the same N people. The RAF paper (arXiv 2507.23461) shows t-SNE pictures of them;
these are numbers for what the pictures claim.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ParamSpec, TypeVar

import numpy as np

FOLDS = 5
"""Of the people, each held out once: a choice."""
RESAMPLES = 2000
"""Of the people, for an interval: a choice."""
SEED = 0
PERPLEXITY = 30.0
"""Of t-SNE (van der Maaten and Hinton 2008: 5 to 50)."""
MOST_STEPS = 2000
"""Of the probe's solver: a choice, far more than it takes."""

Arguments = ParamSpec("Arguments")
Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Estimate:
    """A mean over people, with its 95 % interval."""

    value: float
    low: float
    high: float


def one_thread(compute: Callable[Arguments, Answer]) -> Callable[Arguments, Answer]:
    """The same, by one thread: how many share a sum would change its last bits."""

    def alone(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Answer:
        from threadpoolctl import threadpool_limits

        with threadpool_limits(1):
            return compute(*args, **kwargs)

    return alone


def standardised(features: np.ndarray, by: np.ndarray | None = None) -> np.ndarray:
    """The same with mean 0 and deviation 1 a channel, by those of `by` or its own; a constant channel becomes 0."""
    by = (features if by is None else by).reshape(-1, features.shape[-1]).astype(np.float64)
    spread = by.std(axis=0)
    return np.asarray((features - by.mean(axis=0)) / np.where(spread > 0, spread, np.inf))


def mean_over_people(values: np.ndarray) -> Estimate:
    """Mean of (S, N) values and its bootstrap interval: percentiles of the mean over resampled people."""
    people = values.mean(axis=0)
    drawn = np.random.default_rng(SEED).integers(len(people), size=(RESAMPLES, len(people)))
    low, high = np.percentile(people[drawn].mean(axis=1), (2.5, 97.5))
    return Estimate(float(people.mean()), float(low), float(high))


@one_thread
def silhouette(features: np.ndarray) -> Estimate:
    """Silhouette of the sizes (Rousseeuw 1987) on standardised features: 1 apart, 0 mixed. Each sample's is computed
    once, among all; the interval resamples people."""
    from sklearn.metrics import silhouette_samples

    sizes, people, channels = features.shape
    rows = standardised(features).reshape(-1, channels)
    return mean_over_people(silhouette_samples(rows, _size_of_rows(sizes, people)).reshape(sizes, people))


@one_thread
def probe_accuracy(features: np.ndarray) -> Estimate:
    """Accuracy of a logistic regression that tells the size, on people that it has not seen at any size.

    The people are split into FOLDS; each fold's are judged by a probe of the others', standardised by theirs. Chance
    is 1 / S.
    """
    from sklearn.linear_model import LogisticRegression

    sizes, people, channels = features.shape
    right = np.zeros((sizes, people), bool)
    for held in folds(people):
        others = np.setdiff1d(np.arange(people), held)
        seen, unseen = (standardised(features[:, who], by=features[:, others]) for who in (others, held))
        probe = LogisticRegression(max_iter=MOST_STEPS).fit(
            seen.reshape(-1, channels), _size_of_rows(sizes, len(others))
        )
        told = probe.predict(unseen.reshape(-1, channels))
        right[:, held] = (told == _size_of_rows(sizes, len(held))).reshape(sizes, len(held))
    return mean_over_people(right)


def folds(people: int) -> list[np.ndarray]:
    """The people's places, split at random into at most FOLDS parts of about one length."""
    order = np.random.default_rng(SEED).permutation(people)
    return np.array_split(order, min(FOLDS, people))


@one_thread
def embedded(features: np.ndarray) -> np.ndarray:
    """(S, N, 2) t-SNE of the standardised features (van der Maaten and Hinton 2008), begun from their PCA."""
    from sklearn.manifold import TSNE

    sizes, people, channels = features.shape
    rows = standardised(features).reshape(-1, channels).astype(np.float32)
    perplexity = min(PERPLEXITY, (len(rows) - 1) / 3)
    places = TSNE(perplexity=perplexity, init="pca", random_state=SEED).fit_transform(rows)
    return np.asarray(places).reshape(sizes, people, 2)


def _size_of_rows(sizes: int, people: int) -> np.ndarray:
    return np.repeat(np.arange(sizes), people)
