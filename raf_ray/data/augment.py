"""One augmentation a person: flip, zoom, rotation and half-body, as affine maps of the unaugmented crop.

Defaults are HRNet's for MPII (Sun et al. 2019: flip, scale 0.25, half-body), with the rotation bounded at
30 degrees so that a prepared shard's margins cover it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from raf_ray.data.crop import Margins
from raf_ray.data.skeletons import Skeleton
from raf_ray.resolution import Size


@dataclass(frozen=True)
class Augmentation:
    flip: float = 0.5
    """Probability of a mirror image."""
    scale: float = 0.25
    """The box's size is drawn from N(1, scale), cut to 1 +- scale."""
    rotation: float = 30.0
    """Degrees; the angle is drawn from N(0, rotation), cut to +- rotation ..."""
    rotation_share: float = 0.6
    """... for this share of the people, else 0."""
    half_body: float = 0.3
    """Probability of showing only the upper or lower half of a person with more than 8 labelled joints."""
    shift: float = 0.0
    """The box is moved by up to this share of its sides, drawn uniformly ..."""
    shift_share: float = 0.3
    """... for this share of the people (MMPose's)."""
    rotation_cut: float | None = None
    """Degrees that the angle is cut to; None: `rotation`."""

    @property
    def most_rotation(self) -> float:
        """Degrees."""
        return self.rotation if self.rotation_cut is None else self.rotation_cut

    def margins(self, aspect: float) -> Margins:
        turned = Margins.covering(self.most_rotation, 1 + self.scale, aspect)
        return Margins(turned.width + 2 * self.shift, turned.height + 2 * self.shift)


NO_MARGINS = Margins()


def draw_affines(
    augmentation: Augmentation,
    joints: np.ndarray,
    labelled: np.ndarray,
    size: Size,
    skeleton: Skeleton,
    rng: np.random.Generator,
    squeeze: float = 1.0,
) -> tuple[np.ndarray, np.ndarray]:
    """Draw one augmentation a person.

    Args:
        joints: (B, K, 2) in pixels of the unaugmented crops.
        labelled: (B, K) bool.
        squeeze: of the crops, `CropRule.squeeze`: people are turned before they are squeezed.

    Returns:
        (B, 2, 3) float64 maps from unaugmented to augmented crops, and (B,) bool: mirrored (the caller
        exchanges left and right joints).
    """
    people = len(joints)
    middle = np.array([(size.width - 1) / 2, (size.height - 1) / 2])
    uniform = rng.random((people, 4))
    normal = rng.standard_normal((people, 2))
    zoom = np.clip(1 + normal[:, 0] * augmentation.scale, 1 - augmentation.scale, 1 + augmentation.scale)
    angle = np.clip(normal[:, 1] * augmentation.rotation, -augmentation.most_rotation, augmentation.most_rotation)
    angle = np.radians(np.where(uniform[:, 0] < augmentation.rotation_share, angle, 0.0))
    flip = uniform[:, 1] < augmentation.flip

    centre = np.tile(middle, (people, 1))
    if augmentation.shift:
        moved = rng.uniform(-augmentation.shift, augmentation.shift, (people, 2)) * (size.width, size.height)
        centre += np.where(rng.random((people, 1)) < augmentation.shift_share, moved, 0.0)
    whole = labelled.sum(1) > 8
    for i in np.flatnonzero(whole & (uniform[:, 2] < augmentation.half_body)):
        half = labelled[i] & (skeleton.upper_body if uniform[i, 3] < 0.5 else ~skeleton.upper_body)
        if half.sum() <= 2:
            continue
        low, high = joints[i, half].min(0), joints[i, half].max(0)
        centre[i] = (low + high) / 2
        # 1.5 x the joints' extent, as HRNet; never larger than the person's own box.
        share = np.max(1.5 * (high - low) / (size.width, size.height))
        zoom[i] *= min(max(share, 0.1), 1.0)

    cos, sin = np.cos(angle) / zoom, np.sin(angle) / zoom
    mirror = np.where(flip, -1.0, 1.0)
    maps = np.empty((people, 2, 3))
    maps[:, 0, 0], maps[:, 0, 1] = mirror * cos, -mirror * sin * squeeze
    maps[:, 1, 0], maps[:, 1, 1] = sin / squeeze, cos
    maps[:, :, 2] = middle - np.einsum("bij,bj->bi", maps[:, :, :2], centre)
    return maps, flip


def compose(outer: np.ndarray, inner: np.ndarray) -> np.ndarray:
    """(B, 2, 3) maps: first `inner`, then `outer`."""
    result = np.empty_like(outer)
    result[:, :, :2] = outer[:, :, :2] @ inner[:, :, :2]
    result[:, :, 2] = np.einsum("bij,bj->bi", outer[:, :, :2], inner[:, :, 2]) + outer[:, :, 2]
    return result


def apply(maps: np.ndarray, points: np.ndarray) -> np.ndarray:
    """(B, 2, 3) maps on (B, K, 2) points."""
    return np.einsum("bij,bkj->bki", maps[:, :, :2], points) + maps[:, None, :, 2]
