"""Federated averaging by hand, in plain PyTorch: what the engine is measured against. Nothing of raf-ray but its model.

``python -m benchmarks.bare PEOPLE.npz --levels 3 --rounds 4`` trains the clients of a file of
`benchmarks.people.write_people` and prints a line of JSON: seconds and mean loss of each round.
The clients are dealt to processes by their pixels, longest first; a round ends when the last process has ended.
"""

from __future__ import annotations

import json
import time
from typing import Any

import numpy as np
import torch
import torch.multiprocessing as mp
from torch import Tensor
from torch.nn import functional as F

from benchmarks.peers import arguments
from raf_ray.models.demo import DemoNet

TIERS = {"high": (128, 96), "mid": (96, 72), "low": (64, 48)}
BATCH, LR, DECAY = 8, 1e-3, 0.01
MEAN, STD = (torch.tensor(v).view(1, 3, 1, 1) for v in ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)))


def averaging(source: int, target: int) -> Tensor:
    """(target, source): area averaging along an axis."""
    edges = torch.arange(target + 1, dtype=torch.float64) * source / target
    pixel = torch.arange(source, dtype=torch.float64)
    overlap = torch.minimum(edges[1:, None], pixel + 1) - torch.maximum(edges[:-1, None], pixel)
    return (overlap.clamp(min=0) * target / source).float()


AREA = {(a, b): averaging(a, b) for sizes in zip(*TIERS.values(), strict=True) for a in sizes for b in sizes if b < a}


def render(crops: Tensor, joints: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Normalised images (B, 3, h, w) and Gaussian targets (B, K, h/4, w/4) of sigma 2."""
    images = crops.permute(0, 3, 1, 2).float()
    (height, width), (h, w) = images.shape[-2:], size
    if (h, w) != (height, width):
        images = AREA[height, h] @ (images @ AREA[width, w].T)
    at = (((joints + 0.5) * torch.tensor([w / width, h / height]) - 0.5) + 0.5) / 4 - 0.5
    along_x = torch.exp(-((torch.arange(w // 4) - at[..., :1]) ** 2) / 8)
    along_y = torch.exp(-((torch.arange(h // 4) - at[..., 1:]) ** 2) / 8)
    images = ((images - MEAN) / STD).contiguous(memory_format=torch.channels_last)
    return images, along_y[..., :, None] * along_x[..., None, :]


def mse(a: Tensor, b: Tensor, weights: Tensor) -> Tensor:
    return ((a - b) ** 2 * weights[..., None, None]).mean()


def loss_of(model: torch.nn.Module, crops: Tensor, joints: Tensor, weights: Tensor, sizes: list[Any]) -> Tensor:
    """Each level against its target; each but the first, for half, against the one above it."""
    total, above = torch.zeros(()), None
    for size in sizes:
        images, targets = render(crops, joints, size)
        heatmaps = model(images)
        level = mse(heatmaps, targets, weights)
        if above is not None:
            level = 0.5 * level + 0.5 * mse(F.interpolate(heatmaps, size=above.shape[-2:]), above, weights)
        total, above = total + level, heatmaps.detach()
    return total / len(sizes)


def optimizer_of(model: torch.nn.Module) -> torch.optim.Optimizer:
    plain = [p for p in model.parameters() if p.ndim <= 1]
    decayed = [p for p in model.parameters() if p.ndim > 1]
    groups = [{"params": decayed, "weight_decay": DECAY}, {"params": plain, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=LR, fused=True)


def train(model: torch.nn.Module, client: dict[str, Any], number: int, index: int, levels: int) -> float:
    """One local epoch; the mean loss over its people."""
    rng = np.random.default_rng([0, 1 + index, number])
    rng.integers(2**62)  # as the federation draws
    order = rng.permutation(len(client["crops"]))
    crops, joints, weights = (torch.from_numpy(client[name]) for name in ("crops", "joints", "weights"))
    sizes = [size for size in TIERS.values() if size <= TIERS[str(client["tier"])]][:levels]
    optimizer, total = optimizer_of(model), torch.zeros(())
    for start in range(0, len(order), BATCH):
        at = torch.from_numpy(order[start : start + BATCH])
        loss = loss_of(model, crops[at], joints[at], weights[at], sizes)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        total += loss.detach() * len(at)
    return float(total / len(order))


def read(path: str) -> list[dict[str, Any]]:
    file = np.load(path)
    count = sum(name.startswith("tier_") for name in file)
    return [{name: file[f"{name}_{i}"] for name in ("tier", "crops", "joints", "weights")} for i in range(count)]


def fresh(path: str) -> torch.nn.Module:
    state = torch.load(path.replace(".npz", ".pt"))
    model = DemoNet(len(state["head.bias"])).to(memory_format=torch.channels_last)
    model.load_state_dict(state)
    return model.train()


def deal(clients: list[dict[str, Any]], processes: int) -> list[list[int]]:
    """Client numbers of each process, about as many pixels each."""
    dealt: list[list[int]] = [[] for _ in range(processes)]
    pixels = [client["crops"].size for client in clients]
    for i in sorted(range(len(clients)), key=lambda i: -pixels[i]):
        min(dealt, key=lambda own: sum(pixels[j] for j in own)).append(i)
    return dealt


def work(rank: int, path: str, levels: int, rounds: int, processes: int, sums: Tensor, losses: Tensor, gate: Any,
         seconds: Any) -> None:  # fmt: skip
    torch.set_num_threads(1)
    clients, model = read(path), fresh(path)
    names = list(model.state_dict())
    people = [len(client["crops"]) for client in clients]
    state = torch.cat([value.flatten() for value in model.state_dict().values()])
    own = deal(clients, processes)[rank]
    for index in range(rounds):
        gate.wait()
        begin = time.perf_counter()
        total, loss = torch.zeros_like(state), 0.0
        for i in own:
            load(model, names, state)
            loss += train(model, clients[i], i, index, levels) * people[i] / sum(people)
            update = torch.cat([value.flatten() for value in model.state_dict().values()]) - state
            total += update * (people[i] / sum(people))
        sums[rank], losses[rank] = total, loss
        gate.wait()
        state = state + sums.sum(0)
        if rank == 0:
            seconds.put((time.perf_counter() - begin, float(losses.sum())))
        gate.wait()  # until all have read the sums


def load(model: torch.nn.Module, names: list[str], state: Tensor) -> None:
    parts, at = {}, 0
    for name, value in model.state_dict().items():
        parts[name] = state[at : at + value.numel()].view(value.shape)
        at += value.numel()
    model.load_state_dict(parts)


def main() -> None:
    asked = arguments(__doc__)
    context = mp.get_context("spawn")
    size = sum(value.numel() for value in fresh(asked.people).state_dict().values())
    sums, losses = torch.zeros(asked.processes, size).share_memory_(), torch.zeros(asked.processes).share_memory_()
    gate, seconds = context.Barrier(asked.processes), context.Queue()
    mp.spawn(work, (asked.people, asked.levels, asked.rounds, asked.processes, sums, losses, gate, seconds),
             nprocs=asked.processes)  # fmt: skip
    rounds = [seconds.get() for _ in range(asked.rounds)]
    print(json.dumps({"seconds": [s for s, _ in rounds], "loss": [value for _, value in rounds]}))


if __name__ == "__main__":
    main()
