"""What features tell of resolution: numbers on constructed features, and the command on small runs."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from raf_ray import run_federation
from raf_ray.data.augment import NO_MARGINS
from raf_ray.data.batches import normalise
from raf_ray.data.shard import cut_shard
from raf_ray.data.sources.synthetic import synthetic_people
from raf_ray.data.warp import warp_opencv
from raf_ray.errors import InputError
from raf_ray.evaluation.probe import embedded, folds, mean_over_people, probe_accuracy, silhouette
from raf_ray.features import main
from raf_ray.resolution import Size
from raf_ray.saved import load_run, scorer_of_run
from tests.tiny import tiny

RNG = np.random.default_rng(0)


def apart() -> np.ndarray:
    """3 sizes of 40 people, each size in a place of its own."""
    return np.eye(3)[:, None] * 50 + RNG.normal(size=(3, 40, 3)) * 0.01


def same() -> np.ndarray:
    """3 sizes of 40 people that look alike at all of them."""
    return np.broadcast_to(RNG.normal(size=(40, 5)), (3, 40, 5))


def test_sizes_that_lie_apart_are_told_without_a_fault():
    assert silhouette(apart()).value == pytest.approx(1.0, abs=0.01)
    found = probe_accuracy(apart())
    assert (found.value, found.low, found.high) == (1.0, 1.0, 1.0)


def test_people_who_look_alike_at_every_size_leave_the_probe_at_chance():
    assert silhouette(same()).value == pytest.approx(0.0, abs=0.05)
    assert probe_accuracy(same()).value == pytest.approx(1 / 3, abs=1e-12)


def test_the_silhouette_by_hand():
    """On a line, two sizes at 0, 1 and 4, 5: within 1, to the other 4.5 and 3.5."""
    found = silhouette(np.array([[[0.0], [1.0]], [[4.0], [5.0]]]))
    assert found.value == pytest.approx(((1 - 1 / 4.5) + (1 - 1 / 3.5)) / 2)


def test_a_probe_that_could_memorise_people_is_at_chance_on_others():
    """Each person has a vector of their own, turned around at the other size: whoever is known tells the size."""
    own = RNG.normal(size=(200, 400))
    features = np.stack([own, -own])
    found = probe_accuracy(features)
    assert abs(found.value - 0.5) < 0.1 and found.low < 0.5 < found.high

    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import KFold, cross_val_score

    rows, sizes = features.reshape(400, 400), np.repeat([0, 1], 200)
    by_row = cross_val_score(LogisticRegression(max_iter=2000), rows, sizes, cv=KFold(5, shuffle=True, random_state=0))
    assert by_row.mean() > 0.75, "folds of rows, with a person on both sides, tell what is not there"


@pytest.mark.parametrize("people", [2, 3, 11, 400])
def test_every_person_is_held_out_once(people):
    parts = folds(people)
    assert sorted(np.concatenate(parts).tolist()) == list(range(people)) and len(parts) == min(5, people)
    assert all(len(part) for part in parts)


def test_an_interval_is_that_of_a_mean_over_people():
    right = (np.random.default_rng(2).random(2000) < 0.8)[None]
    found = mean_over_people(right)
    half = 1.96 * np.sqrt(right.mean() * (1 - right.mean()) / 2000)
    assert found.value == right.mean()
    assert (found.value - found.low, found.high - found.value) == (pytest.approx(half, rel=0.1),) * 2
    twice = mean_over_people(np.repeat(right, 2, axis=0))
    assert twice == found, "a second size of the same people makes nothing surer"


def test_the_places_drawn_keep_sizes_that_lie_apart_apart():
    places = embedded(apart())
    assert places.shape == (3, 40, 2) and silhouette(places).value > 0.5


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    words = {"pose": (), "classes": ("task.name=classification",), "others": ("seed=1",),
             "sizes": ("federation.clients=[high, low]",)}  # fmt: skip
    for name, own in words.items():
        config = tiny("federation.engine=in_process", "federation.rounds=1", "data.test_people=12", *own)
        run_federation(config, folder / name)
    return folder


def test_pooled_features_are_means_over_the_places_of_what_the_head_sees(runs):
    run = load_run(runs / "pose")
    scorer, _ = scorer_of_run(run)
    found, read = scorer.pooled("test", Size(64, 48))
    shard = cut_shard(synthetic_people(0, "test", np.arange(12), 160.0), Size(64, 48), NO_MARGINS)
    crops = warp_opencv([shard.read(i) for i in range(12)], shard.to_crop(np.arange(12)), shard.size)
    with torch.no_grad():
        by_hand = run.model.features(normalise(crops).permute(0, 3, 1, 2)).mean((2, 3))
    assert read.all()
    np.testing.assert_allclose(found, by_hand.numpy(), rtol=1e-4, atol=1e-5)


def test_the_command_draws_and_measures_both_tasks_the_same_each_time(runs, tmp_path, capsys):
    names = [str(runs / "pose"), str(runs / "classes")]
    main([*names, "--output", str(tmp_path / "a")])
    told = capsys.readouterr().out
    main([*names, "--output", str(tmp_path / "b")])
    for name in ("features.json", "features.png"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    values = json.loads((tmp_path / "a" / "features.json").read_text())
    assert values["sizes"] == ["128x96", "96x72", "64x48"] and values["chance"] == pytest.approx(1 / 3)
    for name in names:
        own = values["runs"][name]
        assert own["people"] == 12 and own["silhouette"]["low"] <= own["silhouette"]["value"] <= 1
        assert f"{100 * own['probe_accuracy']['value']:.1f}" in told
    assert [run["task"] for run in values["runs"].values()] == ["pose", "classification"]


def test_without_a_folder_named_the_first_runs_own_takes_them(runs):
    main([str(runs / "pose"), "--sizes", "48x36,128x96"])
    assert json.loads((runs / "pose" / "features.json").read_text())["sizes"] == ["128x96", "48x36"]
    assert (runs / "pose" / "features.png").is_file()


@pytest.mark.parametrize(("words", "says"), [
    (["pose", "others"], "are scored on different people"),
    (["pose", "sizes"], "were trained at different sizes; say at which by --sizes"),
    (["pose", "--sizes", "64x48"], "at two sizes at least"),
    (["pose", "--sizes", "64x48,50x50"], "--sizes"),
    (["none"], "holds no finished run"),
])  # fmt: skip
def test_what_cannot_be_compared_is_refused_in_a_sentence(runs, words, says, tmp_path):
    named = [word if "-" in word or "x" in word else str(runs / word) for word in words]
    with pytest.raises(InputError, match=says) as error:
        main([*named, "--output", str(tmp_path)])
    assert "\n" not in str(error.value) and not list(tmp_path.iterdir())
