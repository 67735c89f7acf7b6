"""Synthetic people: the same by seed, different by split, cut off at times."""

from __future__ import annotations

import numpy as np

from raf_ray.data.crop import padded_boxes
from raf_ray.data.sources.synthetic import synthetic_people


def people(seed=0, split="train", count=300):
    return synthetic_people(seed, split, np.arange(count), 160.0)


def test_a_person_is_the_same_whoever_draws_it():
    many = people()
    one = synthetic_people(0, "train", np.array([37]), 160.0)
    assert np.array_equal(one.joints[0], many.joints[37])
    assert np.array_equal(one.picture(0), many.picture(37))
    assert np.array_equal(many.picture(37), many.take(np.array([37])).picture(0))


def test_seeds_and_splits_give_other_people_and_disjoint_ids():
    sets = [people(0, "train"), people(0, "val"), people(0, "test"), people(1, "train")]
    for i, a in enumerate(sets):
        for b in sets[i + 1 :]:
            assert np.abs(a.joints - b.joints).max() > 1
    ids = [set(s.person_id.tolist()) for s in sets[:3]]
    assert not ids[0] & ids[1] and not ids[0] & ids[2] and not ids[1] & ids[2]


def test_boxes_hold_the_joints_and_are_at_least_as_high_as_asked():
    found = people()
    low, high = found.centre - found.box / 2, found.centre + found.box / 2
    assert (found.joints >= low[:, None]).all() and (found.joints <= high[:, None]).all()
    height = padded_boxes(found.box, 0.75)[:, 1]
    assert height.min() >= 160 and height.max() <= 200.1


def test_some_joints_are_cut_off_and_then_not_labelled():
    found = people()
    share = (found.visibility > 0).mean()
    assert 0.9 < share < 0.995
    for i in range(20):
        height, width = found.picture(i).shape[:2]
        inside = ((found.joints[i] >= -0.5) & (found.joints[i] < (width - 0.5, height - 0.5))).all(1)
        assert np.array_equal(inside, found.visibility[i] > 0)


def test_left_limbs_are_darker_than_right_ones():
    found = people(count=200)
    sides = {"left": [], "right": []}
    for i in range(200):
        picture = found.picture(i).astype(float).mean(2)
        for side, values in sides.items():
            a, b = (found.joints[i, found.skeleton.index(f"{side}_{j}")] for j in ("knee", "ankle"))
            x, y = np.round((a + b) / 2).astype(int)
            if 0 <= x < picture.shape[1] and 0 <= y < picture.shape[0]:
                values.append(picture[y, x])
    assert np.mean(sides["left"]) < 0.8 * np.mean(sides["right"])
