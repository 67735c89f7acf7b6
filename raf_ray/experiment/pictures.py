"""The pictures of a run that has ended. Where one cannot be drawn, that is said, and the result stands."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from raf_ray.evaluation.scores import Sample
from raf_ray.files import Json
from raf_ray.models.saving import load_model
from raf_ray.report.figure import picture_problem
from raf_ray.report.plots import draw_drift, draw_rounds, draw_samples
from raf_ray.request import parts
from raf_ray.request.plans import trained_sizes
from raf_ray.request.prepared import Prepared
from raf_ray.runs.folder import RunFolder, model_file


def draw_missing(
    prepared: Prepared, folder: Path, results: Json, samples: Sequence[Sample] | None = None
) -> Iterator[str]:
    """Draw those of drift.png, samples.png and, where training people are scored, rounds.png that are not in a
    completed run's folder.

    Args:
        samples: who is shown; None predicts them anew, with the folder's model.

    Yields:
        A sentence for each that cannot be drawn.
    """

    def draw_people(path: Path) -> None:
        shown = _predicted(prepared, folder, results) if samples is None else samples
        draw_samples(path, shown, prepared.skeleton)

    def draw_by_round(path: Path) -> None:
        draw_rounds(path, RunFolder(folder).scores(), results["train_resolutions"])

    wanted: list[tuple[str, Callable[..., None]]] = [
        ("drift.png", lambda path: draw_drift(path, {folder.name: results})),
        ("samples.png", draw_people),
    ]
    if prepared.train_sample:
        wanted.append(("rounds.png", draw_by_round))
    for name, draw in wanted:
        path = folder / name
        if not path.is_file() and (problem := picture_problem(path, draw)):
            yield f"{problem}; the run is complete, and --resume tries again"


def _predicted(prepared: Prepared, folder: Path, results: Json) -> Sequence[Sample]:
    """The people that the run's last scoring has shown."""
    config = prepared.config
    scorer = parts.scorer_spec(config, prepared.held_out, cut=prepared.cut).build()
    split, sizes = config.evaluation.split, trained_sizes(prepared.plans)

    def state_of(client: str | None) -> np.ndarray:
        model = load_model(folder / model_file(client), partial(parts.model_spec, config)).model
        return prepared.layout.read(model)

    by_client: Json = results.get("by_client") or {}
    if not by_client:
        return scorer(state_of(None), split, sizes, sizes).samples
    drawn_by = {size: next(client for client, scored in by_client.items() if str(size) in scored) for size in sizes}
    asked = {client: tuple(s for s in sizes if drawn_by[s] == client) for client in by_client}
    return scorer.score_each(asked, state_of, split, sizes, sizes).samples
