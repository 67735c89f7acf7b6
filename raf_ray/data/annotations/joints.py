"""The joints that a file names: which known set they are, or a record of them with mirror pairs and OKS sigmas."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from raf_ray.data.annotations.fields import as_number, brief, shown, warn_once
from raf_ray.data.skeletons import SKELETONS, Skeleton
from raf_ray.errors import InputError

UNKNOWN_SIGMA = 0.05
"""OKS sigma of a joint that no known set has: a choice, between COCO's of an eye (0.025) and of a knee (0.087)."""

_SIDES = {"left": "left", "l": "left", "right": "right", "r": "right"}
_WORDS = re.compile(r"[A-Z]?[a-z0-9]+|[A-Z]+(?![a-z])|[^\W_]+")


def plain_name(name: str) -> str:
    """A joint's name in the scheme of `raf_ray.data.skeletons`: lower case, underscores, its side first.

    ``Left Shoulder``, ``shoulder-left``, ``LeftShoulder`` and ``l_shoulder`` are all ``left_shoulder``.
    """
    words = [word.lower() for word in _WORDS.findall(name)]
    for at in (0, -1):
        if len(words) > 1 and words[at] in _SIDES:
            side = _SIDES[words.pop(at)]
            return "_".join([side, *words])
    return "_".join(words) or name.strip()


def plain_names(names: Sequence[Any]) -> list[str]:
    """The names by `plain_name`; what is no text, as a message shows it."""
    return [plain_name(name) if isinstance(name, str) else shown(name) for name in names]


def known_skeleton(names: Sequence[str]) -> Skeleton | None:
    """The built-in set whose joints these plain names are, in this order."""
    return next((known for known in SKELETONS.values() if plain_names(known.joints) == list(names)), None)


def check_joints(names: Sequence[Any], skeleton: Skeleton, file: Path) -> None:
    """Raise InputError where a file's joints are not, in this order, the skeleton's."""
    found, wanted = plain_names(names), plain_names(skeleton.joints)
    if found == wanted:
        return
    known = known_skeleton(found)
    if len(found) != len(wanted):
        difference = f"has {len(found)} joints where skeleton '{skeleton.name}' has {len(wanted)}"
    else:
        at = next(i for i in range(len(found)) if found[i] != wanted[i])
        difference = (
            f"has {len(found)} joints in another order or by other names than skeleton '{skeleton.name}' "
            f"(joint {at + 1} is {brief(found[at])}, not {wanted[at]})"
        )
    remedy = (
        f"set data.skeleton={known.name}"
        if known
        else ("leave data.skeleton out to take the file's own joints, or set data.skeleton=package.module:SKELETON")
    )
    raise InputError(f"{file} {difference}; {remedy}")


def own_skeleton(name: str, joints: Sequence[Any], limbs: object, file: Path) -> Skeleton:
    """The record of the joints that a file names: a known set where they are one, else a new one.

    Mirror pairs follow from left and right in the names (`plain_name`). A joint that a known set has takes its OKS
    sigma from there, any other UNKNOWN_SIGMA, which a warning says. `limbs`: COCO's ``skeleton``, pairs of joint
    numbers from 1 (from 0 where a 0 occurs), or null. Raises InputError where a name is none or occurs twice, or a
    limb joins what is no joint.
    """
    for at, joint in enumerate(joints):
        if not isinstance(joint, str) or not joint.strip():
            raise InputError(f"{file}: joint {at + 1} of '{brief(name)}' is {shown(joint)}, but must be a name")
    plain = plain_names(joints)
    if len(set(plain)) < len(plain):
        twice = Counter(plain).most_common(1)[0][0]
        raise InputError(f"{file}: two joints of '{brief(name)}' are named {brief(twice)}; give each its own name")
    if known := known_skeleton(plain):
        return known
    of_known = {joint: s for known in SKELETONS.values() for joint, s in zip(known.joints, known.sigmas, strict=True)}
    unknown = [joint for joint in plain if joint not in of_known]
    if unknown:
        told = ", ".join(brief(joint) for joint in unknown[:4]) + (" ..." if len(unknown) > 4 else "")
        warn_once(
            f"{file}: no OKS sigma is known of {len(unknown)} of its {len(plain)} joints ({told}): {UNKNOWN_SIGMA} is "
            "taken; for others describe the joints as a Skeleton and set data.skeleton=package.module:SKELETON"
        )
    sigmas = tuple(of_known.get(joint, UNKNOWN_SIGMA) for joint in plain)
    return Skeleton(plain_name(name), tuple(plain), sigmas, _named_limbs(limbs, plain, file))


def _named_limbs(limbs: object, joints: Sequence[str], file: Path) -> tuple[tuple[str, str], ...]:
    if limbs is None or limbs == []:
        return ()
    pairs = [pair for pair in limbs if isinstance(pair, list) and len(pair) == 2] if isinstance(limbs, list) else []
    ends = [[as_number(end) for end in pair] for pair in pairs]
    first = 0 if any(0 in pair for pair in ends) else 1
    within = {float(first + at): joint for at, joint in enumerate(joints)}
    if (
        not isinstance(limbs, list)
        or len(pairs) < len(limbs)
        or any(end not in within for pair in ends for end in pair)
    ):
        raise InputError(
            f"{file}: 'skeleton' is {shown(limbs)}, but must be pairs of joint numbers from 1 to {len(joints)}; "
            "correct it or leave it out"
        )
    named = [(within[a], within[b]) for a, b in ends if a is not None and b is not None and a != b]
    return tuple(dict.fromkeys(named))
