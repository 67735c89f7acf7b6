"""A search whose process is killed goes on: nothing that finished is lost or trained twice."""

from __future__ import annotations

import random
import signal

import psutil
import pytest

from tests.searching import finish, kill, scores, search_file, start, trained, trials, wait_for

ROUNDS = [1, 2, 3]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The same search without a kill."""
    folder = tmp_path_factory.mktemp("undisturbed")
    finish(start(str(search_file(folder)), "--output", str(folder / "out")))
    return folder / "out"


def check_whole(output, undisturbed):
    """All of the search is there, with the bits of the undisturbed one."""
    assert [t["status"] for t in trials(output)] == ["finished"] * 4
    assert scores(output) == scores(undisturbed)
    assert [t["params"] for t in trials(output)] == [t["params"] for t in trials(undisturbed)]
    assert (output / "best.yaml").read_text() == (undisturbed / "best.yaml").read_text()


@pytest.mark.slow
def test_a_killed_search_ends_as_if_nothing_had_happened(tmp_path, undisturbed):
    words = (str(search_file(tmp_path)), "--output", str(tmp_path / "out"))
    process = start(*words)
    output = tmp_path / "out"

    def one_finished_another_in_the_middle():
        found = trials(output)
        return any(t["status"] == "finished" for t in found) and any(
            t["status"] == "running" and t["round"] >= 1 for t in found
        )

    wait_for(one_finished_another_in_the_middle, process)
    kill(process)
    finished = [t for t in trials(output) if t["status"] == "finished"]
    finish(start(*words, "--resume"))
    check_whole(output, undisturbed)
    for trial in finished:
        assert trained(output, trial) == ROUNDS


@pytest.mark.slow
@pytest.mark.parametrize("moment", range(5))
def test_kills_at_random_moments_cost_nothing_that_was_finished(tmp_path, undisturbed, moment):
    rng = random.Random(moment)
    words = (str(search_file(tmp_path)), "--output", str(tmp_path / "out"))
    output = tmp_path / "out"
    process = start(*words)
    until = rng.randint(0, 11)  # reports that all trials have made: 12 in a whole search
    wait_for(lambda: sum(t["round"] for t in trials(output)) >= until and trials(output), process)
    kill(process)
    before = {t["hash"]: trained(output, t) for t in trials(output) if t["status"] == "finished"}
    finish(start(*words, "--resume"))
    check_whole(output, undisturbed)
    for trial in trials(output):
        again = trained(output, trial)
        assert again == before.get(trial["hash"], again)
        assert sorted(set(again)) == ROUNDS and len(again) <= len(ROUNDS) + 1


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_search_says_so_and_goes_on(tmp_path, undisturbed, number):
    words = (str(search_file(tmp_path)), "--output", str(tmp_path / "out"))
    output = tmp_path / "out"
    process = start(*words)
    wait_for(lambda: any(t["round"] >= 1 for t in trials(output)), process)
    family = psutil.Process(process.pid).children(recursive=True)
    assert any("ray::" in " ".join(child.cmdline()) for child in family)
    process.send_signal(number)
    told, _ = process.communicate(timeout=120)
    assert process.returncode == 130 and told.splitlines()[-1].startswith("stopped"), told
    statuses = {t["status"] for t in trials(output)}
    assert "interrupted" in statuses and "running" not in statuses
    assert psutil.wait_procs(family, timeout=30)[1] == []
    finish(start(*words, "--resume"))
    check_whole(output, undisturbed)


@pytest.mark.slow
def test_a_trial_whose_process_dies_goes_on_from_its_checkpoint(tmp_path, undisturbed):
    words = (str(search_file(tmp_path)), "--output", str(tmp_path / "out"), "max_concurrent_trials=1")
    output = tmp_path / "out"
    process = start(*words)
    wait_for(lambda: any(t["round"] == 1 for t in trials(output)), process)
    (trial,) = [
        c for c in psutil.Process(process.pid).children(recursive=True) if "ImplicitFunc" in " ".join(c.cmdline())
    ]
    trial.kill()
    finish(process)
    check_whole(output, undisturbed)
    assert len(trained(output, trials(output)[0])) <= len(ROUNDS) + 1


@pytest.mark.slow
def test_time_that_is_up_loses_nothing(tmp_path, undisturbed):
    """The first session may or may not finish a trial; the second, with no limit, has all."""
    words = (str(search_file(tmp_path)), "--output", str(tmp_path / "out"))
    process = start(*words, "time_budget_s=15")
    told, _ = process.communicate(timeout=300)
    output = tmp_path / "out"
    assert process.returncode in (0, 1) and (process.returncode == 0 or "time was up; --resume goes on" in told), told
    assert {t["status"] for t in trials(output)} <= {"finished", "interrupted"}
    finish(start(*words, "--resume"))
    check_whole(output, undisturbed)
