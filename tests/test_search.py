"""Searches: what may be asked, who proposes trials, what they see and report, and what is left."""

from __future__ import annotations

import io
import itertools
import json
import math
import re
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from ruamel.yaml import YAML

from raf_ray import load_config, run_federation, tune
from raf_ray.cli import run_command
from raf_ray.cluster.trials import plan_trials
from raf_ray.config.loading import config_hash
from raf_ray.errors import InputError
from raf_ray.experiment.run import run_prepared
from raf_ray.report.html import Part, write_report
from raf_ray.report.search import TrialRow, importance, short
from raf_ray.request.assembly import prepare
from raf_ray.runs.folder import RunFolder
from raf_ray.search.ledger import Ledger, load_ledger
from raf_ray.search.space import draw, parse_space, relabel, unlabel
from raf_ray.search.spec import TrialResources, check_search, load_search
from raf_ray.search.study import prepare_search, trial_request
from raf_ray.search.trial import Reporter, report, trial_shares
from tests.searching import TINY, kill, scores, search_file, start, trained, trials, wait_for

BASE = YAML(typ="safe", pure=True).load(TINY)


def asked(**changes):
    """TINY with other top-level keys."""
    return {**BASE, **changes}


# --- what may be asked --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"search_alg": "annealing"}, "search_alg: must be 'random', 'grid' or 'optuna'"),
        ({"scheduler": "hyperband"}, "scheduler: must be 'none' or 'asha'"),
        ({"num_sample": 3}, "unknown key 'num_sample'; did you mean 'num_samples'?"),
        ({"num_samples": 0}, "num_samples: input should be greater than 0"),
        ({"param_space": {}}, "param_space is empty"),
        ({"param_space": {"objective.alpa": {"uniform": [0, 1]}}}, "unknown config key 'objective.alpa'; did you mean"),
        ({"param_space": {"objective.alpha": {"normal": [0, 1]}}}, "alpha: unknown domain 'normal'"),
        ({"param_space": {"objective.alpha": 0.5}}, "param_space.objective.alpha: write one domain"),
        ({"param_space": {"objective.alpha": {"uniform": [1, 0]}}}, "uniform needs low and high, low below high"),
        ({"param_space": {"objective.alpha": {"uniform": [0.5]}}}, "uniform needs low and high"),
        ({"param_space": {"optimizer.lr": {"loguniform": [0, 1]}}}, "loguniform needs low above 0"),
        ({"param_space": {"objective.alpha": {"quniform": [0, 1, 0]}}}, "quniform needs a step above 0"),
        ({"param_space": {"federation.rounds": {"randint": [1, 2.5]}}}, "randint needs whole numbers"),
        ({"param_space": {"objective.alpha": {"choice": []}}}, "choice needs a list of values"),
        ({"param_space": {"objective.alpha": {"uniform": [0, 1.5]}}}, "param_space.objective.alpha: 1.5: "),
        ({"param_space": {"objective.teacher": {"choice": ["previous", "best"]}}}, "objective.teacher: best: "),
        ({"param_space": {"seed": {"choice": [0, 1]}}}, "seed changes the people that trials are scored on"),
        ({"param_space": {"data.val_people": {"choice": [5, 6]}}}, "data.val_people changes the people"),
        ({"param_space": {"evaluation.metric": {"choice": ["oks_ap"]}}}, "evaluation.metric cannot be searched"),
        ({"param_space": {"federation.engine": {"choice": ["ray"]}}}, "federation.engine cannot be searched"),
        ({"metric": [], "mode": []}, "metric: name at least one"),
        ({"scheduler": "asha", "asha": {"grace_period": 9}}, "asha.grace_period=9: the federation has only 3 rounds"),
        ({"param_space": {"objective.alpha": {"quniform": [0.1, 0.9, 0.3]}}}, "of which low and high are multiples"),
        ({"base": {"evaluation": {"resolutions": []}}}, "a search needs at least one size"),
        ({"metric": "accuracy"}, "metric: no trial reports 'accuracy' (known: score_mean, "),
        ({"metric": "score/256x192"}, "metric: no trial reports 'score/256x192'"),
        ({"metric": ["score_mean", "seconds"]}, "mode: 1 for 2 metrics"),
        ({"metric": ["loss", "loss"], "mode": ["min", "min"]}, "metric: each may be named once"),
        ({"metric": ["score_mean", "seconds"], "mode": ["max", "min"], "scheduler": "asha"}, "asha halves by one"),
        ({"search_alg": "grid"}, "param_space.objective.alpha: a grid needs listed values"),
        ({"search_alg": "optuna", "param_space": {"objective.teacher": {"grid_search": ["previous"]}}},
         "Optuna does not walk grids"),
        ({"base": {"presets": ["dmo"]}}, "unknown preset 'dmo'"),
        ({"base": {"objective": {"alpa": 1}}}, "unknown key 'objective.alpa'"),
        ({"param_space": {"objective.levels": {"choice": [["high"], ["tiers"]]}}}, "unknown tier 'tiers'"),
    ],
)  # fmt: skip
def test_a_wrong_search_is_refused_in_a_sentence(changes, sentence):
    with pytest.raises(InputError, match=re.escape(sentence)):
        check_search("tiny", asked(**changes))


