"""A federation end to end: same bits by either engine, resume, failures that name their cause."""

from __future__ import annotations

import csv
import errno
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from raf_ray import run_federation
from raf_ray.cluster.connect import joined
from raf_ray.config import load_config, write_yaml
from raf_ray.errors import InputError, RunError
from raf_ray.federation import engines
from raf_ray.federation.events import ActorLost, ClientsFinished, Noted, RoundFinished, Scored
from raf_ray.federation.hosts import cause_of
from raf_ray.runs.folder import RunFolder
from tests import broken
from tests.tiny import SMALL, WORDS, tiny


class Record:
    """A watcher that keeps what it sees; `stop_after` ends the run as a kill would, after that many rounds."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.events = []
        self.stop_after = stop_after

    def begin(self, prepared, folder):
        self.prepared = prepared

    def see(self, event):
        self.events.append(event)
        if isinstance(event, RoundFinished) and event.round == self.stop_after:
            raise RuntimeError("stopped by the test")

    def end(self, folder, results):
        self.results = results


def table(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8") as file:
        return list(csv.DictReader(file))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "model.pt", weights_only=True)["model"]


def same(a: Path, b: Path) -> bool:
    one, other = weights(a), weights(b)
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def in_process(path: Path, *words: str, **options):
    return run_federation(tiny("federation.engine=in_process", *words), path, **options)


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """A finished run in this process, 3 rounds."""
    path = tmp_path_factory.mktemp("reference") / "run"
    return in_process(path, "federation.rounds=3", "objective.name=mrkd")


def test_the_run_folder_holds_what_its_contract_says(reference):
    folder = reference.folder
    names = {"config.yaml", "results.json", "rounds.csv", "scores.csv", "model.pt", "checkpoint.pt", "drift.png",
             "samples.png", "run.log"}  # fmt: skip
    assert {path.name for path in folder.iterdir()} == names
    results = json.loads((folder / "results.json").read_text())
    assert results["status"] == "completed" and results["seed"] == 0
    assert results["train_resolutions"] == ["128x96", "96x72", "64x48"]
    assert list(results["by_resolution"]) == ["160x120", "128x96", "112x84", "96x72", "80x60", "64x48", "48x36"]
    assert all(0 <= value <= 1 for value in results["by_resolution"].values())
    assert set(results["per_joint"]["128x96"]) == set(torch.load(folder / "model.pt", weights_only=True)["joints"])
    for tier in ("high", "mid", "low"):
        cost = results["cost_by_tier"][tier]
        assert cost["people"] == 36 and cost["people_per_s"] > 0 and cost["mb_sent"] > 0 and cost["peak_memory_mb"] > 0
    assert results["drift_to_reference"] is None and results["drift_spread"] >= 0
    assert {"python", "ray", "torch"} <= set(results["versions"])


def test_rounds_csv_has_a_row_a_round_with_the_losses_of_every_level(reference):
    rows = table(reference.folder / "rounds.csv")
    assert [row["round"] for row in rows] == ["1", "2", "3"]
    levels = {"high": 128 * 96 + 96 * 72 + 64 * 48, "mid": 96 * 72 + 64 * 48, "low": 64 * 48}
    assert int(rows[0]["forward_pixels"]) == 12 * sum(levels.values())
    for size in ("128x96", "96x72", "64x48"):
        assert float(rows[0][f"gt_{size}"]) > 0
    assert float(rows[0]["kd_96x72"]) >= 0 and rows[0]["kd_128x96"] == ""


def test_scores_csv_has_val_by_round_and_test_once(reference):
    rows = table(reference.folder / "scores.csv")
    assert [row["round"] for row in rows if row["split"] == "val" and row["resolution"] == "64x48"] == ["1", "2", "3"]
    tests = [row for row in rows if row["split"] == "test"]
    assert len(tests) == 7 and {row["round"] for row in tests} == {"3"}


def test_the_resolved_config_gives_itself_back(reference):
    config = load_config(file=reference.folder / "config.yaml")
    assert write_yaml(config) == (reference.folder / "config.yaml").read_text()


def test_ray_gives_the_same_bits_as_this_process_by_whatever_shares(reference, ray_cluster, tmp_path):
    record = Record()
    words = ["federation.rounds=3", "resources.cpus_per_client={high: 0.5, mid: 0.3, low: 0.2}"]
    found = run_federation(tiny(*words), tmp_path / "ray", watchers=[record])
    assert same(found.folder, reference.folder)
    assert found.by_resolution == reference.by_resolution
    assert sum(len(e.seconds) for e in record.events if isinstance(e, ClientsFinished)) == 9
    assert sum(isinstance(e, Scored) for e in record.events) == 4
    assert record.results == found.values


def test_the_same_seed_gives_the_same_bits_and_another_seed_does_not(reference, tmp_path):
    again = in_process(tmp_path / "again", "federation.rounds=3")
    assert same(again.folder, reference.folder)
    other = in_process(tmp_path / "other", "federation.rounds=3", "seed=1")
    assert not same(other.folder, reference.folder)


@pytest.mark.parametrize("words", [[], ["optimizer.reset_each_round=false"], ["federation.participation=0.6"],
                                   ["objective.sampling=pair", "data.augment=true"],
                                   ["federation.checkpoint_every=2", "federation.rounds=4"]])  # fmt: skip
def test_a_stopped_run_goes_on_to_the_same_bits(words, tmp_path):
    words = ["federation.rounds=3", *SMALL, *words]
    whole = in_process(tmp_path / "whole", *words)
    with pytest.raises(RuntimeError, match="stopped by the test"):
        in_process(tmp_path / "part", *words, watchers=[Record(stop_after=2)])
    resumed = in_process(tmp_path / "part", *words, resume=True)
    assert same(whole.folder, resumed.folder)
    assert resumed.by_resolution == whole.by_resolution
    for name in ("rounds.csv", "scores.csv"):
        a, b = (table(f / name) for f in (whole.folder, resumed.folder))
        free = {"seconds", "wait_seconds", "people_per_s"}
        assert [{k: v for k, v in row.items() if k not in free} for row in a] == [
            {k: v for k, v in row.items() if k not in free} for row in b
        ], name
    totals = [run.values["totals"]["forward_pixels"] for run in (whole, resumed)]
    assert totals[0] == totals[1]


def test_a_finished_run_is_returned_at_once(reference):
    record = Record()
    found = in_process(reference.folder, "federation.rounds=3", resume=True, watchers=[record])
    assert found.values == reference.values and record.events == []


def test_a_resume_refuses_what_could_change_results_and_shows_it(reference):
    with pytest.raises(InputError, match=r"optimizer\.lr was 0\.006, now 0\.1"):
        in_process(reference.folder, "federation.rounds=3", "optimizer.lr=0.1", resume=True)
    again = in_process(reference.folder, "federation.rounds=3", "tracking.experiment=other", resume=True)
    assert again.values == reference.values


def test_clients_train_on_disjoint_people_and_no_split_is_mixed():
    from raf_ray.request import assembly

    prepared = assembly.prepare(tiny())
    ids = [set(data.people.person_id.tolist()) for data in prepared.data]
    ids += [set(people.person_id.tolist()) for people in prepared.held_out.values()]
    assert sum(map(len, ids)) == len(set().union(*ids)) == 3 * 12 + 6 + 6


def test_more_rounds_lower_the_loss(reference):
    losses = [float(row["loss"]) for row in table(reference.folder / "rounds.csv")]
    assert losses[-1] < losses[0]


def test_statistics_are_averaged_and_counters_take_the_maximum(tmp_path):
    found = in_process(tmp_path / "bn", "model.name=tests.broken:OneConv", "objective.name=heatmap",
                       "data.partition=counts", "data.counts=[4,12,8]", "federation.rounds=1")  # fmt: skip
    state = weights(found.folder)
    assert state["norm.num_batches_tracked"].item() == 3
    assert state["norm.running_var"].min() > 0


def test_ones_own_objective_is_used(tmp_path):
    plain = in_process(tmp_path / "plain", "objective.name=heatmap", "optimizer.name=sgd")
    own = in_process(tmp_path / "own", "objective.name=tests.broken:doubled", "optimizer.name=sgd",
                     "objective.levels=[high]")  # fmt: skip
    assert not same(plain.folder, own.folder)


@pytest.mark.parametrize(("objective", "engine", "cause"), [
    ("raises", "ray", "ValueError: this objective always fails"),
    ("raises", "in_process", "ValueError: this objective always fails"),
    ("not_a_number", "in_process", "the loss is nan"),
])  # fmt: skip
def test_a_client_that_fails_ends_the_run_with_its_name_tier_round_and_cause(
    objective, cause, engine, ray_cluster, tmp_path
):
    words = [f"objective.name=tests.broken:{objective}", f"federation.engine={engine}"]
    with pytest.raises(RunError) as error:
        run_federation(tiny(*words), tmp_path / "run")
    message = str(error.value)
    assert cause in message and "client-" in message and "(tier " in message and "in round 1" in message
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["status"] == "failed" and results["error"] == message
    traced = "broken.py" if objective == "raises" else "client.py"
    assert traced in (tmp_path / "run" / "run.log").read_text()


def test_a_client_whose_process_dies_each_time_it_is_tried_is_named(ray_cluster, tmp_path):
    record = Record()
    words = ["objective.name=tests.broken:dies", "federation.clients=[low]", "resources.retries=1"]
    with pytest.raises(RunError, match=r"client client-low-000 \(tier low\) failed in round 1: its process died"):
        run_federation(tiny(*words), tmp_path / "run", watchers=[record])
    lost = [(event.actor, event.tier) for event in record.events if isinstance(event, ActorLost)]
    assert lost == [("client-low-000", "low")] * 2
    assert json.loads((tmp_path / "run" / "results.json").read_text())["status"] == "failed"


def test_the_drivers_own_error_is_whole_in_the_log_and_its_last_line_in_the_sentence(
    ray_cluster, tmp_path, monkeypatch
):
    monkeypatch.setattr(engines, "Federation", broken.no_federation)
    with pytest.raises(
        RunError, match=r"^the driver failed: its process died \(ValueError: none at all\) \(see run\.log"
    ):
        run_federation(tiny(), tmp_path / "run")
    assert json.loads((tmp_path / "run" / "results.json").read_text())["status"] == "failed"
    log = (tmp_path / "run" / "run.log").read_text()
    assert "in no_federation" in log and "ValueError: none at all" in log


@pytest.mark.parametrize(
    ("words", "cause"),
    [("died.\n\tclass_name: A\n\tpid: 7\nThe actor is dead because it was killed.\nIt never ran.",
      "its process died (The actor is dead because it was killed. It never ran.)"),
     ("died because of\n  File x.py, line 1\n    f()\n    ^^^\nValueError: é", "its process died (ValueError: é)"),
     ("", "its process died (RayError)"), ("only\n  indented", "its process died (indented)")],
)  # fmt: skip
def test_of_rays_words_on_a_death_the_reason_is_told(words, cause):
    from ray.exceptions import RayError, RayTaskError

    assert cause_of(RayError(words)) == cause
    own = InputError("the folder is in use")
    assert cause_of(RayTaskError("run", f"Traceback\n{'x' * 400}", own)) == "the folder is in use"


def test_names_of_any_characters_run_on_ray(ray_cluster, tmp_path):
    record = Record()
    tiers = ["resolution.tiers={'[red]é $x_': 64x48}", "federation.clients=['[red]é $x_']"]
    found = run_federation(tiny("federation.rounds=1", *tiers), tmp_path / "[b]é 日本 a\udcffb", watchers=[record])
    assert found.values["status"] == "completed" and (found.folder / "drift.png").is_file()
    assert not [event for event in record.events if isinstance(event, Noted)]


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("127.0.0.1:{port}", "connected to the Ray cluster at"),
        ("127.0.0.1:1", "no Ray cluster answers"),
        ("x", "is not HOST:PORT"),
    ],
)
def test_a_wrong_address_is_refused_where_the_process_is_connected(address, says, ray_cluster, tmp_path):
    import ray

    own = ray.get_runtime_context().gcs_address
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = address.format(port=other.getsockname()[1])
        with pytest.raises(InputError, match=says):
            run_federation(tiny(), tmp_path / "run", address=address)
    assert not (tmp_path / "run").exists()
    for same in (own, f"127.0.0.1:{own.rpartition(':')[2]}", "auto", "local", None):
        with joined(same, dashboard=False):
            assert ray.is_initialized()


def test_clients_that_do_not_fit_are_refused_with_the_arithmetic(ray_cluster, tmp_path):
    with pytest.raises(InputError, match=r"3 clients x 5 CPUs \+ 0.4 for driver and evaluator = 15.4 CPUs"):
        run_federation(tiny("resources.cpus_per_client=5"), tmp_path / "run")
    with pytest.raises(InputError, match=r"floor\(1 / 0.4\) = 2 clients a GPU, 0 GPUs free in the cluster hold 0"):
        run_federation(tiny("resources.gpus_per_client=0.4"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def command(output: Path, *words: str) -> list[str]:
    return [sys.executable, "-m", "raf_ray.run", "--address", "local", "--output", str(output), *WORDS, *words]


@pytest.fixture
def start():
    """Starts a run's command in a process; a test that fails leaves none behind."""
    begun = []

    def start(output: Path, gate: Path, *words: str, **options) -> subprocess.Popen:
        environment = {**os.environ, "RAF_RAY_TEST_GATE": str(gate), "PYTHONUNBUFFERED": "1"}
        process = subprocess.Popen(command(output, *words), env=environment, stdout=subprocess.PIPE,
                                   stderr=subprocess.STDOUT, text=True, start_new_session=True, **options)  # fmt: skip
        begun.append(process)
        return process

    yield start
    for process in begun:
        if process.poll() is None:
            process.terminate()
            process.communicate(timeout=60)


