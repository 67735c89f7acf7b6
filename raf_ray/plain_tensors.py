"""Files of plain tensors and containers, which ``torch.load(weights_only=True)`` reads back."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from raf_ray.files import write_atomically


def save_plain(values: Mapping[str, Any], path: Path) -> None:
    """Write plain tensors and containers, atomically. Raises OSError where they cannot be written."""
    import torch

    def write(temporary: Path) -> None:
        try:
            with open(temporary, "wb") as file:
                torch.save(dict(values), file)
        except RuntimeError as error:  # in closing its archive torch stumbles over what the disk did not take
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise

    write_atomically(path, write)
