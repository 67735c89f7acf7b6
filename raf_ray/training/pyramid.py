"""A client's task: batch -> pyramid -> model, level by level -> objective."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import torch
from torch import nn

from raf_ray.data.ahead import made_ahead
from raf_ray.data.batches import Batch, Batches, Draw, render_pyramid
from raf_ray.objectives import Objective
from raf_ray.objectives.levels import Sampling, draw_levels
from raf_ray.resolution import Size
from raf_ray.tasks import Task
from raf_ray.tasks.pose import Pose
from raf_ray.training.task import Step


@dataclass(frozen=True)
class PyramidTask:
    """One tier's people, learnt level by level of their pyramid."""

    batches: Batches
    levels: tuple[Size, ...]
    """Its pyramid, own size first."""
    level_weights: tuple[float, ...]
    sampling: Sampling
    own_share: float | None
    objective: Objective
    bf16: bool
    kind: Task = field(default_factory=Pose)
    """What is learnt of them"""
    ahead: bool | None = None
    """Make the next batch on a thread while one trains; None: where a GPU trains, which leaves a core to do it."""

    def __len__(self) -> int:
        return len(self.batches)

    @property
    def bad_pictures(self) -> int:
        return len(self.batches.bad)

    @property
    def cached_mb(self) -> float:
        return self.batches.cached_mb

    def epoch(self, rng: np.random.Generator) -> Iterator[Batch]:
        makes = self._makes(rng)
        on_gpu = self.batches.device.type == "cuda"
        return made_ahead(makes) if (on_gpu if self.ahead is None else self.ahead) else (make() for make in makes)

    def _makes(self, rng: np.random.Generator) -> Iterator[Callable[[], Batch]]:
        """What makes each batch of an epoch. All that is drawn is drawn here, batch by batch: whoever makes them."""
        for draw in self.batches.draws(rng):
            levels = draw_levels(self.sampling, self.own_share, len(self.levels), rng)
            yield partial(self._make, draw, levels)

    def _make(self, draw: Draw, levels: tuple[int, ...]) -> Batch:
        return replace(self.batches.render(draw, [self.levels[i] for i in levels]), levels=levels)

    def step(self, model: nn.Module, batch: Batch, rng: np.random.Generator) -> Step:
        levels = render_pyramid(batch, [self.levels[i] for i in batch.levels], self.kind.targets)
        with torch.autocast(batch.joints.device.type, torch.bfloat16, enabled=self.bf16):
            outputs = [model(level.images) for level in levels]
        loss = self.objective(
            [output.float() for output in outputs],
            [level.targets for level in levels],
            self.kind.weights(batch),
            [self.level_weights[i] for i in batch.levels],
        )
        terms = {f"gt_{level.size}": value for level, value in zip(levels, loss.gt, strict=False)}
        # The highest level drawn has no teacher.
        students = levels[len(levels) - len(loss.kd) :]
        terms |= {f"kd_{level.size}": value for level, value in zip(students, loss.kd, strict=True)}
        pixels = len(batch) * sum(level.size.pixels for level in levels)
        return Step(loss.total, len(batch), terms, pixels, levels[0].images)

    def fault(self, rng: np.random.Generator) -> str | None:
        for draw in self.batches.draws(rng):
            batch = self.batches.render(draw, self.levels)
            for level in render_pyramid(batch, self.levels, self.kind.targets):
                for what in ("images", "targets"):
                    rows = ~torch.isfinite(getattr(level, what)).reshape(len(batch), -1).all(dim=1)
                    if rows.any():
                        return f"{what} of person {batch.person_id[int(rows.nonzero()[0])]} at {level.size}"
        return None
