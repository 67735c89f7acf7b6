"""Procedurally drawn articulated people with the 16 MPII joints: no files, deterministic by seed, hard on purpose.

Left and right are told apart only by shading (a person's left limbs are darker) and by the face; pictures
hold clutter, limbs that belong to nobody, and people cut off by the edge. Every number of a person comes
from a counter-based hash of (seed, stream, index), so a person is the same whoever draws it, and when.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache

import cv2
import numpy as np

from raf_ray.data.crop import padded_boxes
from raf_ray.data.people import People
from raf_ray.data.skeletons import MPII16
from raf_ray.data.sources.figure import HEAD, Clothes, draw_figure, draw_line
from raf_ray.data.sources.figure import JOINT as _J

STREAMS = {"train": 0, "val": 1, "test": 2}
MAX_PER_STREAM = 2**40

# Segment lengths as a share of the torso (hips to thorax); proportions of an adult, rounded.
TORSO, NECK, UPPER_ARM, FOREARM, THIGH, SHANK = 1.0, 0.18, 0.58, 0.52, 0.80, 0.80
SHOULDER, HIP = 0.36, 0.22
NUMBERS, POSE = 96, 48
"""Uniform numbers that one person uses, and how many of them, the first, for the pose; the rest: colours, clutter."""
POSED = 50_000
"""People that are posed at a time, for whose numbers there is room (a choice: 0.1 GB)."""


def uniforms(seed: int, stream: int, index: np.ndarray, count: int) -> np.ndarray:
    """(N, count) float64 in [0, 1), a pure function of its arguments (SplitMix64, Steele et al. 2014)."""

    def mix(z: np.ndarray) -> np.ndarray:
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return np.asarray(z ^ (z >> np.uint64(31)))

    with np.errstate(over="ignore"):
        start = mix(np.array([seed, stream], np.uint64) + np.uint64(0x9E3779B97F4A7C15))
        key = mix(start[0] ^ mix(start[1] + np.uint64(1)))
        person = mix(key + index.astype(np.uint64) * np.uint64(0xD1342543DE82EF95))
        numbers = mix(person[:, None] + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15))
    return (numbers >> np.uint64(11)).astype(np.float64) / 2.0**53


@dataclass(frozen=True)
class Figures:
    """N posed people in their own pictures' pixels."""

    joints: np.ndarray
    """(N, 16, 2)"""
    picture: np.ndarray
    """(N, 2) int64, width and height"""
    torso: np.ndarray
    """(N,) length in pixels"""
    facing: np.ndarray
    """(N,) bool: towards the camera"""
    box: np.ndarray
    """(N, 4) x, y, width, height around the figure"""


