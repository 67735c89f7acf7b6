"""The same few people, written as each labelling tool exports them: pictures of 64x48 (width x height)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from raf_ray.data.sources import Asked, read_source
from raf_ray.errors import InputError

WIDTH, HEIGHT = 64, 48
JOINTS = ["nose", "left_paw", "right_paw", "tail"]
LIMBS = [[1, 2], [1, 3], [1, 4]]


def points_of(i: int) -> list[list[float]]:
    """Four joints x, y, v of the person in picture i; the tail of odd ones is not labelled."""
    return [[20.0 + i, 8.0, 2], [12.0, 24.0, 2], [28.0, 24.0 + i % 5, 2], [16.0, 40.0, 2] if i % 2 == 0 else [0, 0, 0]]


def box_of(i: int) -> list[float]:
    return [8.0, 4.0, 24.0 + i, 40.0]


def draw(path: Path, i: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(i).integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8)
    cv2.imwrite(str(path), cv2.GaussianBlur(noise, (0, 0), 2))


class Guess(nn.Module):
    """(B, 3, H, W) -> (B, 4, H/4, W/4): each joint where it mostly is in a person's crop, whatever the picture."""

    size_divisor = 4

    def __init__(self) -> None:
        super().__init__()
        self.places = nn.Parameter(torch.tensor([[0.59, 0.18], [0.19, 0.5], [0.62, 0.53], [0.3, 0.82]]))

    def forward(self, images: Tensor) -> Tensor:
        height, width = images.shape[2] // 4, images.shape[3] // 4
        x, y = torch.arange(width) + 0.5, torch.arange(height)[:, None] + 0.5
        far = (x - self.places[:, 0, None, None] * width) ** 2 + (y - self.places[:, 1, None, None] * height) ** 2
        return torch.exp(-far / 8).expand(len(images), -1, -1, -1)


def guess(joints: int) -> Guess:
    assert joints == len(JOINTS)
    return Guess()


def coco_content(names: dict[int, str], **changes: Any) -> dict[str, Any]:
    """COCO's form of the pictures {i: file name}, as CVAT writes it."""
    annotations = [
        {"id": i + 1, "image_id": i + 1, "category_id": 1, "bbox": box_of(i), "area": 500.0, "iscrowd": 0,
         "num_keypoints": sum(v > 0 for _, _, v in points_of(i)),
         "keypoints": [n for point in points_of(i) for n in point]}
        for i in names
    ]  # fmt: skip
    images = [{"id": i + 1, "file_name": name, "width": WIDTH, "height": HEIGHT} for i, name in names.items()]
    category = {"id": 1, "name": "cat", "supercategory": "", "keypoints": JOINTS, "skeleton": LIMBS}
    return {"images": images, "annotations": annotations, "categories": [category]} | changes


def write(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))


def cvat(root: Path, train: int = 6, test: int = 3) -> Path:
    for split, ids in (("train", range(train)), ("val", range(train, train + test))):
        for i in ids:
            draw(root / "images" / split / f"{i}.png", i)
        write(root / f"annotations/person_keypoints_{split}.json", coco_content({i: f"{i}.png" for i in ids}))
    return root


def roboflow(root: Path, train: int = 6, test: int = 3) -> Path:
    """With the placeholder category 0, which lists the keypoints too."""
    for split, ids in (("train", range(train)), ("valid", range(1)), ("test", range(train, train + test))):
        for i in ids:
            draw(root / split / f"{i}_png.rf.0a.png", i + 100 * (split == "valid"))
        content = coco_content({i: f"{i}_png.rf.0a.png" for i in ids})
        (real,) = content["categories"]
        content["categories"] = [real | {"id": 0, "name": "cats", "supercategory": "none"}, real]
        write(root / split / "_annotations.coco.json", content)
    return root


