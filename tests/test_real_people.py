"""Real photographs through the whole of a run: LSPET in MPII form, and the COCO sample."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from raf_ray import load_config, run_federation

QUICK = (
    "federation.engine=in_process", "tracking.mlflow=false", "federation.rounds=1", "data.people_per_client=10",
    "data.val_people=6", "data.test_people=10",
)  # fmt: skip


def run(shared: Path, output: Path, *words: str):
    return run_federation(load_config(["real_small"], overrides=[*words]), output)


def test_lspet_in_mpii_form(shared_data, tmp_path):
    found = run(shared_data, tmp_path / "run", f"data.root={shared_data / 'lspet'}", *QUICK)
    assert found.values["status"] == "completed"
    assert (found.folder / "samples.png").stat().st_size > 10_000
    assert set(found.values["upsampled_train"]) == {"high", "mid", "low"}


def test_lspet_in_coco_form_with_its_14_joints(shared_data, tmp_path):
    found = run(
        shared_data, tmp_path / "run", f"data.root={shared_data / 'lspet'}", "data.name=coco", "data.skeleton=lsp14",
        "data.annotations={train: annotations/person_keypoints_train.json, "
        "test: annotations/person_keypoints_val.json}",
        "data.images={train: images, test: images}", "data.upsampled=skip", *QUICK,
    )  # fmt: skip
    assert len(found.values["per_joint"]["64x48"]) == 14


def test_the_coco_sample_by_its_official_metric(shared_data, tmp_path):
    found = run(shared_data, tmp_path / "run", f"data.root={shared_data / 'coco'}", "data.name=coco",
                "evaluation.metric=oks_ap", *QUICK)  # fmt: skip
    assert set(found.values["extra"]["128x96"]) == {"AP50", "AP75", "APm", "APl", "AR"}


@pytest.mark.slow
@pytest.mark.parametrize(("folder", "words"), [("lspet", []), ("coco", ["data.name=coco", "data.val_people=null"])])
def test_real_small_improves_over_its_first_round(folder, words, shared_data, tmp_path):
    found = run(shared_data, tmp_path / "run", f"data.root={shared_data / folder}", "tracking.mlflow=false", *words)
    with open(found.folder / "rounds.csv", encoding="utf-8") as file:
        losses = [float(row["loss"]) for row in csv.DictReader(file)]
    assert losses[-1] < 0.9 * losses[0]
    assert (found.folder / "samples.png").exists() and (found.folder / "drift.png").exists()