def test_values_that_do_not_go_together_are_named():
    space = {"objective.levels": {"choice": ["tiers", ["low"]]}, "objective.level_weights": {"choice": [[1, 1]]}}
    with pytest.raises(InputError, match=r"level_weights=\[1, 1\] do not go together: .* has 2 entries, but a client"):
        check_search("tiny", asked(param_space=space, search_alg="grid"))


def test_optuna_that_is_not_installed_is_refused(monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(InputError, match="optuna is not installed; pip install optuna"):
        check_search("tiny", asked(search_alg="optuna"))


def test_a_size_that_the_model_cannot_take_is_refused_before_the_start(tmp_path):
    search = check_search("tiny", asked(param_space={"resolution.tiers.low": {"grid_search": ["64x48", "62x46"]}}))
    with pytest.raises(InputError, match="62x46 is not a valid size"):
        prepare_search(search, tmp_path / "out", resume=False, overwrite=False)
    assert not (tmp_path / "out").exists()


# --- trials -------------------------------------------------------------------------------------------


def test_random_draws_are_those_of_the_seed():
    space = parse_space(BASE["param_space"])
    first, again, other = (list(draw(space, 5, seed)) for seed in (0, 0, 1))
    assert first == again != other
    assert all(0.2 <= params["objective.alpha"] < 0.9 for params in first)


def test_a_grid_is_walked_whole_and_repeats_are_left_out():
    space = {
        "objective.teacher": {"choice": ["previous", "highest"]},
        "objective.levels": {"choice": ["tiers", ["low"]]},
    }
    search = check_search("tiny", asked(param_space=space, search_alg="grid", num_samples=2))
    found = {(p["objective.teacher"], short(p["objective.levels"])) for p in search.planned}
    assert found == set(itertools.product(("previous", "highest"), ("tiers", "[low]")))
    assert len(search.planned) == 4 and search.repeats == 4


def test_lists_and_mappings_come_back_from_their_labels():
    tiers = [{"high": "128x96", "low": "64x48"}, {"high": "128x96", "low": "48x36"}]
    space = parse_space({"resolution.tiers": {"choice": tiers}, "objective.alpha": {"uniform": [0, 1]}})
    params = {"resolution.tiers": tiers[1], "objective.alpha": 0.25}
    assert unlabel(space, relabel(space, params)) == params


def test_one_tier_can_be_searched_beside_the_others():
    search = check_search("tiny", asked(param_space={"resolution.tiers.low": {"grid_search": ["64x48", "48x36"]}}))
    tiers = [search.trial_config(p).resolution.tiers for p in search.planned]
    assert tiers == [{"high": "128x96", "mid": "96x72", "low": low} for low in ("64x48", "48x36")]


def test_no_trial_sees_a_test_person(shared_data):
    """Neither synthetic ones, nor those of files: the test annotations need not even exist."""
    search = check_search("tiny", BASE)
    assert set(prepare(search.trial_config(search.planned[0])).held_out) == {"val"}
    config = load_config(overrides=[
        "data.name=coco", f"data.root={shared_data / 'coco'}", "evaluation.split=val", "data.people_per_client=5",
        "data.annotations={train: annotations/person_keypoints_train2017.json, test: absent.json}",
        "data.images={train: train2017, test: absent}",
    ])  # fmt: skip
    assert set(prepare(config).held_out) == {"val"}


def test_the_winner_is_tested_with_the_config_that_it_trained_with():
    search = check_search("tiny", BASE)
    params = search.planned[0]
    trial, final = search.trial_config(params), search.final_config(params)
    assert (trial.evaluation.split, final.evaluation.split) == ("val", "test")
    assert trial.model_copy(update={"evaluation": final.evaluation}) == final


def test_a_report_is_made_of_scores_and_of_the_rounds_costs():
    config = load_config(overrides=["evaluation.resolutions=[160x120,64x48]"])
    rows = [{"round": i, "loss": 1 / i, "forward_pixels": 10, "mb_up": 1, "mb_down": 2, "seconds": 3} for i in (1, 2)]
    found = report(config, rows, {"160x120": 0.1, "128x96": 0.6, "96x72": 0.3, "64x48": 0.3})
    assert found == pytest.approx({
        "round": 2, "score_mean": 0.2, "score_worst": 0.1, "score_tiers": 0.4, "drift_spread": 0.2,
        "score/160x120": 0.1, "score/64x48": 0.3, "loss": 0.5, "forward_pixels": 20, "mb_sent": 6, "seconds": 6,
    })  # fmt: skip
    nobody = {name: value for name, value in rows[0].items() if name != "loss"} | {"round": 3}
    assert report(config, [*rows, nobody], {"128x96": 0.6, "96x72": 0.3, "64x48": 0.3})["loss"] == 0.5


def test_a_history_is_told_as_it_was_the_first_time(tmp_path, monkeypatch):
    """Live reports and those read back from the run folder are the same numbers."""
    from ray import tune

    told = []
    monkeypatch.setattr(tune, "report", told.append)
    search = check_search("tiny", BASE)
    config = search.trial_config(search.planned[0])
    folder = RunFolder(tmp_path / "trial" / "federation")
    reporter = partial(Reporter, config, folder)
    run_prepared(prepare(config), folder.path, resume=False, overwrite=False, address=None, watchers=[reporter("a")])
    live = list(told)
    assert [metrics["round"] for metrics in live] == [1, 2, 3] and not any(m["replayed"] for m in live)
    reporter("b").replay(3)
    assert [{**m, "replayed": False} for m in told[3:]] == live and all(m["replayed"] for m in told[3:])
    reporter("b").replay(3)
    assert len(told) == 6, "a trial that goes on in the same session tells nothing twice"
    reporter("c").replay(2)
    assert [m["round"] for m in told[6:]] == [1, 2]
    with open(folder / "scores.csv", "a") as file:
        file.write("2,val,128x9")  # as a power cut leaves it
    reporter("d").replay(3)
    assert [m["round"] for m in told[8:]] == [1, 2]


def test_optuna_is_told_what_it_knew_and_then_draws_anew(tmp_path):
    pytest.importorskip("optuna")
    from raf_ray.search.proposer import Proposer

    search = check_search("tiny", asked(search_alg="optuna", num_samples=6))
    ledger = Ledger(tmp_path, ["score_mean"], ["max"])

    def proposed(proposer, count):
        for name in range(count):
            told = proposer.suggest(str(name))
            result = {"score_mean": told["objective.alpha"], "training_iteration": 1}
            proposer.on_trial_result(str(name), result)
            proposer.on_trial_complete(str(name), result)
        return [(e.number, e.hash) for e in ledger.records]

    first = proposed(Proposer(search, ledger), 4)
    ledger = load_ledger(tmp_path, ["score_mean"], ["max"])
    both = proposed(Proposer(search, ledger), 6)
    assert both[:4] == first and len({key for _, key in both}) == 6
    assert [number for number, _ in both] == list(range(6))


def test_a_repeated_draw_is_not_trained_again(tmp_path):
    """Optuna has two configs to choose from: both are tried, a third is not, and the search ends."""
    pytest.importorskip("optuna")
    from ray.tune.search import Searcher

    from raf_ray.search.proposer import Proposer

    space = {"objective.teacher": {"choice": ["previous", "highest"]}}
    search = check_search("tiny", asked(search_alg="optuna", num_samples=5, param_space=space))
    ledger = Ledger(tmp_path, ["score_mean"], ["max"])
    proposer = Proposer(search, ledger)
    told = []
    while (one := proposer.suggest(str(len(told)))) != Searcher.FINISHED:
        told.append(one)
        result = {"score_mean": 0.5, "training_iteration": 1}
        proposer.on_trial_complete(str(len(told) - 1), result)
        ledger.records[-1].status, ledger.records[-1].metrics = "finished", result
    assert sorted(one["objective.teacher"] for one in told) == ["highest", "previous"]


def test_a_proposal_that_differs_from_the_ledger_supersedes_it(tmp_path):
    from raf_ray.search.proposer import Proposer

    search = check_search("tiny", BASE)
    ledger = Ledger(tmp_path, ["score_mean"], ["max"])
    for name in ("aa", "bb"):
        ledger.add(name, {"objective.alpha": 0.1, "objective.teacher": "previous"})
    proposer = Proposer(search, ledger)
    for name in "0123":
        proposer.suggest(name)
    assert [e.status for e in ledger.records] == ["superseded"] * 2 + ["pending"] * 4
    assert [e.params for e in ledger.shown] == list(search.planned)


def test_asha_does_not_stop_a_trial_in_what_it_tells_again():
    from ray.tune.schedulers import TrialScheduler

    from raf_ray.search.scheduler import Room, scheduler_of

    search = check_search("tiny", asked(scheduler="asha", asha={"grace_period": 1, "reduction_factor": 2}))

    def decisions(replayed, last=False):
        scheduler = scheduler_of(search, 3, Room(60, lambda trial, why: None))
        made = []
        for name, score in (("good", 0.9), ("bad", 0.1)):
            trial = type("Trial", (), {"trial_id": name, "status": "RUNNING", "metric_analysis": {}})()
            scheduler.on_trial_add(None, trial)
            result = {"round": 1, "score_mean": score, "replayed": replayed, "last": last}
            made.append(scheduler.on_trial_result(None, trial, result))
        return made

    assert decisions(False) == [TrialScheduler.CONTINUE, TrialScheduler.STOP]
    assert decisions(True) == [TrialScheduler.CONTINUE, TrialScheduler.CONTINUE]
    assert decisions(False, last=True) == [TrialScheduler.CONTINUE, TrialScheduler.CONTINUE], "it is done"


def test_the_front_is_what_nobody_beats(tmp_path):
    ledger = Ledger(tmp_path, ["score_mean", "seconds"], ["max", "min"])
    rng = np.random.default_rng(0)
    for i, (score, seconds) in enumerate(rng.integers(0, 6, (30, 2)).tolist()):
        entry = ledger.add(str(i), {})
        entry.status, entry.metrics = "finished", {"score_mean": score, "seconds": seconds}
    points = [(e.metrics["score_mean"], -e.metrics["seconds"]) for e in ledger.records]
    alone = {i for i, p in enumerate(points) if not any(q[0] >= p[0] and q[1] >= p[1] and q != p for q in points)}
    assert {e.number for e in ledger.front()} == alone
    assert ledger.best().metrics["score_mean"] == max(p[0] for p in points) and ledger.best() in ledger.front()


# --- placement ----------------------------------------------------------------------------------------


def placed(nodes, at_once=None, words=(), **resources):
    """(what the trial's actors ask for, its bundles)"""
    config = load_config(overrides=list(words))
    placement = plan_trials(
        trial_request([config], TrialResources(**resources), at_once),
        [{"node:here" if i == 0 else f"node:{i}": 1.0, **node} for i, node in enumerate(nodes)], "node:here",
    )  # fmt: skip
    shares = trial_shares(config, placement)
    return shares, placement.bundles(shares)


def test_a_trial_is_a_bundle_each_for_driver_evaluator_and_clients():
    _, bundles = placed([{"CPU": 2.0}])
    assert bundles[0] == {"CPU": 0.1, "node:here": 0.001} and bundles[1] == {"CPU": 0.3}
    assert bundles[2:] == [{"CPU": 0.533}] * 3


@pytest.mark.parametrize(("nodes", "at_once", "share"), [
    ([8.0], None, 1.0), ([8.0], 2, 1.0), ([4.0], 2, 0.533), ([2.0, 2.0], 1, 1.0), ([1.0, 1.0, 1.0, 1.0], 1, 1.0),
])  # fmt: skip
def test_auto_shares_the_cpus_among_the_trials_that_run_at_once(nodes, at_once, share):
    found = placed([{"CPU": cpus} for cpus in nodes], at_once)[0].hosts[0].cpus
    assert found == pytest.approx(share, rel=0.05) and found <= share + 1e-9


def test_in_process_a_trial_is_one_bundle():
    assert placed([{"CPU": 2.0}], words=["federation.engine=in_process"])[1] == [{"CPU": 1.0, "node:here": 0.001}]


@pytest.mark.parametrize(("nodes", "words", "resources", "sentence"), [
    ([{"CPU": 2.0}], [], {"client_cpus": 1}, "a trial does not fit: 0.1 CPU + 0.3 CPU + 3 x 1 CPU (driver, evaluator, "
     "clients), but the cluster is 1 node (2 CPUs and 0 GPUs)"),
    ([{"CPU": 8.0, "GPU": 1.0}], ["resources.gpus_per_client=0.4"], {}, "3 x 1 CPU and 0.4 GPU"),
    ([{"CPU": 2.0}, {"CPU": 4.0}], [], {"client_cpus": 1, "strategy": "STRICT_PACK"}, "or loosen resources.strategy"),
    ([{"CPU": 8.0}], [], {"strategy": "STRICT_SPREAD"}, "or loosen resources.strategy"),
    ([{"CPU": 0.3}], [], {}, "leave no CPU for clients on 1 node (0.3 CPUs and 0 GPUs)"),
])  # fmt: skip
def test_a_trial_that_no_cluster_state_can_hold_is_refused_with_the_arithmetic(nodes, words, resources, sentence):
    with pytest.raises(InputError, match=re.escape(sentence)):
        placed(nodes, words=words, **resources)


@pytest.mark.parametrize(("words", "bundles"), [
    ("resources.clients_per_actor=2", 2), ("resources.clients_per_actor=auto", 3), ("federation.clients={high: 18}", 2),
])  # fmt: skip
def test_clients_of_a_trial_share_actors_as_those_of_a_run_do(words, bundles):
    assert len(placed([{"CPU": 2.0}], words=[words])[1]) == 2 + bundles


def test_a_trials_bundles_have_their_tiers_shares_and_labels():
    words = ["resources.gpus_per_client={high: 0.5, mid: 0.3, low: 0.2}", "resources.labels={high: {kind: big}}"]
    config = load_config(overrides=words)
    nodes = [{"node:here": 1.0, "CPU": 8.0, "GPU": 1.0, "label:kind=big": math.inf}]
    placement = plan_trials(trial_request([config], TrialResources(), None), nodes, "node:here")
    shares = trial_shares(config, placement)
    assert [bundle.get("GPU") for bundle in placement.bundles(shares)] == [None, None, 0.5, 0.3, 0.2]
    assert placement.labels(shares) == [{}, {}, {"kind": "big"}, {}, {}]
    with pytest.raises(InputError, match="no node of the cluster has kind=big, which tier high asks for"):
        placed([{"CPU": 8.0, "GPU": 1.0}], words=words)
    with pytest.raises(InputError, match="which a search does not"):
        placed([{"CPU": 8.0}], words=["resources.gpus_per_client=auto"])


class Waits:
    """A trial and its controller, as `Room` sees them."""

    trial_id, status = "t0", "PENDING"

    def __init__(self, cpus: float) -> None:
        self.placement_group_factory = type("Factory", (), {"bundles": [{"CPU": cpus}]})()
        self.stopped: list[object] = []

    def get_trials(self):
        return [self]

    def stop_trial(self, trial):
        self.stopped.append(trial)


def test_a_trial_that_the_cluster_cannot_hold_is_given_up_after_the_wait(monkeypatch):
    from raf_ray.search import scheduler

    clock, given_up = [100.0], {}
    monkeypatch.setattr(scheduler, "all_nodes", lambda: [{"CPU": 2.0}])
    monkeypatch.setattr(scheduler.time, "monotonic", lambda: clock[0])
    room, waits = scheduler.Room(60, given_up.__setitem__), Waits(3.0)
    for second in range(61):
        clock[0] = 100.0 + second
        room.look(waits)
    assert waits.stopped == [] and not given_up
    clock[0] = 162.0
    room.look(waits)
    assert waits.stopped == [waits] and given_up["t0"].startswith("no room for it in 60 s")


def test_a_trial_that_waits_for_others_alone_is_not_given_up(monkeypatch):
    from raf_ray.search import scheduler

    monkeypatch.setattr(scheduler, "all_nodes", lambda: [{"CPU": 2.0}])
    room, fits = scheduler.Room(0, lambda trial, why: None), Waits(2.0)
    for _ in range(3):
        room._looked = 0.0
        room.look(fits)
    assert not fits.stopped


def test_three_clients_of_a_third_of_a_gpu_fit_one():
    assert placed([{"CPU": 8.0, "GPU": 1.0}], words=["resources.gpus_per_client=0.33"])[0].hosts[0].gpus == 0.33


# --- what trials share --------------------------------------------------------------------------------


def test_shared_pixels_are_made_once_and_train_to_the_same_bits(ray_cluster, tmp_path):
    import ray

    from raf_ray.search.shared_data import SharedDataActor, shared_load, with_shared_pixels

    shared_data = SharedDataActor.remote()
    search = check_search("tiny", BASE)
    results = []
    for number, params in enumerate(search.planned[:2]):
        config = search.trial_config(params)
        plain = run_federation(config, tmp_path / f"plain{number}").by_resolution
        request = with_shared_pixels(shared_data, prepare(config, load=partial(shared_load, shared_data)))
        run_prepared(request, tmp_path / f"shared{number}", resume=False, overwrite=False, address=None, watchers=[])
        assert json.loads((tmp_path / f"shared{number}" / "results.json").read_text())["by_resolution"] == plain
        results.append(ray.get(shared_data.made.remote()))
    # Once for both: the people; three clients' pixels; val at 128x96, 96x72 and 64x48.
    assert results == [7, 7]


# --- what is left -------------------------------------------------------------------------------------


def test_the_key_that_mattered_is_found():
    rng = np.random.default_rng(0)
    rows = [
        TrialRow(i, "finished", 1, 1, {"score_mean": float(a + 0.01 * rng.normal())}, {"a": float(a), "b": float(b)})
        for i, (a, b) in enumerate(rng.random((30, 2)))
    ]
    found = importance(rows, "score_mean")
    assert found["a"][0] > 10 * abs(found["b"][0])
    assert importance(rows[:3], "score_mean") == {}


def test_a_report_needs_nothing_from_outside_and_escapes_what_it_shows(tmp_path):
    picture = tmp_path / "p.png"
    picture.write_bytes(b"\x89PNG")
    write_report(
        tmp_path / "r.html", "<b>", {"a": "<i>"}, [Part("plot", picture=picture, rows=[["x", "<td>"]], columns="ab")]
    )
    text = (tmp_path / "r.html").read_text()
    assert "&lt;b&gt;" in text and "<i>" not in text and "&lt;td&gt;" in text
    assert re.findall(r'(?:src|href)="([^"]{10})', text) == ["data:image"]


def test_another_search_is_not_resumed(tmp_path):
    search = check_search("tiny", BASE)
    output = tmp_path / "out"
    output.mkdir()
    from raf_ray.search.study import _make_folder

    _make_folder(prepare_search(search, output, resume=False, overwrite=False))
    (output / "trials.json").unlink()  # as a kill between the two files leaves it
    assert prepare_search(search, output, resume=True, overwrite=False).ledger.records == []
    with pytest.raises(InputError, match=r"is not empty; choose another --output, or add --resume"):
        prepare_search(search, output, resume=False, overwrite=False)
    more = check_search("tiny", asked(num_samples=9, max_concurrent_trials=1))
    assert prepare_search(more, output, resume=True, overwrite=False).ledger.records == []
    changed = asked(param_space={"objective.alpha": {"uniform": [0.2, 0.8]}})
    with pytest.raises(
        InputError, match=r"with another search: param_space.objective.alpha.uniform was \[0.2, 0.9\], now"
    ):
        prepare_search(check_search("tiny", changed), output, resume=True, overwrite=False)
    with pytest.raises(InputError, match="holds the search 'tiny', not 'other'"):
        prepare_search(check_search("other", BASE), output, resume=True, overwrite=False)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("mine")
    with pytest.raises(InputError, match="holds no search, so --overwrite leaves it alone"):
        prepare_search(search, tmp_path / "notes", resume=False, overwrite=True)
    with pytest.raises(InputError, match="holds no search to resume"):
        prepare_search(search, tmp_path / "absent", resume=True, overwrite=False)


def test_a_search_that_is_killed_ends_as_if_nothing_had_happened(ray_cluster, tmp_path, capsys):
    """Also: its trials are plain federations, to the bit, and the winner's config and report are there."""
    two = asked(num_samples=2, max_concurrent_trials=1)
    words = (str(search_file(tmp_path, json.dumps(two))), "--output", str(tmp_path / "out"))
    output = tmp_path / "out"
    process = start(*words)
    wait_for(lambda: any(t["status"] == "finished" for t in trials(output)), process)
    kill(process)
    before = {t["hash"] for t in trials(output) if t["status"] == "finished"}
    assert run_command(tune.main, [*words, "--resume"]) == 0
    told = capsys.readouterr().out
    assert [t["status"] for t in trials(output)] == ["finished"] * 2
    assert all(trained(output, t) == [1, 2, 3] for t in trials(output) if t["hash"] in before)
    search = check_search("tiny", two)
    assert [t["params"] for t in trials(output)] == list(search.planned)
    config = search.trial_config(search.planned[1])
    alone = run_federation(config, tmp_path / "alone")
    assert scores(output)[config_hash(config)] == ("completed", alone.by_resolution)

    results = json.loads((output / "results.json").read_text())
    best = max(trials(output), key=lambda t: t["metrics"]["score_mean"])
    assert results["best"]["trial"] == best["number"] and f"Trial {best['number']} on test" in told
    assert load_config(file=output / "best.yaml") == search.final_config(best["params"])
    tested = run_federation(search.final_config(best["params"]), tmp_path / "final")
    for size, score in results["best"]["test"]["by_resolution"].items():
        assert score == pytest.approx(tested.by_resolution[size], abs=1e-12)
    assert "data:image/png" in (output / "report.html").read_text() and (output / "trials.csv").is_file()


def test_trials_that_fail_are_told_of_in_sentences_and_nothing_tells_mlflows_password(ray_cluster, tmp_path, capsys):
    """A whole search by Optuna whose trial fails: what it prints, and all that lies in its folder."""
    pytest.importorskip("optuna")
    values = {**BASE["base"], "objective": {"name": "tests.broken:raises"}, "tracking": {"log_model": False}}
    file = search_file(tmp_path, json.dumps(asked(base=values, search_alg="optuna", num_samples=1, max_failures=0)))
    words = (f"base.tracking.uri=http://bob:{'s3cr3t'}%40@127.0.0.1:9", "--output", str(tmp_path / "out"))
    ended = run_command(tune.main, [str(file), *words])
    told = capsys.readouterr()
    cause = "client client-high-000 (tier high) failed in round 1: ValueError: this objective always fails"
    assert ended == 1 and told.err == f"failed: no trial of {tmp_path / 'out'} finished: {cause}\n"
    assert sum(cause in line for line in told.out.splitlines()) == 1
    assert "Traceback" not in told.out and "http://bob:***@127.0.0.1:9" in told.out
    for path in (tmp_path / "out").rglob("*"):
        assert path.is_dir() or b"s3cr3t" not in path.read_bytes(), path
    for trial in trials(tmp_path / "out"):
        log = (tmp_path / "out" / trial["folder"] / "run.log").read_text()
        assert "Traceback" in log and 'raise ValueError("this objective always fails")' in log


@pytest.mark.parametrize("engine", ["in_process", pytest.param("ray", marks=pytest.mark.slow)])
def test_asha_stops_federations_and_their_actors_then_are_gone(ray_cluster, engine, tmp_path):
    import ray

    from raf_ray.search.display import SearchDisplay
    from raf_ray.search.study import run_search

    base = {**BASE["base"], "federation": {"rounds": 3, "engine": engine, "clients": ["mid"]},
            "tracking": {"mlflow": True}}  # fmt: skip
    search = check_search("tiny", asked(
        base=base, scheduler="asha", asha={"grace_period": 1, "reduction_factor": 2}, num_samples=1,
        max_concurrent_trials=1, param_space={"optimizer.lr": {"grid_search": [6e-3, 1e-7]}},
    ))  # fmt: skip
    request = prepare_search(search, tmp_path / "out", resume=False, overwrite=False)
    text = io.StringIO()
    answer = run_search(
        request, address=None, say=print, warn=print,
        display=partial(SearchDisplay, Console(file=text, width=160), 3, search.metrics),
    )  # fmt: skip
    statuses = [(e.status, e.round) for e in answer.ledger.records]
    assert statuses[0] == ("finished", 3) and ("stopped", 1) in statuses
    stopped = next(e for e in answer.ledger.records if e.status == "stopped")
    assert answer.ledger.folder_of(stopped).results()["status"] == "stopped"
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'out' / 'mlflow.db'}")
    runs = client.search_runs([client.get_experiment_by_name("raf-ray").experiment_id])
    states = {run.info.run_name: run.info.status for run in runs}
    wanted = {"finished": "FINISHED", "stopped": "KILLED"}
    assert states == {"tiny": "FINISHED", **{e.name: wanted[e.status] for e in answer.ledger.records}}
    parent = next(run.info.run_id for run in runs if run.info.run_name == "tiny")
    assert {run.data.tags.get("mlflow.parentRunId") for run in runs if run.info.run_id != parent} == {parent}
    clients = [a for a in ray._private.state.actors().values() if "Client" in str(a) and a["State"] == "ALIVE"]
    assert clients == []


@pytest.mark.parametrize(
    "file", sorted((Path(__file__).parents[1] / "tune_configs").glob("*.yaml")), ids=lambda f: f.stem
)
def test_the_shipped_searches_are_whole(file):
    """Every draw of theirs is a config; the paper's needs the data set's folder."""
    search = load_search(file, ["base.data.root=/data/mpii"] if file.stem == "paper_mpii" else [])
    assert search.num_trials >= 10 and search.base_config().evaluation.every <= search.base_config().federation.rounds
