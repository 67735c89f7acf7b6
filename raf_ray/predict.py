"""``python -m raf_ray.predict RUN IMAGE...``: draw the joints that a saved model finds on pictures and videos."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raf_ray.cli import run_command
from raf_ray.errors import InputError, RunError

if TYPE_CHECKING:
    import numpy as np

    from raf_ray.data.annotations.listed_boxes import ListedBoxes
    from raf_ray.data.skeletons import Skeleton
    from raf_ray.data.video import Video
    from raf_ray.resolution import Size
    from raf_ray.saved import SavedRun

EXAMPLES = """examples:
  python -m raf_ray.predict runs/mine person.jpg                        one person fills the picture
  python -m raf_ray.predict runs/mine street.jpg --boxes boxes.json     {"street.jpg": [[x, y, width, height], ...]}
  python -m raf_ray.predict runs/mine pictures --boxes found.json --coco joints.json
  python -m raf_ray.predict runs/mine clip.mp4 --output drawn           a drawn copy, and each frame's joints
  python -m raf_ray.predict runs/mine *.jpg --size 96x72 --output drawn

A folder stands for the pictures and videos in it. Pictures are turned as their EXIF orientation says; boxes and joints
are in pixels of the turned picture. --boxes is as above, or COCO annotations (by file_name), or COCO results (by
image_id, the number that a picture is called): in COCO's forms a picture without boxes has nobody in it. In the first
form a picture goes by its path as given here or, where only one has it, by its bare name. A video's boxes hold for all
its frames. A drawing is NAME.joints.png or .mp4; where two names (without their endings) are the same, all keep their
folders and endings below --output.
"""

PICTURES = frozenset([".jpg", ".jpeg", ".png", ".tif", ".tiff", ".webp", ".avif", ".bmp", ".gif", ".jp2", ".ppm"])
"""Endings of what is taken out of a folder."""


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m raf_ray.predict",
        description="Draw predicted joints on pictures and videos, and write them as JSON beside.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", metavar="RUN", help="run folder")
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="picture files, videos, or folders of such")
    parser.add_argument("--boxes", metavar="FILE", help="JSON of people's boxes [x, y, width, height], see below "
                        "(default: one person fills the picture)")  # fmt: skip
    parser.add_argument("--least-score", type=float, default=0.0, metavar="S",
                        help="of COCO results in --boxes, leave out those below it")  # fmt: skip
    parser.add_argument("--size", metavar="HxW", help="model's input (default: the run's largest trained size)")
    parser.add_argument("--client", metavar="NAME", help="its own model, where a method leaves it some (fedbn ...)")
    parser.add_argument("--output", metavar="DIR", default=".", help="folder for the drawings (default: here)")
    parser.add_argument("--coco", metavar="FILE", help="also write the people of all pictures as COCO results")
    return parser


def main(words: Sequence[str]) -> None:
    arguments = parser().parse_intermixed_args(words)

    from raf_ray.data.annotations.listed_boxes import read_boxes
    from raf_ray.data.pictures import shown_path
    from raf_ray.data.video import is_video, open_video
    from raf_ray.experiment.place import reading_folder
    from raf_ray.models import size_divisor
    from raf_ray.paths import existing_file, given_path
    from raf_ray.report.predictions import write_list
    from raf_ray.request.plans import plan_clients, trained_sizes
    from raf_ray.request.task import task_of
    from raf_ray.resolution import check_divides, parse_size
    from raf_ray.saved import files_of, load_run

    with reading_folder(arguments.run, "RUN", files_of(arguments.client)) as folder:
        run = load_run(folder, client=arguments.client)
    if not task_of(run.config).draws_joints:
        raise InputError(f"{arguments.run} has learnt {run.config.task.name}, of which there are no joints to draw; "
                         "raf_ray.evaluate scores it")  # fmt: skip
    size = parse_size(arguments.size) if arguments.size else trained_sizes(plan_clients(run.config))[0]
    check_divides(size, size_divisor(run.model), "--size")
    names = listed(arguments.images)
    listed_boxes = None
    if arguments.boxes:
        listed_boxes = read_boxes(existing_file(arguments.boxes, "--boxes"), arguments.least_score)
    videos = {path: open_video(existing_file(path, "IMAGE"), "IMAGE") for path in names.values() if is_video(path)}
    output = given_path(arguments.output, "--output")
    coco = given_path(arguments.coco, "--coco") if arguments.coco else None
    if coco is not None and len(videos) == len(names):
        raise InputError("--coco is of pictures; a video's joints are written beside its drawing, in the same form")
    drawings = place_drawings(list(names.values()), output, videos)
    if coco is not None and os.path.realpath(coco) in {os.path.realpath(path) for path in names.values()}:
        raise InputError(f"--coco would replace the picture {coco}; choose another file")
    found = boxes_of(names, videos, listed_boxes)  # all of them before anything is written
    try:
        entries = draw_all(run, size, found, videos, drawings, coco_ids(names, videos, listed_boxes))
        if coco is not None:
            write_list(coco, entries)
    except OSError as error:
        raise InputError(f"cannot write to {shown_path(output)}: {error.strerror or error}") from error


def listed(given: Sequence[str]) -> dict[str, Path]:
    """Name as given -> path, of each file; a folder's pictures and videos in alphabetical order.

    Raises InputError where a folder holds none.
    """
    from raf_ray.data.video import is_video
    from raf_ray.paths import given_path

    names: dict[str, Path] = {}
    for name in given:
        path = given_path(name, "IMAGE")
        if not path.is_dir():
            names[name] = path
            continue
        own = sorted(one for one in path.iterdir() if one.suffix.lower() in PICTURES or is_video(one))
        if not own:
            raise InputError(f"IMAGE {name} is a folder without a picture or video in it; name another, or files")
        names |= {str(one): one for one in own}
    return names


def boxes_of(
    names: Mapping[str, Path], videos: Mapping[Path, Video], listed_boxes: ListedBoxes | None
) -> dict[Path, np.ndarray]:
    """Picture or video -> (N, 4). Raises InputError where one cannot be read, or has boxes that it cannot have."""
    import numpy as np

    from raf_ray.data.annotations.listed_boxes import check_in_picture
    from raf_ray.data.pictures import read_picture, shown_path

    own = None if listed_boxes is None else listed_boxes.of(list(names))
    found = {}
    for name, path in names.items():
        if path in videos:
            width, height = videos[path].width, videos[path].height
        else:
            try:
                height, width = read_picture(path, turned=True).shape[:2]
            except RunError as error:
                raise InputError(str(error)) from error
        found[path] = np.array([[0, 0, width, height]], np.float64) if own is None else own[name]
        check_in_picture(found[path], (width, height), f"--boxes: {shown_path(name)}")
    return found


def coco_ids(
    names: Mapping[str, Path], videos: Mapping[Path, Video], listed_boxes: ListedBoxes | None
) -> dict[Path, int]:
    """COCO's id of each picture: that of --boxes, else the numbers that all are called, else counted from 1."""
    pictures = {name: path for name, path in names.items() if path not in videos}
    given = {path: None if listed_boxes is None else listed_boxes.id_of(name) for name, path in pictures.items()}
    known = {path: number for path, number in given.items() if number is not None}
    if len(known) == len(given):
        return known
    called = {path: int(path.stem) for path in given if path.stem.isdecimal()}
    if len(set(called.values())) == len(given):
        return called
    return {path: place for place, path in enumerate(given, 1)}