def label_studio_coco(root: Path, count: int = 9) -> Path:
    """One file, boxes in a category of their own without keypoints, points in ``default``, no area, no limbs."""
    for i in range(count):
        draw(root / "images" / f"0a1b-{i}.png", i)
    content = coco_content({i: f"images/0a1b-{i}.png" for i in range(count)})
    joints = {"id": 1, "name": "default", "supercategory": "default", "keypoints": JOINTS, "skeleton": []}
    content["categories"] = [{"id": 0, "name": "cat"}, joints]
    boxes = []
    for annotation in content["annotations"]:
        del annotation["area"]
        boxes.append({"id": 100 + annotation["id"], "image_id": annotation["image_id"], "category_id": 0,
                      "segmentation": [], "bbox": annotation["bbox"], "ignore": 0, "iscrowd": 0,
                      "area": 9})  # fmt: skip
    content["annotations"] = boxes + content["annotations"]
    write(root / "result.json", content)
    return root


def yolo_line(i: int, dim: int = 3, class_id: int = 0) -> str:
    x, y, width, height = box_of(i)
    numbers = [(x + width / 2) / WIDTH, (y + height / 2) / HEIGHT, width / WIDTH, height / HEIGHT]
    for x, y, v in points_of(i):
        numbers += [x / WIDTH, y / HEIGHT, v][:dim]
    return " ".join([str(class_id), *(f"{n:.10g}" for n in numbers)])


YAML = """path: ../datasets/cats
train: images/train
val: images/val
kpt_shape: [4, {dim}]
flip_idx: [0, 2, 1, 3]
names:
  0: cat
"""
KPT_NAMES = "kpt_names:\n  0: [nose, left paw, right paw, tail]\n"


def yolo(root: Path, train: int = 6, test: int = 3, dim: int = 3, yaml: str = YAML + KPT_NAMES) -> Path:
    for split, ids in (("train", range(train)), ("val", range(train, train + test))):
        for i in ids:
            draw(root / "images" / split / f"{i}.png", i)
            write(root / "labels" / split / f"{i}.txt", yolo_line(i, dim) + "\n")
    write(root / "data.yaml", yaml.format(dim=dim))
    return root


def label_studio_task(i: int) -> dict[str, Any]:
    size = {"original_width": WIDTH, "original_height": HEIGHT, "image_rotation": 0, "to_name": "image"}
    x, y, width, height = box_of(i)
    value = {"x": 100 * x / WIDTH, "y": 100 * y / HEIGHT, "width": 100 * width / WIDTH, "height": 100 * height / HEIGHT}
    result = [size | {"id": f"box{i}", "type": "rectanglelabels",
                      "value": value | {"rotation": 0, "rectanglelabels": ["cat"]}}]  # fmt: skip
    for name, (px, py, v) in zip(JOINTS, points_of(i), strict=True):
        if v:
            value = {"x": 100 * px / WIDTH, "y": 100 * py / HEIGHT, "width": 0.5, "keypointlabels": [name]}
            result.append(size | {"id": name, "parentID": f"box{i}", "type": "keypointlabels", "value": value})
    data = {"image": f"/data/upload/1/0a1b-{i}.png"}
    return {"id": 10 + i, "data": data, "annotations": [{"id": i, "was_cancelled": False, "result": result}]}


def label_studio(root: Path, count: int = 9) -> Path:
    for i in range(count):
        draw(root / "images" / f"0a1b-{i}.png", i)
    write(root / "project-1.json", [label_studio_task(i) for i in range(count)])
    return root


# --- read again ----------------------------------------------------------------------------------------------


def read(name: str, root: Path, split: Any = "train", **asked: Any) -> Any:
    values = {"annotations": None, "images": None, "skeleton": None} | asked
    return read_source(name, Asked(root=str(root), **values), split)


def refused(name: str, root: Path, *says: str, split: Any = "train", **asked: Any) -> None:
    with pytest.raises(InputError) as caught:
        read(name, root, split, **asked)
    message = str(caught.value)
    assert "\n" not in message
    for text in says:
        assert text in message, message
