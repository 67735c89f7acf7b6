"""Videos, by OpenCV: frames one by one, and a copy with something drawn on each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from raf_ray.errors import InputError, RunError

ENDINGS = frozenset({".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg"})


def is_video(path: Path) -> bool:
    return path.suffix.lower() in ENDINGS


@dataclass(frozen=True)
class Video:
    """What a video's header says."""

    path: Path
    width: int
    height: int
    frames_per_second: float
    frames: int
    """0 where it does not say"""

    def read(self) -> Iterator[np.ndarray]:
        """(H, W, 3) uint8 RGB frames, turned as the video asks."""
        capture = cv2.VideoCapture(str(self.path))
        try:
            while True:
                there, frame = capture.read()
                if not there:
                    return
                yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
        finally:
            capture.release()


def open_video(path: Path, what: str) -> Video:
    """Raises InputError where OpenCV cannot read a first frame."""
    capture = cv2.VideoCapture(str(path))
    try:
        there, frame = capture.read()
        if not there:
            raise InputError(
                f"{what} {path} cannot be read as a video by OpenCV; convert it, such as to MP4 with H.264"
            )
        rate, count = capture.get(cv2.CAP_PROP_FPS), capture.get(cv2.CAP_PROP_FRAME_COUNT)
    finally:
        capture.release()
    height, width = frame.shape[:2]
    return Video(path, width, height, rate if 0 < rate < 1000 else 25.0, max(0, int(count)))


class VideoWriter:
    """An MP4 of RGB frames. Raises RunError where OpenCV cannot write one here."""

    def __init__(self, path: Path, like: Video) -> None:
        code = cv2.VideoWriter.fourcc(*"mp4v")
        self._writer = cv2.VideoWriter(str(path), code, like.frames_per_second, (like.width, like.height))
        if not self._writer.isOpened():
            raise RunError(f"OpenCV cannot write the video {path}; look whether its folder takes files")

    def write(self, frame: np.ndarray) -> None:
        self._writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))

    def close(self) -> None:
        self._writer.release()
