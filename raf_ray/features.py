"""``python -m raf_ray.features RUN [RUN ...]``: what saved models' features tell of resolution."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from raf_ray.cli import run_command
from raf_ray.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from rich.table import Table

    from raf_ray.files import Json
    from raf_ray.resolution import Size
    from raf_ray.saved import SavedRun

EXAMPLES = """examples:
  python -m raf_ray.features runs/pose runs/classification              side by side, at the trained sizes
  python -m raf_ray.features runs/pose --sizes 128x96,64x48 --output drawn

Features are what the model's head sees, averaged over the picture, of the held-out people (evaluation.split) at each
size. The probe is a logistic regression that tells the size; whom it is asked of, it has not seen at any size.
"""


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m raf_ray.features",
        description="Draw runs' features by t-SNE, and measure how well they tell resolutions apart.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run folders, or URIs of such; of the same people")
    parser.add_argument("--sizes", metavar="HxW,HxW", help="at least two (default: the trained sizes)")
    parser.add_argument("--output", metavar="DIR", help="folder for features.png and features.json (default: the "
                        "first RUN's)")  # fmt: skip
    return parser


def main(words: Sequence[str]) -> None:
    arguments = parser().parse_intermixed_args(words)

    from raf_ray.evaluation.probe import embedded
    from raf_ray.experiment.place import reading_folder
    from raf_ray.files import write_json
    from raf_ray.paths import given_path
    from raf_ray.report.embedding import draw_features
    from raf_ray.saved import files_of, load_run
    from raf_ray.storage import is_uri
    from raf_ray.terminal import make_console

    if arguments.output is None and is_uri(arguments.runs[0]):
        raise InputError(f"--output: name a folder of this machine, since {arguments.runs[0]} is in a storage")
    output = given_path(arguments.output or arguments.runs[0], "--output" if arguments.output else "RUN")
    runs: dict[str, SavedRun] = {}
    for name in arguments.runs:
        with reading_folder(name, "RUN", files_of(None)) as folder:
            runs[name] = load_run(folder)
    sizes = sizes_of(runs, arguments.sizes)
    found = features_of(runs, sizes)
    values = measured(runs, found, sizes)
    try:
        output.mkdir(parents=True, exist_ok=True)
        write_json(output / "features.json", values)
        titles = {name: f"{Path(name).name} ({run.config.task.name.rpartition(':')[2]})" for name, run in runs.items()}
        draw_features(output / "features.png", {titles[n]: embedded(f) for n, f in found.items()}, values["sizes"])
    except OSError as error:
        raise InputError(f"cannot write to {output}: {error.strerror or error}") from error
    console = make_console(120)
    console.print(table_of(values))
    console.print(f"Results: {output} (features.png, features.json)", highlight=False, soft_wrap=True)


def sizes_of(runs: dict[str, SavedRun], asked: str | None) -> list[Size]:
    """The sizes, largest first. Raises InputError where they are fewer than two, or not the same of all runs."""
    from raf_ray.models import size_divisor
    from raf_ray.request.plans import plan_clients, trained_sizes
    from raf_ray.resolution import check_divides, parse_size

    if asked is not None:
        sizes = sorted({parse_size(text) for text in asked.split(",")}, key=lambda size: -size.pixels)
    else:
        trained = {name: trained_sizes(plan_clients(run.config)) for name, run in runs.items()}
        first, sizes = next(iter(trained.items()))
        for name, own in trained.items():
            if own != sizes:
                raise InputError(f"{first} and {name} were trained at different sizes; say at which by --sizes")
    if len(sizes) < 2:
        raise InputError("--sizes: features are compared at two sizes at least, such as --sizes 128x96,64x48")
    for run in runs.values():
        for size in sizes:
            check_divides(size, size_divisor(run.model), "--sizes")
    return sizes


def features_of(runs: dict[str, SavedRun], sizes: Sequence[Size]) -> dict[str, np.ndarray]:
    """Run -> (S, N, C) of the people whose picture can be read at every size.

    Raises InputError where runs are of different people, or a model gives no features.
    """
    import numpy as np

    from raf_ray.models import head_of
    from raf_ray.saved import scorer_of_run

    found, first = {}, None
    for name, run in runs.items():
        if head_of(run.model) is None:
            raise InputError(f"{name}: model.name={run.config.model.name} gives no features (features, head_name)")
        scorer, _ = scorer_of_run(run)
        people = scorer.people[run.config.evaluation.split]
        first = first or (name, people)
        same = np.array_equal(first[1].person_id, people.person_id) and np.array_equal(first[1].joints, people.joints)
        if not same:
            raise InputError(
                f"{first[0]} and {name} are scored on different people (data.*, seed, evaluation.split); give runs of "
                "the same"
            )
        pooled, read = zip(*(scorer.pooled(run.config.evaluation.split, size) for size in sizes), strict=True)
        found[name] = np.stack(pooled)[:, np.all(read, axis=0)]
        if found[name].shape[1] < 2:
            raise InputError(f"{name}: fewer than two people have a picture that can be read")
    return found


def measured(runs: dict[str, SavedRun], found: dict[str, np.ndarray], sizes: Sequence[Size]) -> Json:
    """What features.json holds."""
    from dataclasses import asdict

    from raf_ray.evaluation.probe import FOLDS, RESAMPLES, SEED, probe_accuracy, silhouette

    return {
        "sizes": [str(size) for size in sizes],
        "chance": 1 / len(sizes),
        "interval": f"95 %: bootstrap over people, {RESAMPLES} resamples, seed {SEED}",
        "probe": f"logistic regression, {FOLDS} folds of people",
        "runs": {
            name: {
                "task": run.config.task.name,
                "split": run.config.evaluation.split,
                "people": int(found[name].shape[1]),
                "channels": int(found[name].shape[2]),
                "silhouette": asdict(silhouette(found[name])),
                "probe_accuracy": asdict(probe_accuracy(found[name])),
            }
            for name, run in runs.items()
        },
    }


def table_of(values: Json) -> Table:
    """A line a run."""
    from rich import box
    from rich.table import Table

    people = next(iter(values["runs"].values()))["people"]
    table = Table(
        title=f"Resolution in the features of {people} people at {', '.join(values['sizes'])}",
        caption=f"Intervals are {values['interval']}. silhouette: 1 apart, 0 mixed. probe: {values['probe']}, accuracy "
        "of the size.",
        caption_justify="left", title_justify="left", box=box.SIMPLE_HEAD, min_width=100,
    )  # fmt: skip
    for column in ("run", "task", "silhouette", "probe (%)", "chance (%)"):
        table.add_column(column, justify="left" if column in ("run", "task") else "right")
    for name, run in values["runs"].items():
        silhouette, probe = run["silhouette"], run["probe_accuracy"]
        table.add_row(
            Path(name).name,
            run["task"].rpartition(":")[2],
            f"{silhouette['value']:.3f} [{silhouette['low']:.3f}, {silhouette['high']:.3f}]",
            f"{100 * probe['value']:.1f} [{100 * probe['low']:.1f}, {100 * probe['high']:.1f}]",
            f"{100 * values['chance']:.1f}",
        )
    return table


if __name__ == "__main__":
    sys.exit(run_command(main))