def read_until(process: subprocess.Popen, text: str) -> None:
    seen = []
    for line in process.stdout:
        seen.append(line)
        if text in line:
            return
    raise AssertionError("the command ended without saying '" + text + "':\n" + "".join(seen))


def test_after_a_sigkill_resume_gives_the_same_bits(start, tmp_path):
    """A real kill in the middle of a real run on a private cluster."""
    words = ["federation.rounds=6", "data.people_per_client=24", "resources.clients_per_actor=3"]
    process = start(tmp_path / "killed", tmp_path / "gate", *words)
    read_until(process, "round 2/6")
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert len(table(tmp_path / "killed" / "rounds.csv")) < 6
    resumed = in_process(tmp_path / "killed", *words, resume=True)
    whole = in_process(tmp_path / "whole", *words)
    assert same(resumed.folder, whole.folder)
    assert resumed.by_resolution == whole.by_resolution


def own_processes(marker: str) -> list[str]:
    found = []
    for entry in Path("/proc").glob("[0-9]*/environ"):
        try:
            if marker.encode() in entry.read_bytes():
                found.append((entry.parent / "cmdline").read_bytes().replace(b"\0", b" ").decode()[:80])
        except OSError:
            continue
    return [line for line in found if line]


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="looks for processes in /proc")
@pytest.mark.parametrize("number, ignored", [
    pytest.param(signal.SIGTERM, False, marks=pytest.mark.slow), (signal.SIGINT, True),
])  # fmt: skip
def test_a_signal_ends_all_in_order_and_no_process_stays(number, ignored, start, tmp_path):
    """SIGINT too where it was ignored at the start, as in a script's background."""
    before = signal.getsignal(signal.SIGINT)
    try:
        if ignored:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        process = start(tmp_path / "run", tmp_path / "gate", "objective.name=tests.broken:slow",
                        "federation.clients=[low]")  # fmt: skip
    finally:
        signal.signal(signal.SIGINT, before)
    read_until_training(tmp_path / "run")
    process.send_signal(number)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    assert json.loads((tmp_path / "run" / "results.json").read_text())["status"] == "interrupted"
    assert own_processes(str(tmp_path / "gate")) == []


def read_until_training(folder: Path) -> None:
    """Wait until the driver has its clients (they wait at the gate)."""
    for _ in range(1800):
        if (folder / "run.log").exists():
            signal.sigtimedwait([], 0.1)
            if "training round 1" in (folder / "run.log").read_text():
                return
        signal.sigtimedwait([], 0.05)
    raise AssertionError("the run did not begin")


def test_a_full_disk_ends_the_run_with_a_sentence_and_keeps_the_folder(tmp_path, monkeypatch):
    def full(self, checkpoint):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(RunFolder, "save_checkpoint", full)
    with pytest.raises(RunError, match=r"cannot write to .*run: No space left on device"):
        in_process(tmp_path / "run")
    assert json.loads((tmp_path / "run" / "results.json").read_text())["status"] == "failed"
    assert len(table(tmp_path / "run" / "rounds.csv")) == 1
