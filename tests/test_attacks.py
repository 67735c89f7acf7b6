"""Attacks: what bad clients send and learn, who they are, and that the others are as they were."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest

from raf_ray import run_federation
from raf_ray.algorithms.fedavg import FedAvg
from raf_ray.algorithms.interface import WEIGHTS
from raf_ray.algorithms.scaffold import CONTROL
from raf_ray.attacks import built_in
from raf_ray.attacks.interface import Attack
from raf_ray.attacks.label_shift import LabelShift
from raf_ray.attacks.noise import NoiseAttack
from raf_ray.attacks.sign_flip import SignFlip
from raf_ray.config import load_config
from raf_ray.config.help import key_lines
from raf_ray.errors import InputError
from raf_ray.request.assembly import federation_spec, prepare
from raf_ray.request.attackers import bad_clients
from raf_ray.request.parts import attack_of
from raf_ray.request.plans import plan_clients
from raf_ray.training.attacked import Attacked
from raf_ray.training.exchange import Down, Workplace
from raf_ray.transforms.clip import Clip
from tests.quadratics import DIM, Quadratics, random_clients
from tests.tiny import tiny

RNG = np.random.default_rng(0)
TEN = "federation.clients={high: 5, mid: 2, low: 3}"


class Blurred(Attack):
    """Moves labels by what it draws."""

    def labels(self, joints, visibility, rng):
        return joints + rng.normal(size=joints.shape).astype(np.float32), visibility


def bad(*words: str) -> list[int]:
    config = load_config(overrides=[TEN, "attack.name=sign_flip", *words])
    return bad_clients(config, plan_clients(config))


def test_every_file_of_the_room_is_an_attack_by_its_name():
    assert set(built_in()) >= {"sign_flip", "noise", "label_shift"}


# --- What they do ------------------------------------------------------------------------------------------------


def test_sign_flip_sends_its_updates_opposite_and_spares_statistics():
    update, control = np.array([1, -2, 0.5], np.float32), np.array([3, 0], np.float32)
    sent = SignFlip(scale=2).update({WEIGHTS: update, CONTROL: control}, 2, RNG)
    assert sent[WEIGHTS].tolist() == [-2, 4, 0.5] and sent[CONTROL].tolist() == [-6, 0]
    assert update.tolist() == [1, -2, 0.5] and sent[WEIGHTS].dtype == np.float32


def test_noise_replaces_the_update_by_draws_of_its_standard_deviation():
    update = np.full(200_000, 3.0, np.float32)
    sent = NoiseAttack(std=0.5).update({WEIGHTS: update}, 199_000, np.random.default_rng(1))[WEIGHTS]
    assert abs(sent[:199_000].mean()) < 5 * 0.5 / np.sqrt(199_000)
    assert sent[:199_000].std() == pytest.approx(0.5, rel=0.01)
    assert (sent[199_000:] == 3).all() and sent.dtype == np.float32


def test_label_shift_labels_each_joint_where_the_next_is_with_its_visibility():
    joints = np.arange(6, dtype=np.float32).reshape(1, 3, 2)
    visibility = np.array([[0, 1, 2]], np.uint8)
    places, seen = LabelShift().labels(joints, visibility, RNG)
    assert places.tolist() == [[[2, 3], [4, 5], [0, 1]]] and seen.tolist() == [[1, 2, 0]]
    assert joints.flatten().tolist() == [0, 1, 2, 3, 4, 5]


def test_what_is_sent_is_changed_after_the_transforms_and_is_new_in_each_round():
    federation = Quadratics(FedAvg(), random_clients(2))
    federation.clients[0].transforms = (Clip(norm=0.01), Attacked(SignFlip(scale=4)))
    federation.clients[1].transforms = (Clip(norm=0.01),)
    lengths = [float(np.linalg.norm(up.vectors[WEIGHTS][:DIM])) for up in federation.round().values()]
    assert lengths == pytest.approx([0.04, 0.01], rel=1e-5), "clipping holds the good client alone"
    federation.clients[0].transforms = (Attacked(NoiseAttack()),)
    sent = [federation.round()["c0"].vectors[WEIGHTS][:DIM] for _ in range(2)]
    down = federation.server.down()
    again = [federation.clients[0].train(down, index, None)[0].vectors[WEIGHTS][:DIM] for index in (1, 2)]
    assert [a.tolist() for a in sent] == [a.tolist() for a in again] and sent[0].tolist() != sent[1].tolist()


def test_a_bad_client_trains_on_other_labels_of_the_same_pictures_and_the_others_on_their_own():
    words = ("attack.name=label_shift", "attack.share=0.34")
    spoilt, plain = (federation_spec(prepare(tiny(*own)), "run").clients for own in (words, ()))
    (number,) = bad_clients(tiny(*words), plan_clients(tiny(*words)))
    for i in range(3):
        one, other = (clients.open(i, Workplace()).task.batches.shard for clients in (spoilt, plain))
        expected = np.roll(other.joints, -1, axis=1) if i == number else other.joints
        np.testing.assert_array_equal(one.joints, expected)
        np.testing.assert_array_equal(one.patch(0), other.patch(0))


def test_drawn_labels_are_the_same_whenever_a_client_is_opened():
    words = ("attack.name=tests.test_attacks:Blurred", "attack.share=1")
    spec = federation_spec(prepare(tiny(*words)), "run")
    first, again, other = (spec.clients.open(i, Workplace()).task.batches.shard.joints for i in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_a_good_client_sends_the_same_bits_beside_bad_ones():
    words = ("attack.name=sign_flip", "attack.share=0.34")
    (number,) = bad_clients(tiny(*words), plan_clients(tiny(*words)))
    sent = []
    for own in (words, ()):
        prepared = prepare(tiny(*own))
        clients = federation_spec(prepared, "run").clients
        down = Down(0, prepared.initial, {})
        sent.append([clients.open(i, Workplace()).train(down, 0, None)[0].vectors[WEIGHTS] for i in range(3)])
    for i, (attacked, plain) in enumerate(zip(*sent, strict=True)):
        np.testing.assert_array_equal(attacked, -4 * plain if i == number else plain)


# --- Who they are ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("share", "count"), [(0.1, 1), (0.2, 2), (0.34, 3), (0.5, 5), (1.0, 10)])
def test_a_share_of_all_clients_is_bad(share, count):
    assert len(set(bad(f"attack.share={share}"))) == count


def test_without_an_attack_nobody_is():
    config = load_config(overrides=[TEN])
    assert bad_clients(config, plan_clients(config)) == [] and attack_of(config) is None


def test_the_seed_draws_them_and_a_larger_share_has_the_same_ones_and_more():
    assert bad("seed=1") == bad("seed=1") and len({tuple(bad(f"seed={seed}")) for seed in range(10)}) > 5
    nested = [set(bad(f"attack.share={share}")) for share in (0.1, 0.2, 0.3, 0.4)]
    assert all(small < large for small, large in itertools.pairwise(nested))


def test_every_client_is_bad_for_some_seed_and_of_a_tier_its_clients_alone():
    assert set().union(*(bad(f"seed={seed}") for seed in range(40))) == set(range(10))
    assert set().union(*(bad(f"seed={seed}", "attack.tier=low") for seed in range(40))) == {7, 8, 9}


def test_results_name_them_and_the_aggregator(tmp_path):
    words = (TEN, "attack.name=noise", "attack.tier=mid", "aggregation.name=median", "federation.rounds=1",
             "data.people_per_client=2", "federation.engine=in_process")  # fmt: skip
    run_federation(tiny(*words), tmp_path / "run")
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["attack"] == {"name": "noise", "clients": ["client-mid-000", "client-mid-001"]}
    assert results["aggregation"] == "median"


@pytest.mark.parametrize(("share", "says"), [
    (0.4, "attack.name=sign_flip: 4 of 10 clients are bad"),
    (0.5, "warning: attack.name=sign_flip: 5 of 10 clients are bad, against which no aggregator is meant to hold"),
])  # fmt: skip
def test_how_many_are_bad_is_noted_and_half_of_them_is_a_warning(share, says):
    notes = prepare(tiny(TEN, "attack.name=sign_flip", f"attack.share={share}", "data.people_per_client=2")).notes
    assert says in notes


# --- Config ------------------------------------------------------------------------------------------------------


def test_they_are_made_from_the_config_with_its_parameters():
    words = {"sign_flip": "scale=2", "noise": "std=0.5", "label_shift": "steps=3"}
    made = {
        name: attack_of(load_config(overrides=[f"attack.name={name}", f"attack.{name}.{words[name]}"]))
        for name in built_in()
    }
    assert made == {"sign_flip": SignFlip(2.0), "noise": NoiseAttack(0.5), "label_shift": LabelShift(3)}


def test_the_help_tells_each_key():
    told = "\n".join(key_lines())
    for key in ("attack.name: label_shift|noise|sign_flip|package.module:name|null = null",
                "attack.share: float = 0.2", "attack.tier: str|null = null", "attack.noise.std: float"):  # fmt: skip
        assert key in told


@pytest.mark.parametrize(("words", "says"), [
    (["attack.name=flip"], "'sign_flip'"),
    (["attack.share=0"], "attack.share"),
    (["attack.share=1.1"], "attack.share"),
    (["attack.name=noise", "attack.noise.std=0"], "attack.noise.std"),
    (["attack.name=tests.test_attacks:tiny"], "gives Config, not a raf_ray.attacks.interface.Attack"),
    (["attack.name=noise", "attack.share=0.1"], "attack.share=0.1 of 3 clients is none; raise it, or leave"),
    (["attack.name=noise", "attack.tier=tall"], r"attack.tier=tall: no client is of that tier \(tiers: high, mid, low"),
    (["attack.name=noise", "attack.tier=low", "attack.share=0.7"], "is 2, but tier low has 1; lower it or leave"),
    (["attack.name=label_shift", "attack.label_shift.steps=32"], "steps=32 leads each of 16 joints to itself; choose"),
])  # fmt: skip
def test_what_cannot_be_is_refused_in_a_sentence_before_anything_starts(words, says):
    with pytest.raises(InputError, match=says) as error:
        prepare(tiny(*words))
    assert "\n" not in str(error.value)
