"""From a config to the parts of a federation: who owns which people, clients, scorer, initial state.

Everything that can be wrong with a request is found here, before a folder is made or an actor starts.
"""

from __future__ import annotations

import logging
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import torch
from torch import nn

from raf_ray.algorithms.fedavg import FedAvg
from raf_ray.config.tree import Config, ModelConfig, ObjectiveConfig
from raf_ray.data.augment import NO_MARGINS, Augmentation
from raf_ray.data.batches import Batches, render_pyramid
from raf_ray.data.coco import coco_files, coco_people
from raf_ray.data.codec import SIGMA
from raf_ray.data.index import Index, check_clients, check_margins, check_partition, first_people, read_index
from raf_ray.data.mpii import mpii_files, mpii_people
from raf_ray.data.people import People
from raf_ray.data.shard import Margins, Shard, cut_shard, lay_patches
from raf_ray.data.skeletons import COCO17, SKELETONS, Skeleton
from raf_ray.data.splits import partition, split_by_picture
from raf_ray.data.store import read_shard, read_upsampled
from raf_ray.data.stored_people import read_people
from raf_ray.data.synthetic import synthetic_people
from raf_ray.errors import InputError
from raf_ray.federation.client import Client, LocalTraining
from raf_ray.federation.driver import Schedule
from raf_ray.federation.state import Layout
from raf_ray.models import build_model
from raf_ray.objectives import Objective, build_objective
from raf_ray.objectives.levels import draw_levels, level_weights
from raf_ray.plugins import is_import_path, load_object
from raf_ray.resolution import Size, check_divides, find_size, parse_size, pyramid_levels
from raf_ray.scoring import Metric, Scorer, check_metric

SYNTHETIC_CLIENT, SYNTHETIC_VAL, SYNTHETIC_TEST = 600, 200, 400


@dataclass(frozen=True)
class ClientPlan:
    """One client before it exists."""

    name: str
    number: int
    tier: str
    size: Size
    levels: tuple[Size, ...]
    level_weights: tuple[float, ...]


@dataclass(frozen=True)
class ClientData:
    """What a client owns: people whose pictures are cut at its tier when they are read, or a stored shard."""

    people: People | None
    count: int
    upsampled: float
    """Share of the people who are smaller in their picture than the tier."""
    open_shard: Callable[[], Shard] | None = None


@dataclass(frozen=True)
class Prepared:
    """A checked request, ready to run."""

    config: Config
    plans: tuple[ClientPlan, ...]
    data: tuple[ClientData, ...]
    held_out: dict[str, People]
    """`val` and `test`"""
    layout: Layout
    initial: np.ndarray
    """(num_bytes,) uint8 initial global state"""
    notes: tuple[str, ...] = ()
    """Sentences for the user: what a checkpoint did not fill ..."""

    @property
    def skeleton(self) -> Skeleton:
        return self.held_out["test"].skeleton


def prepare(config: Config) -> Prepared:
    """Check a request as a whole. Raises InputError for what is wrong with it."""
    plans = plan_clients(config)
    data, held_out = load_data(config, plans)
    skeleton = held_out["test"].skeleton
    for split, metric in metrics_of(config).items():
        check_metric(metric, held_out[split])
    model, notes = initial_model(config.model, len(skeleton), config.seed)
    divisor = int(getattr(model, "size_divisor", 4))
    for plan in plans:
        for size in plan.levels:
            check_divides(size, divisor, f"client {plan.name}")
    for size in final_sizes(config, plans):
        check_divides(size, divisor, "evaluation.resolutions")
    if config.optimizer.layer_decay < 1 and not hasattr(model, "layer_id"):
        raise InputError(f"optimizer.layer_decay: model {config.model.name} names no layers; set it to 1")
    wants_gpu_here = config.resources.gpus_per_client > 0 and config.federation.engine == "in_process"
    if wants_gpu_here and not torch.cuda.is_available():
        raise InputError("resources.gpus_per_client: this machine has no usable GPU; set it to 0")
    layout = Layout.of(model)
    build_loss(config.objective)
    return Prepared(config, plans, data, held_out, layout, layout.read(model), notes)


