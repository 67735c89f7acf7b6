"""Pictures as PNG or JPEG bytes and back, and many of them read at once."""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Literal, TypeVar

import cv2
import numpy as np

from raf_ray.data.headers import UNREADABLE, Header, as_stored, read_header
from raf_ray.data.people import PictureError

Encoding = Literal["png", "jpeg"]
OnBadImage = Literal["stop", "skip"]

JPEG_QUALITY = 95
"""A choice: OpenCV's default, near enough to the pixels that training does not notice; PNG keeps every bit."""

STORED_ORIENTATION = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
"""COCO and MPII were labelled without regard to EXIF, so a picture turned on reading would not lie under its joints."""

# What it logs on stderr of a bad picture is said by a PictureError.
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)

Made = TypeVar("Made")


def encode_picture(picture: np.ndarray, encoding: Encoding) -> bytes:
    """(H, W, 3) uint8 RGB -> bytes of a PNG (every pixel kept) or JPEG file.

    Raises PictureError where it is too large for the format.
    """
    bgr = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
    try:
        if encoding == "png":
            done, data = cv2.imencode(".png", bgr)
        else:
            done, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    except cv2.error:
        done = False
    if not done:
        height, width = picture.shape[:2]
        raise PictureError(f"a part of {width} x {height} pixels of a picture cannot be stored as {encoding}")
    return data.tobytes()


def decode_picture(data: bytes | memoryview, what: str) -> np.ndarray:
    """Bytes of a picture file -> (H, W, 3) uint8 RGB as stored. Raises PictureError; see `read_header`, `decode`."""
    return decode(data, read_header(io.BytesIO(data), what), what)


def decode(data: bytes | memoryview, header: Header, what: str) -> np.ndarray:
    """The picture whose header is known -> (H, W, 3) uint8 RGB; of several frames the first, without transparency.

    Raises PictureError, naming `what`, where it is cut off or damaged.
    """
    try:
        if header.format == "TIFF":
            data = as_stored(data)
        # From memory: unlike `imread`, `imdecode` refuses a JPEG that is cut off instead of filling it up with grey.
        picture = cv2.imdecode(np.frombuffer(data, np.uint8), STORED_ORIENTATION)
        if picture is None or picture.ndim != 3:  # of PFM, alone, OpenCV makes no RGB
            raise PictureError(f"{what} {UNREADABLE}")
        return np.asarray(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB))
    except (cv2.error, struct.error, KeyError) as error:
        raise PictureError(f"{what} {UNREADABLE}") from error
    except MemoryError as error:
        raise PictureError(f"{what} does not fit into memory: {header.width} x {header.height} pixels") from error


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