def draw_all(
    run: SavedRun, size: Size, found: Mapping[Path, np.ndarray], videos: Mapping[Path, Video],
    drawings: Mapping[Path, Path], ids: Mapping[Path, int],
) -> list[dict[str, Any]]:  # fmt: skip
    """Draw each, with a bar on a terminal and a line a file; the pictures' people as COCO results."""
    from rich.progress import Progress

    from raf_ray.data.pictures import read_picture, shown_path
    from raf_ray.report.plots import draw_people
    from raf_ray.report.predictions import results_of, write_joints
    from raf_ray.saved import skeleton_of_run
    from raf_ray.terminal import make_console

    skeleton = skeleton_of_run(run)
    entries: list[dict[str, Any]] = []
    console = make_console()
    with Progress(console=console, disable=not console.is_terminal, transient=True) as bar:
        steps = bar.add_task("predicting", total=sum(videos[path].frames if path in videos else 1 for path in found))
        for path, boxes in found.items():
            drawing = drawings[path]
            drawing.parent.mkdir(parents=True, exist_ok=True)
            if path in videos:
                count = 0
                for count in draw_video(run, size, skeleton, videos[path], boxes, drawing):  # noqa: B007
                    bar.advance(steps)
                told = f"{count} frames"
            else:
                picture = read_picture(path, turned=True)
                joints, confidence = joints_in(run, picture, boxes, size, skeleton, path)
                draw_people(drawing, picture, joints, skeleton)
                write_joints(drawing.with_suffix(".json"), run.joints, joints, confidence)
                entries += results_of(ids[path], run.labels.category_id, joints, confidence, boxes, file_name=path.name)
                told = f"{len(boxes)} {'person' if len(boxes) == 1 else 'people'}"
                bar.advance(steps)
            console.print(f"{shown_path(path)}: {told} -> {shown_path(drawing)}", highlight=False, soft_wrap=True)
    return entries