def plan_clients(config: Config) -> tuple[ClientPlan, ...]:
    """Names, tiers and pyramids, in order; a client is called ``client-TIER-NNN``."""
    listed = config.federation.clients
    names = [t for t, n in listed.items() for _ in range(n)] if isinstance(listed, dict) else list(listed)
    tiers = config.resolution.tiers
    for tier, text in tiers.items():
        try:
            parse_size(text)
        except InputError as error:
            raise InputError(f"resolution.tiers.{tier}: {error}") from error
    plans = []
    seen: dict[str, int] = {}
    for number, tier in enumerate(names):
        size = find_size(tier, tiers, "federation.clients")
        levels = levels_of(config.objective, size, tiers)
        weights = level_weights(config.objective.level_weights, [level.pixels for level in levels])
        name = f"client-{tier}-{seen.get(tier, 0):03d}"
        seen[tier] = seen.get(tier, 0) + 1
        plans.append(ClientPlan(name, number, tier, size, levels, weights))
    return tuple(plans)


def levels_of(objective: ObjectiveConfig, own: Size, tiers: dict[str, str]) -> tuple[Size, ...]:
    """A client's pyramid by `objective.levels`, own size first."""
    if objective.name == "heatmap":
        return (own,)
    if objective.levels == "tiers":
        below = [parse_size(text) for text in tiers.values()]
    else:
        below = [find_size(name, tiers, "objective.levels") for name in objective.levels]
    levels = pyramid_levels(own, below)
    weights = objective.level_weights
    if isinstance(weights, list) and len(weights) < len(levels):
        raise InputError(
            f"objective.level_weights has {len(weights)} entries, but a client of {own} has {len(levels)} levels"
        )
    return levels


def trained_sizes(plans: Sequence[ClientPlan]) -> list[Size]:
    """Sizes of the clients' own tiers, largest first."""
    return sorted({plan.size for plan in plans}, key=lambda s: s.pixels, reverse=True)


def final_sizes(config: Config, plans: Sequence[ClientPlan]) -> list[Size]:
    """Sizes of the drift curve, largest first, always with the trained ones."""
    asked = {
        find_size(name, config.resolution.tiers, "evaluation.resolutions") for name in config.evaluation.resolutions
    }
    return sorted(asked | set(trained_sizes(plans)), key=lambda s: s.pixels, reverse=True)


def expected_pixels(config: Config, plan: ClientPlan, people: int) -> float:
    """Forward pixels of one client's round, in expectation over the levels drawn."""
    objective = config.objective
    own, lower = plan.levels[0].pixels, [level.pixels for level in plan.levels[1:]]
    mean_lower = sum(lower) / len(lower) if lower else 0.0
    if not lower or objective.sampling == "all":
        a_person = float(own + sum(lower))
    elif objective.sampling == "pair":
        a_person = own + (1 - (objective.own_share or 0.0)) * mean_lower
    else:
        share = 0.5 if objective.own_share is None else objective.own_share
        a_person = share * own + (1 - share) * mean_lower
    return a_person * people * config.federation.local_epochs


def augmentation_of(config: Config) -> Augmentation | None:
    asked = config.data.augment
    if asked is None:
        return None
    return Augmentation(flip=asked.flip, scale=asked.scale, rotation=asked.rotation, half_body=asked.half_body)


def margins_of(config: Config, aspect: float) -> Margins:
    augmentation = augmentation_of(config)
    return NO_MARGINS if augmentation is None else augmentation.margins(aspect)


# --- data -----------------------------------------------------------------------------------------------


def load_data(config: Config, plans: Sequence[ClientPlan]) -> tuple[tuple[ClientData, ...], dict[str, People]]:
    """Each client's people and the held-out splits; no picture is read. The splits are disjoint."""
    if config.data.name == "shards":
        return load_shards(config, plans), load_held_out(config, plans)
    train, val, test = load_splits(config, len(plans))
    parts = partition(
        train,
        len(plans),
        mode=config.data.partition,
        people_per_client=config.data.people_per_client,
        counts=config.data.counts,
        concentration=config.data.concentration,
        seed=config.seed,
    )
    owned = []
    for plan, index in zip(plans, parts, strict=True):
        people = train.take(index)
        upsampled = lay_patches(people, plan.size, NO_MARGINS).upsampled
        share = float(upsampled.mean())
        if config.data.upsampled == "skip":
            people = people.take(~upsampled)
            _check_left(len(people), plan)
        owned.append(ClientData(people, len(people), share))
    return tuple(owned), {"val": val, "test": test}


