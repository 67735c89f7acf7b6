"""What actors ask for, so that all find room: counted node by node, against a search over every placement."""

from __future__ import annotations

import itertools
import math
import re

import pytest

from raf_ray.cluster.packing import Bundle, Free
from raf_ray.cluster.planner import HERE, plan_federation
from raf_ray.cluster.shares import DRIVER_CPUS, EVALUATOR_CPUS, LABEL, NODE_ID, ActorShares, TierNeed
from raf_ray.errors import InputError
from raf_ray.request.assembly import prepare
from raf_ray.training.dry_step import gpu_share
from tests.tiny import tiny


def node(cpus: float, gpus: float = 0.0, here: bool = False) -> Bundle:
    return {"CPU": cpus, "GPU": gpus, **({HERE: 1.0} if here else {})}


def fit(rooms: list[Bundle], clients: int, cpus="auto", gpus: float = 0.0, clients_per_actor=1) -> ActorShares:
    return plan_federation(rooms, [TierNeed("high", clients, 1.0, cpus, gpus)], clients_per_actor)


LAPTOP = [node(2, here=True)]
TWO = [node(2, here=True), node(2)]
UNEVEN = [node(1, here=True), node(3), node(0.5)]
SMALL_HEAD = [node(0.5, here=True), node(4)]
GPUS = [node(8, here=True), node(4, 1), node(4, 1)]
"""A head without a GPU, as in cluster/gpu.yaml."""


def finds_room(rooms: list[Bundle], clients: int, shares: ActorShares) -> bool:
    """Whether every order in which Ray may place the actors, on whichever nodes, ends with all of them placed."""
    host = shares.hosts[0]

    def place(free: list[tuple[float, float]], waiting: tuple[int, bool]) -> bool:
        left, evaluator = waiting
        if not left and not evaluator:
            return True
        for kind in ("client", "evaluator"):
            if (kind == "client" and not left) or (kind == "evaluator" and not evaluator):
                continue
            cpu = host.cpus if kind == "client" else shares.evaluator_cpus
            gpu = host.gpus if kind == "client" else shares.evaluator_gpus
            fitting = [i for i, (c, g) in enumerate(free) if c >= cpu - 1e-9 and g >= gpu - 1e-9]
            rest = (left - 1, evaluator) if kind == "client" else (left, False)
            if not fitting:
                return False
            for i in fitting:
                after = [(c - cpu, g - gpu) if i == j else (c, g) for j, (c, g) in enumerate(free)]
                if not place(after, rest):
                    return False
        return True

    return place([(r["CPU"] - (DRIVER_CPUS if HERE in r else 0), r["GPU"]) for r in rooms], (clients, True))


@pytest.mark.parametrize(
    "rooms", [LAPTOP, TWO, [node(1, here=True), node(3), node(0.5)], [node(0.5, here=True), node(4)]]
)
@pytest.mark.parametrize("clients", [1, 2, 3, 4, 5])
def test_auto_shares_find_room_in_every_order(rooms, clients):
    shares = fit(rooms, clients, "auto", 0.0)
    assert 0 < shares.hosts[0].cpus <= 1 and shares.evaluator_cpus == EVALUATOR_CPUS
    assert finds_room(rooms, clients, shares)


@pytest.mark.parametrize("clients, gpus", itertools.product([1, 2, 3, 4, 5], [0.25, 0.4, 1.0]))
def test_gpu_clients_find_room_on_the_nodes_that_have_gpus_or_are_refused(clients, gpus):
    fits = clients <= 2 * int(1 / gpus)
    if not fits:
        with pytest.raises(InputError, match=r"do not fit"):
            fit(GPUS, clients, "auto", gpus)
        return
    shares = fit(GPUS, clients, "auto", gpus)
    assert finds_room(GPUS, clients, shares)
    assert shares.evaluator_gpus == (gpus if clients < 2 * int(1 / gpus) else 0)


def test_cpus_of_nodes_without_a_gpu_are_no_room_for_gpu_clients():
    """16 CPUs in all, but the eight clients' nodes have 3.7 each beside the evaluator's room: four a node."""
    shares = fit(GPUS, 8, "auto", 0.25)
    assert 0.85 < shares.hosts[0].cpus <= 3.7 / 4
    with pytest.raises(InputError, match=r"8 clients of 1 CPUs do not fit: .* the nodes hold 6 such shares"):
        fit(GPUS, 8, 1.0, 0.25)


