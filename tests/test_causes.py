"""A run that cannot go on names what is at fault: pictures, labels, weights, norms, or else the learning rate."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from raf_ray import evaluate, run, run_federation
from raf_ray.cli import run_command
from raf_ray.data.people import People, PictureError
from raf_ray.data.sources.synthetic import synthetic_people
from raf_ray.errors import InputError, RunError
from raf_ray.experiment.shards import prepare_shards
from raf_ray.request.assembly import prepare
from raf_ray.request.parts import client_spec
from raf_ray.request.prepared import Prepared
from raf_ray.training.clients import OwnedPeople
from raf_ray.training.exchange import Down
from tests.tiny import tiny

ONE = ("federation.clients=[low]", "federation.engine=in_process", "evaluation.resolutions=[64x48]",
       "data.people_per_client=null", "data.test_people=null", "data.val_people=null")  # fmt: skip
SYNTHETIC = ("data.people_per_client=8", "data.test_people=4", "data.val_people=4")


def source(split: str) -> People:
    count = {"train": 8, "test": 4}[split]
    return synthetic_people(0, split, np.arange(count), 60.0)


def no_train_picture(root: str | None, split: str) -> People:
    people = source(split)

    def read(row: int) -> np.ndarray:
        raise PictureError(f"picture {row} is missing")

    return replace(people, read=read) if split == "train" else people


def no_test_picture(root: str | None, split: str) -> People:
    return no_train_picture(root, "train") if split == "test" else source(split)


def infinite_label(root: str | None, split: str) -> People:
    people = source(split)
    if split == "train":
        people.joints[2, 5] = np.inf  # what 1e39 is in float32
    return people


def nowhere_and_unlabelled(root: str | None, split: str) -> People:
    people = source(split)
    people.joints[:, 0], people.visibility[:, 0] = np.nan, 0
    return people


def no_box(root: str | None, split: str) -> People:
    people = source(split)
    people.box[1] = 0
    return people


def named(function: str, *words: str) -> Any:
    return tiny(*ONE, f"data.name=tests.test_causes:{function}", *words)


def client_of(prepared: Prepared) -> Any:
    return client_spec(prepared.config, prepared.skeleton).build(prepared.plans[0], prepared.data[0])


# --- pictures ---------------------------------------------------------------------------------------------


def test_a_client_without_a_readable_picture_is_said_to_have_none():
    prepared = prepare(named("no_train_picture", "data.on_bad_image=skip", "data.val_fraction=0.25"))
    with pytest.raises(RunError, match=r"^none of its 6 people has a picture that can be read, .*on_bad_image=skip"):
        client_of(prepared).train(Down(0, prepared.initial, {}), 0, None)


def test_a_run_without_a_readable_test_picture_ends_as_failed(tmp_path: Path):
    with pytest.raises(RunError, match=r"nothing could be scored on test: none of its 8 people has a picture"):
        run_federation(named("no_test_picture", "data.on_bad_image=skip"), tmp_path / "run")
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["status"] == "failed" and "data.root and data.images" in results["error"]


def no_hips(root: str | None, split: str) -> People:
    people = source(split)
    people.visibility[:, [people.skeleton.index("left_hip"), people.skeleton.index("right_hip")]] = 0
    return people


def test_nothing_to_score_is_said_by_run_shards_and_evaluate_before_they_begin(tmp_path: Path, capsys):
    words = ["data.name=tests.test_causes:no_hips", *ONE, "tracking.mlflow=false"]
    assert run_command(run.main, [*words, "--output", str(tmp_path / "run")]) == 2
    assert "nothing can be scored on val by pck_torso_0.2" in capsys.readouterr().err
    words[0] = f"data.name=shards data.root={tmp_path / 'shards'}"
    prepare_shards(named("no_hips"), tmp_path / "shards")
    assert run_command(run.main, [*" ".join(words).split(), "--output", str(tmp_path / "run")]) == 2
    assert "nothing can be scored on val" in capsys.readouterr().err and not (tmp_path / "run").exists()
    run_federation(tiny(*ONE, *SYNTHETIC, "federation.rounds=1"), tmp_path / "run")
    assert run_command(evaluate.main, [str(tmp_path / "run"), "data.name=tests.test_causes:no_hips"]) == 2
    assert "nothing can be scored on test" in capsys.readouterr().err
    metric = ["evaluation.val_metric=oks_ap", "evaluation.metric=pck_torso_0.2"]
    assert run_command(run.main, [*words[1:], "data.name=tests.test_causes:no_hips", *metric]) == 2
    assert "nothing can be scored on test" in capsys.readouterr().err


# --- labels ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("function", "says"), [
    ("infinite_label", "split train: a labelled joint of person 2 is not at finite coordinates"),
    ("no_box", r"split (train|test): the box of person \d+ must have a finite centre and sides above 0"),
])  # fmt: skip
def test_labels_of_ones_own_source_that_are_no_places_are_refused(function: str, says: str):
    with pytest.raises(InputError, match=says):
        prepare(named(function))


def test_where_an_unlabelled_joint_lies_does_not_matter(tmp_path: Path):
    results = run_federation(named("nowhere_and_unlabelled", "federation.rounds=1"), tmp_path / "run")
    assert results.values["status"] == "completed"


def test_targets_that_are_not_finite_are_named_with_their_person():
    prepared = prepare(tiny(*ONE, "data.people_per_client=8", "data.test_people=4", "data.val_people=4"))
    owned = prepared.data
    assert isinstance(owned, OwnedPeople)
    people = owned.people
    people.joints[owned.rows[5]] = np.nan
    with pytest.raises(
        RunError, match=rf"the loss is nan, since targets of person {people.person_id[owned.rows[5]]} at 64x48 are"
    ):
        client_of(prepared).train(Down(0, prepared.initial, {}), 0, None)


# --- weights ----------------------------------------------------------------------------------------------


class NotFinite(nn.Conv2d):
    size_divisor = 4

    def __init__(self, num_joints: int) -> None:
        super().__init__(3, num_joints, 4, 4)
        nn.init.constant_(self.bias, float("nan"))


class Overflows(nn.Conv2d):
    size_divisor = 4

    def __init__(self, num_joints: int) -> None:
        super().__init__(3, num_joints, 4, 4)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return super().forward(images) * 1e38 * 1e38


def test_a_model_that_begins_with_nan_is_refused():
    with pytest.raises(InputError, match=r"^model\.name=tests\.test_causes:NotFinite: its initial bias is not finite"):
        prepare(tiny(*ONE, *SYNTHETIC, "model.name=tests.test_causes:NotFinite"))


def test_a_round_that_begins_with_weights_that_are_not_finite_says_which():
    prepared = prepare(tiny(*ONE, *SYNTHETIC))
    state = prepared.initial.copy()
    prepared.layout.floats(state)[3] = np.nan
    name = prepared.layout.entries[0].name
    with pytest.raises(RunError, match=rf"the model that the round began from is not finite \({name}\)"):
        client_of(prepared).train(Down(1, state, {}), 1, None)


def test_a_model_that_gives_nan_at_once_is_told_from_a_learning_rate_that_is_too_large():
    prepared = prepare(tiny(*ONE, *SYNTHETIC, "model.name=tests.test_causes:Overflows"))
    with pytest.raises(RunError, match=r"at the first batch already, .*: the model or the objective gives it"):
        client_of(prepared).train(Down(0, prepared.initial, {}), 0, None)
    prepared = prepare(tiny(*ONE, *SYNTHETIC, "optimizer.name=sgd", "optimizer.lr=1e30"))
    with pytest.raises(RunError, match=r"^the loss is (nan|inf); lower optimizer\.lr or set optimizer\.clip$"):
        client_of(prepared).train(Down(0, prepared.initial, {}), 0, None)


# --- norms that would see one value -----------------------------------------------------------------------


class Pooled(nn.Module):
    """A global mean, normed, lifts or lowers every heatmap."""

    size_divisor = 4

    def __init__(self, num_joints: int, norm: type[nn.Module] = nn.BatchNorm2d) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, num_joints, 4, 4)
        self.norm = norm(num_joints) if norm is not nn.GroupNorm else norm(num_joints, num_joints)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        maps = self.conv(images)
        return maps + self.norm(maps.mean((2, 3), keepdim=True))


def instance(num_joints: int) -> Pooled:
    return Pooled(num_joints, nn.InstanceNorm2d)


def group(num_joints: int) -> Pooled:
    return Pooled(num_joints, nn.GroupNorm)


def asked(people: int, batch_size: int, model: str, *words: str) -> Any:
    return tiny("federation.clients=[high, low]", f"data.people_per_client={people}", "model.name=" + model,
                f"optimizer.batch_size={batch_size}", "federation.engine=in_process", *words)  # fmt: skip


@pytest.mark.parametrize(("people", "batch_size"), [(13, 4), (9, 8), (1, 8), (6, 1)])
@pytest.mark.parametrize("model", ["Pooled", "group"])
def test_a_last_batch_of_one_is_refused_where_a_norm_would_see_one_value(people: int, batch_size: int, model: str):
    with pytest.raises(InputError) as caught:
        prepare(asked(people, batch_size, f"tests.test_causes:{model}"))
    for told in ("client-high-000", f"{people} people", f"optimizer.batch_size={batch_size}", "64x48", "one value"):
        assert told in str(caught.value)


@pytest.mark.parametrize(("people", "batch_size"), [(12, 4), (14, 4), (2, 8)])
@pytest.mark.parametrize("model", ["Pooled", "group"])
def test_two_in_every_batch_are_enough(people: int, batch_size: int, model: str):
    prepare(asked(people, batch_size, f"tests.test_causes:{model}"))


def test_a_norm_over_places_of_which_there_is_one_is_refused_whatever_the_batch():
    with pytest.raises(InputError, match=r"client client-high-000 trains batches at 64x48, of which a norm layer sees"):
        prepare(asked(12, 4, "tests.test_causes:instance"))


def test_a_resnet_at_its_smallest_size():
    words = ("resolution.tiers={low: 16x16}", "federation.clients=[low]", "evaluation.resolutions=[16x16]")
    with pytest.raises(InputError, match="at 16x16, of which a norm layer sees one value a channel"):
        prepare(asked(13, 4, "simple_baseline", *words))
    prepare(asked(13, 4, "simple_baseline", *(word.replace("16x16", "32x16") for word in words)))


def test_the_trial_leaves_the_initial_state_alone():
    from raf_ray.request.parts import initial_model, model_spec

    prepared = prepare(asked(13, 4, "tests.broken:OneConv"))
    model, _ = initial_model(model_spec(prepared.config, 16), prepared.config.model, prepared.config.seed)
    assert prepared.initial.tobytes() == prepared.layout.read(model).tobytes()
