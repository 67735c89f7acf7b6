"""How well a model does: numpy only. A file here with `METRICS` is new values of `evaluation.metric`.

`pck`, `pckh`, `oks_ap` and the lengths that they measure by are of use alone: docs/metrics.md.
"""

from __future__ import annotations

import importlib
import pkgutil
from functools import lru_cache

from raf_ray.metrics.interface import Labels, Metric, Score
from raf_ray.metrics.oks import oks_ap, oks_similarity
from raf_ray.metrics.pck import neck_reference, pck, pckh, torso_reference
from raf_ray.metrics.top1 import TITLES


@lru_cache(maxsize=1)
def built_in() -> dict[str, Metric]:
    """Name -> metric, in the files' order."""
    modules = [importlib.import_module(f"{__name__}.{info.name}") for info in pkgutil.iter_modules(__path__)]
    return {metric.name: metric for module in modules for metric in getattr(module, "METRICS", ())}


def title_of(name: str) -> str:
    """How tables and plots name a metric; one of another version by the name that its results have."""
    metric = built_in().get(name)
    return TITLES.get(name, name) if metric is None else metric.title


__all__ = [
    "Labels", "Metric", "Score", "built_in", "neck_reference", "oks_ap", "oks_similarity", "pck", "pckh", "title_of",
    "torso_reference",
]  # fmt: skip