def load_shards(config: Config, plans: Sequence[ClientPlan]) -> tuple[ClientData, ...]:
    """Each client's prepared shard, of which no patch is read.

    Raises InputError where the shards are of other clients, joints or another partition than the config's, or
    hold too few people or too little around them.
    """
    data = config.data
    root, index = _open_shards(config)
    check_clients(index, [(plan.name, plan.size) for plan in plans])
    check_partition(index, data.partition, data.concentration)
    key = "data.counts" if data.counts else "data.people_per_client"
    wanted: Sequence[int | None] = data.counts or [data.people_per_client] * len(plans)
    if len(wanted) != len(plans):
        raise InputError(f"data.counts: {len(wanted)} numbers for {len(plans)} clients; give one for each")
    stored = read_upsampled(root, index.clients, index.skeleton)
    skip = data.upsampled == "skip"
    owned = []
    for plan, record, most, flags in zip(plans, index.clients, wanted, stored, strict=True):
        check_margins(record, margins_of(config, plan.size.aspect))
        first = first_people(key, most, record, f"client {record.name}")
        upsampled = flags[:first]
        count = int((~upsampled).sum()) if skip else first
        _check_left(count, plan)
        opened = partial(
            read_shard, root, record, index.skeleton, first=first, skip_upsampled=skip, cache_mb=data.cache_mb
        )
        owned.append(ClientData(None, count, float(upsampled.mean()), opened))
    return tuple(owned)


def _open_shards(config: Config) -> tuple[Path, Index]:
    """The folder of prepared shards and its index, checked against the configured joints."""
    root = Path(config.data.root or "").absolute()
    index = read_index(root)
    if config.data.skeleton is not None and skeleton_of(config) != index.skeleton:
        raise InputError(
            f"data.skeleton={config.data.skeleton}, but the shards in {config.data.root} hold the "
            f"{len(index.skeleton)} joints of '{index.skeleton.name}'; leave data.skeleton out"
        )
    return root, index


def _check_left(people: int, plan: ClientPlan) -> None:
    if not people:
        raise InputError(
            f"client {plan.name} has no people left: all are smaller than {plan.size} in their pictures; "
            "set data.upsampled=keep or give it a lower tier"
        )


def load_splits(config: Config, clients: int) -> tuple[People, People, People]:
    """(train, val, test) people of the configured source."""
    data = config.data
    if data.name == "synthetic":
        needed = sum(data.counts) if data.counts else clients * (data.people_per_client or SYNTHETIC_CLIENT)

        def drawn(split: str, count: int) -> People:
            return synthetic_people(config.seed, split, np.arange(count), float(data.synthetic_height))

        return (
            drawn("train", needed),
            drawn("val", data.val_people or SYNTHETIC_VAL),
            drawn("test", data.test_people or SYNTHETIC_TEST),
        )
    both, test = source_people(config, "train"), source_people(config, "test")
    train_index, val_index = split_by_picture(both, data.val_fraction, config.seed)
    rng = np.random.default_rng([config.seed, 2**31 + 1])
    return (
        both.take(train_index),
        _some(both.take(val_index), data.val_people, rng),
        _some(test, data.test_people, rng),
    )


def load_held_out(config: Config, plans: Sequence[ClientPlan]) -> dict[str, People]:
    """The `val` and `test` people alone."""
    if config.data.name == "shards":
        root, index = _open_shards(config)
        wanted = {"val": config.data.val_people, "test": config.data.test_people}
        sizes = final_sizes(config, plans)
        return {split: read_people(root, index, split, wanted[split], sizes) for split in ("val", "test")}
    _, val, test = load_splits(config, len(plans))
    return {"val": val, "test": test}


