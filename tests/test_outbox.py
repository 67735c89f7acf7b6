"""The outbox and its sender against a server that loses answers, refuses, stalls and forgets: each once, in order."""

from __future__ import annotations

import os
import threading

import pytest

from raf_ray.tracking import sender as sending
from raf_ray.tracking.outbox import RECORDS, SENT, Outbox, Sent
from raf_ray.tracking.sender import Away, Refused, Sender, send_waiting

URI = "http://fake"


class FakeServer:
    """Stores as MLflow does: equal metrics once, artifacts by name, runs by what it is asked to make."""

    is_packing = False

    def __init__(self):
        self.runs: dict[str, str] = {}
        self.arrived: list = []
        """What was stored anew, in order."""
        self.calls = 0
        self.loses = lambda call: False
        """Whether the answer to the n-th call gets lost, after its work was done."""
        self.refuses = lambda name: False

    def _answer(self, new=()):
        self.arrived += [item for item in new if item not in self.arrived]
        self.calls += 1
        if self.loses(self.calls):
            raise Away("lost")

    def has_run(self, run_id):
        return run_id in self.runs.values()

    def open_run(self, record):
        if self.refuses("run"):
            raise Refused("no")
        run_id = self.runs.setdefault(record["key"], f"run-{len(self.runs)}")
        self._answer([("run", run_id)])
        return run_id

    def log_params(self, run_id, values):
        self._answer([("params", run_id, *values.items())])

    def log_metrics(self, run_id, metrics):
        if any(self.refuses(name) for name, *_ in metrics):
            raise Refused("INVALID_PARAMETER_VALUE")
        self._answer([(run_id, *metric) for metric in metrics])

    def log_artifact(self, run_id, path):
        self._answer([("artifact", run_id, path.name)])

    def log_model(self, run_id, folder, register, step):
        self._answer([("model", run_id)])

    def set_status(self, run_id, record):
        self._answer([("status", run_id, record["kind"])])


def metrics(step, **values):
    return {"kind": "metrics", "time": 1000 + step, "step": step, "values": values}


RUN = {"kind": "run", "key": "k", "uri": URI, "time": 1}
WHOLE = [
    RUN,
    {"kind": "params", "values": {"a": "1"}, "time": 2},
    metrics(1, loss=0.5, lr=0.1),
    metrics(2, loss=0.25),
    {"kind": "artifact", "path": "results.json", "time": 3},
    {"kind": "model", "register": None, "time": 4},
    {"kind": "end", "key": "k", "status": "FINISHED", "time": 5},
]
ARRIVED = [
    ("run", "run-0"),
    ("params", "run-0", ("a", "1")),
    ("run-0", "loss", 0.5, 1001, 1),
    ("run-0", "lr", 0.1, 1001, 1),
    ("run-0", "loss", 0.25, 1002, 2),
    ("artifact", "run-0", "results.json"),
    ("model", "run-0"),
    ("status", "run-0", "end"),
]


@pytest.fixture
def outbox(tmp_path):
    box = Outbox(tmp_path)
    for record in WHOLE:
        box.append(record)
    return box


def refuse_none(what):
    raise AssertionError(what)


def test_everything_arrives_once_and_in_order(outbox):
    server = FakeServer()
    assert outbox.waiting(URI) == 7
    assert send_waiting(outbox, URI, server, refuse_none) == 7
    assert server.arrived == ARRIVED and server.calls == 6  # the metrics in one
    assert send_waiting(outbox, URI, server, refuse_none) == 0 and outbox.waiting(URI) == 0


@pytest.mark.parametrize("loses", [lambda n: n % 2, lambda n: n % 3], ids=["every other answer", "two of three"])
def test_lost_answers_double_nothing(outbox, loses):
    server = FakeServer()
    server.loses = loses
    for _ in range(40):
        try:
            send_waiting(outbox, URI, server, refuse_none)
            break
        except Away:
            continue
    assert server.arrived == ARRIVED and outbox.waiting(URI) == 0
    assert server.runs == {"k": "run-0"}


def test_another_process_goes_on_where_the_last_one_stopped(outbox, tmp_path):
    server = FakeServer()
    server.loses = lambda n: n == 4
    with pytest.raises(Away):
        send_waiting(outbox, URI, server, refuse_none)
    server.loses = lambda n: False
    assert send_waiting(Outbox(tmp_path), URI, server, refuse_none) == 3
    assert server.arrived == ARRIVED


def test_a_damaged_note_of_what_was_sent_doubles_nothing(outbox, tmp_path):
    server = FakeServer()
    send_waiting(outbox, URI, server, refuse_none)
    (tmp_path / SENT).write_text("{")
    send_waiting(outbox, URI, server, refuse_none)
    assert server.arrived == ARRIVED


def test_a_refused_metric_costs_itself_alone(outbox):
    server = FakeServer()
    server.refuses = lambda name: name == "lr"
    refused: list[str] = []
    send_waiting(outbox, URI, server, refused.append)
    assert refused == ["metric lr at step 1: INVALID_PARAMETER_VALUE"]
    assert server.arrived == [item for item in ARRIVED if "lr" not in item]


