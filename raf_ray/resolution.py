"""Which tiers exist and what a pyramid is: sizes, levels below a tier.

Every size is height x width in pixels; heatmaps are a quarter of it on each side, or what `model.heatmap_stride` says.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from raf_ray.errors import InputError

HEATMAP_STRIDE = 4
"""Image pixels per heatmap pixel, on each side, by default (Xiao et al. 2018; kept by ViTPose and by RAF)."""

LARGEST_SIDE = 4096
"""A choice: what a person is cut at, not what a picture may have."""


@dataclass(frozen=True)
class Size:
    """Height and width of an image in pixels, written ``HxW``."""

    height: int
    width: int

    def __str__(self) -> str:
        return f"{self.height}x{self.width}"

    @property
    def pixels(self) -> int:
        return self.height * self.width

    @property
    def aspect(self) -> float:
        return self.width / self.height

    def heatmap(self, stride: int = HEATMAP_STRIDE) -> Size:
        """Of this image's heatmaps, one of whose pixels is `stride` of the image on each side."""
        return Size(self.height // stride, self.width // stride)

    def is_below(self, other: Size) -> bool:
        """True where no side is larger than `other`'s and at least one is smaller."""
        return self != other and self.height <= other.height and self.width <= other.width


def parse_size(text: str) -> Size:
    """``"128x96"`` -> Size(128, 96). Raises InputError where the text is no size."""
    match = re.fullmatch(r"\s*(\d{1,9})\s*[xX]\s*(\d{1,9})\s*", str(text))
    if not match or int(match[1]) == 0 or int(match[2]) == 0:
        shown = str(text) if len(str(text)) <= 80 else f"{str(text)[:80]} ..."
        raise InputError(f"'{shown}' is not a size; write height x width in pixels, such as 128x96")
    size = Size(int(match[1]), int(match[2]))
    if max(size.height, size.width) > LARGEST_SIDE:
        raise InputError(f"{size} is too large a size; a side has at most {LARGEST_SIDE} pixels")
    return size


def tier_label(tier: str, size: object) -> str:
    """How a tier is shown: its name and size, or its size alone where that is its name."""
    return str(size) if tier == str(size) else f"{tier} {size}"


def find_size(name: str, tiers: Mapping[str, str], where: str) -> Size:
    """The size of a tier's name or of an ``HxW`` text; `where` is the config key named in the error."""
    if name in tiers:
        return parse_size(tiers[name])
    if re.fullmatch(r"\s*\d+\s*[xX]\s*\d+\s*", str(name)):
        return parse_size(name)
    close = difflib.get_close_matches(str(name), list(tiers), n=1)
    hint = f"; did you mean '{close[0]}'?" if close else ""
    raise InputError(f"{where}: unknown tier {str(name)!r}{hint} (tiers: {', '.join(tiers)}; or a size HxW)")


def check_divides(size: Size, divisor: int, where: str) -> None:
    """Raise InputError, with the nearest valid sizes, where `divisor` does not divide both sides."""
    if size.height % divisor == 0 and size.width % divisor == 0:
        return

    def nearest(pick_up: bool) -> Size:
        sides = []
        for side in (size.height, size.width):
            lower = side // divisor * divisor
            sides.append(lower + divisor if (pick_up and side % divisor) or lower == 0 else lower)
        return Size(*sides)

    down, up = nearest(False), nearest(True)
    raise InputError(
        f"{where}: {size} is not a valid size, since the model needs sides that {divisor} divides; "
        f"the nearest are {down} and {up}"
    )


def pyramid_levels(own: Size, below: Sequence[Size]) -> tuple[Size, ...]:
    """A client's levels, highest first: its own size, then those of `below` that are below it.

    Raises InputError where a level has another aspect ratio than the own size (it would be stretched).
    """
    lower = sorted({s for s in below if s.is_below(own)}, key=lambda s: s.pixels, reverse=True)
    for size in lower:
        if abs(size.aspect / own.aspect - 1) > 0.03:
            raise InputError(
                f"objective.levels: {size} has another aspect ratio than the client's own {own}; "
                "a pyramid's levels must have one shape"
            )
    return (own, *lower)
