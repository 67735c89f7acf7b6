"""One rule for every mean that a run tells: by people, exactly summed. Norms are of weights, peaks of a round."""

from __future__ import annotations

import itertools
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from raf_ray.algorithms.interface import WEIGHTS
from raf_ray.federation.accounting import Account
from raf_ray.request import assembly, parts
from raf_ray.training.exchange import Down, Receipt
from tests.tiny import tiny

TIERS = {"a": "high", "b": "high", "c": "low"}


def receipt(client: str, people: int, loss: float, norm: float, terms: dict[str, tuple[float, int]], **more) -> Receipt:
    values = {"seconds": 2.0, "forward_pixels": 100, "peak_memory_mb": 5.0, "bad_pictures": 0, "mb_sent": 0.1,
              "mb_received": 0.5, "keeps": False, **more}  # fmt: skip
    return Receipt(
        client=client, people=people, loss=loss,
        norm=norm, terms={name: value for name, (value, _) in terms.items()},
        term_people={name: count for name, (_, count) in terms.items()}, device="cpu", **values,
    )  # fmt: skip


A = receipt("a", 30, 1.0, 4.0, {"gt_64x48": (1.0, 20), "kd_32x24": (0.5, 10)}, bad_pictures=2)
B = receipt("b", 10, 3.0, 8.0, {"gt_64x48": (4.0, 10)}, peak_memory_mb=7.0)
C = receipt("c", 40, 0.5, 1.0, {"gt_32x24": (0.5, 40)}, bad_pictures=1)


def account() -> Account:
    return Account(TIERS, tuple(dict.fromkeys(TIERS.values())), ["64x48", "32x24"])


def test_losses_terms_and_norms_weigh_by_the_people_that_they_are_means_over():
    row = account().add_round(1, [A, B, C], [1.0, 2.0, 4.0], 4.0)
    assert row["loss"] == (30 * 1.0 + 10 * 3.0 + 40 * 0.5) / 80
    assert row["gt_64x48"] == (20 * 1.0 + 10 * 4.0) / 30
    assert (row["kd_32x24"], row["gt_32x24"]) == (0.5, 0.5)
    assert row["update_norm_high"] == (30 * 4.0 + 10 * 8.0) / 40
    assert row["update_norm_low"] == 1.0
    assert (row["people"], row["people_per_s"], row["forward_pixels"]) == (80, 20.0, 300)
    assert row["wait_seconds"] == round((3.0 + 2.0 + 0.0) / 3, 4)
    assert (row["mb_down"], row["mb_up"]) == (1.5, 0.3)


def test_the_columns_are_all_that_a_row_may_hold():
    own = account()
    row = own.add_round(1, [A, B, C], [1.0, 2.0, 4.0], 4.0)
    assert set(row) <= set(own.columns()) and own.columns()[:2] == ["round", "loss"]


def test_the_order_in_which_clients_answer_does_not_show():
    clients = (("a", 7, 0.1, 1e16), ("b", 11, 0.2, 1.0), ("c", 13, 0.3, 1e-3))
    odd = [
        receipt(name, people, loss, norm, {"gt_64x48": (loss, people)}, mb_sent=loss, seconds=norm)
        for name, people, loss, norm in clients
    ]
    seen = set()
    for updates in itertools.permutations(odd):
        own = account()
        row = own.add_round(1, updates, [0.1, 0.2, 0.3], 1.0)
        seen.add((str(row), str(own.costs()), str(own.totals)))
    assert len(seen) == 1


def test_costs_are_sums_by_tier_and_the_largest_peak():
    own = account()
    own.add_round(1, [A, B, C], [0.0] * 3, 4.0)
    own.add_round(2, [A], [0.0], 1.0)
    assert list(own.costs()) == ["high", "low"]
    high = own.costs()["high"]
    assert (high["people"], high["seconds"], high["forward_pixels"], high["peak_memory_mb"]) == (70, 6.0, 300, 7.0)
    assert own.totals["seconds"] == 5.0 and own.totals["forward_pixels"] == 400


def test_pictures_that_a_new_process_has_not_met_again_stay_counted():
    first = account()
    first.add_round(1, [A, B, C], [0.0] * 3, 4.0)
    second = account()
    second.restore(first.state())
    second.add_round(2, [B], [0.0], 4.0)
    assert {tier: cost["bad_pictures"] for tier, cost in second.costs().items()} == {"high": 2, "low": 1}


