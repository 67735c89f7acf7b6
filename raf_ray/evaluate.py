"""``python -m raf_ray.evaluate RUN``: score a saved model on any data and sizes."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from raf_ray.cli import Parser, run_command
from raf_ray.errors import InputError

if TYPE_CHECKING:
    from rich.table import Table

    from raf_ray.evaluation.scores import Scores

EXAMPLES = """examples:
  python -m raf_ray.evaluate runs/mine                                         again what the run measured
  python -m raf_ray.evaluate runs/mine evaluation.resolutions=[256x192,32x24]  other sizes
  python -m raf_ray.evaluate runs/mine data.name=mpii data.root=DIR --json     other people, for a script
  python -m raf_ray.evaluate runs/mine --detections out.json                   for COCO's own evaluator, a file a size
"""


def parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m raf_ray.evaluate",
        description="Score a run's model. The run's own config holds; key=value words change data and evaluation "
        "(all keys: python -m raf_ray.run --help).",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", metavar="RUN", help="run folder, or the URI of one")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="such as evaluation.flip_test=true")
    parser.add_argument("--client", metavar="NAME", help="its own model, where a method leaves it some (fedbn ...); "
                        "without it the mean over those of each size")  # fmt: skip
    parser.add_argument("--detections", metavar="FILE", help="write what was found in COCO's result form; of several "
                        "sizes FILE-SIZE.json each")  # fmt: skip
    parser.add_argument("--oracle", action="store_true", help="beside it what perfect heatmaps would score, so that "
                        "coordinates lost at small sizes are not taken for drift (of poses)")  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print the scores as JSON instead of a table")
    return parser


def main(words: Sequence[str]) -> None:
    arguments = parser().parse_intermixed_args(words)

    from raf_ray.data.pictures import size_notes
    from raf_ray.evaluation.oracle import ceiling
    from raf_ray.experiment.place import reading_folder
    from raf_ray.files import without_nan
    from raf_ray.request.parts import oracle_of
    from raf_ray.resolution import parse_size
    from raf_ray.saved import files_of, load_run, score_run
    from raf_ray.terminal import make_console, warn

    with reading_folder(arguments.run, "RUN", files_of(arguments.client)) as folder:
        run = load_run(folder, arguments.overrides, arguments.client)
        oracle = oracle_of(run.config) if arguments.oracle else None
        scores, people = score_run(run, keep_results=arguments.detections is not None)
    perfect = {} if oracle is None else ceiling(oracle, people, list(map(parse_size, scores.by_resolution)),
                                                scores.metric)  # fmt: skip
    written = [] if arguments.detections is None else write_detections(arguments.detections, scores.results)
    console = make_console(120)
    for note in size_notes([people]):
        if arguments.json:  # stdout is for a script
            print(f"warning {note}", file=sys.stderr)
        else:
            warn(console, note)
    for line in written:
        print(line, file=sys.stderr if arguments.json else sys.stdout)
    if arguments.json:
        values = {
            "split": scores.split,
            "metric": scores.metric,
            "people": scores.people,
            "by_resolution": scores.by_resolution,
            **({"extra": scores.extra} if scores.extra else {}),
            **({"perfect_heatmaps": perfect} if perfect else {}),
        }
        print(json.dumps(without_nan(values)))
        return
    console.print(scores_table(scores, perfect, arguments.run))
    small = {size: share for size, share in scores.upsampled.items() if share > 0}
    if small:
        told = ", ".join(f"{size} {100 * share:.0f} %" for size, share in small.items())
        console.print(f"People smaller in their picture than the size (upsampled): {told}.", highlight=False)
    if scores.bad_pictures:
        console.print(f"People left out because their picture could not be read: {scores.bad_pictures}.")


def scores_table(scores: Scores, perfect: Mapping[str, float], run: str) -> Table:
    """A column a size: all joints, the metric's further figures, each joint."""
    from rich.table import Table

    from raf_ray.metrics import title_of

    names = list(scores.by_resolution)
    title = f"{title_of(scores.metric)} of {run} on {scores.people} {scores.split} people (%)"
    table = Table(title=title, title_justify="left")
    table.add_column("joint")
    for size in names:
        table.add_column(size, justify="right")
    if perfect:
        table.add_row("perfect heatmaps", *(f"{100 * perfect[size]:.1f}" for size in names), style="dim")
    table.add_row("all", *(f"{100 * scores.by_resolution[size]:.1f}" for size in names), end_section=True)
    for figure in scores.extra.get(names[0], {}):
        cells = (scores.extra.get(size, {}).get(figure, float("nan")) for size in names)
        table.add_row(figure, *("-" if cell != cell else f"{100 * cell:.1f}" for cell in cells))
    if scores.extra:
        table.add_section()
    for joint in scores.per_joint[names[0]]:
        table.add_row(joint, *(f"{100 * scores.per_joint[size][joint]:.1f}" for size in names), style="dim")
    return table


def write_detections(file: str, results: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    """Write each size's detections, and say where. Raises InputError where that cannot be."""
    from raf_ray.files import write_text
    from raf_ray.paths import given_path

    path, lines = given_path(file, "--detections"), []
    for size, found in results.items():
        own = path if len(results) == 1 else path.with_name(f"{path.stem}-{size}{path.suffix}")
        try:
            own.parent.mkdir(parents=True, exist_ok=True)
            write_text(own, json.dumps(found))
        except OSError as error:
            raise InputError(f"--detections: cannot write {own}: {error.strerror or error}") from error
        lines.append(f"{len(found)} detections at {size} -> {own}")
    return lines


if __name__ == "__main__":
    sys.exit(run_command(main))
