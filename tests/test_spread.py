"""However clients are spread over hosts, whatever the method and the cohort, the bits are the same."""

from __future__ import annotations

import pytest
import torch

from raf_ray import algorithms
from raf_ray.request.assembly import federation_spec, prepare
from tests.spread import trained
from tests.tiny import SMALL, tiny

WORDS = ("federation.engine=in_process", "federation.clients={high: 2, mid: 2, low: 1}", "federation.rounds=2",
         "evaluation.every=2", "data.people_per_client=8", "optimizer.reset_each_round=false", *SMALL)  # fmt: skip
SOME = ("federation.participation=0.8",)
BUFFERED = ("devices.profiles={high: phone, mid: camera, low: phone}", "federation.rounds=4",
            "algorithm.fedbuff.concurrency=4")  # fmt: skip


@pytest.mark.parametrize("method", algorithms.built_in())
def test_two_and_five_hosts_give_the_bits_of_one_client_at_a_time(method, tmp_path):
    waits = algorithms.built_in()[method]().pace(5) is None
    config = tiny(*WORDS, *(SOME if waits else BUFFERED), f"algorithm.name={method}")
    spec = federation_spec(prepare(config), "run")
    reference = trained(spec, tmp_path / "alone", None)
    for hosts in (2, 5):
        found = trained(spec, tmp_path / str(hosts), hosts)
        assert all(torch.equal(found[name], reference[name]) for name in reference)