def source_people(config: Config, split: Literal["train", "test"]) -> People:
    """All people of a file-based (or one's own) source's split."""
    data = config.data
    if data.name == "coco":
        return coco_people(*coco_files(data.root or "", data.annotations, data.images, split), skeleton_of(config))
    if data.name == "mpii":
        return mpii_people(*mpii_files(data.root or "", data.annotations, data.images, split))
    assert is_import_path(data.name)
    people = load_object(data.name, "data.name")(root=data.root, split=split)
    if not isinstance(people, People):
        raise InputError(f"data.name={data.name} returned {type(people).__name__}, not raf_ray.data.people.People")
    return people


def skeleton_of(config: Config) -> Skeleton:
    name = config.data.skeleton
    if name is None:
        return COCO17
    if not is_import_path(name):
        return SKELETONS[name]
    skeleton = load_object(name, "data.skeleton")
    if not isinstance(skeleton, Skeleton):
        raise InputError(f"data.skeleton={name} is no raf_ray.data.skeletons.Skeleton")
    return skeleton


def _some(people: People, count: int | None, rng: np.random.Generator) -> People:
    """At most `count` people, drawn from `rng`, in file order."""
    if count is None or count >= len(people):
        return people
    return people.take(np.sort(rng.choice(len(people), count, replace=False)))


# --- model and objective --------------------------------------------------------------------------------


def new_model(config: ModelConfig, num_joints: int) -> nn.Module:
    if is_import_path(config.name):
        model = load_object(config.name, "model.name")(num_joints)
        if not isinstance(model, nn.Module):
            raise InputError(f"model.name={config.name} returned {type(model).__name__}, not a torch.nn.Module")
        return model
    return build_model(config.name, num_joints, config.depth)


def initial_model(config: ModelConfig, num_joints: int, seed: int) -> tuple[nn.Module, tuple[str, ...]]:
    """The model with its initial weights, the same for the same seed; and notes on its checkpoint."""
    torch.manual_seed(seed)
    model = new_model(config, num_joints)
    if config.checkpoint is None:
        return model, ()
    from raf_ray.models.checkpoint import load_checkpoint  # late: torchvision takes two seconds

    report = load_checkpoint(model, Path(config.checkpoint))
    kept = [*report.missing, *report.mismatched]
    notes = [f"model.checkpoint: {len(report.loaded)} entries loaded from {config.checkpoint}"]
    if kept:
        notes.append(f"  kept their fresh values: {_shorten(kept)}")
    if report.unexpected:
        notes.append(f"  in the file, not in the model: {_shorten(report.unexpected)}")
    return model, tuple(notes)


def _shorten(names: Sequence[str], most: int = 6) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def build_loss(config: ObjectiveConfig) -> Objective:
    if is_import_path(config.name):
        return load_object(config.name, "objective.name")
    return build_objective(
        config.name,
        alpha=config.alpha,
        teacher=config.teacher,
        weighting=config.weighting,
        kd_weight=config.kd_weight,
        loss=config.loss,
        temperature=config.temperature,
        resize=config.resize,
        sigma=SIGMA,
    )


# --- what runs inside actors ----------------------------------------------------------------------------


def claim_device(config: Config, wants_gpu: bool = True) -> torch.device:
    """The process's device, with its threads set. Ray shows a process only its own GPU."""
    torch.set_num_threads(config.resources.threads)
    cv2.setNumThreads(config.resources.threads)
    if wants_gpu and config.resources.gpus_per_client > 0 and torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("cpu")


