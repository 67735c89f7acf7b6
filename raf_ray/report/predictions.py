"""Joints that a model has found, as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from raf_ray.files import write_json, write_text


def results_of(
    image_id: int, category_id: int, joints: np.ndarray, confidence: np.ndarray, boxes: np.ndarray, **more: str
) -> list[dict[str, Any]]:
    """COCO results of a picture's people: K times x, y, confidence, whose mean is the score."""
    return [
        {
            "image_id": image_id,
            "category_id": category_id,
            "keypoints": [float(v) for xy, c in zip(person, peaks, strict=True) for v in (*xy, c)],
            "score": float(peaks.mean()),
            "bbox": [float(side) for side in box],
            **more,
        }
        for person, peaks, box in zip(joints, confidence, boxes, strict=True)
    ]


def write_list(path: Path, entries: Sequence[dict[str, Any]]) -> None:
    """COCO results as a file."""
    write_text(path, json.dumps(entries, allow_nan=False) + "\n")


def write_joints(path: Path, names: Sequence[str], joints: np.ndarray, confidence: np.ndarray) -> None:
    """The people of one picture, by the joints' names: (N, K, 2) in pixels, (N, K)."""
    people = [
        {name: [float(x), float(y), float(c)] for name, (x, y), c in zip(names, person, peaks, strict=True)}
        for person, peaks in zip(joints, confidence, strict=True)
    ]
    write_json(path, {"people": people, "each": "x, y in pixels, confidence"})
