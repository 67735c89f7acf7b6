"""What actors ask for, so that all find room: counted node by node, against a search over every placement."""

from __future__ import annotations

import itertools

import pytest

from raf_ray.cluster.packing import Bundle
from raf_ray.cluster.planner import DRIVER_CPUS, EVALUATOR_CPUS, HERE, ActorShares
from raf_ray.cluster.planner import plan_federation as fit
from raf_ray.errors import InputError


def node(cpus: float, gpus: float = 0.0, here: bool = False) -> Bundle:
    return {"CPU": cpus, "GPU": gpus, **({HERE: 1.0} if here else {})}


LAPTOP = [node(2, here=True)]
TWO = [node(2, here=True), node(2)]
UNEVEN = [node(1, here=True), node(3), node(0.5)]
SMALL_HEAD = [node(0.5, here=True), node(4)]
GPUS = [node(8, here=True), node(4, 1), node(4, 1)]
"""A head without a GPU, as in cluster/gpu.yaml."""


def finds_room(rooms: list[Bundle], clients: int, shares: ActorShares) -> bool:
    """Whether every order in which Ray may place the actors, on whichever nodes, ends with all of them placed."""
    gpus = shares.client_gpus

    def place(free: list[tuple[float, float]], waiting: tuple[int, bool]) -> bool:
        left, evaluator = waiting
        if not left and not evaluator:
            return True
        for kind in ("client", "evaluator"):
            if (kind == "client" and not left) or (kind == "evaluator" and not evaluator):
                continue
            cpu = shares.client_cpus if kind == "client" else shares.evaluator_cpus
            gpu = gpus if kind == "client" else shares.evaluator_gpus
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
    assert 0 < shares.client_cpus <= 1 and shares.evaluator_cpus == EVALUATOR_CPUS
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
    assert 0.85 < shares.client_cpus <= 3.7 / 4
    with pytest.raises(InputError, match=r"8 clients of 1 CPUs do not fit: .* the nodes hold 6 such shares"):
        fit(GPUS, 8, 1.0, 0.25)


def test_the_node_of_the_command_must_have_room_for_the_driver():
    with pytest.raises(InputError, match="this node has no CPU free, and a federation's driver runs where its command"):
        fit([node(0, here=True), node(8)], 3, "auto", 0.0)


def test_what_is_asked_for_is_kept_or_refused_with_the_arithmetic():
    assert fit(TWO, 2, 1.5, 0.0).client_cpus == 1.5
    with pytest.raises(InputError, match=r"3 clients x 1.3 CPUs \+ 0.4 for driver and evaluator = 4.3 CPUs"):
        fit(TWO, 3, 1.3, 0.0)
    with pytest.raises(InputError, match=r"3 clients of 1.2 CPUs do not fit: .* the nodes hold 2 such shares"):
        fit(TWO, 3, 1.2, 0.0)


def hosts(nodes: list[Bundle], clients: int, clients_per_actor="auto", gpus: float = 0.0, cpus="auto") -> int | None:
    return fit(nodes, clients, cpus, gpus, clients_per_actor).hosts


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
        assert shares.hosts is not None and finds_room(rooms, shares.hosts, shares)
