"""A federation small enough for tests: 3 tiers, 12 people each, seconds."""

from __future__ import annotations

from raf_ray.config import Config, load_config
from raf_ray.federation.events import RoundFinished

WORDS = (
    "data.people_per_client=12", "data.val_people=6", "data.test_people=6", "federation.rounds=2",
    "evaluation.every=1", "optimizer.batch_size=4", "tracking.mlflow=false", "resources.dashboard=false",
)  # fmt: skip

SMALL = ("resolution.tiers={high: 64x48, mid: 48x36, low: 32x24}", "evaluation.resolutions=[48x36]")
"""Sizes for what does not depend on them"""


def tiny(*words: str) -> Config:
    """The demo, shrunk; later words win."""
    return load_config(overrides=[*WORDS, *words])


class StopAfter:
    """A watcher that ends the run after a round, as a kill would."""

    def __init__(self, done: int) -> None:
        self.done = done

    def begin(self, prepared, folder): ...

    def see(self, event):
        if isinstance(event, RoundFinished) and event.round == self.done:
            raise RuntimeError("stopped by the test")

    def end(self, folder, results): ...
