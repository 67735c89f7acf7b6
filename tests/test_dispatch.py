"""Who trains whom next, on a clock of its own: nobody twice, nobody forgotten, and the last ones are short."""

from __future__ import annotations

import heapq

import numpy as np
import pytest

from raf_ray.federation.dispatch import Dispatch


def played(costs: dict[str, float], speeds: list[float], homes: dict[str, int]) -> tuple[float, dict[str, int], int]:
    """Seconds of a round, where each client trained, and how many calls it took."""
    waiting = Dispatch(costs, range(len(speeds)), homes)
    free = [(0.0, host) for host in range(len(speeds))]
    where: dict[str, int] = {}
    end, calls = 0.0, 0
    while free:
        now, host = heapq.heappop(free)
        clients = waiting.next(host)
        if not clients:
            continue
        assert not where.keys() & set(clients)
        where.update(dict.fromkeys(clients, host))
        calls += 1
        done = now + sum(costs[client] for client in clients) / speeds[host]
        end = max(end, done)
        heapq.heappush(free, (done, host))
    assert where.keys() == costs.keys() and not len(waiting)
    return end, where, calls


def clients(count: int, seed: int = 0) -> dict[str, float]:
    drawn = np.random.default_rng(seed).choice([1.0, 2.0, 5.0], count)
    return {f"c{i}": float(cost) for i, cost in enumerate(drawn)}


@pytest.mark.parametrize("count", [1, 3, 18, 500])
@pytest.mark.parametrize("hosts", [1, 2, 5])
def test_a_round_ends_within_one_client_of_the_best_possible(count, hosts):
    costs = clients(count)
    end, _, _ = played(costs, [1.0] * hosts, {})
    assert end <= max(sum(costs.values()) / hosts, max(costs.values())) + max(costs.values())


def test_a_slow_host_is_helped():
    costs = clients(200)
    end, where, _ = played(costs, [1.0, 0.1], {})
    assert end < 1.15 * sum(costs.values()) / 1.1
    assert sum(host == 0 for host in where.values()) > 150


def test_clients_stay_where_they_trained_while_the_load_is_even():
    costs = clients(200)
    _, first, _ = played(costs, [1.0] * 4, {})
    _, second, _ = played(costs, [1.0] * 4, first)
    assert sum(first[name] == second[name] for name in costs) > 190


def test_many_small_clients_take_few_calls():
    _, _, calls = played(dict.fromkeys((f"c{i}" for i in range(1000)), 1.0), [1.0, 1.0], {})
    assert calls < 60


def test_those_of_a_lost_call_wait_again_one_by_one():
    waiting = Dispatch(dict.fromkeys("abcdefgh", 1.0), [0, 1], {})
    chunk = waiting.next(0)
    waiting.put_back(0, chunk)
    assert [waiting.next(0) for _ in chunk] == [[client] for client in chunk]