def test_a_run_that_cannot_be_made_keeps_its_records(outbox):
    server = FakeServer()
    server.refuses = lambda name: name == "run"
    with pytest.raises(Away):
        send_waiting(outbox, URI, server, refuse_none)
    assert outbox.waiting(URI) == 7


def test_another_server_is_told_everything(outbox):
    send_waiting(outbox, URI, FakeServer(), refuse_none)
    other = FakeServer()
    assert outbox.waiting("http://other") == 7
    send_waiting(outbox, "http://other", other, refuse_none)
    assert other.arrived == ARRIVED


def test_a_server_that_lost_the_run_is_told_everything_again(outbox):
    send_waiting(outbox, URI, FakeServer(), refuse_none)
    emptied = FakeServer()
    send_waiting(outbox, URI, emptied, refuse_none)
    assert emptied.arrived == ARRIVED


def test_half_a_line_is_skipped_alone(tmp_path):
    box = Outbox(tmp_path)
    box.append(RUN)
    with open(tmp_path / RECORDS, "a") as file:
        file.write('{"kind": "metr')  # a kill came here
    assert [record for record, _ in box.read()] == [RUN]
    resumed = Outbox(tmp_path)
    resumed.append(metrics(1, loss=1.0))
    assert [record for record, _ in resumed.read()] == [RUN, metrics(1, loss=1.0)]


def test_a_full_disk_costs_the_record_that_did_not_fit(tmp_path, monkeypatch):
    box = Outbox(tmp_path)
    box.append(RUN)
    write = os.write
    monkeypatch.setattr(os, "write", lambda file, data: write(file, data[:5]))
    with pytest.raises(OSError, match="the disk is full"):
        box.append(metrics(1, loss=1.0))
    monkeypatch.undo()
    box.append(metrics(2, loss=1.0))
    assert [record for record, _ in box.read()] == [RUN, metrics(2, loss=1.0)]


def test_threads_append_whole_records(tmp_path):
    box = Outbox(tmp_path)

    def work(who):
        for step in range(200):
            box.append(metrics(step, **{who: float(step)}))

    threads = [threading.Thread(target=work, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = [record for record, _ in box.read()]
    for name in "abcd":
        assert [r["step"] for r in found if name in r["values"]] == list(range(200))


def test_only_one_sends(tmp_path):
    first, second = Outbox(tmp_path), Outbox(tmp_path)
    assert first.lock() and not second.lock()
    first.close()
    assert second.lock()


def test_a_folder_that_another_run_took_over_is_left_alone(outbox, tmp_path):
    (tmp_path / RECORDS).unlink()
    Outbox(tmp_path)
    with pytest.raises(OSError, match="given to another run"):
        outbox.save_sent(Sent(URI, "run-0", 10))


# --- the thread ---------------------------------------------------------------------------------------


@pytest.fixture
def fast(monkeypatch):
    for name in ("SEND_EVERY", "FIRST_RETRY", "LONGEST_RETRY"):
        monkeypatch.setattr(sending, name, 0.01)


def test_a_server_that_comes_back_gets_everything_without_a_word(outbox, fast):
    server, told = FakeServer(), []
    server.loses = lambda n: n < 30
    sender = Sender(outbox, URI, lambda uri: server, told.append)
    sender.wake()
    sender.finish()
    assert told == [] and server.arrived == ARRIVED


def test_a_server_that_stalls_does_not_hold_up_the_run(tmp_path, fast, monkeypatch):
    monkeypatch.setattr(sending, "ANSWERING_SECONDS", 0.1)
    box, server, told = Outbox(tmp_path), FakeServer(), []
    entered, go = threading.Event(), threading.Event()

    def stall(call):
        entered.set()
        go.wait()
        return False

    server.loses = stall
    sender = Sender(box, URI, lambda uri: server, told.append)
    for record in WHOLE:  # returns although nothing is answered
        box.append(record)
        sender.wake()
    assert entered.wait(30)
    sender.finish()
    (line,) = told
    assert "lacks 7 records" in line and f"python -m raf_ray.track sync {tmp_path}" in line
    assert "slow" in line
    go.set()


def test_a_long_absence_is_told_of_while_the_run_goes_on(outbox, fast, monkeypatch):
    monkeypatch.setattr(sending, "NOTICE_SECONDS", 0.0)
    monkeypatch.setattr(sending, "AWAY_SECONDS", 0.05)
    server, told, spoke = FakeServer(), [], threading.Event()
    server.loses = lambda n: True

    def tell(line):
        told.append(line)
        spoke.set()

    sender = Sender(outbox, URI, lambda uri: server, tell)
    sender.wake()
    assert spoke.wait(30) and "the run goes on and they wait on disk" in told[0]
    sender.finish()
    assert len(told) == 2


def test_refusals_are_told_of_once_with_their_cause_and_counted(outbox, fast):
    server, told = FakeServer(), []
    server.refuses = lambda name: name == "loss"
    sender = Sender(outbox, URI, lambda uri: server, told.append)
    sender.wake()
    sender.finish()
    assert "metric loss at step 1: INVALID_PARAMETER_VALUE; the rest goes on" in told[0]
    assert "refused 2 records" in told[1] and len(told) == 2
