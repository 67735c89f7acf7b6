"""``python -m raf_ray.predict RUN IMAGE...``: draw the joints that a saved model finds on pictures."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raf_ray.cli import run_command
from raf_ray.errors import InputError, RunError

if TYPE_CHECKING:
    import numpy as np

EXAMPLES = """examples:
  python -m raf_ray.predict runs/mine person.jpg                        one person fills the picture
  python -m raf_ray.predict runs/mine street.jpg --boxes boxes.json     {"street.jpg": [[x, y, width, height], ...]}
  python -m raf_ray.predict runs/mine *.jpg --size 96x72 --output drawn

Pictures are turned as their EXIF orientation says; boxes and joints are in pixels of the turned picture. In --boxes a
picture goes by its path as given here or, where only one has it, by its bare name. A drawing is NAME.joints.png; where
two names (without their endings) are the same, all keep their folders and endings below --output.
"""


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m raf_ray.predict",
        description="Draw predicted joints on pictures, and write them as JSON beside.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", metavar="RUN", help="run folder")
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="picture files")
    parser.add_argument("--boxes", metavar="FILE", help="JSON: picture -> people's boxes [x, y, width, height]")
    parser.add_argument("--size", metavar="HxW", help="model's input (default: the run's largest trained size)")
    parser.add_argument("--client", metavar="NAME", help="its own model, where a method leaves it some (fedbn ...)")
    parser.add_argument("--output", metavar="DIR", default=".", help="folder for the drawings (default: here)")
    return parser


def main(words: Sequence[str]) -> None:
    arguments = parser().parse_intermixed_args(words)

    import numpy as np

    from raf_ray.data.pictures import read_picture, shown_path
    from raf_ray.experiment.place import reading_folder
    from raf_ray.models import size_divisor
    from raf_ray.paths import existing_file, given_path
    from raf_ray.report.plots import draw_people
    from raf_ray.request.plans import plan_clients, trained_sizes
    from raf_ray.request.task import task_of
    from raf_ray.resolution import check_divides, parse_size
    from raf_ray.saved import files_of, load_run, predict, skeleton_of_run

    with reading_folder(arguments.run, "RUN", files_of(arguments.client)) as folder:
        run = load_run(folder, client=arguments.client)
    if not task_of(run.config).draws_joints:
        raise InputError(f"{arguments.run} has learnt {run.config.task.name}, of which there are no joints to draw; "
                         "raf_ray.evaluate scores it")  # fmt: skip
    own = trained_sizes(plan_clients(run.config))[0]
    size = parse_size(arguments.size) if arguments.size else own
    check_divides(size, size_divisor(run.model), "--size")
    skeleton = skeleton_of_run(run)
    names = {name: given_path(name, "IMAGE") for name in arguments.images}
    file = existing_file(arguments.boxes, "--boxes") if arguments.boxes else None
    listed = None if file is None else boxes_by_name(read_boxes(file), list(names), file)
    output = given_path(arguments.output, "--output")
    drawings = place_drawings(list(names.values()), output)
    found = {}
    for name, path in names.items():  # all of them before anything is written
        try:
            picture = read_picture(path, turned=True)
        except RunError as error:
            raise InputError(str(error)) from error
        height, width = picture.shape[:2]
        found[path] = np.array([[0, 0, width, height]] if listed is None else listed[name], np.float64)
        check_in_picture(found[path], (width, height), f"--boxes: {shown_path(name)}")
    try:
        for path, boxes in found.items():
            picture = read_picture(path, turned=True)
            joints, confidence = predict(run, picture, boxes, size, skeleton)
            if not np.isfinite(confidence).all():
                raise RunError(
                    f"the model of {run.folder} gives no finite heatmaps for {shown_path(path)}; train it again"
                )
            drawing = drawings[path]
            drawing.parent.mkdir(parents=True, exist_ok=True)
            draw_people(drawing, picture, joints, skeleton)
            write_joints(drawing.with_suffix(".json"), run.joints, joints, confidence)
            print(
                f"{shown_path(path)}: {len(boxes)} {'person' if len(boxes) == 1 else 'people'} -> {shown_path(drawing)}"
            )
    except OSError as error:
        raise InputError(f"cannot write to {shown_path(output)}: {error.strerror or error}") from error


def place_drawings(pictures: Sequence[Path], output: Path) -> dict[Path, Path]:
    """Picture -> its drawing below `output`: by its stem, or where two stems are the same, all by folder and name.

    Raises InputError where a drawing or the joints beside it would replace one of the pictures.
    """
    unique = list(dict.fromkeys(pictures))
    stems = [path.stem.casefold() for path in unique]  # some disks do not tell upper case from lower
    if len(set(stems)) == len(stems):
        drawings = {path: output / f"{path.stem}.joints.png" for path in unique}
    else:
        whole = {path: Path(os.path.abspath(path)) for path in unique}
        common = os.path.commonpath([path.parent for path in whole.values()])
        below = {path: output / place.relative_to(common) for path, place in whole.items()}
        drawings = {path: place.with_name(f"{place.name}.joints.png") for path, place in below.items()}
    given = {os.path.realpath(path) for path in unique}
    for path, drawing in drawings.items():
        for made in (drawing, drawing.with_suffix(".json")):
            if os.path.realpath(made) in given:
                raise InputError(f"the drawing of {path} would replace the picture {made}; choose another --output")
    return drawings


def read_boxes(path: Path) -> dict[str, list[list[float]]]:
    """File name -> N boxes of four numbers, sizes above 0; InputError in one sentence for anything else."""
    import numpy as np

    from raf_ray.data.annotations.fields import SMALLEST, check_pixels, numbers, shown
    from raf_ray.files import read_json

    values = read_json(path, "--boxes")
    form = '{"picture.jpg": [[x, y, width, height], ...]}'
    if not isinstance(values, dict):
        raise InputError(f"--boxes: {path} must be of the form {form}")
    found = {}
    for name, boxes in values.items():
        wrong = f"--boxes: {shown(name)} in {path} must list boxes of the form {form}, sizes above 0"
        if not isinstance(boxes, list) or not boxes or any(not isinstance(b, list) or len(b) != 4 for b in boxes):
            raise InputError(wrong)
        what = f"of {shown(name)}"
        found[name] = np.array(
            [numbers(b, (4,), f"box {i} {what}", f"--boxes: {path}") for i, b in enumerate(boxes, 1)]
        )
        if (found[name][:, 2:] < SMALLEST).any():
            raise InputError(wrong)
    check_pixels(np.concatenate([*found.values(), np.zeros((0, 4))]), "boxes", f"--boxes: {path}")
    return {name: boxes.tolist() for name, boxes in found.items()}


def boxes_by_name(
    boxes: Mapping[str, list[list[float]]], names: Sequence[str], file: Path
) -> dict[str, list[list[float]]]:
    """Each picture's boxes: by its path as given, else by its bare name.

    Raises InputError where there are none, or where a bare name means several of the pictures.
    """
    by_path = {os.path.normpath(key): value for key, value in boxes.items()}
    found = {}
    for name in names:
        bare = os.path.basename(name)
        if os.path.normpath(name) in by_path:
            found[name] = by_path[os.path.normpath(name)]
            continue
        if bare not in boxes:
            raise InputError(f"--boxes {file} has no entry {name!r}" + (f" or {bare!r}" if bare != name else ""))
        same = [other for other in dict.fromkeys(names) if os.path.basename(other) == bare]
        if len(same) > 1:
            raise InputError(
                f"--boxes {file}: {bare!r} may mean {same[0]!r} or {same[1]!r}; name each by its path as given"
            )
        found[name] = boxes[bare]
    return found


def check_in_picture(boxes: np.ndarray, size: tuple[int, int], what: str) -> None:
    """Raise InputError for a box (N, 4) that is far larger than its picture (width, height), or lies beside it."""
    from raf_ray.data.annotations.boxes import box_fault

    for box in boxes:
        fault = box_fault(box[2:], size)
        if fault:
            raise InputError(f"{what} has {fault}; boxes are [x, y, width, height] in pixels")
        if (box[:2] >= size).any() or (box[:2] + box[2:] <= 0).any():
            numbers = ", ".join(f"{value:g}" for value in box)
            raise InputError(
                f"{what} has the box [{numbers}], outside its picture of {size[0]} x {size[1]} px; boxes are [x, y, "
                "width, height] in pixels"
            )


def write_joints(path: Path, names: Sequence[str], joints: Any, confidence: Any) -> None:
    from raf_ray.files import write_json

    people = [
        {name: [float(x), float(y), float(c)] for name, (x, y), c in zip(names, person, peaks, strict=True)}
        for person, peaks in zip(joints, confidence, strict=True)
    ]
    write_json(path, {"people": people, "each": "x, y in pixels, confidence"})


if __name__ == "__main__":
    sys.exit(run_command(main))