def pose(seed: int, stream: int, index: np.ndarray, height: float) -> Figures:
    """Pose the people at `index`; `height` is the padded box's height in pixels, drawn up to a quarter larger."""
    u = uniforms(seed, stream, index, NUMBERS)[:, :POSE]
    column = iter(range(POSE))

    def draw(low: float, high: float) -> np.ndarray:
        return low + (high - low) * u[:, next(column)]

    def bell(spread: float) -> np.ndarray:
        """Sum of three uniforms: about normal, never beyond 1.7 spreads."""
        return (draw(-1, 1) + draw(-1, 1) + draw(-1, 1)) * spread / 1.7

    def polar(length: np.ndarray, angle: np.ndarray) -> np.ndarray:
        """Angle in degrees from straight down, positive towards the picture's right."""
        radians = np.radians(angle)
        return np.stack([length * np.sin(radians), length * np.cos(radians)], axis=-1)

    people = len(index)
    joints = np.zeros((people, 16, 2))
    facing = u[:, next(column)] < 0.7
    left = np.where(facing, 1.0, -1.0)  # a person who faces us has the left side on the picture's right
    lean = bell(22)
    breadth = draw(0.4, 1.0)  # shoulders seen from the side are narrow
    joints[:, _J["thorax"]] = polar(np.full(people, -TORSO), -lean)
    across = np.stack([np.cos(np.radians(lean)), np.sin(np.radians(lean))], axis=-1)
    nod = lean + bell(22)
    joints[:, _J["upper_neck"]] = joints[:, _J["thorax"]] + polar(np.full(people, -NECK), -nod)
    joints[:, _J["head_top"]] = joints[:, _J["upper_neck"]] + polar(np.full(people, -HEAD), -nod)
    for side, sign in (("left", left), ("right", -left)):
        shoulder = joints[:, _J["thorax"]] + across * (SHOULDER * breadth * sign)[:, None]
        hip = across * (HIP * breadth * sign)[:, None]
        raised = lean + sign * (draw(-45, 75) + draw(0, 90))
        elbow = shoulder + polar(UPPER_ARM * draw(0.7, 1.0), raised)
        wrist = elbow + polar(FOREARM * draw(0.7, 1.0), raised + sign * draw(-30, 135))
        stride = 0.4 * lean + sign * draw(-35, 65)
        knee = hip + polar(THIGH * draw(0.7, 1.0), stride)
        ankle = knee + polar(SHANK * draw(0.7, 1.0), stride - sign * draw(-15, 95))
        for name, point in (("shoulder", shoulder), ("elbow", elbow), ("wrist", wrist), ("hip", hip),
                            ("knee", knee), ("ankle", ankle)):  # fmt: skip
            joints[:, _J[f"{side}_{name}"]] = point

    low, high = joints.min(1) - 0.15, joints.max(1) + 0.15
    padded = padded_boxes(high - low, aspect=0.75)
    scale = height * draw(1.0, 1.25) / padded[:, 1]
    shown = padded * scale[:, None] * np.stack([draw(0.68, 1.15), draw(0.74, 1.15)], axis=1)
    picture = np.maximum(np.round(shown), 16).astype(np.int64)
    shift = picture / 2 + np.stack([draw(-0.1, 0.1), draw(-0.1, 0.1)], axis=1) * picture
    origin = shift - (low + high) / 2 * scale[:, None]
    return Figures(
        joints=joints * scale[:, None, None] + origin[:, None],
        picture=picture,
        torso=scale,
        facing=facing,
        box=np.concatenate([low * scale[:, None] + origin, (high - low) * scale[:, None]], axis=1),
    )


@lru_cache(maxsize=1)
def _grain() -> np.ndarray:
    """(512, 512, 3) int16 film grain, from which each picture takes a window."""
    return np.asarray(np.random.default_rng(0).normal(0, 9, (512, 512, 3)), dtype=np.int16)


