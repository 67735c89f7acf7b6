"""The RAF authors' split, sum over levels and weight decay, by hand; and a federation of theirs, scored again."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from raf_ray import run_federation
from raf_ray.data.sources.synthetic import synthetic_people
from raf_ray.data.splits import partition
from raf_ray.errors import InputError
from raf_ray.evaluate import main as evaluate
from raf_ray.models.vitpose import ViTPose, ViTPoseConfig
from raf_ray.objectives import build_objective
from raf_ray.request.assembly import prepare
from raf_ray.resolution import Size
from raf_ray.saved import load_run, predict, score_run, scorer_of_run
from raf_ray.tasks import Task
from raf_ray.tasks.pose import Pose
from raf_ray.training.optimizer import parameter_groups
from tests.tiny import tiny


def test_overlapping_clients_draw_anew_and_share_people():
    people = synthetic_people(0, "train", np.arange(60), 160.0)
    asked = {"people_per_client": 30, "counts": None, "concentration": 0.5, "seed": 0}
    parts = partition(people, 3, mode="overlapping", **asked)
    for part in parts:
        assert len(part) == len(set(part.tolist())) == 30 and (np.diff(part) > 0).all()
    distinct = len(np.unique(np.concatenate(parts)))
    assert 45 < distinct < 60  # 60 (1 - 1/8) = 52.5 are expected
    with pytest.raises(InputError, match="there are 60"):
        partition(people, 3, mode="equal", **asked)
    with pytest.raises(InputError, match="people_per_client=61, but there are 60"):
        partition(people, 3, mode="overlapping", **asked | {"people_per_client": 61})


def test_a_person_whom_clients_share_is_scored_once_among_their_own_people():
    prepared = prepare(tiny("data.partition=overlapping", "evaluation.train_people=100"))
    rows, scored = prepared.data.rows, prepared.train_sample["train"].person_id
    assert len(np.unique(rows)) < len(rows) == 36 and sorted(scored) == sorted(set(rows.tolist()))


@pytest.mark.parametrize("name", ["multires", "mrkd"])
def test_a_summed_loss_is_that_of_a_loop_over_levels(name):
    torch.manual_seed(0)
    maps = [torch.rand(2, 3, 8 // r, 4 // r) for r in (1, 2, 4)]
    targets, weights = [torch.rand_like(m) for m in maps], torch.tensor([[1.0, 0.0, 1.0], [1.0, 1.0, 0.0]])

    def mse(a, b):
        return (
            float(sum(weights[i, k] * ((a[i, k] - b[i, k]) ** 2).sum() for i in range(2) for k in range(3))) / a.numel()
        )

    total = 0.0
    for level in range(3):
        own = mse(maps[level], targets[level])
        if level and name == "mrkd":
            student = maps[level].repeat_interleave(2, 2).repeat_interleave(2, 3)
            own = 0.5 * own + 0.5 * mse(student, maps[level - 1])
        total += own
    summed = build_objective(name, {"reduction": "sum"})(maps, targets, weights, (1.0,) * 3).total
    assert summed.item() == pytest.approx(total, rel=1e-5)
    by_frame = Task.objective(Pose(), name, {"reduction": "sum"})(maps, targets, weights, (1.0,) * 3).total
    assert by_frame.item() == pytest.approx(total, rel=1e-5)
    averaged = build_objective(name, {})(maps, targets, weights, (1.0,) * 3).total
    assert averaged.item() == pytest.approx(total / 3, rel=1e-5)


def test_weight_decay_on_what_the_authors_decay():
    model = ViTPose(ViTPoseConfig(dim=16, depth=2, heads=2, deconv_channels=8, variant="authors"), num_joints=4)
    names = {id(parameter): name for name, parameter in model.named_parameters()}

    def decayed(by):
        groups = parameter_groups(model, 0.1, 0.75, by)
        return {names[id(p)] for group in groups if group["weight_decay"] for p in group["params"]}

    layers = ("attn.qkv", "attn.proj", "attn.get_v", "mlp.fc1", "mlp.fc2")
    expected = {f"backbone.blocks.{block}.{layer}.weight" for block in range(2) for layer in layers}
    expected |= {f"keypoint_head.deconv_layers.{n}.weight" for n in (0, 1, 3, 4)}
    expected |= {"keypoint_head.final_layer.weight", "backbone.patch_embed.proj.weight"}
    assert decayed("authors") - expected == {"backbone.cls_token"}  # has no gradient, and so no decay
    assert expected <= decayed("authors")
    scales = {f"keypoint_head.deconv_layers.{n}.weight" for n in (1, 4)}
    more = expected - decayed("weights")
    assert more == scales | {f"backbone.blocks.{block}.attn.get_v.weight" for block in range(2)}


def test_a_federation_trains_and_is_scored_by_the_authors_pipeline(tmp_path, capsys):
    words = ("data.crop=stretch", "data.codec=authors", "data.pyramid=resample", "data.partition=overlapping",
             "data.augment={shift: 0.12, rotation_cut: 60}", "objective.reduction=sum", "optimizer.decayed=authors",
             "federation.engine=in_process", "federation.rounds=1", "evaluation.resolutions=[64x48]")  # fmt: skip
    tiers = "resolution.tiers={high: 64x48, mid: 48x36, low: 32x24}"
    found = run_federation(tiny(*words, tiers), tmp_path / "run").by_resolution
    assert set(found) == {"64x48", "48x36", "32x24"}
    run = load_run(tmp_path / "run")
    again, _ = score_run(run)
    assert again.by_resolution == pytest.approx(found)
    # A saved run's joints in a picture are those that its scorer finds: same crops, same codec.
    scorer, _ = scorer_of_run(run)
    people, size = scorer.people["test"], Size(64, 48)
    judged, _ = scorer._judge(scorer._batches_of("test", size))
    in_picture = scorer._batches_of("test", size).shard.crop_to_picture(judged[..., :2])
    box = np.concatenate([people.centre + 0.5 - people.box / 2, people.box], axis=1)[:1]
    evaluate([str(tmp_path / "run"), "--oracle", "--json"])
    told = json.loads(capsys.readouterr().out)
    assert told["by_resolution"] == pytest.approx(found) and told["perfect_heatmaps"]["32x24"] < 0.9
    joints, _ = predict(run, people.picture(0), box, size, people.skeleton)
    assert np.abs(joints[0] - in_picture[0]).max() < 0.05