def make_client(config: Config, plan: ClientPlan, data: ClientData, skeleton: Skeleton) -> Client:
    """Build one client where it will live."""
    device = claim_device(config)
    if data.open_shard is not None:
        shard = data.open_shard()
    else:
        assert data.people is not None
        margins = margins_of(config, plan.size.aspect)
        shard = cut_shard(data.people, plan.size, margins, config.data.cache_mb)
    optimizer = config.optimizer
    return Client(
        name=plan.name,
        number=plan.number,
        tier=plan.tier,
        levels=plan.levels,
        level_weights=plan.level_weights,
        model=new_model(config.model, len(skeleton)),
        batches=Batches(shard, optimizer.batch_size, augmentation_of(config), device, config.data.on_bad_image),
        draw_levels=partial(draw_levels, config.objective.sampling, config.objective.own_share),
        render=render_pyramid,
        objective=build_loss(config.objective),
        training=LocalTraining(
            seed=config.seed,
            rounds=config.federation.rounds,
            local_epochs=config.federation.local_epochs,
            optimizer=optimizer.name,
            lr=optimizer.lr,
            schedule=optimizer.schedule,
            steps=tuple(optimizer.steps),
            weight_decay=optimizer.weight_decay,
            betas=optimizer.betas,
            momentum=optimizer.momentum,
            layer_decay=optimizer.layer_decay,
            clip=optimizer.clip,
            reset_each_round=optimizer.reset_each_round,
            bf16=config.resources.precision == "bf16",
        ),
        device=device,
    )


def make_scorer(config: Config, held_out: dict[str, People], wants_gpu: bool = True) -> Scorer:
    """Build the scorer where it will live."""
    device = claim_device(config, wants_gpu)
    evaluation = config.evaluation
    return Scorer(
        model=new_model(config.model, len(held_out["test"].skeleton)),
        people=held_out,
        metrics=metrics_of(config),
        decode=evaluation.decode,
        flip_test=evaluation.flip_test,
        batch_size=evaluation.batch_size,
        device=device,
        bf16=config.resources.precision == "bf16",
        on_bad_image=config.data.on_bad_image,
        cache_mb=config.data.cache_mb,
    )


def metrics_of(config: Config) -> dict[str, Metric]:
    """Split -> the metric it is scored by."""
    evaluation = config.evaluation
    return {"val": evaluation.val_metric or evaluation.metric, "test": evaluation.metric}


def schedule_of(prepared: Prepared) -> Schedule:
    config, plans = prepared.config, prepared.plans
    levels = sorted({s for p in plans for s in p.levels}, key=lambda s: s.pixels, reverse=True)
    return Schedule(
        seed=config.seed,
        rounds=config.federation.rounds,
        participation=config.federation.participation,
        checkpoint_every=config.federation.checkpoint_every,
        score_every=config.evaluation.every,
        trained_sizes=tuple(str(s) for s in trained_sizes(plans)),
        final_split=config.evaluation.split,
        final_sizes=tuple(str(s) for s in final_sizes(config, plans)),
        level_sizes=tuple(str(s) for s in levels),
    )


def algorithm_of(config: Config) -> FedAvg:
    return FedAvg(weighting=config.algorithm.weighting)


def facts_of(prepared: Prepared, name: str) -> dict[str, Any]:
    """What results.json says whatever comes out."""
    config, plans = prepared.config, prepared.plans
    upsampled: dict[str, list[float]] = {}
    for plan, data in zip(plans, prepared.data, strict=True):
        upsampled.setdefault(plan.tier, []).append(data.upsampled)
    return {
        "name": name,
        "seed": config.seed,
        "metric": config.evaluation.metric,
        "objective": config.objective.name,
        "algorithm": config.algorithm.name,
        "rounds": config.federation.rounds,
        "train_resolutions": [str(size) for size in trained_sizes(plans)],
        "train_people": {plan.name: data.count for plan, data in zip(plans, prepared.data, strict=True)},
        "val_people": len(prepared.held_out["val"]),
        "upsampled_train": {tier: sum(shares) / len(shares) for tier, shares in upsampled.items()},
        "parameters": prepared.layout.count("weights"),
        "versions": {
            "python": platform.python_version(),
            **{package: version(package) for package in ("raf-ray", "ray", "torch", "numpy")},
        },
        "machine": f"{platform.system()} {platform.machine()}",
    }


def quiet_libraries() -> None:
    """Errors only from the libraries: their notices are not about the run."""
    for name in ("ray", "matplotlib", "alembic", "mlflow"):
        logging.getLogger(name).setLevel(logging.ERROR)
