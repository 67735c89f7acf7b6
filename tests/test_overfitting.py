"""`evaluation.train_people`: scores of people who are trained on, beside those of held-out ones."""

from __future__ import annotations

import csv
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from raf_ray import run_federation
from raf_ray.errors import InputError
from raf_ray.models.saving import load_model
from raf_ray.request import parts
from raf_ray.request.assembly import prepare
from raf_ray.resolution import parse_size
from raf_ray.search.spec import check_search
from tests.tiny import WORDS, tiny

SCORED = ("federation.engine=in_process", "federation.rounds=3", "evaluation.every=2", "evaluation.train_people=20")


def rows(folder: Path) -> list[dict[str, str]]:
    with open(folder / "scores.csv", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def state(folder: Path) -> torch.Tensor:
    saved = torch.load(folder / "model.pt", weights_only=True)["model"]
    return torch.cat([tensor.flatten().double() for tensor in saved.values()])


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return run_federation(tiny(*SCORED), tmp_path_factory.mktemp("whole") / "run")


def test_they_are_scored_in_the_same_rounds_and_sizes_as_val(whole):
    found = {split: [(row["round"], row["resolution"]) for row in rows(whole.folder) if row["split"] == split]
             for split in ("val", "train", "test")}  # fmt: skip
    tiers = ("128x96", "96x72", "64x48")
    assert found["train"] == found["val"] == [(done, size) for done in ("2", "3") for size in tiers]
    assert {done for done, _ in found["test"]} == {"3"}


def test_the_scores_are_of_the_clients_own_people(whole):
    config = tiny(*SCORED)
    prepared = prepare(config)
    (people,) = prepared.train_sample.values()
    assert len(people) == 20
    owned = {tuple(joints.ravel()) for joints in prepared.data.people.joints[prepared.data.rows]}
    held_out = {tuple(joints.ravel()) for split in prepared.held_out.values() for joints in split.joints}
    sampled = {tuple(joints.ravel()) for joints in people.joints}
    assert sampled <= owned and not sampled & held_out
    model = load_model(whole.folder / "model.pt", partial(parts.model_spec, config)).model
    scorer = parts.scorer_spec(config, {**prepared.held_out, "val": people}).build()
    size = parse_size("96x72")
    expected = scorer(prepared.layout.read(model), "val", [size]).by_resolution["96x72"]
    last = [float(row["value"]) for row in rows(whole.folder)
            if (row["round"], row["split"], row["resolution"]) == ("3", "train", "96x72")]  # fmt: skip
    assert last == [expected]


def test_nothing_else_of_the_run_changes(whole, tmp_path):
    plain = run_federation(tiny(*SCORED, "evaluation.train_people=0"), tmp_path / "plain")
    assert torch.equal(state(plain.folder), state(whole.folder))
    assert rows(plain.folder) == [row for row in rows(whole.folder) if row["split"] != "train"]
    assert not (plain.folder / "rounds.png").exists()


def test_the_picture_is_drawn_and_again_where_it_is_missing(whole):
    picture = whole.folder / "rounds.png"
    assert picture.stat().st_size > 10_000
    picture.unlink()
    run_federation(tiny(*SCORED), whole.folder, resume=True)
    assert picture.stat().st_size > 10_000


def test_the_sample_is_the_seeds_and_more_than_there_are_is_all_of_them():
    def sample(*words: str) -> np.ndarray:
        return prepare(tiny(*SCORED, *words)).train_sample["train"].joints

    assert np.array_equal(sample(), sample("objective.name=heatmap"))
    assert not np.array_equal(sample(), sample("seed=1"))
    assert len(sample("evaluation.train_people=99")) == 36


def test_a_search_and_shards_have_none():
    base = {"evaluation": {"train_people": 5}}
    with pytest.raises(InputError, match=r"base\.evaluation\.train_people: a search chooses by held-out people"):
        check_search("mine", {"base": base, "param_space": {"seed": {"choice": [1, 2]}}, "metric": "score_mean"})


def test_prepared_shards_are_refused(tmp_path):
    from raf_ray.experiment.shards import prepare_shards

    words = [word for word in WORDS if "people_per_client" not in word]
    prepare_shards(tiny(*words), tmp_path / "shards")
    with pytest.raises(InputError, match=r"evaluation\.train_people: prepared shards"):
        prepare(tiny(*SCORED, "data.name=shards", f"data.root={tmp_path / 'shards'}"))
