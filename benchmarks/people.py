"""The same people, batches and first state for every contestant: one file, for programs without raf-ray."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from raf_ray.config import load_config
from raf_ray.data.batches import Batches
from raf_ray.request.assembly import federation_spec, prepare
from raf_ray.training.exchange import Workplace


def words(clients: Mapping[str, int], people: int, rounds: int, levels: int) -> list[str]:
    """The command line of such a federation: plain regression at one level, or RAF's loss at up to three."""
    asked = "{" + ", ".join(f"{tier}: {count}" for tier, count in clients.items()) + "}"
    return [
        f"federation.clients={asked}", f"data.people_per_client={people}", f"federation.rounds={rounds}",
        f"objective.name={'heatmap' if levels == 1 else 'mrkd'}", "data.val_people=50", "data.test_people=50",
        "evaluation.resolutions=[64x48]", f"evaluation.every={rounds}", f"federation.checkpoint_every={rounds}",
        "tracking.mlflow=false", "optimizer.schedule=constant", "optimizer.lr=1e-3",
    ]  # fmt: skip


def command(folder: Path, clients: Mapping[str, int], people: int, rounds: int, levels: int) -> list[str]:
    """The same as a command of its own, on a cluster of its own."""
    return [sys.executable, "-m", "raf_ray.run", "--address", "local", "--output", str(folder),
            *words(clients, people, rounds, levels)]  # fmt: skip


def mixed(count: int) -> dict[str, int]:
    """So many clients, as many of each tier as of the others (the rest: high)."""
    return {"high": count - 2 * (count // 3), "mid": count // 3, "low": count // 3}


def write_people(path: Path, clients: Mapping[str, int], people: int, levels: int) -> None:
    """An .npz: `tier_i`, `crops_i` (n, H, W, 3) uint8, `joints_i` (n, K, 2) float32 crop pixels, `weights_i` (n, K)
    of each client i in the federation's order; beside it, with the suffix .pt, the model's first state dict."""
    prepared = prepare(load_config(overrides=words(clients, people, 1, levels)), check_pictures=False)
    spec = federation_spec(prepared, "people")
    place, arrays = Workplace(), dict[str, np.ndarray]()
    for number in range(len(spec.clients)):
        client: Any = spec.clients.open(number, place)
        batches: Batches = client.task.batches
        batch = batches.collate(np.arange(len(batches.shard)), np.random.default_rng(0))
        assert batch is not None
        arrays[f"tier_{number}"] = np.array(spec.clients[number].tier)
        arrays[f"crops_{number}"] = batch.crops.numpy()
        arrays[f"joints_{number}"], arrays[f"weights_{number}"] = batch.joints.numpy(), batch.weights.numpy()
    np.savez(path, **arrays)
    model: Any = place.model
    spec.layout.write(spec.initial, model)
    torch.save(model.state_dict(), path.with_suffix(".pt"))
