"""What a trial reserves: a bundle for the driver, one for the evaluator, one for each client; and whether it fits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import floor

from raf_ray.config import Config
from raf_ray.errors import InputError
from raf_ray.federation.actors import ActorShares
from raf_ray.plans import plan_clients
from raf_ray.search.spec import TrialResources

Bundle = dict[str, float]

LEAST_CPUS = 0.01
"""Of a client; Ray counts no finer than a ten thousandth."""


@dataclass(frozen=True)
class Placement:
    """How trials of a search are placed."""

    shares: ActorShares
    driver: Bundle
    in_process: bool
    threads: int
    strategy: str

    def bundles(self, clients: int) -> list[Bundle]:
        """Bundle 0 is the trial's own process, 1 the evaluator's, then a bundle a client."""
        if self.in_process:
            return [{**self.driver, "CPU": float(self.threads), **_gpu(self.shares.client_gpus)}]
        evaluator = {"CPU": self.shares.evaluator_cpus, **_gpu(self.shares.evaluator_gpus)}
        client = {"CPU": self.shares.client_cpus, **_gpu(self.shares.client_gpus)}
        return [self.driver, evaluator, *(dict(client) for _ in range(clients))]


def plan_placement(
    configs: Sequence[Config], asked: TrialResources, at_once: int | None, nodes: Sequence[Bundle], here: str
) -> Placement:
    """Shares and bundles of a search's trials.

    Args:
        configs: of the trials that are known.
        at_once: trials that shall run together; None: as many as fit with a CPU a client.
        nodes: resources of each node of the cluster.
        here: resource name of the node where run folders lie: drivers stay there.

    Raises:
        InputError: the largest trial fits no time, with the arithmetic.
    """
    largest = max(configs, key=lambda config: len(plan_clients(config)))
    clients = len(plan_clients(largest))
    in_process = largest.federation.engine == "in_process"

    def placement(client_cpus: float) -> Placement:
        shares = ActorShares(client_cpus, largest.resources.gpus_per_client, asked.evaluator_cpus, asked.evaluator_gpus)
        driver = {"CPU": asked.driver_cpus, here: 0.001}
        return Placement(shares, driver, in_process, largest.resources.threads, asked.strategy)

    if in_process or asked.client_cpus != "auto":
        chosen = placement(1.0 if asked.client_cpus == "auto" else asked.client_cpus)
    else:
        total = sum(node.get("CPU", 0.0) for node in nodes)
        apart = asked.driver_cpus + asked.evaluator_cpus
        wanted = at_once or max(1, floor(total / (clients + apart)))
        while at_once is None and wanted > 1 and not _fit(placement(LEAST_CPUS).bundles(clients) * wanted, nodes):
            wanted -= 1  # GPUs bound how many run at once
        share = min(1.0, (total / wanted - apart) / clients)
        while share >= LEAST_CPUS and not _fit(_without_gpu(placement(_cut(share)).bundles(clients)) * wanted, nodes):
            share *= 0.97
        if share < LEAST_CPUS:
            raise InputError(
                f"{wanted} trials at once x ({clients} clients + {apart:g} CPUs for driver and evaluator) leave no CPU "
                f"for clients on {_told(nodes)}; lower max_concurrent_trials"
            )
        chosen = placement(_cut(share))
    bundles = chosen.bundles(clients)
    if not _fit(bundles, nodes) or not _fits_strategy(bundles, nodes, asked.strategy):
        shown = " + ".join(_shown(bundle, here) for bundle in bundles[:2])
        rest = f" + {clients} x {_shown(bundles[2], here)}" if len(bundles) > 2 else ""
        raise InputError(
            f"a trial does not fit: {shown}{rest} (driver, evaluator, clients), but the cluster is "
            f"{_told(nodes)}; lower resources.client_cpus, base.resources.gpus_per_client or base.federation.clients, "
            "or loosen resources.strategy"
        )
    return chosen


def _fits_strategy(bundles: Sequence[Bundle], nodes: Sequence[Bundle], strategy: str) -> bool:
    """Whether the strict strategies can hold: all bundles on one node, or each on a node of its own."""
    if strategy == "STRICT_PACK":
        return any(_fit(bundles, [node]) for node in nodes)
    return strategy != "STRICT_SPREAD" or len(nodes) >= len(bundles)


def _cut(share: float) -> float:
    return floor(share * 1000) / 1000


def _fit(bundles: Sequence[Bundle], nodes: Sequence[Bundle]) -> bool:
    """First fit, those bound to a node first, then the largest; a GPU share must come from one GPU."""
    free = [dict(node) for node in nodes]
    gpus = [[1.0] * int(node.get("GPU", 0)) for node in nodes]

    def order(bundle: Bundle) -> tuple[bool, float, float]:
        return not any(name.startswith("node:") for name in bundle), -bundle.get("GPU", 0.0), -bundle.get("CPU", 0.0)

    for bundle in sorted(bundles, key=order):
        for node, cards in zip(free, gpus, strict=True):
            plain = {name: amount for name, amount in bundle.items() if name != "GPU"}
            if any(node.get(name, 0.0) < amount - 1e-9 for name, amount in plain.items()):
                continue
            if not _take_gpu(cards, bundle.get("GPU", 0.0)):
                continue
            for name, amount in plain.items():
                node[name] -= amount
            break
        else:
            return False
    return True


def _take_gpu(cards: list[float], share: float) -> bool:
    if share == 0:
        return True
    if share >= 1:
        whole = [i for i, left in enumerate(cards) if left > 1 - 1e-9]
        for i in whole[: int(share)]:
            cards[i] = 0.0
        return len(whole) >= share
    for i, left in enumerate(cards):
        if left >= share - 1e-9:
            cards[i] -= share
            return True
    return False


def _without_gpu(bundles: Sequence[Bundle]) -> list[Bundle]:
    return [{name: amount for name, amount in bundle.items() if name != "GPU"} for bundle in bundles]


def _gpu(share: float) -> Bundle:
    return {"GPU": share} if share else {}


def _shown(bundle: Bundle, here: str) -> str:
    return " and ".join(f"{amount:g} {name}" for name, amount in bundle.items() if name != here)


def _told(nodes: Sequence[Bundle]) -> str:
    each = [f"{node.get('CPU', 0):g} CPUs and {node.get('GPU', 0):g} GPUs" for node in nodes]
    return f"{len(nodes)} node{'s' * (len(nodes) > 1)} ({'; '.join(each[:4])}{' ...' * (len(each) > 4)})"
