"""federation.on_client_failure=drop: a client whose own work fails is left out of that round, and the others count."""

from __future__ import annotations

import csv

import numpy as np
import pytest
import torch

from raf_ray import run_federation
from raf_ray.algorithms.fedavg import FedAvg
from raf_ray.errors import RunError
from raf_ray.federation.aggregation import ExactSum, Weigher
from raf_ray.federation.events import Noted
from raf_ray.training.exchange import Up
from tests.tiny import tiny

WORDS = ("federation.engine=in_process", "objective.name=tests.broken:fails_at_low", "federation.rounds=2",
         "federation.clients={high: 1, mid: 1, low: 2}")  # fmt: skip
DROP = "federation.on_client_failure=drop"


class Notes:
    def __init__(self) -> None:
        self.said: list[str] = []

    def begin(self, prepared, folder): ...

    def end(self, folder, results): ...

    def see(self, event):
        if isinstance(event, Noted):
            self.said.append(event.message)


def test_it_is_counted_named_and_the_run_goes_on(tmp_path):
    notes = Notes()
    folder = run_federation(tiny(*WORDS, DROP), tmp_path / "run", watchers=[notes]).folder
    with open(folder / "rounds.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["left_out"] for row in rows] == ["2", "2"]
    assert [row["update_norm_low"] for row in rows] == ["", ""] and all(float(row["update_norm_mid"]) for row in rows)
    assert sorted(notes.said)[0] == (
        "client client-low-000 (tier low) failed in round 1: ValueError: this objective fails at 64x48; "
        "it is left out of this round"
    )
    assert len(notes.said) == 4
    assert "Traceback" in (folder / "run.log").read_text()


def test_the_others_weights_are_renormalised():
    """What is summed is the mean of those who answered, as if the cohort had been they alone."""
    rng = np.random.default_rng(0)
    ups = [Up(name, 0, {"weights": rng.normal(size=50).astype(np.float32)}, np.zeros(0, np.int64)) for name in "abc"]
    people = {"a": 30, "b": 10, "c": 60}

    def mean(cohort: str, answer: str) -> np.ndarray:
        weigher = Weigher(FedAvg("people"), np.array([people[name] for name in cohort]))
        total = ExactSum()
        for up in ups:
            if up.client in answer:
                total.add(up, {"weights": weigher.share("weights", people[up.client])})
        return total.mean()["weights"]

    np.testing.assert_allclose(mean("abc", "ab"), mean("ab", "ab"), atol=1e-10)


def test_it_is_the_same_after_a_resume(tmp_path):
    class Stops(Notes):
        def see(self, event):
            if type(event).__name__ == "RoundFinished":
                raise RuntimeError("stopped by the test")

    whole = run_federation(tiny(*WORDS, DROP), tmp_path / "whole").folder
    with pytest.raises(RuntimeError, match="stopped by the test"):
        run_federation(tiny(*WORDS, DROP), tmp_path / "part", watchers=[Stops()])
    part = run_federation(tiny(*WORDS, DROP), tmp_path / "part", resume=True).folder
    a, b = (torch.load(folder / "model.pt", weights_only=True)["model"] for folder in (whole, part))
    assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize(("words", "says"), [
    ((), r"client client-low-000 \(tier low\) failed in round 1: ValueError: this objective fails at 64x48"),
    ((DROP, "federation.clients=[low, low]"), "no client could be trained in round 1"),
])  # fmt: skip
def test_where_it_ends_the_run_it_says_so(words, says, tmp_path):
    with pytest.raises(RunError, match=says):
        run_federation(tiny(*WORDS, *words), tmp_path / "run")