def test_a_state_is_all_that_a_resumed_account_needs():
    whole, stopped, resumed = account(), account(), account()
    rounds = [[A, B], [C, A], [B], [C]]
    for own, part in ((whole, rounds), (stopped, rounds[:2])):
        for done, updates in enumerate(part, 1):
            own.add_round(done, updates, [0.0] * len(updates), 0.1)
    resumed.restore(stopped.state())
    for done, updates in enumerate(rounds[2:], 3):
        resumed.add_round(done, updates, [0.0] * len(updates), 0.1)
    assert (resumed.costs(), resumed.totals, resumed.state()) == (whole.costs(), whole.totals, whole.state())


def client_of(*words: str):
    config = tiny("federation.engine=in_process", "model.name=tests.broken:OneConv", *words)
    prepared = assembly.prepare(config)
    return parts.client_spec(config, prepared.skeleton).build(prepared.plans[0], prepared.data[0]), prepared


def trained(client, prepared):
    up, receipt, _ = client.train(Down(0, prepared.initial, {}), 0, None)
    return up, receipt


def test_a_clients_loss_and_terms_weigh_by_the_people_of_each_batch():
    """12 people in batches of 5, 5 and 2."""
    client, prepared = client_of("optimizer.batch_size=5", "objective.name=heatmap")
    losses = iter([1.0, 2.0, 7.0])

    def objective(heatmaps, targets, weights, level_weights):
        value = torch.tensor(next(losses))
        return SimpleNamespace(total=value + 0 * heatmaps[0].sum(), gt=[value], kd=[])

    client.task = replace(client.task, objective=objective)
    found = trained(client, prepared)[1]
    assert found.loss == pytest.approx((5 * 1 + 5 * 2 + 2 * 7) / 12)
    assert found.terms == {"gt_128x96": pytest.approx(found.loss)} and found.term_people == {"gt_128x96": 12}


def test_a_term_is_of_the_people_whose_batches_drew_its_level():
    client, prepared = client_of("optimizer.batch_size=5", "objective.sampling=random")
    found = trained(client, prepared)[1]
    counts = [found.term_people[name] for name in found.terms if name.startswith("gt_")]
    assert sum(counts) == 12 and set(found.term_people) == set(found.terms)


def test_the_update_norm_is_of_the_weights_and_not_of_norm_statistics():
    client, prepared = client_of("objective.name=heatmap", "optimizer.lr=1e-12")
    up, found = trained(client, prepared)
    names = {entry.name: entry for entry in client.layout.entries}
    moved = {name: up.vectors[WEIGHTS][e.start : e.start + e.size] for name, e in names.items() if e.kind != "counters"}
    assert np.abs(moved["norm.running_var"]).max() > 1e-3  # BatchNorm's statistics moved, though nothing was learnt
    weights = np.concatenate([moved[name] for name, e in names.items() if e.kind == "weights"])
    assert found.norm == pytest.approx(float(np.linalg.norm(weights.astype(np.float64))), abs=1e-12)
    assert found.norm < 1e-6


def test_on_a_gpu_the_peak_is_of_a_clients_own_round(monkeypatch):
    """A GPU keeps one peak a process until it is set back; on a CPU the kernel's never can be."""
    from raf_ray.training import client

    peak = {"bytes": 900e6}  # of the client before
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: peak.update(bytes=0.0))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: peak["bytes"])
    client._forget_peak_memory(torch.device("cuda"))
    assert client._peak_memory_mb(torch.device("cuda")) == 0
    begun = []
    monkeypatch.setattr(client, "_forget_peak_memory", begun.append)
    own, prepared = client_of("objective.name=heatmap")
    assert trained(own, prepared)[1].peak_memory_mb > 0
    assert begun == [own.device]


def test_a_round_of_nobody_has_no_loss_costs_nothing_and_keeps_what_was_counted():
    own = account()
    own.add_round(1, [A, B, C], [1.0, 2.0, 4.0], 4.0)
    before = own.costs()
    row = own.add_round(2, [], [], 0.5)
    assert "loss" not in row and not any(name.startswith(("gt_", "kd_", "update_norm_")) for name in row)
    assert {row[name] for name in ("wait_seconds", "people", "people_per_s", "mb_up", "mb_down")} == {0}
    assert own.costs() == before and own.totals["seconds"] == 4.5


def test_figures_of_transforms_are_columns_and_their_last_values_are_totals():
    own = replace(account(), figures=("epsilon",))
    for done, spent in ((1, 0.5), (2, 0.8)):
        row = own.add_round(done, [A], [1.0], 1.0, figures={"epsilon": spent})
        assert row["epsilon"] == spent and set(row) <= set(own.columns())
    assert own.totals["epsilon"] == 0.8
    again = replace(account(), figures=("epsilon",))
    again.restore(own.state())
    assert again.totals == own.totals
    with pytest.raises(ValueError, match="its totals are no numbers"):
        account().restore(own.state())
