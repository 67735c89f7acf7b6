"""Picture files, read one by one when a person is first asked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from raf_ray.data.people import PictureError
from raf_ray.errors import InputError

# Labels are in the stored orientation: COCO and MPII were annotated without regard to EXIF, so a picture that
# is turned on reading would no longer lie under its joints.
STORED_ORIENTATION = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION


@dataclass(frozen=True)
class PictureFiles:
    """Row -> picture. A plain record of paths, so it is cheap to send to another process."""

    paths: tuple[str, ...]

    def __call__(self, row: int) -> np.ndarray:
        """(H, W, 3) uint8 RGB. Raises PictureError where the file is missing or cannot be decoded."""
        return read_picture(self.paths[row])


def read_picture(path: str) -> np.ndarray:
    """(H, W, 3) uint8 RGB in the stored orientation. Raises PictureError.

    The file is decoded from memory: unlike ``imread``, ``imdecode`` refuses a JPEG that is cut off instead of
    filling the rest with grey.
    """
    try:
        data = Path(path).read_bytes()
    except FileNotFoundError:
        raise PictureError(f"picture {path} is missing") from None
    except OSError as error:
        raise PictureError(f"picture {path} cannot be read: {error.strerror}") from error
    picture = cv2.imdecode(np.frombuffer(data, np.uint8), STORED_ORIENTATION) if data else None
    if picture is None:
        raise PictureError(f"picture {path} cannot be decoded: the file is empty, cut off or no picture")
    return np.asarray(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB))


def check_picture_folder(folder: Path) -> None:
    """Raise InputError where there is no such folder."""
    if not folder.is_dir():
        raise InputError(
            f"picture folder {folder} does not exist; set data.images to the folder of the split's pictures, "
            "relative to data.root"
        )
