"""What a person types wrong: exit code 2, one or two clear sentences, no traceback, nothing written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from raf_ray import evaluate, predict, run
from raf_ray.cli import run_command
from raf_ray.cluster import connect as cluster
from tests.tiny import WORDS, tiny

ENGINE = "federation.engine=in_process"


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty working directory."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def refused(capsys, here: Path, words: list[str], *says: str, command=run.main, writes: bool = False) -> str:
    """Run a command that must be refused; its error text."""
    before = sorted(here.rglob("*"))
    code = run_command(command, words)
    error = capsys.readouterr().err.strip()
    assert code == 2, error
    for text in says:
        assert text in error, error
    assert error.startswith("error: ") and len(error.splitlines()) == 1 and "Traceback" not in error
    assert writes or sorted(here.rglob("*")) == before
    return error


def coco(folder: Path, **changes) -> Path:
    """A data set in COCO's layout with one picture and one person a split."""
    from raf_ray.data.skeletons import COCO17

    for split in ("train2017", "val2017"):
        (folder / split).mkdir(parents=True)
        (folder / "annotations").mkdir(exist_ok=True)
        content = {
            "images": [{"id": i, "file_name": f"{i}.jpg", "width": 60, "height": 80} for i in (1, 2)],
            "annotations": [
                {"id": i, "image_id": i, "category_id": 1, "bbox": [5, 5, 40, 60], "area": 2000, "iscrowd": 0,
                 "num_keypoints": 17, "keypoints": [n for k in range(17) for n in (8 + 2 * k, 10 + 3 * k, 2)]}
                for i in (1, 2)
            ],
            "categories": [{"id": 1, "name": "person", "keypoints": list(COCO17.joints), "skeleton": []}],
            **changes,
        }  # fmt: skip
        (folder / "annotations" / f"person_keypoints_{split}.json").write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--preset", "demoo"], "unknown preset 'demoo'; did you mean 'demo'?"),
        (["federation.roundz=3"], "did you mean 'federation.rounds'?"),
        (["federation.rounds=-1"], "greater than 0"),
        (["objective.alpha=1.5"], "less than or equal to 1"),
        (["federation.clients=[hihg, low]"], "unknown tier 'hihg'; did you mean 'high'?"),
        (["federation.clients=[255x191]"], "the nearest are 252x188 and 256x192"),
        (["evaluation.resolutions=[130x97]"], "the nearest are 128x96 and 132x100"),
        (["resolution.tiers={high: big}"], "resolution.tiers.high: 'big' is not a size"),
        (["objective.levels=[low, tiny]"], "objective.levels: unknown tier 'tiny'"),
        (["objective.level_weights=[1]"], "1 entries, but a client of 128x96 has 3 levels"),
        (["model.name=no.such:model"], "cannot import module 'no.such'"),
        (["model.name=tests.broken:nothing"], "module 'tests.broken' has no 'nothing'"),
        (["objective.name=no_such_module:f"], "cannot import module"),
        (["data.name=tests.broken:no_people"], "returned list"),
        (["data.name=coco", "data.root=/no/such/place"], "data.root: folder /no/such/place does not exist"),
        (["evaluation.metric=oks_ap", "optimizer.layer_decay=0.9"], "model demo names no layers"),
        (["model.checkpoint=/no/such.pt"], "there is no checkpoint file /no/such.pt"),
        (["tracking.uri=nonsense", "tracking.mlflow=true"], "tracking.uri=nonsense is no tracking server"),
        (["--resume"], "--resume needs --output"),
        (["--only", "raf-mixed"], "go with --compare"),
        (["--compare", "--only", "raf"], "unknown method 'raf'"),
        (["--resume", "--output", "nowhere"], "holds no run to resume"),
        (["--output", "x", "--resume", "--overwrite"], "exclude each other"),
        (["--config", "none.yaml"], "config file none.yaml does not exist"),
    ],
)
def test_wrong_words(words, says, capsys, here):
    refused(capsys, here, [*WORDS, ENGINE, *words] if not words[0].startswith("--") else [*words, ENGINE], says)


