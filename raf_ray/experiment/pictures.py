"""The pictures of a run that has ended. Where one cannot be drawn, that is said, and the result stands."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from raf_ray.evaluation.scores import Sample
from raf_ray.files import Json
from raf_ray.models.saving import load_model
from raf_ray.report.figure import picture_problem
from raf_ray.report.plots import draw_drift, draw_samples
from raf_ray.request import parts
from raf_ray.request.plans import trained_sizes
from raf_ray.request.prepared import Prepared
from raf_ray.runs.folder import model_file


def draw_missing(
    prepared: Prepared, folder: Path, results: Json, samples: Sequence[Sample] | None = None
) -> Iterator[str]:
    """Draw those of drift.png and samples.png that are not in a completed run's folder.

    Args:
        samples: who is shown; None predicts them anew, with the folder's model.

    Yields:
        A sentence for each that cannot be drawn.
    """

    def draw_people(path: Path) -> None:
        shown = _predicted(prepared, folder, results) if samples is None else samples
        draw_samples(path, shown, prepared.skeleton)

    for path, draw, what in (
        (folder / "drift.png", draw_drift, ({folder.name: results},)),
        (folder / "samples.png", draw_people, ()),
    ):
        if not path.is_file() and (problem := picture_problem(path, draw, *what)):
            yield f"{problem}; the run is complete, and --resume tries again"


def _predicted(prepared: Prepared, folder: Path, results: Json) -> Sequence[Sample]:
    """The people that the run's last scoring has shown."""
    config = prepared.config
    scorer = parts.scorer_spec(config, prepared.held_out, cut=prepared.cut).build()
    left = trained_sizes(prepared.plans)
    by_client = results.get("by_client") or {None: [str(size) for size in left]}
    found: list[Sample] = []
    for client, scored in by_client.items():
        sizes = [size for size in left if str(size) in scored]
        left = [size for size in left if size not in sizes]
        if sizes:
            model, _ = load_model(folder / model_file(client), partial(parts.model_spec, config))
            found += scorer(prepared.layout.read(model), config.evaluation.split, sizes, sizes).samples
    return found
