"""What results.json says of a run whatever comes out: its people, method, versions."""

from __future__ import annotations

import platform
from importlib.metadata import version

import numpy as np

from raf_ray.config.tree import Config
from raf_ray.files import Json
from raf_ray.request.attackers import bad_clients
from raf_ray.request.plans import trained_sizes, upsampled_sizes
from raf_ray.request.prepared import Prepared
from raf_ray.request.task import metrics_of
from raf_ray.training.clients import Plans


def attack_facts(config: Config, plans: Plans) -> Json | None:
    """What bad clients do and who they are; None where there are none."""
    bad = bad_clients(config, plans)
    return {"name": config.attack.name, "clients": plans.names()[bad].tolist()} if bad else None


def facts_of(prepared: Prepared, name: str) -> Json:
    """What results.json says whatever comes out."""
    config, plans, data = prepared.config, prepared.plans, prepared.data
    clients = plans.counts()

    def by_tier(values: np.ndarray) -> dict[str, float]:
        return dict(zip(clients, np.bincount(plans.tier, values).tolist(), strict=True))

    return {
        "name": name,
        "seed": config.seed,
        "task": config.task.name,
        "metric": metrics_of(config)["test"],
        "objective": config.objective.name,
        "algorithm": config.algorithm.name,
        "aggregation": config.aggregation.name,
        "attack": attack_facts(config, plans),
        "rounds": config.federation.rounds,
        "train_resolutions": [str(size) for size in trained_sizes(plans)],
        "train_clients": clients,
        "train_people": {tier: int(count) for tier, count in by_tier(data.counts).items()},
        "val_people": len(prepared.held_out["val"]),
        "upsampled_train": {tier: total / clients[tier] for tier, total in by_tier(data.upsampled).items()},
        "upsampled_test_to": {str(size): str(to) for size, to in upsampled_sizes(config, plans).items()},
        "parameters": prepared.layout.count("weights"),
        "versions": {
            "python": platform.python_version(),
            **{package: version(package) for package in ("raf-ray", "ray", "torch", "numpy")},
        },
        "machine": f"{platform.system()} {platform.machine()}",
    }