@pytest.mark.parametrize(
    ("address", "says"),
    [("ray://somewhere:10001", "must run inside the cluster"), ("somewhere", "is not HOST:PORT"),
     ("127.0.0.1:1", "no Ray cluster answers at 127.0.0.1:1"), ("127.0.0.1:99999", "the port must be a number from 1"),
     ("127.0.0.1:²", "the port must be a number from 1"), ("[::1:6379", "is not HOST:PORT"),
     ("[::1]:1", "no Ray cluster answers at [::1]:1"), ("a..b:6379", "is no name of a host"), (":6379", "HOST:PORT")],
)  # fmt: skip
def test_an_address_that_no_cluster_answers(address, says, capsys, here):
    refused(capsys, here, [*WORDS, "--address", address], says)


def start_privately(monkeypatch) -> None:
    """As in a fresh process on a machine without a cluster."""
    for name in ("RAY_ADDRESS", "RAY_TMPDIR", "TMPDIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(cluster, "_started_here", lambda: None)
    monkeypatch.setattr("ray.is_initialized", lambda: False)


@pytest.mark.parametrize("name", ["TMPDIR", "RAY_TMPDIR"])
@pytest.mark.parametrize(
    ("folder", "says"),
    [("/tmp/" + "x" * 90, "characters too long for Ray's sockets; set RAY_TMPDIR to a short path"),
     ("/proc/nowhere", "Ray cannot keep its files in /proc/nowhere/ray"), ("relative", "is no absolute path"),
     ("/dev/null", "Ray cannot keep its files in /dev/null/ray")],
)  # fmt: skip
def test_a_folder_where_ray_cannot_keep_its_files(name, folder, says, capsys, here, monkeypatch):
    start_privately(monkeypatch)
    monkeypatch.setenv(name, folder)
    refused(capsys, here, WORDS, says, name, "set RAY_TMPDIR to a short path of a folder that can be written")


def test_a_home_where_ray_cannot_keep_its_token(capsys, here, monkeypatch):
    start_privately(monkeypatch)

    def init(**options):
        raise PermissionError(13, "Permission denied", "/home/me/.ray")

    monkeypatch.setattr("ray.init", init)
    refused(capsys, here, WORDS, "Ray cannot keep its files in /home/me/.ray: Permission denied; set HOME")


def test_a_client_without_people(capsys, here, tmp_path):
    root = coco(tmp_path / "data")
    words = [*WORDS, ENGINE, "data.name=coco", f"data.root={root}", "evaluation.metric=oks_ap"]
    refused(capsys, here, words, "3 clients, but there are only 1 training people")


def test_annotations_that_are_missing_empty_or_cut_off(capsys, here, tmp_path):
    root = coco(tmp_path / "data")
    words = [*WORDS, ENGINE, "data.name=coco", f"data.root={root}", "data.people_per_client=null"]
    file = root / "annotations" / "person_keypoints_train2017.json"
    text = file.read_text()
    for content in ("", text[: len(text) // 2]):
        file.write_text(content)
        refused(capsys, here, words, str(file))
    file.unlink()
    refused(capsys, here, words, str(file))


def test_joints_that_do_not_match_name_the_skeleton_that_does(capsys, here, tmp_path):
    from raf_ray.data.skeletons import LSP14

    root = coco(tmp_path / "data", categories=[{"id": 1, "name": "person", "keypoints": list(LSP14.joints)}])
    words = [*WORDS, ENGINE, "data.name=coco", f"data.root={root}", "data.skeleton=coco17"]
    refused(capsys, here, words, "data.skeleton=lsp14")


def test_a_metric_that_the_data_cannot_give(capsys, here, tmp_path):
    root = coco(tmp_path / "data")
    words = [*WORDS, ENGINE, "data.name=coco", f"data.root={root}", "data.people_per_client=null",
             "federation.clients=[low]"]  # fmt: skip
    refused(capsys, here, [*words, "evaluation.metric=pckh_0.5"], "needs head boxes")
    refused(capsys, here, [*words, "evaluation.metric=pckh_neck_0.5"], "which skeleton coco17 lacks")


def test_a_checkpoint_of_another_model(capsys, here, tmp_path):
    path = tmp_path / "other.pt"
    torch.save({"model": {"layer.weight": torch.zeros(2, 2)}}, path)
    refused(capsys, here, [*WORDS, ENGINE, f"model.checkpoint={path}"], str(path), "another model")


def test_an_output_folder_in_use_is_left_alone(capsys, here):
    (here / "mine").mkdir()
    (here / "mine" / "letter.txt").write_text("dear")
    words = [*WORDS, ENGINE, "--output", "mine"]
    refused(capsys, here, words, "output folder mine is not empty", "--overwrite")
    refused(capsys, here, [*words, "--overwrite"], "holds what no run wrote (letter.txt)")
    refused(capsys, here, [*words, "--compare"], "is not empty")
    (here / "file").write_text("")
    refused(capsys, here, [*WORDS, ENGINE, "--output", "file"], "is a file")


def test_a_folder_that_cannot_be_written(capsys, here):
    (here / "file").write_text("")
    refused(capsys, here, [*WORDS, ENGINE, "--output", "file/below"], "cannot write to output folder file/below")


def test_a_bad_picture_in_the_middle_of_a_run_fails_it_or_is_counted(capsys, here, tmp_path):
    import cv2
    import numpy as np

    root = coco(tmp_path / "data")
    for grey, split in ((60, "train2017"), (90, "val2017")):
        for i in (1, 2):
            cv2.imwrite(str(root / split / f"{i}.jpg"), np.full((80, 60, 3), grey + 9 * i, np.uint8))
    words = [*WORDS, ENGINE, "data.name=coco", f"data.root={root}", "data.people_per_client=null",
             "data.val_fraction=0.5", "federation.clients=[low]", "--output", "run"]  # fmt: skip
    (root / "val2017" / "2.jpg").write_bytes(b"no picture")
    assert run_command(run.main, words) == 1
    error = capsys.readouterr().err
    assert error.startswith("failed: ") and "2.jpg" in error and "Traceback" not in error
    results = json.loads((here / "run" / "results.json").read_text())
    assert results["status"] == "failed" and "2.jpg" in results["error"]
    assert run_command(run.main, [*words, "--overwrite", "data.on_bad_image=skip"]) == 0
    assert "could not be read: 1" in capsys.readouterr().out
    assert json.loads((here / "run" / "results.json").read_text())["bad_test_pictures"] == 1


def test_evaluate_and_predict_refuse_what_they_cannot_open(capsys, here, tmp_path):
    from raf_ray import run_federation

    refused(capsys, here, ["nowhere"], "holds no finished run", command=evaluate.main)
    folder = run_federation(tiny(ENGINE, "federation.rounds=1"), tmp_path / "run").folder
    refused(capsys, here, [str(folder), "evaluation.roundz=1"], "unknown key", command=evaluate.main)
    refused(capsys, here, [str(folder), "evaluation.resolutions=[5x5]"], "the nearest are", command=evaluate.main)
    refused(capsys, here, [str(folder), "none.jpg"], "picture none.jpg is missing", command=predict.main)
    (tmp_path / "boxes.json").write_text('{"a.jpg": [[0, 0, 10]]}')
    refused(capsys, here, [str(folder), "a.jpg", "--boxes", str(tmp_path / "boxes.json")], "must list boxes",
            command=predict.main)  # fmt: skip
    (folder / "model.pt").write_bytes(b"cut")
    refused(capsys, here, [str(folder)], "model.pt cannot be read", command=evaluate.main)
