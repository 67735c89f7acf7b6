"""``python -m raf_ray.predict RUN IMAGE...``: draw the joints that a saved model finds on pictures."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from raf_ray.cli import run_command
from raf_ray.errors import InputError

EXAMPLES = """examples:
  python -m raf_ray.predict runs/mine person.jpg                        one person fills the picture
  python -m raf_ray.predict runs/mine street.jpg --boxes boxes.json     {"street.jpg": [[x, y, width, height], ...]}
  python -m raf_ray.predict runs/mine *.jpg --size 96x72 --output drawn
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
    parser.add_argument("--boxes", metavar="FILE", help="JSON: file name -> people's boxes [x, y, width, height]")
    parser.add_argument("--size", metavar="HxW", help="model's input (default: the run's largest trained size)")
    parser.add_argument("--output", metavar="DIR", default=".", help="folder for the drawings (default: here)")
    return parser


def main(words: Sequence[str]) -> None:
    arguments = parser().parse_intermixed_args(words)

    import numpy as np

    from raf_ray.data.pictures import read_picture
    from raf_ray.paths import existing_file, given_path
    from raf_ray.plans import plan_clients, trained_sizes
    from raf_ray.report.plots import draw_people
    from raf_ray.resolution import check_divides, parse_size
    from raf_ray.saved import load_run, predict, skeleton_of_run

    run = load_run(given_path(arguments.run, "RUN"))
    own = trained_sizes(plan_clients(run.config))[0]
    size = parse_size(arguments.size) if arguments.size else own
    check_divides(size, int(getattr(run.model, "size_divisor", 4)), "--size")
    skeleton = skeleton_of_run(run)
    boxes = read_boxes(existing_file(arguments.boxes, "--boxes")) if arguments.boxes else {}
    pictures = {}
    for name in arguments.images:
        path = Path(name)
        if boxes and path.name not in boxes:
            raise InputError(f"--boxes {arguments.boxes} has no entry '{path.name}'")
        try:
            pictures[path] = read_picture(str(path))
        except RuntimeError as error:
            raise InputError(str(error)) from error
    output = given_path(arguments.output, "--output")
    try:
        output.mkdir(parents=True, exist_ok=True)
        for path, picture in pictures.items():
            whole = [[0.0, 0.0, float(picture.shape[1]), float(picture.shape[0])]]
            found = np.array(boxes.get(path.name, whole), dtype=np.float64)
            joints, confidence = predict(run, picture, found, size, skeleton)
            drawing = output / f"{path.stem}.joints.png"
            draw_people(drawing, picture, joints, skeleton)
            write_joints(drawing.with_suffix(".json"), run.joints, joints, confidence)
            print(f"{path}: {len(found)} {'person' if len(found) == 1 else 'people'} -> {drawing}")
    except OSError as error:
        raise InputError(f"cannot write to {output}: {error.strerror}") from error


def read_boxes(path: Path) -> dict[str, list[list[float]]]:
    """File name -> N boxes of four numbers, sizes above 0; InputError in one sentence for anything else."""
    import numpy as np

    from raf_ray.data.fields import SMALLEST, check_pixels, numbers, shown
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


def write_joints(path: Path, names: Sequence[str], joints: Any, confidence: Any) -> None:
    from raf_ray.files import write_json

    people = [
        {name: [float(x), float(y), float(c)] for name, (x, y), c in zip(names, person, peaks, strict=True)}
        for person, peaks in zip(joints, confidence, strict=True)
    ]
    write_json(path, {"people": people, "each": "x, y in pixels, confidence"})


if __name__ == "__main__":
    sys.exit(run_command(main))