def draw_person(figures: Figures, row: int, numbers: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 picture of figure `row`: background, clutter, stray limbs, the person, grain.

    `numbers`: its (NUMBERS,) uniforms.
    """
    u = iter(numbers[POSE:].tolist())
    width, height = figures.picture[row].tolist()
    torso = float(figures.torso[row])
    points = figures.joints[row]

    def colour(low: float = 30, high: float = 225) -> np.ndarray:
        return low + (high - low) * np.array([next(u), next(u), next(u)])

    grey = 60 + 140 * next(u)
    background, ends = (
        grey + 0.25 * (colour() - 128),
        grey + 0.25 * (colour() - 128),
    )  # muted, clothes are not
    ramp = np.linspace(background, ends, height, dtype=np.float32)
    picture = np.ascontiguousarray(np.broadcast_to(ramp[:, None], (height, width, 3)).astype(np.uint8))
    rng = np.random.Generator(np.random.SFC64(int(next(u) * 2**53)))
    skin = np.array([225, 172, 140]) * (0.45 + 0.6 * next(u))
    shirt, trousers = colour(), colour()
    sleeve = shirt if next(u) < 0.5 else skin
    palette = np.stack([skin, shirt, trousers, background, ends])

    def limb(a: np.ndarray, b: np.ndarray, thickness: float, tone: np.ndarray) -> None:
        draw_line(picture, a, b, thickness * torso, tone.tolist())

    _clutter(picture, torso, palette, rng, limb)

    arms_behind = rng.random() < 0.4
    sides = ("left", "right") if rng.random() < 0.5 else ("right", "left")
    clothes = Clothes(skin, shirt, trousers, sleeve, hair=float(rng.random()))
    draw_figure(picture, points, torso, bool(figures.facing[row]), clothes, sides, arms_behind)
    return _grained(picture, rng)


def _clutter(
    picture: np.ndarray,
    torso: float,
    palette: np.ndarray,
    rng: np.random.Generator,
    limb: Callable[[np.ndarray, np.ndarray, float, np.ndarray], None],
) -> None:
    """Draw ellipses, and limbs that belong to nobody, in the person's own colours."""
    height, width = picture.shape[:2]
    for _ in range(4):
        middle, extent = rng.random(2) * (width, height), (0.1 + 0.5 * rng.random(2)) * torso
        axes = (int(extent[0]) + 1, int(extent[1]) + 1)
        centre = (int(middle[0]), int(middle[1]))
        cv2.ellipse(picture, centre, axes, rng.random() * 180, 0, 360, (rng.random(3) * 255).tolist(), -1)
    for _ in range(2):
        a = rng.random(2) * (width, height)
        b = a + rng.normal(0, 0.5, 2) * torso
        c = b + rng.normal(0, 0.5, 2) * torso
        tone = palette[rng.integers(0, 3)] * (0.7 + 0.4 * rng.random())
        limb(a, b, 0.17, tone)
        limb(b, c, 0.15, tone)


def _grained(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    height, width = picture.shape[:2]
    y, x = rng.integers(0, 512 - min(height, 511)), rng.integers(0, 512 - min(width, 511))
    grain = _grain()[y : y + height, x : x + width]
    if grain.shape != picture.shape:
        grain = np.resize(_grain(), picture.shape)
    return np.asarray(cv2.add(picture, grain, dtype=cv2.CV_8U))


@dataclass(frozen=True)
class Drawing:
    """Row -> picture, drawn when asked for."""

    figures: Figures
    seed: int
    stream: int
    index: np.ndarray
    """(N,) of the stream's people"""

    def __call__(self, row: int) -> np.ndarray:
        return draw_person(self.figures, row, uniforms(self.seed, self.stream, self.index[[row]], NUMBERS)[0])


def synthetic_people(seed: int, split: str, index: np.ndarray, height: float) -> People:
    """The people at `index` of a split's stream. Pictures are drawn when they are read.

    `height` is the smallest height of a person's padded box in pixels: at larger sizes people are upsampled.
    """
    stream = STREAMS[split]
    figures = _joined([pose(seed, stream, part, height) for part in np.split(index, range(POSED, len(index), POSED))])
    joints = figures.joints.astype(np.float32)
    inside = np.all((joints >= -0.5) & (joints < figures.picture[:, None] - 0.5), axis=2)
    neck, top = joints[:, _J["upper_neck"]], joints[:, _J["head_top"]]
    return People(
        skeleton=MPII16,
        joints=joints,
        visibility=np.where(inside, 2, 0).astype(np.uint8),
        centre=(figures.box[:, :2] + figures.box[:, 2:] / 2).astype(np.float32),
        box=figures.box[:, 2:].astype(np.float32),
        area=(0.53 * figures.box[:, 2] * figures.box[:, 3]).astype(np.float32),
        # The head's oval is as long as neck to top and 0.72 as wide: its box's diagonal times MPII's 0.6.
        head_size=(0.6 * np.hypot(1, 0.72) * np.linalg.norm(top - neck, axis=1)).astype(np.float32),
        person_id=stream * MAX_PER_STREAM + index.astype(np.int64),
        picture_id=stream * MAX_PER_STREAM + index.astype(np.int64),
        rows=np.arange(len(index), dtype=np.int64),
        read=Drawing(figures, seed, stream, index),
    )


def _joined(parts: Sequence[Figures]) -> Figures:
    return Figures(**{f.name: np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(Figures)})
