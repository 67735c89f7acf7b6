"""Which pixels a synthetic person covers: the figure drawn again with the same strokes, white on black."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from raf_ray.data.people import People
from raf_ray.data.sources.figure import Clothes, draw_figure
from raf_ray.data.sources.synthetic import Drawing
from raf_ray.errors import InputError

WHITE = np.full(3, 255.0)
PLAIN = Clothes(WHITE, WHITE, WHITE, WHITE, hair=1.0)


@dataclass(frozen=True)
class Silhouette:
    """Row -> (H, W, 3) uint8: 255 where the figure is, 0 where it is not, between them at its smooth edge."""

    drawing: Drawing

    def __call__(self, row: int) -> np.ndarray:
        figures = self.drawing.figures
        width, height = figures.picture[row].tolist()
        mask = np.zeros((height, width, 3), np.uint8)
        torso, facing = float(figures.torso[row]), bool(figures.facing[row])
        draw_figure(mask, figures.joints[row], torso, facing, PLAIN, paint=lambda tone: WHITE.tolist())
        return mask


def silhouettes(people: People) -> People:
    """The same synthetic people, each with its mask for a picture. Raises InputError where they are not drawn."""
    if not isinstance(people.read, Drawing):
        raise InputError("only the synthetic people have masks; take data.name=synthetic")
    return replace(people, read=Silhouette(people.read))
