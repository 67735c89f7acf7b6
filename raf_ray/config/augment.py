"""How people are moved, zoomed and turned in training."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from raf_ray.config.section import Section, Share


class AugmentConfig(Section):
    """One augmentation a person and batch (HRNet's for MPII)."""

    flip: Share = 0.5
    """Probability of a mirror image."""
    scale: Annotated[float, Field(ge=0, lt=1)] = 0.25
    """Box size drawn from N(1, scale), cut to 1 +- scale."""
    rotation: Annotated[float, Field(ge=0, le=90)] = 30.0
    """Degrees; drawn from N(0, rotation), cut to +- rotation, for 60 % of the people."""
    rotation_cut: Annotated[float, Field(ge=0, le=180)] | None = None
    """Degrees that the angle is cut to in place of `rotation`; null: that (the RAF authors': 60)."""
    half_body: Share = 0.3
    """Probability of showing only the upper or lower half of a person with more than 8 labelled joints."""
    shift: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    """The box is moved by up to this share of its sides, for 30 % of the people (the RAF authors': 0.12)."""
