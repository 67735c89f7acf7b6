"""Transforms against what their papers say, and in whole federations: the same bits wherever, after a resume too."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
import torch

from raf_ray import run_federation
from raf_ray.algorithms.interface import WEIGHTS, Cohort
from raf_ray.config import load_config
from raf_ray.errors import InputError
from raf_ray.request.parts import transforms_of
from raf_ray.state import Entry, Layout
from raf_ray.transforms import built_in
from raf_ray.transforms.clip import Clip
from raf_ray.transforms.interface import Transform
from raf_ray.transforms.noise import Noise
from tests.tiny import StopAfter, tiny

RNG = np.random.default_rng(0)
BOTH = ("transforms.apply=[clip, noise]", "transforms.clip.norm=0.05", "transforms.noise.std=0.01")


class Counting(Transform):
    """Keeps how often its client has trained, and sends it in place of the first weight."""

    def client(self, vectors, memory, sent, layout, rng):
        rounds = memory.get("rounds", np.zeros(1, np.float32)) + 1
        update = vectors[WEIGHTS].copy()
        update[0] = rounds[0]
        return {**vectors, WEIGHTS: update}, {"rounds": rounds}


def flat(weights: int, statistics: int = 0) -> Layout:
    """A layout of one entry of each kind."""
    kinds = (("w", weights, "weights", 0), ("s", statistics, "statistics", weights))
    return Layout(tuple(Entry(name, (size,), kind, start) for name, size, kind, start in kinds if size))


def in_process(path, *words, **options):
    return run_federation(tiny("federation.engine=in_process", *words), path, **options)


def state(folder) -> torch.Tensor:
    saved = torch.load(folder / "model.pt", weights_only=True)["model"]
    return torch.cat([values.flatten().double() for values in saved.values()])


def test_every_file_of_the_room_is_a_transform_by_its_name():
    assert {"clip": Clip, "noise": Noise}.items() <= built_in().items()


@pytest.mark.parametrize("length", [0.5, 2.0, 40.0])
def test_clipping_shortens_what_is_too_long_to_the_norm_and_leaves_its_direction(length):
    update = RNG.normal(size=100).astype(np.float32)
    update *= length / np.linalg.norm(update[:90])
    (sent, kept) = Clip(norm=2.0).client({WEIGHTS: update, "other": update}, {}, {}, flat(90, 10), RNG)
    expected = update[:90].astype(np.float64) * min(1.0, 2.0 / length)
    np.testing.assert_allclose(sent[WEIGHTS][:90], expected, rtol=1e-5)
    np.testing.assert_array_equal(sent[WEIGHTS][90:], update[90:])  # statistics
    assert sent["other"] is update and kept == {}


def test_noise_has_its_standard_deviation_and_spares_statistics():
    mean = {WEIGHTS: np.full(200_000, 3.0)}
    rng = np.random.default_rng(1)
    noisy = Noise(std=0.5).server(mean, {}, Cohort(2, 3, 3), flat(199_000, 1000), rng)[0][WEIGHTS]
    added = noisy[:199_000] - 3.0
    assert abs(added.mean()) < 5 * 0.5 / np.sqrt(199_000)
    assert added.std() == pytest.approx(0.5, rel=0.01)
    assert (noisy[199_000:] == 3.0).all() and (mean[WEIGHTS] == 3.0).all()


def test_noise_spares_frozen_parameters():
    layout = Layout((Entry("a", (30,), "weights", 0, frozen=True), Entry("b", (20,), "weights", 30)))
    noisy = Noise().server({WEIGHTS: np.zeros(50)}, {}, Cohort(2, 3, 3), layout, RNG)[0][WEIGHTS]
    assert not noisy[:30].any() and noisy[30:].all()


def test_they_are_made_in_the_order_of_the_config_with_its_parameters():
    config = load_config(overrides=["transforms.apply=[noise, clip, tests.test_transforms:Counting]",
                                    "transforms.noise.std=0.2"])  # fmt: skip
    noise, clip, own = transforms_of(config)
    assert (noise, clip) == (Noise(std=0.2), Clip(norm=1.0)) and isinstance(own, Counting)
    assert transforms_of(load_config()) == ()


@pytest.mark.parametrize(("words", "says"), [
    (["transforms.apply=[clop]"], "'clip'"),
    (["transforms.clip.norm=0"], "transforms.clip.norm"),
    (["transforms.apply=[tests.test_transforms:tiny]"], "cannot be made without parameters|gives Config"),
    (["transforms.apply=[tests.test_transforms:dict]"], "has no 'dict'"),
])  # fmt: skip
def test_what_is_none_is_refused_in_a_sentence(words, says):
    with pytest.raises(InputError, match=says) as error:
        transforms_of(load_config(overrides=words))
    assert "\n" not in str(error.value)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return in_process(tmp_path_factory.mktemp("whole") / "run", *BOTH, "federation.rounds=3").folder


def test_no_round_moves_the_weights_farther_than_the_norm(tmp_path):
    norm = 1e-3
    first = in_process(tmp_path / "one", "transforms.apply=[clip]", f"transforms.clip.norm={norm}",
                       "federation.rounds=1").folder  # fmt: skip
    second = in_process(tmp_path / "two", "transforms.apply=[clip]", f"transforms.clip.norm={norm}",
                        "federation.rounds=2").folder  # fmt: skip
    moved = float(torch.linalg.vector_norm(state(second) - state(first)))
    assert 0 < moved <= norm * (1 + 1e-4)
    with open(first / "rounds.csv", encoding="utf-8") as file:
        row = next(csv.DictReader(file))
    assert float(row["update_norm_high"]) > norm, "what is told is the client's own change"


def test_a_resume_gives_the_same_bits(whole, tmp_path):
    words = [*BOTH, "federation.rounds=3"]
    with pytest.raises(RuntimeError, match="stopped by the test"):
        in_process(tmp_path / "part", *words, watchers=[StopAfter(2)])
    in_process(tmp_path / "part", *words, resume=True)
    assert torch.equal(state(tmp_path / "part"), state(whole))


def test_what_a_transform_keeps_is_given_back_each_round_and_after_a_resume(tmp_path):
    words = ("transforms.apply=[tests.test_transforms:Counting]", "optimizer.reset_each_round=false")
    in_process(tmp_path / "run", *words, "federation.rounds=3")
    for path in (tmp_path / "run" / "clients").iterdir():
        with np.load(path) as content:
            assert content["transform.0.rounds"].tolist() == [3.0]
            assert any(name.startswith("optimizer.") for name in content)
    assert json.loads((tmp_path / "run" / "results.json").read_text())["status"] == "completed"
