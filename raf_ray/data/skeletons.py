"""Joint sets as small typed records: names, mirror pairs, OKS sigmas, limbs. A new set needs no code.

All mirrored pairs, the torso and the head are found by the joints' names, so that metrics and drawing
work for any record whose names follow the usual ``left_`` / ``right_`` scheme.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np


@dataclass(frozen=True)
class Skeleton:
    """A set of K joints in file order."""

    name: str
    joints: tuple[str, ...]
    """K names; ``left_x`` and ``right_x`` are mirror images."""
    sigmas: tuple[float, ...]
    """K per-joint standard deviations of the OKS (COCO: k_i / 2), as a share of sqrt(area)."""
    limbs: tuple[tuple[str, str], ...] = ()
    """Pairs of names joined by a line when a person is drawn."""

    def __post_init__(self) -> None:
        if len(self.sigmas) != len(self.joints):
            raise ValueError(
                f"skeleton '{self.name}': {len(self.joints)} joints but {len(self.sigmas)} sigmas; give one each"
            )

    def __len__(self) -> int:
        return len(self.joints)

    def index(self, name: str) -> int | None:
        return self.joints.index(name) if name in self.joints else None

    @cached_property
    def flip_pairs(self) -> tuple[tuple[int, int], ...]:
        pairs = []
        for i, name in enumerate(self.joints):
            if name.startswith("left_"):
                mirror = self.index("right_" + name.removeprefix("left_"))
                if mirror is not None:
                    pairs.append((i, mirror))
        return tuple(pairs)

    @cached_property
    def flip_order(self) -> np.ndarray:
        """(K,) index of each joint's mirror image; a joint on the axis is its own."""
        order = np.arange(len(self.joints))
        for left, right in self.flip_pairs:
            order[left], order[right] = right, left
        return order

    @cached_property
    def upper_body(self) -> np.ndarray:
        """(K,) bool: joints above the hips, for half-body augmentation."""
        lower = ("hip", "knee", "ankle", "pelvis")
        return np.array([not any(part in name for part in lower) for name in self.joints])

    @cached_property
    def limb_indices(self) -> tuple[tuple[int, int], ...]:
        return tuple((self.joints.index(a), self.joints.index(b)) for a, b in self.limbs)


_ARMS_AND_LEGS = (
    ("right_ankle", "right_knee"),
    ("right_knee", "right_hip"),
    ("left_hip", "left_knee"),
    ("left_knee", "left_ankle"),
    ("right_hip", "left_hip"),
    ("right_wrist", "right_elbow"),
    ("right_elbow", "right_shoulder"),
    ("left_shoulder", "left_elbow"),
    ("left_elbow", "left_wrist"),
)

# Sigmas of the shared joints are COCO's (cocodataset.org, keypoint evaluation); those of neck and head top
# are CrowdPose's (Li et al. 2019), as MMPose uses them for joint sets beyond COCO's.
COCO17 = Skeleton(
    name="coco17",
    joints=(
        "nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder",
        "left_elbow", "right_elbow", "left_wrist", "right_wrist", "left_hip", "right_hip", "left_knee",
        "right_knee", "left_ankle", "right_ankle",
    ),
    sigmas=(
        0.026, 0.025, 0.025, 0.035, 0.035, 0.079, 0.079, 0.072, 0.072, 0.062, 0.062, 0.107, 0.107, 0.087,
        0.087, 0.089, 0.089,
    ),
    limbs=(
        *_ARMS_AND_LEGS, ("left_shoulder", "right_shoulder"), ("left_shoulder", "left_hip"),
        ("right_shoulder", "right_hip"), ("nose", "left_eye"), ("nose", "right_eye"), ("left_eye", "left_ear"),
        ("right_eye", "right_ear"),
    ),
)  # fmt: skip

MPII16 = Skeleton(
    name="mpii16",
    joints=(
        "right_ankle", "right_knee", "right_hip", "left_hip", "left_knee", "left_ankle", "pelvis", "thorax",
        "upper_neck", "head_top", "right_wrist", "right_elbow", "right_shoulder", "left_shoulder",
        "left_elbow", "left_wrist",
    ),
    sigmas=(
        0.089, 0.087, 0.107, 0.107, 0.087, 0.089, 0.107, 0.079, 0.079, 0.079, 0.062, 0.072, 0.079, 0.079,
        0.072, 0.062,
    ),
    limbs=(
        *_ARMS_AND_LEGS, ("pelvis", "thorax"), ("thorax", "upper_neck"), ("upper_neck", "head_top"),
        ("left_shoulder", "right_shoulder"),
    ),
)  # fmt: skip

LSP14 = Skeleton(
    name="lsp14",
    joints=(
        "right_ankle", "right_knee", "right_hip", "left_hip", "left_knee", "left_ankle", "right_wrist",
        "right_elbow", "right_shoulder", "left_shoulder", "left_elbow", "left_wrist", "neck", "head_top",
    ),
    sigmas=(
        0.089, 0.087, 0.107, 0.107, 0.087, 0.089, 0.062, 0.072, 0.079, 0.079, 0.072, 0.062, 0.079, 0.079,
    ),
    limbs=(
        *_ARMS_AND_LEGS, ("neck", "head_top"), ("left_shoulder", "neck"), ("right_shoulder", "neck"),
        ("left_shoulder", "left_hip"), ("right_shoulder", "right_hip"),
    ),
)  # fmt: skip

SKELETONS = {skeleton.name: skeleton for skeleton in (COCO17, MPII16, LSP14)}
