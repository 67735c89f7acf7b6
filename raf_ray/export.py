"""``python -m raf_ray.export RUN --format onnx``: a saved model as files that run without raf-ray."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raf_ray.cli import run_command
from raf_ray.errors import InputError

if TYPE_CHECKING:
    from rich.table import Table

    from raf_ray.data.crop import CropRule
    from raf_ray.deploy.exporting import Exported
    from raf_ray.resolution import Size
    from raf_ray.saved import SavedRun

EXAMPLES = """examples:
  python -m raf_ray.export runs/mine --format onnx --decode           pictures in, joints and confidences out
  python -m raf_ray.export runs/mine --format torch                   normalised images in, heatmaps out; a .pt2 a tier
  python -m raf_ray.export runs/mine --format onnx --client client-low-000 --sizes 128x96

One file a trained size, for batches of any length, and one of any size where the model allows. Each is opened again and
held against the model at every size that it takes, on drawn people; none is left where one differs.
examples/predict_onnx.py runs such a file without raf-ray. docs/deploy.md says what goes in and what comes out.
"""


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m raf_ray.export",
        description="Write a run's model as ONNX or torch.export files, checked against the model.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", metavar="RUN", help="run folder, or the URI of one")
    parser.add_argument("--format", choices=("onnx", "torch"), required=True,
                        help="onnx (wants the extra `onnx`) or torch (torch.export's .pt2)")  # fmt: skip
    parser.add_argument("--decode", action="store_true", help="normalisation and the task's answer inside, joints by "
                        "the run's evaluation.decode")  # fmt: skip
    parser.add_argument("--sizes", metavar="HxW,HxW", help="of the fixed files (default: the trained sizes)")
    parser.add_argument("--client", metavar="NAME", help="its own model, where a method leaves it some (fedbn ...)")
    parser.add_argument("--output", metavar="DIR", default="exported", help="folder for the files (default: exported)")
    parser.add_argument("--json", action="store_true", help="print what was written as JSON instead of a table")
    return parser


def main(words: Sequence[str]) -> None:
    arguments = parser().parse_intermixed_args(words)

    import json

    from raf_ray.data.pictures import shown_path
    from raf_ray.deploy.exporting import export_model
    from raf_ray.experiment.place import reading_folder
    from raf_ray.files import without_nan
    from raf_ray.paths import given_path
    from raf_ray.request.task import task_of
    from raf_ray.runs.folder import model_file
    from raf_ray.saved import files_of, load_run
    from raf_ray.terminal import make_console, warn

    output = given_path(arguments.output, "--output")
    with reading_folder(arguments.run, "RUN", files_of(arguments.client)) as folder:
        run = load_run(folder, client=arguments.client)
    task, sizes = task_of(run.config), sizes_of(run, arguments.sizes)
    decode = run.config.evaluation.decode if arguments.decode else None
    stem = output / Path(model_file(arguments.client)).stem
    try:
        found, why = export_model(
            run.model, task, decode, sizes, stem, arguments.format, told_of(run, arguments.client)
        )
    except OSError as error:
        raise InputError(f"cannot write to {shown_path(output)}: {error.strerror or error}") from error
    if arguments.json:
        print(json.dumps(without_nan({"files": [values_of(one) for one in found], "no_any_size": why or None})))
        return
    console = make_console(120)
    console.print(table_of(found, arguments.run))
    if why:
        console.print(f"No file of any size: {why}.", highlight=False, soft_wrap=True)
    if run.own:
        first = next(iter(run.own))
        warn(console, f"clients keep some of the model to themselves, and this is the server's; --client {first} takes "
             "that client's")  # fmt: skip
    console.print(f"Files: {shown_path(output)}", highlight=False, soft_wrap=True)


def sizes_of(run: SavedRun, asked: str | None) -> list[Size]:
    """Largest first. Raises InputError where the model does not take one."""
    from raf_ray.models import size_divisor
    from raf_ray.request.plans import plan_clients, trained_sizes
    from raf_ray.resolution import check_divides, parse_size

    if asked is None:
        return trained_sizes(plan_clients(run.config))
    sizes = sorted({parse_size(text) for text in asked.split(",")}, key=lambda size: -size.pixels)
    for size in sizes:
        check_divides(size, size_divisor(run.model), "--sizes")
    return sizes


def told_of(run: SavedRun, client: str | None) -> dict[str, Any]:
    """What the files say of the run: its task, the names of its outputs, limbs and mirror pairs of joints."""
    from importlib.metadata import version

    from raf_ray.request.crops import crop_rule
    from raf_ray.request.plans import plan_clients, trained_sizes
    from raf_ray.request.task import task_of
    from raf_ray.saved import skeleton_of_run

    skeleton = skeleton_of_run(run) if task_of(run.config).draws_joints else None
    return {
        "made_by": f"raf-ray {version('raf-ray')}",
        "task": run.config.task.name,
        "model": run.config.model.name,
        "client": client,
        "trained_sizes": [[size.height, size.width] for size in trained_sizes(plan_clients(run.config))],
        "names": list(run.joints),
        "limbs": [] if skeleton is None else [list(limb) for limb in skeleton.limb_indices],
        "flip_pairs": [] if skeleton is None else [list(pair) for pair in skeleton.flip_pairs],
        "category_id": run.labels.category_id,
        "codec": None if skeleton is None else run.config.data.codec,
        "crop": crop_record(crop_rule(run.config)),
    }


def crop_record(rule: CropRule) -> dict[str, Any]:
    """How people are cut for the model, as examples/predict_onnx.py goes by it."""
    from raf_ray.data.crop import PADDING

    return {
        "padding": PADDING,
        "box": "square" if rule.stretch else "of the input's shape",
        "spans": "steps between pixels" if rule.inner else "pixels",
        "larger_people": "area averaging" if rule.reduced else "bilinear",
        "beyond_the_picture": "black",
    }


def values_of(one: Exported) -> dict[str, Any]:
    """A file as --json tells it."""
    from dataclasses import asdict

    return {
        "file": str(one.path),
        "sizes": one.sizes,
        "bytes": one.bytes,
        "differences": [asdict(difference) for difference in one.differences],
    }


def table_of(found: Sequence[Exported], name: str) -> Table:
    """A line for each output of a file at each size."""
    from rich import box
    from rich.table import Table

    table = Table(
        title=f"{name}: each file against the model, on drawn people",
        caption="Differences are the largest over all values; of joints in pixels of the picture. left out: joints "
        "whose place hangs on less than float32 tells.",
        caption_justify="left", title_justify="left", box=box.SIMPLE_HEAD, min_width=100,
    )  # fmt: skip
    for column in ("file", "MB", "takes", "at", "output", "difference", "allowed", "left out"):
        table.add_column(column, justify="left" if column in ("file", "takes", "at", "output") else "right")
    for one in found:
        told = (one.path.name, f"{one.bytes / 2**20:.1f}", one.sizes)
        for row, apart in enumerate(one.differences):
            left = f"{apart.undecided} of {apart.of}" if apart.of else ""
            last = row == len(one.differences) - 1
            table.add_row(*(told if row == 0 else ("", "", "")), apart.size, apart.output, f"{apart.largest:.2g}",
                          f"{apart.allowed:.2g}", left, end_section=last)  # fmt: skip
    return table


if __name__ == "__main__":
    sys.exit(run_command(main))
