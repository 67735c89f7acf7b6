"""Joints of one person by an exported model, without raf-ray: numpy, OpenCV and onnxruntime alone.

    python -m raf_ray.export runs/mine --format onnx --decode
    python examples/predict_onnx.py exported/model-128x96.onnx person.jpg --box 40 20 90 200 --output drawn.png

It prints {joint: [x, y, confidence]} in pixels of the picture. The person is cut as raf-ray cuts them: by the
file's own record, under the key `raf_ray` of its metadata.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from typing import Any

import cv2
import numpy as np
import onnxruntime


def read_model(path: str) -> tuple[onnxruntime.InferenceSession, dict[str, Any]]:
    """The model and its record."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    text = session.get_modelmeta().custom_metadata_map.get("raf_ray")
    if text is None:
        sys.exit(f"{path} was not exported by raf_ray.export: its metadata has no key 'raf_ray'")
    record = json.loads(text)
    if record["output"]["names"] != ["joints", "confidences"]:
        sys.exit(f"{path} gives {record['output']['names'][0]}; export poses with --decode")
    return session, record


def crop_person(
    picture: np.ndarray, box: list[float], height: int, width: int, rule: dict[str, Any]
) -> tuple[np.ndarray, np.ndarray]:
    """(height, width, 3) of a person, and the (2, 3) map from its pixels to those of the picture.

    `rule` is the record's `crop`. The box (x, y, w, h) is widened to the crop's shape, or to a square that is squeezed
    into it, and by `padding`; the crop's pixels span it, or the steps between their centres. A larger person is first
    reduced by exact area averaging to the crop's density, unless `larger_people` is "bilinear", then moved into place;
    beyond the picture it is black.
    """
    x, y, w, h = box
    centre = np.array([x + w / 2 - 0.5, y + h / 2 - 0.5])
    square = rule["box"] == "square"
    aspect = 1.0 if square else width / height
    box_width = max(w, h * aspect, 1.0) * rule["padding"]
    whole = np.array([box_width, box_width / aspect])
    density = np.array([width, height]) / whole if square else np.full(2, height / whole[1])
    reduce = np.minimum(density, 1.0) if rule["larger_people"] == "area averaging" else np.ones(2)

    start = np.floor(centre - whole / 2 - 2 / reduce).astype(int)
    extent = np.ceil(centre + whole / 2 + 2 / reduce).astype(int) + 1 - start
    patch = np.maximum(np.floor(extent * reduce + 1e-9).astype(int), 1)
    region = np.zeros((extent[1], extent[0], 3), np.uint8)
    low, high = np.maximum(start, 0), np.minimum(start + extent, picture.shape[1::-1])
    if (low < high).all():
        (left, top), (right, bottom) = low - start, high - start
        region[top:bottom, left:right] = picture[low[1] : high[1], low[0] : high[0]]
    if (patch != extent).any():
        region = cv2.resize(region, tuple(patch.tolist()), interpolation=cv2.INTER_AREA)

    shrink = patch / extent  # patch pixels per picture pixel
    span = np.array([width, height]) - (rule["spans"] == "steps between pixels")
    scale = span / (whole * shrink)  # crop pixels per patch pixel
    middle = np.array([(width - 1) / 2, (height - 1) / 2])
    in_patch = (centre - (start - 0.5)) * shrink - 0.5
    to_crop = np.array(
        [[scale[0], 0, middle[0] - scale[0] * in_patch[0]], [0, scale[1], middle[1] - scale[1] * in_patch[1]]]
    )
    crop = cv2.warpAffine(region, to_crop, (width, height), flags=cv2.INTER_LINEAR)
    back = whole / span
    return crop, np.array(
        [[back[0], 0, centre[0] - back[0] * middle[0]], [0, back[1], centre[1] - back[1] * middle[1]]]
    )


def predict(
    session: onnxruntime.InferenceSession,
    record: dict[str, Any],
    picture: np.ndarray,
    box: list[float],
    size: list[int],
) -> np.ndarray:
    """(K, 3) x, y in pixels of an RGB picture (H, W, 3), and confidence."""
    crop, to_picture = crop_person(picture, box, *size, record["crop"])
    joints, confidences = session.run(None, {record["input"]["name"]: crop[None]})
    places = joints[0] @ to_picture[:, :2].T + to_picture[:, 2]
    return np.concatenate([places, confidences[0][:, None]], axis=1)


def draw(picture: np.ndarray, joints: np.ndarray, limbs: list[list[int]]) -> np.ndarray:
    drawn = picture.copy()
    wide = max(1, math.ceil(max(picture.shape) / 300))
    places = np.rint(joints[:, :2]).astype(int).tolist()
    for a, b in limbs:
        cv2.line(drawn, places[a], places[b], (255, 208, 64), wide, cv2.LINE_AA)
    for place in places:
        cv2.circle(drawn, place, 2 * wide, (255, 64, 64), -1, cv2.LINE_AA)
    return drawn


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Joints of one person by an exported ONNX model.")
    parser.add_argument("model", help="a file of raf_ray.export --format onnx --decode")
    parser.add_argument("picture")
    parser.add_argument("--box", nargs=4, type=float, metavar=("X", "Y", "W", "H"), help="default: the whole picture")
    parser.add_argument("--size", metavar="HxW", help="of a file of any size (default: the largest trained one)")
    parser.add_argument("--output", metavar="FILE", help="a drawn copy")
    asked = parser.parse_args(words)
    session, record = read_model(asked.model)
    size = record["input"]["size"]
    if size is None:
        size = [int(side) for side in asked.size.split("x")] if asked.size else record["trained_sizes"][0]
    read = cv2.imread(asked.picture, cv2.IMREAD_COLOR)
    if read is None:
        sys.exit(f"{asked.picture} cannot be read as a picture")
    picture = cv2.cvtColor(read, cv2.COLOR_BGR2RGB)
    box = asked.box or [0.0, 0.0, float(picture.shape[1]), float(picture.shape[0])]
    joints = predict(session, record, picture, box, size)
    print(json.dumps({name: joint.tolist() for name, joint in zip(record["names"], joints, strict=True)}))
    if asked.output:
        cv2.imwrite(asked.output, cv2.cvtColor(draw(picture, joints, record["limbs"]), cv2.COLOR_RGB2BGR))


if __name__ == "__main__":
    main()
