"""What a picture's header tells before a pixel is decoded: its size, and how a viewer is to turn it."""

from __future__ import annotations

import struct
import warnings
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
from PIL import Image

from raf_ray.data.people import PictureError

FORMATS = ("JPEG", "PNG", "TIFF", "WEBP", "BMP", "GIF", "AVIF", "JPEG2000", "PPM", "SUN")
"""Formats that both Pillow, which reads headers, and OpenCV, which decodes, know."""

MOST_PIXELS = 178_956_970
"""Of a picture that is decoded: Pillow's bound, beyond which it calls one a decompression bomb (half a GiB of RGB)."""

ORIENTATION = 0x0112
"""EXIF's tag, and TIFF's own: 1 as stored, 2 to 8 mirrored or turned or both."""

IMAGE_WIDTH, IMAGE_LENGTH = 0x0100, 0x0101

UNREADABLE = "cannot be decoded: it is empty, cut off, damaged or no picture of a known format"

# What Pillow warns of, damaged EXIF and large pictures, either does not matter here or ends in a PictureError.
warnings.filterwarnings("ignore", module=r"PIL\.")


@dataclass(frozen=True)
class Header:
    format: str
    width: int
    """Of the pixels as they are stored."""
    height: int


def read_header(file: IO[bytes], what: str) -> Header:
    """The header of an open picture file; no pixel is decoded.

    Raises PictureError, naming `what`, where it is no picture, or one of more than MOST_PIXELS.
    """
    try:
        with Image.open(file, formats=FORMATS) as image:
            width, height = image.size
            if image.format == "TIFF":  # whose size Pillow gives as turned
                tags: Any = image
                width, height = int(tags.tag_v2[IMAGE_WIDTH]), int(tags.tag_v2[IMAGE_LENGTH])
            header = Header(image.format or "", width, height)
    except Image.DecompressionBombError:
        raise PictureError(_too_many(what)) from None
    except Exception as error:  # Pillow's plug-ins raise a different type for every kind of damage
        raise PictureError(f"{what} {UNREADABLE}") from error
    if width < 1 or height < 1:
        raise PictureError(f"{what} {UNREADABLE}")
    if width * height > MOST_PIXELS:
        raise PictureError(_too_many(what))
    return header


def read_orientation(file: IO[bytes]) -> int:
    """1 to 8, as EXIF numbers them, of an open picture file; 1 where nothing, or nothing sensible, is said."""
    try:
        with Image.open(file, formats=FORMATS) as image:
            tagged = image.getexif().get(ORIENTATION)
    except Exception:  # of damaged EXIF Pillow raises any type: then nothing is said
        return 1
    return tagged if isinstance(tagged, int) and 1 <= tagged <= 8 else 1


def turn(picture: np.ndarray, orientation: int) -> np.ndarray:
    """A picture (H, W, 3) as stored -> as a viewer shows it by its EXIF orientation, (H, W, 3) or (W, H, 3)."""
    if orientation >= 5:
        picture = picture.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        picture = picture[:, ::-1]
    if orientation in (3, 4, 7, 8):
        picture = picture[::-1]
    return np.ascontiguousarray(picture)


def as_stored(data: bytes | memoryview) -> bytes:
    """A TIFF file with its first picture's orientation set to 1: OpenCV turns TIFF whatever its flags say."""
    changed = bytearray(data)
    order = "<" if changed[:2] == b"II" else ">"
    (version,) = struct.unpack_from(f"{order}H", changed, 2)
    # BigTIFF, version 43, has wider offsets and counts.
    offset, count, entry = ("8xQ", "Q", "HHQ8s") if version == 43 else ("4xI", "H", "HHI4s")
    (start,) = struct.unpack_from(order + offset, changed)
    (entries,) = struct.unpack_from(order + count, changed, start)
    first, length = start + struct.calcsize(order + count), struct.calcsize(order + entry)
    for at in range(first, first + entries * length, length):
        tag, kind, _, value = struct.unpack_from(order + entry, changed, at)
        if tag == ORIENTATION:
            one = struct.pack(order + {1: "B", 3: "H", 4: "I"}[kind], 1)
            changed[at + length - len(value) : at + length] = one.ljust(len(value), b"\0")
    return bytes(changed)


def _too_many(what: str) -> str:
    return f"{what} claims to have more than {MOST_PIXELS / 1e6:.0f} million pixels; reduce it"
