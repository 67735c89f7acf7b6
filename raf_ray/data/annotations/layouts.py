"""Where tools that export COCO's form put its files below the data set's folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from raf_ray.data.annotations.fields import warn_once
from raf_ray.errors import InputError

FileSplit = Literal["train", "test"]
"""Splits that data sets have files of; `val` is drawn from `train`."""


@dataclass(frozen=True)
class Layout:
    tool: str
    annotations: dict[FileSplit, tuple[str, ...]]
    """Split -> its file; several: the first that is there, since tools call a split by more than one name"""
    images: str
    """Picture folder, in which {stem} is the file's name without what all its files begin with"""
    begin: str = ""


LAYOUTS = (
    Layout(
        "COCO",
        {
            "train": ("annotations/person_keypoints_train2017.json",),
            "test": ("annotations/person_keypoints_val2017.json",),
        },
        "{stem}",
        "person_keypoints_",
    ),
    Layout(
        "Roboflow",
        {
            "train": ("train/_annotations.coco.json",),
            "test": ("test/_annotations.coco.json", "valid/_annotations.coco.json"),
        },
        "{folder}",
    ),
    Layout(
        "CVAT",
        {
            "train": tuple(f"annotations/person_keypoints_{name}.json" for name in ("train", "Train", "default")),
            "test": tuple(
                f"annotations/person_keypoints_{name}.json"
                for name in ("test", "Test", "val", "validation", "Validation")
            ),
        },
        "images/{stem}",
        "person_keypoints_",
    ),
    Layout("Label Studio", {"train": ("result.json",), "test": ()}, "."),
)


def find_layout(root: Path, split: FileSplit) -> tuple[Path, Path] | None:
    """Annotation file and picture folder of a split, by the first layout that the folder has; None: no layout's.

    A layout is known by its training file. Where a tool's test split has several names, the first is taken, and a
    warning says if it is a validation split's. Raises InputError where a tool's export has no test split.
    """
    for layout in LAYOUTS:
        train = _first(root, layout.annotations["train"])
        if train is None:
            continue
        file = train if split == "train" else _first(root, layout.annotations["test"])
        if file is None and layout.tool == "COCO":
            return None
        if file is None:
            raise InputError(
                f"{root} is an export of {layout.tool} with {train.relative_to(root)} and no file of a test split; set "
                "data.test_fraction to hold out some of its pictures, or data.annotations"
            )
        if split == "test" and layout.tool != "COCO" and "val" in str(file.relative_to(root)).lower():
            warn_once(f"{root} has no test split: {file.relative_to(root)} of {layout.tool} is taken as test")
        stem = file.stem.removeprefix(layout.begin)
        folder = root / layout.images.format(stem=stem, folder=file.parent.name)
        if layout.tool == "CVAT" and not folder.is_dir():  # older exports have all pictures in one folder
            folder = root / "images"
        return file, folder
    return None


def _first(root: Path, names: tuple[str, ...]) -> Path | None:
    return next((root / name for name in names if (root / name).is_file()), None)
