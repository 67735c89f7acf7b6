"""What Ultralytics' ``data.yaml`` says of a pose set: classes, joints with their mirror images, pictures of a split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from raf_ray.data.annotations.categories import unknown_category
from raf_ray.data.annotations.fields import brief, shown, warn_once
from raf_ray.data.annotations.joints import check_joints, own_skeleton, plain_names
from raf_ray.data.annotations.layouts import FileSplit
from raf_ray.data.skeletons import COCO17, Skeleton
from raf_ray.errors import InputError
from raf_ray.files import read_text

PICTURES = frozenset([".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".avif", ".gif", ".jp2", ".ppm"])
"""Endings of pictures, those that `raf_ray.data.pictures` reads"""


@dataclass(frozen=True)
class DataYaml:
    file: Path
    values: Mapping[str, Any]
    skeleton: Skeleton
    dim: int
    """Numbers a joint: x, y and perhaps v"""
    classes: tuple[str, ...]
    class_id: int
    """Whose lines are read"""


def read_data_yaml(root: Path, skeleton: Skeleton | None, category: str | None) -> DataYaml:
    """``data.yaml`` in `root`, or the folder's only YAML file.

    `skeleton` None: the joints are ``kpt_names`` where the file has them; else COCO's where they are 17 with COCO's
    mirror images; else they get numbers for names. `category`: a class; None: the only one, or ``person``. Raises
    InputError for what the file lacks or contradicts.
    """
    found = [root / "data.yaml"] if (root / "data.yaml").is_file() else sorted(root.glob("*.y*ml"))
    if len(found) != 1:
        told = "no YAML file" if not found else ", ".join(brief(file.name) for file in found[:4])
        raise InputError(f"data.root: {root} must hold data.yaml, as Ultralytics' sets do; it has {told}")
    (file,) = found
    try:
        values = yaml.safe_load(read_text(file, "data file"))
    except yaml.YAMLError as error:
        raise InputError(f"{file} is not valid YAML: {brief(' '.join(str(error).split()))}") from error
    if not isinstance(values, dict):
        raise InputError(f"{file} must be a mapping with train, val, kpt_shape and names; it is {shown(values)}")
    shape = values.get("kpt_shape")
    if shape is None:
        raise InputError(f"{file} has no 'kpt_shape', so it is a set of boxes without points; export it in pose form")
    if not isinstance(shape, list) or len(shape) != 2 or not all(type(n) is int for n in shape):
        raise InputError(f"{file}: 'kpt_shape' is {shown(shape)}, but must be [joints, 2 or 3]; correct it")
    if not 1 <= shape[0] <= 10_000 or shape[1] not in (2, 3):
        raise InputError(f"{file}: 'kpt_shape' is {shown(shape)}, but must be [joints, 2 or 3]; correct it")
    classes = _class_names(values.get("names"), file)
    class_id = _class_of(classes, category, file)
    names = _joint_names(values.get("kpt_names"), class_id, shape[0], file)
    flips = _flips(values.get("flip_idx"), shape[0], file)
    joints = _skeleton(classes[class_id], names, flips, shape[0], skeleton, file)
    return DataYaml(file, values, joints, shape[1], classes, class_id)


def split_pictures(
    described: DataYaml, root: Path, split: FileSplit, images: Mapping[FileSplit, str] | None
) -> tuple[Path, ...]:
    """The pictures of a split, sorted: those of ``train``, and of ``test`` or else ``val``.

    An entry is a folder, a text file that lists pictures, or a list of these, below ``path`` or data.yaml's folder.
    `images` replaces it. Raises InputError where there is none.
    """
    values, file = described.values, described.file
    key: str = split
    asked = (images or {}).get(split)
    if not asked and split == "test" and not values.get("test") and values.get("val"):
        key = "val"
        warn_once(f"{file} has no test split: its val is taken as test")
    given = asked or values.get(key)
    if not given:
        raise InputError(
            f"{file} names no pictures of '{split}'; add it, set data.images, or for test set data.test_fraction"
        )
    found: set[Path] = set()
    for entry in given if isinstance(given, list) else [given]:
        found.update(_pictures_of(_existing(str(entry), root, values, key, file)))
    if not found:
        raise InputError(f"{file}: '{key}' ({shown(given)}) holds no picture; correct it")
    return tuple(sorted(found))


def _existing(entry: str, root: Path, values: Mapping[str, Any], key: str, file: Path) -> Path:
    """An entry's folder or list. As with Ultralytics, a leading ``../`` that leads nowhere is left out."""
    bases = [root / str(values["path"]), root] if values.get("path") else [root]
    tried = [base / name for base in bases for name in (entry, entry.removeprefix("../"))]
    for path in tried:
        if path.exists():
            return path.resolve()
    raise InputError(f"{file}: '{key}' is {brief(entry)}, but there is no {tried[-1]}; correct 'path' or '{key}'")