def test_the_node_of_the_command_must_have_room_for_the_driver():
    with pytest.raises(InputError, match="this node has no CPU free, and a federation's driver runs where its command"):
        fit([node(0, here=True), node(8)], 3, "auto", 0.0)


def test_what_is_asked_for_is_kept_or_refused_with_the_arithmetic():
    assert fit(TWO, 2, 1.5, 0.0).hosts[0].cpus == 1.5
    with pytest.raises(InputError, match=r"3 clients x 1.3 CPUs \+ 0.4 for driver and evaluator = 4.3 CPUs"):
        fit(TWO, 3, 1.3, 0.0)
    with pytest.raises(InputError, match=r"3 clients of 1.2 CPUs do not fit: .* the nodes hold 2 such shares"):
        fit(TWO, 3, 1.2, 0.0)


def hosts(nodes: list[Bundle], clients: int, clients_per_actor="auto", gpus: float = 0.0, cpus="auto") -> int:
    return len(fit(nodes, clients, cpus, gpus, clients_per_actor).hosts)


def with_memory(gigabytes: float, cpus: float = 2) -> list[Bundle]:
    return [{**node(cpus, here=True), "memory": gigabytes * 1e9}]


def test_clients_have_an_actor_each_while_so_many_are_comfortable_else_an_actor_a_core():
    assert [hosts(LAPTOP, clients) for clients in (1, 3, 4, 5, 18, 1000)] == [1, 3, 4, 2, 2, 2]
    assert [hosts(with_memory(gigabytes), 4) for gigabytes in (24, 4, 3)] == [4, 4, 2]
    assert hosts(TWO, 8) == 8 and hosts(TWO, 9) == 4


def test_the_actors_that_are_asked_for_are_kept():
    assert [hosts(LAPTOP, 18, each) for each in (1, 5, 18, 100)] == [18, 4, 1, 1]


def test_clients_beyond_the_gpus_shares_take_turns():
    assert hosts(GPUS, 8, gpus=0.25) == 8
    assert hosts(GPUS, 100, gpus=0.25) == 8
    with pytest.raises(InputError, match=r"100 clients of 0.25 GPU do not fit"):
        hosts(GPUS, 100, 1, gpus=0.25)


@pytest.mark.parametrize("clients", [5, 18, 100])
def test_shared_actors_find_room_in_every_order(clients):
    for rooms in (LAPTOP, TWO, UNEVEN, SMALL_HEAD):
        shares = fit(rooms, clients, "auto", 0.0, "auto")
        assert finds_room(rooms, len(shares.hosts), shares)


# --- shares by tier ---------------------------------------------------------------------------------------


def tiers(counts=(1, 1, 1), cpus=("auto",) * 3, gpus=(0.0, 0.0, 0.0), labels=({}, {}, {})) -> list[TierNeed]:
    named = zip(("high", "mid", "low"), counts, (4.0, 2.0, 1.0), cpus, gpus, labels, strict=True)
    return [TierNeed(*values) for values in named]


def held(rooms: list[Bundle], shares: ActorShares) -> bool:
    """Whether the nodes hold what is meant for each, beside driver and evaluator on whichever node."""
    for place in range(len(rooms)):
        free = [Free.of(room) for room in rooms]
        assert any(room.take({"CPU": DRIVER_CPUS, HERE: 1.0}) for room in free)
        if not free[place].take({"CPU": shares.evaluator_cpus}):
            continue
        by_node = {f"n{i}": room for i, room in enumerate(free)}
        if not all(by_node[host.node].take(host.bundle()) for host in shares.hosts):
            return False
    return True


def marked(rooms: list[Bundle], *labels: str) -> list[Bundle]:
    """The same nodes, called n0, n1 ...; each with a label key=value, or none."""
    given = (*labels, *[""] * (len(rooms) - len(labels)))
    return [
        {**room, f"{NODE_ID}n{i}": math.inf, **({LABEL + label: math.inf} if label else {})}
        for i, (room, label) in enumerate(zip(rooms, given, strict=True))
    ]


