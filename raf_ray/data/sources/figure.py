"""The strokes of a synthetic person: limbs, trunk and head around 16 MPII joints, whatever they are painted in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from raf_ray.data.skeletons import MPII16

HEAD = 0.42
"""Neck to head top as a share of the torso, an adult's, rounded."""

JOINT = {name: i for i, name in enumerate(MPII16.joints)}

Paint = Callable[[np.ndarray], list[float]]
"""Tone (3,) -> the colour that it is drawn in"""


@dataclass(frozen=True)
class Clothes:
    """Colours of one person, (3,) RGB each."""

    skin: np.ndarray
    shirt: np.ndarray
    trousers: np.ndarray
    sleeve: np.ndarray
    hair: float
    """Brightness of the hair, 0 to 1"""


def as_it_is(tone: np.ndarray) -> list[float]:
    return [float(value) for value in tone]


def draw_figure(
    picture: np.ndarray,
    points: np.ndarray,
    torso: float,
    facing: bool,
    clothes: Clothes,
    sides: tuple[str, str] = ("left", "right"),
    arms_behind: bool = False,
    paint: Paint = as_it_is,
) -> None:
    """Draw a figure with joints `points` (16, 2) into a picture (H, W, 3) uint8.

    Args:
        torso: its length in pixels, by which all is as thick as it is.
        sides: the order of the limbs; the last arm lies over the trunk.
        arms_behind: the first arm lies under all else.
        paint: tone (3,) -> the colour that it is drawn in.
    """
    skin, shirt, trousers, sleeve = clothes.skin, clothes.shirt, clothes.trousers, clothes.sleeve
    shade = {"left": 0.6, "right": 1.0}

    def limb(a: np.ndarray, b: np.ndarray, thickness: float, tone: np.ndarray) -> None:
        draw_line(picture, a, b, thickness * torso, paint(tone))

    def arm(side: str) -> None:
        limb(points[JOINT[f"{side}_shoulder"]], points[JOINT[f"{side}_elbow"]], 0.19, sleeve * shade[side])
        limb(points[JOINT[f"{side}_elbow"]], points[JOINT[f"{side}_wrist"]], 0.15, skin * shade[side])

    if arms_behind:
        arm(sides[0])
    for side in sides:
        limb(points[JOINT[f"{side}_hip"]], points[JOINT[f"{side}_knee"]], 0.25, trousers * shade[side])
        limb(points[JOINT[f"{side}_knee"]], points[JOINT[f"{side}_ankle"]], 0.19, trousers * shade[side] * 0.9)
    trunk = [JOINT[n] for n in ("left_shoulder", "right_shoulder", "right_hip", "left_hip")]
    corners = np.round(cv2.convexHull(points[trunk].astype(np.float32)) * 16).astype(np.int32)
    cv2.fillConvexPoly(picture, corners, paint(shirt * 0.85), cv2.LINE_AA, 4)
    limb(points[JOINT["pelvis"]], points[JOINT["thorax"]], 0.36, shirt * 0.85)
    limb(points[JOINT["thorax"]], points[JOINT["upper_neck"]], 0.16, skin * 0.8)
    _head(picture, points, torso, clothes, facing, paint)
    arm(sides[1])
    if not arms_behind:
        arm(sides[0])


def draw_line(picture: np.ndarray, a: np.ndarray, b: np.ndarray, pixels: float, colour: list[float]) -> None:
    """A limb from a to b, with smooth edges."""
    cv2.line(picture, _fixed(a), _fixed(b), colour, max(1, round(pixels)), cv2.LINE_AA, 4)


def _head(
    picture: np.ndarray,
    points: np.ndarray,
    torso: float,
    clothes: Clothes,
    facing: bool,
    paint: Paint,
) -> None:
    """An oval between neck and head top: a face with a nose and eyes, or the back of a head with hair."""
    neck, top = points[JOINT["upper_neck"]], points[JOINT["head_top"]]
    middle, along = (neck + top) / 2, top - neck
    angle = float(np.degrees(np.arctan2(along[1], along[0])))
    axes = (round(0.5 * HEAD * torso * 16), round(0.36 * HEAD * torso * 16))
    dark = paint(np.array([60, 40, 25]) * (0.5 + 2 * clothes.hair))
    tone = paint(clothes.skin) if facing else dark
    cv2.ellipse(picture, _fixed(middle), axes, angle, 0, 360, tone, -1, cv2.LINE_AA, 4)
    if facing:
        cap = (axes[0] // 2, axes[1])
        cv2.ellipse(picture, _fixed(middle + along * 0.3), cap, angle, -90, 90, dark, -1, cv2.LINE_AA, 4)
        side = np.array([-along[1], along[0]]) * 0.18
        for eye in (middle + side, middle - side):
            black = paint(np.array([25, 25, 35]))
            cv2.circle(picture, _fixed(eye), round(0.035 * torso * 16), black, -1, cv2.LINE_AA, 4)


def _fixed(point: np.ndarray) -> tuple[int, int]:
    """Pixel coordinates in OpenCV's fixed point of 4 fractional bits."""
    return round(float(point[0]) * 16), round(float(point[1]) * 16)
