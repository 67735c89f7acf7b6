"""A federation small enough for tests: 3 tiers, 12 people each, seconds."""

from __future__ import annotations

from raf_ray.config import Config, load_config

WORDS = (
    "data.people_per_client=12", "data.val_people=6", "data.test_people=6", "federation.rounds=2",
    "evaluation.every=1", "optimizer.batch_size=4", "tracking.mlflow=false", "resources.dashboard=false",
)  # fmt: skip


def tiny(*words: str) -> Config:
    """The demo, shrunk; later words win."""
    return load_config(overrides=[*WORDS, *words])