def place_drawings(pictures: Sequence[Path], output: Path, videos: Mapping[Path, Video]) -> dict[Path, Path]:
    """Picture -> its drawing below `output`, by its stem; where two stems are the same, all by folder and name.

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
    drawings = {path: place.with_suffix(".mp4") if path in videos else place for path, place in drawings.items()}
    given = {os.path.realpath(path) for path in unique}
    for path, drawing in drawings.items():
        for made in (drawing, drawing.with_suffix(".json")):
            if os.path.realpath(made) in given:
                raise InputError(f"the drawing of {path} would replace the picture {made}; choose another --output")
    return drawings


def draw_video(
    run: SavedRun, size: Size, skeleton: Skeleton, video: Video, boxes: np.ndarray, drawing: Path
) -> Iterator[int]:
    """Write a drawn copy and, beside it, COCO results whose image_id is the frame, from 0; gives the frames done."""
    from raf_ray.data.video import VideoWriter
    from raf_ray.report.frames import draw_frame
    from raf_ray.report.predictions import results_of, write_list

    entries: list[dict[str, Any]] = []
    half = drawing.with_name(f".{drawing.stem}.{os.getpid()}{drawing.suffix}")  # until all of it is there
    writer = VideoWriter(half, video)
    try:
        for frame, picture in enumerate(video.read()):
            joints, confidence = joints_in(run, picture, boxes, size, skeleton, video.path)
            writer.write(draw_frame(picture, joints, skeleton))
            entries += results_of(frame, run.labels.category_id, joints, confidence, boxes)
            yield frame + 1
        writer.close()
        os.replace(half, drawing)
    finally:
        writer.close()
        half.unlink(missing_ok=True)
    write_list(drawing.with_suffix(".json"), entries)


def joints_in(
    run: SavedRun, picture: np.ndarray, boxes: np.ndarray, size: Size, skeleton: Skeleton, path: Path
) -> tuple[np.ndarray, np.ndarray]:
    """(N, K, 2) joints and (N, K) confidences of the people in the boxes (N, 4), of whom there may be none."""
    import numpy as np

    from raf_ray.data.pictures import shown_path
    from raf_ray.saved import predict

    if not len(boxes):
        return np.zeros((0, len(run.joints), 2), np.float32), np.zeros((0, len(run.joints)), np.float32)
    joints, confidence = predict(run, picture, boxes, size, skeleton)
    if not np.isfinite(confidence).all():
        raise RunError(f"the model of {run.folder} gives no finite heatmaps for {shown_path(path)}; train it again")
    return joints, confidence


if __name__ == "__main__":
    sys.exit(run_command(main))
