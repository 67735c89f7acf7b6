"""A federation's shares of the connected cluster, and what is said of them."""

from __future__ import annotations

from functools import lru_cache, partial

from raf_ray.cluster.planner import free_nodes, plan_federation
from raf_ray.cluster.shares import ActorShares, PerActor
from raf_ray.errors import RunError
from raf_ray.request.needs import needs_of
from raf_ray.request.parts import client_spec
from raf_ray.request.prepared import Prepared
from raf_ray.training.dry_step import dry_step


def shares_of(prepared: Prepared) -> ActorShares:
    """What the federation's actors ask for on the connected cluster. Raises InputError where they do not fit."""
    resources = prepared.config.resources
    gpus = measured_gpus(prepared) if resources.gpus_per_client == "auto" else None
    needs = needs_of(prepared.config, prepared.plans, prepared.data.counts, gpus)
    return plan_federation(free_nodes(), needs, resources.clients_per_actor)


@lru_cache(maxsize=16)
def measured_gpus(prepared: Prepared) -> dict[str, float]:
    """Tier -> share of a GPU, by the memory of its first client's steps on one; 0 where the cluster has none free.

    Measured once for a request: it is planned to be told of, and again when it runs.

    Raises RunError where a step fails there.
    """
    import ray
    from ray.exceptions import RayError

    plans, data = prepared.plans, prepared.data
    if ray.available_resources().get("GPU", 0.0) < 1:
        return dict.fromkeys(plans.counts(), 0.0)
    spec = client_spec(prepared.config, prepared.skeleton)
    shares = {}
    for number, tier in enumerate(plans.tiers):
        first = int((plans.tier == number).argmax())
        # A process of its own for each: what one has allocated counts for the next otherwise.
        task = ray.remote(num_cpus=0, num_gpus=1, max_calls=1, max_retries=0)(partial(dry_step, spec))
        try:
            shares[tier.name] = ray.get(task.remote(plans[first], data[first]))
        except RayError as error:
            raise RunError(f"a step of tier {tier.name} failed on a GPU, to measure its memory: {error}") from error
    return shares


def said_of(shares: ActorShares, clients: int, asked: PerActor) -> list[str]:
    """Lines for the user: where clients share actors, and why; what each tier got, where tiers differ."""
    lines = []
    hosts = shares.hosts
    if len(hosts) < clients:
        why = "an actor each is more than the cluster holds well; =1 forces it" if asked == "auto" else f"={asked}"
        lines.append(f"{clients} clients take turns in {len(hosts)} actors (resources.clients_per_actor: {why})")
    by_tier: dict[str, list[str]] = {}
    for host in hosts:
        if host.tier is not None:
            labels = "".join(f", {key}={value}" for key, value in host.labels.items())
            share = f"{host.cpus:g} CPU" + (f" and {host.gpus:g} GPU" if host.gpus else "") + labels
            by_tier.setdefault(host.tier, []).append(share)
    if by_tier:
        told = (f"{tier} {len(shares)} x {shares[0]}" for tier, shares in by_tier.items())
        lines.append(f"shares by tier: {'; '.join(told)}")
    return lines