def _pictures_of(place: Path) -> list[Path]:
    if place.is_dir():
        return [path for path in place.rglob("*") if path.suffix.lower() in PICTURES]
    lines = (line.strip() for line in read_text(place, "list of pictures").splitlines())
    return [(place.parent / line).resolve() for line in lines if line]


def _class_names(names: object, file: Path) -> tuple[str, ...]:
    """Their names by number; a list, or a mapping of numbers from 0."""
    found = names
    if isinstance(names, dict) and sorted(names, key=str) == sorted(range(len(names)), key=str):
        found = [names[i] for i in range(len(names))]
    if not isinstance(found, list) or not found or not all(isinstance(name, str | int) for name in found):
        raise InputError(
            f"{file}: 'names' is {shown(names)}, but must be the classes' names by number from 0; correct it"
        )
    return tuple(str(name) for name in found)


def _class_of(classes: Sequence[str], wanted: str | None, file: Path) -> int:
    plain = [name.strip().lower() for name in classes]
    if wanted is not None:
        if wanted.strip().lower() not in plain:
            raise InputError(unknown_category(wanted, [brief(name) for name in classes], file))
        return plain.index(wanted.strip().lower())
    if len(plain) > 1 and "person" not in plain:
        told = ", ".join(brief(name) for name in classes)
        raise InputError(f"{file} has the classes {told}; set data.category to the one to read")
    return plain.index("person") if len(plain) > 1 else 0


def _joint_names(given: object, class_id: int, joints: int, file: Path) -> list[str] | None:
    """``kpt_names``: a list, or a mapping of a class to its list; None where there is none."""
    if given is None:
        return None
    names = given.get(class_id) if isinstance(given, dict) else given
    if not isinstance(names, list) or len(names) != joints:
        raise InputError(f"{file}: 'kpt_names' is {shown(given)}, but must name {joints} joints, as 'kpt_shape' says")
    return plain_names(names)


def _flips(given: object, joints: int, file: Path) -> list[int] | None:
    if given is None or given == []:
        return None
    good = isinstance(given, list) and all(type(i) is int for i in given) and sorted(given) == list(range(joints))
    if not good or not isinstance(given, list) or any(given[j] != i for i, j in enumerate(given)):
        raise InputError(
            f"{file}: 'flip_idx' is {shown(given)}, but must give each of {joints} joints its mirror image, by number "
            "from 0 and in pairs; correct it"
        )
    return given


def _skeleton(
    name: str, names: list[str] | None, flips: list[int] | None, joints: int, asked: Skeleton | None, file: Path
) -> Skeleton:
    if asked is None and names is None and flips == COCO17.flip_order.tolist():
        return COCO17
    if asked is not None:
        if len(asked) != joints:
            raise InputError(f"{file} has {joints} joints, but skeleton '{asked.name}' has {len(asked)}; set another")
        if names is not None:
            check_joints(names, asked, file)
        _mirrored(list(asked.joints), flips, file)
        return asked
    if names is None:
        names = [f"joint_{i + 1}" for i in range(joints)]
        warn_once(
            f"{file} names no joints (kpt_names), so they are called by number; data.skeleton gives them names, and "
            "limbs to draw"
        )
    return own_skeleton(name, _mirrored(names, flips, file), None, file)


def _mirrored(names: list[str], flips: list[int] | None, file: Path) -> list[str]:
    """The names, where need be with left and right before them so that they pair as ``flip_idx`` does.

    Raises InputError where names and ``flip_idx`` contradict each other.
    """
    by_name = Skeleton("own", tuple(names), (1.0,) * len(names)).flip_order
    if flips is None or (by_name == flips).all():
        return names
    if flips == list(range(len(names))):
        warn_once(f"{file}: 'flip_idx' swaps nothing, as some exporters write it; the names' left and right are taken")
        return names
    against = (by_name != np.arange(len(names))) & (by_name != flips)
    if against.any():
        at = int(np.argmax(against))
        raise InputError(
            f"{file}: 'flip_idx' makes {brief(names[flips[at]])} the mirror image of {brief(names[at])}, but by their "
            f"names it is {brief(names[by_name[at]])}; correct it"
        )
    renamed = list(names)
    for i, j in enumerate(flips):
        if i < j and by_name[i] != j:
            renamed[i], renamed[j] = f"left_{names[i]}", f"right_{names[i]}"
    warn_once(f"{file}: joints that 'flip_idx' pairs are called left and right, though which is left is not known")
    return renamed