def kinds(shares: ActorShares) -> list[tuple[str | None, float, float]]:
    return [(host.tier, host.cpus, host.gpus) for host in shares.hosts]


def test_a_tiers_gpu_share_is_its_own_and_whole_cards_are_filled():
    rooms = marked([node(8, here=True), node(8, 1), node(8, 1)])
    shares = plan_federation(rooms, tiers((2, 2, 2), (1.0, 1.0, 1.0), (0.6, 0.3, 0.1)), "auto")
    assert kinds(shares) == [("high", 1.0, 0.6)] * 2 + [("mid", 1.0, 0.3)] * 2 + [("low", 1.0, 0.1)] * 2
    assert held(rooms, shares) and {host.node for host in shares.hosts} == {"n1", "n2"}
    with pytest.raises(InputError, match=r"do not fit: 2 high x 1 CPU and 0\.6 GPU \+ .* the cluster has 2 nodes"):
        plan_federation(marked([node(8, here=True), node(8, 1)]), tiers((2, 2, 2), (1.0,) * 3, (0.6, 0.3, 0.1)), 1)


def test_cpus_by_tier_are_kept_and_auto_ones_are_by_cost():
    rooms = marked(TWO)
    assert kinds(plan_federation(rooms, tiers(cpus=(0.9, 0.5, 0.2)), 1)) == [
        ("high", 0.9, 0.0), ("mid", 0.5, 0.0), ("low", 0.2, 0.0),
    ]  # fmt: skip
    rooms = marked(TWO, "kind=edge")
    shares = plan_federation(rooms, tiers(labels=({}, {}, {"kind": "edge"})), 1)
    high, mid, low = (host.cpus for host in shares.hosts)
    assert high == pytest.approx(2 * mid, abs=0.002) and mid == pytest.approx(2 * low, abs=0.002) and high <= 1
    assert held(rooms, shares) and shares.hosts[2].node == "n0"


def test_clients_of_a_tier_share_actors_that_hold_that_tier_alone_by_the_tiers_cost():
    rooms = marked([node(8, 2, here=True)])
    shares = plan_federation(rooms, tiers((100, 100, 100), ("auto",) * 3, (0.5, 0.25, 0.25)), "auto")
    count = {tier: sum(host.tier == tier for host in shares.hosts) for tier in ("high", "mid", "low")}
    assert count == {"high": 3, "mid": 1, "low": 1}
    assert sum(host.gpus for host in shares.hosts) <= 2 and held(rooms, shares)
    each = plan_federation(marked([node(64, here=True)]), tiers((5, 4, 3), (1.0, 0.5, 0.5)), 2)
    assert [host.tier for host in each.hosts] == ["high"] * 3 + ["mid"] * 2 + ["low"] * 2


def test_labels_that_no_node_has_are_refused_by_name():
    wanted = tiers(labels=({"accel": "h100"}, {}, {}))
    with pytest.raises(InputError, match=r"no node of the cluster has accel=h100, which tier high asks for; start one"):
        plan_federation(marked(TWO, "accel=a10"), wanted, 1)


@pytest.mark.parametrize(("words", "says"), [
    ("resources.gpus_per_client={hi: 0.5, mid: 0.3, low: 0.2}", "names no share for tier 'high', which has clients"),
    ("resources.cpus_per_client={high: 0.5, mid: 0.3, low: 0.2, hi: 1}", "cpus_per_client: unknown tier 'hi'"),
    ("resources.labels={hi: {a: b}}", "resources.labels: unknown tier 'hi' (tiers: high, low, mid)"),
    ("resources.cpus_per_client={high: 0, mid: 0.3, low: 0.2}", "resources.cpus_per_client"),
    ("resources.clients_per_actor=0", "resources.clients_per_actor"),
    ("resources.retries=-1", "resources.retries"),
])  # fmt: skip
def test_bad_shares_are_refused_before_anything_is_written(words, says):
    with pytest.raises(InputError, match=re.escape(says)):
        prepare(tiny(words))


@pytest.mark.parametrize(("peak", "total", "share"), [(0, 80e9, 0.01), (10e9, 80e9, 0.16), (79e9, 80e9, 1.0)])
def test_a_measured_share_holds_the_peak_and_a_context(peak, total, share):
    assert gpu_share(peak, total) == share
