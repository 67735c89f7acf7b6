"""Pictures as PNG or JPEG bytes and back, and many of them read at once."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Literal, TypeVar

import cv2
import numpy as np

from raf_ray.data.people import PictureError

Encoding = Literal["png", "jpeg"]
OnBadImage = Literal["stop", "skip"]

JPEG_QUALITY = 95
"""A choice: OpenCV's default, near enough to the pixels that training does not notice; PNG keeps every bit."""

Made = TypeVar("Made")


def encode_picture(picture: np.ndarray, encoding: Encoding) -> bytes:
    """(H, W, 3) uint8 RGB -> bytes of a PNG (every pixel kept) or JPEG file."""
    bgr = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
    if encoding == "png":
        done, data = cv2.imencode(".png", bgr)
    else:
        done, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    assert done
    return data.tobytes()


def decode_picture(data: bytes | memoryview, what: str) -> np.ndarray:
    """Bytes of a picture file -> (H, W, 3) uint8 RGB. Raises PictureError, naming `what`, where they are none."""
    picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) if len(data) else None
    if picture is None:
        raise PictureError(f"{what} cannot be decoded; prepare the shards again")
    return np.asarray(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB))


def make_each(
    make: Callable[[int], Made],
    count: int,
    on_bad_image: OnBadImage,
    advance: Callable[[], object],
) -> tuple[list[Made], np.ndarray]:
    """What `make` gives for each of 0 .. count - 1, on all of the machine's cores, in order.

    Args:
        make: raises PictureError where a picture is missing or cannot be decoded; runs in threads.
        on_bad_image: raise the first PictureError, or leave its index out.
        advance: called after each, also one left out.

    Returns:
        The n things made and (n,) int64 their indices.
    """

    def try_one(index: int) -> Made | None:
        try:
            return make(index)
        except PictureError:
            if on_bad_image == "stop":
                raise
            return None

    made: list[Made] = []
    kept: list[int] = []
    pool = ThreadPoolExecutor(os.cpu_count())
    try:
        for index, one in enumerate(pool.map(try_one, range(count))):
            if one is not None:
                made.append(one)
                kept.append(index)
            advance()
    finally:
        pool.shutdown(cancel_futures=True)
    return made, np.array(kept, np.int64)
