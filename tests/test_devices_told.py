"""Hours on the virtual clock where runs are searched, tracked and watched."""

from __future__ import annotations

import io
from functools import partial

import pytest
from rich.console import Console

from raf_ray.errors import InputError
from raf_ray.experiment.run import run_prepared
from raf_ray.federation.events import RoundFinished
from raf_ray.report.status import read_run, run_view, runs_table
from raf_ray.request.assembly import prepare
from raf_ray.runs.folder import RunFolder
from raf_ray.search.ledger import Ledger, TrialRecord
from raf_ray.search.spec import UNREACHED_HOURS, check_search
from raf_ray.search.trial import Reporter
from raf_ray.tracking.outbox import Outbox
from raf_ray.tracking.progress import ProgressDisplay
from tests.tracking_helpers import run as tracked

DEVICES = {"profiles": {"high": "workstation", "mid": "camera", "low": "phone"}}


def search(metric: str, devices: dict | None):
    base = {
        "data": {"people_per_client": 12, "val_people": 6, "test_people": 6}, "optimizer": {"batch_size": 4},
        "federation": {"rounds": 3, "engine": "in_process"}, "tracking": {"mlflow": False}, "devices": devices,
        "evaluation": {"every": 1, "resolutions": ["128x96", "64x48"]},
    }  # fmt: skip
    return check_search("mine", {"base": base, "metric": metric, "mode": "min", "search_alg": "grid",
                                 "param_space": {"devices.over_select": {"choice": [1.0, 1.5]}}})  # fmt: skip


def test_hours_can_be_searched_for_where_there_are_devices_and_a_target():
    assert search("virtual_hours", DEVICES).metrics == ["virtual_hours"]
    assert search("virtual_hours_to_target", {**DEVICES, "target": 0.3}).metrics == ["virtual_hours_to_target"]
    with pytest.raises(InputError, match="metric: no trial reports 'virtual_hours_to_target'"):
        search("virtual_hours_to_target", DEVICES)
    with pytest.raises(InputError, match="metric: no trial reports 'virtual_hours'"):
        check_search("mine", {"metric": "virtual_hours", "param_space": {"objective.alpha": {"choice": [0.5]}}})


def test_a_search_may_vary_how_rounds_wait_and_not_the_target():
    with pytest.raises(InputError, match=r"devices\.target cannot be searched"):
        check_search("mine", {"param_space": {"devices.target": {"choice": [0.1]}}})


@pytest.mark.parametrize(("target", "is_reached"), [(0.0, True), (1.0, False)])
def test_a_trial_reports_its_hours_and_those_of_a_target_out_of_reach_rank_last(
    target, is_reached, tmp_path, monkeypatch
):
    from ray import tune

    told = []
    monkeypatch.setattr(tune, "report", told.append)
    asked = search("virtual_hours_to_target", {**DEVICES, "target": target})
    config = asked.trial_config(asked.planned[0])
    folder = RunFolder(tmp_path / "trial" / "federation")
    reporter = partial(Reporter, config, folder)
    found = run_prepared(
        prepare(config), folder.path, resume=False, overwrite=False, address=None, watchers=[reporter("a")]
    )
    seconds = [float(row["virtual_s"]) for row in folder.read_rows("rounds.csv")]
    assert [m["virtual_hours"] for m in told] == pytest.approx([sum(seconds[: i + 1]) / 3600 for i in range(3)])
    hours = [m["virtual_hours_to_target"] for m in told]
    assert hours == ([seconds[0] / 3600] * 3 if is_reached else [UNREACHED_HOURS] * 3)
    assert found.values["virtual_hours_to_target"] == (pytest.approx(hours[-1]) if is_reached else None)
    live = list(told)
    reporter("b").replay(3)
    assert [{**m, "replayed": False} for m in told[3:]] == live

    records = [
        TrialRecord(0, "a", {}, "finished", 3, live[-1]),
        TrialRecord(1, "b", {}, "finished", 3, {**live[-1], "virtual_hours_to_target": 500.0}),
    ]
    best = Ledger(tmp_path, asked.metrics, asked.modes, records).best()
    assert best is records[0 if is_reached else 1]


def test_mlflow_gets_the_clock_round_by_round_and_both_hours_at_the_end(tmp_path):
    found, warnings = tracked(tmp_path / "run", "devices.profiles={high: workstation, mid: camera, low: phone}",
                              "devices.target=0", "federation.rounds=2", "tracking.log_model=false")  # fmt: skip
    assert not warnings
    metrics = [record for record, _ in Outbox(found.folder).read() if record["kind"] == "metrics"]
    by_name = {name: (r["step"], value) for r in metrics for name, value in r["values"].items()}
    assert by_name["virtual_hours"] == (2, found.values["totals"]["virtual_hours"])
    assert by_name["virtual_hours_to_target"] == (2, found.values["virtual_hours_to_target"])
    last = RunFolder(found.folder).read_rows("rounds.csv")[-1]
    assert by_name["virtual_s"] == (2, float(last["virtual_s"])) and by_name["answered"] == (2, int(last["answered"]))


def test_a_round_that_nobody_answered_is_told_without_a_loss(tmp_path):
    """In the progress, in the status of a run and of several, and in a search's report."""
    row = {"round": 2, "seconds": 0.1, "wait_seconds": 0.0, "people": 0, "people_per_s": 0.0, "forward_pixels": 0,
           "mb_down": 0.0, "mb_up": 0.0, "virtual_s": 60.0, "asked": 3, "answered": 0}  # fmt: skip
    text = io.StringIO()
    ProgressDisplay(Console(file=text, width=160)).see(RoundFinished(2, 5, row))
    assert "round 2/5  nobody answered" in text.getvalue()
    assert "(0 of 3 devices in 60 virtual s)" in text.getvalue()

    folder = RunFolder(tmp_path / "run")
    folder.create("seed: 0\n", overwrite=False)
    folder.append_rows("rounds.csv", ["round", "loss", *list(row)[1:]], [{**row, "round": 1}])
    run = read_run(folder.path)
    text = io.StringIO()
    console = Console(file=text, width=160)
    console.print(run_view(run, "mine"))
    console.print(runs_table([run], "all"))
    lines = text.getvalue().splitlines()
    assert next(line.split() for line in lines if line.strip().startswith("loss")) == ["loss", "-"]
