"""What a federation is, whoever runs it and wherever its clients live: resolved once, small enough to send."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from raf_ray.aggregators.interface import Aggregator
from raf_ray.aggregators.mean import Mean
from raf_ray.algorithms.interface import Algorithm, Memory
from raf_ray.devices.account import VirtualAccount, hours_to
from raf_ray.devices.buffered import Schedule
from raf_ray.devices.profiles import Fleet
from raf_ray.errors import InputError
from raf_ray.evaluation.own import OwnSizes
from raf_ray.evaluation.scores import ScoreModel
from raf_ray.federation.accounting import Account
from raf_ray.federation.cohort import CohortSpec, RoundWork, buffered_round, plan_cohort
from raf_ray.files import Json
from raf_ray.resolution import Size
from raf_ray.runs.checkpoint import Checkpoint
from raf_ray.runs.folder import RunFolder
from raf_ray.state import Layout, Part
from raf_ray.training.exchange import OpenClient
from raf_ray.transforms.interface import Setting, Transform, own


@dataclass(frozen=True)
class ClientInfo:
    """A client as the driver knows it."""

    number: int
    """Its place among the federation's clients"""
    name: str
    tier: str
    people: int
    cost: float
    """Expected forward pixels a round: who takes longest."""


@dataclass(frozen=True)
class Clients:
    """All clients of a federation, as columns."""

    names: np.ndarray
    """(N,) str"""
    tier_names: tuple[str, ...]
    tier: np.ndarray
    """(N,) int, place of each client's tier in `tier_names`"""
    people: np.ndarray
    """(N,) int64 that each owns"""
    cost: np.ndarray
    """(N,) float64; see `ClientInfo`"""
    open: OpenClient
    macs: np.ndarray | None = None
    """(N,) float64 expected forward MACs of a round; None: they could not be counted"""

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, number: int) -> ClientInfo:
        tier = self.tier_names[self.tier[number]]
        return ClientInfo(number, str(self.names[number]), tier, int(self.people[number]), float(self.cost[number]))

    @cached_property
    def tiers(self) -> dict[str, str]:
        """Client -> tier"""
        return dict(zip(self.names.tolist(), self.tier_of.tolist(), strict=True))

    @cached_property
    def tier_of(self) -> np.ndarray:
        """(N,) str, each client's tier"""
        return np.array(self.tier_names)[self.tier]


@dataclass(frozen=True)
class RoundsSpec:
    """How long, how often, and on what the model is scored."""

    seed: int
    rounds: int
    cohort: CohortSpec
    drops_failed: bool
    """Leave a client whose own work fails out of the round, in place of ending the run"""
    checkpoint_every: int
    score_every: int
    trained_sizes: tuple[Size, ...]
    """Sizes of the clients' tiers."""
    round_sizes: tuple[Size, ...]
    """Sizes that rounds are scored at"""
    round_splits: tuple[str, ...]
    """Whom they are scored on: `val`, and `train` where asked for"""
    final_split: str
    final_sizes: tuple[Size, ...]
    """Sizes of the drift curve."""
    level_sizes: tuple[Size, ...]
    """All sizes that some client trains on: the columns of the loss terms."""
    own_sizes: OwnSizes = field(default_factory=dict)
    """Whose own models are scored where; empty where clients keep no part of the model to themselves"""
    target: float | None = None
    """Mean score over the trained sizes on `val` to which virtual hours are told, with devices"""


@dataclass(frozen=True)
class HostsSpec:
    """How actors hold clients, and what is done when one dies."""

    cache_mb: float
    """For the pixels of a host's clients"""
    retries: int
    """Times that a client's round, or a scoring, is begun again"""
    wait_for_room_s: float
    """How long the run waits for room where no host lives"""


@dataclass(frozen=True)
class FederationSpec:
    """One federation."""

    clients: Clients
    make_scorer: Callable[[bool], ScoreModel]
    """Given whether a GPU is there for it"""
    algorithm: Algorithm
    transforms: tuple[Transform, ...]
    layout: Layout
    initial: np.ndarray
    """(num_bytes,) uint8 state that the first round begins from"""
    rounds: RoundsSpec
    hosts: HostsSpec
    facts: Json
    """What results.json says of the run whatever comes out: seed, people, versions ..."""
    save_model: Callable[[np.ndarray, Path], None]
    """(buffer, path): write model.pt"""
    fleet: Fleet | None = None
    """The clients' devices; None: every client is there and answers"""
    aggregator: Aggregator = field(default_factory=Mean)

    @property
    def tiers(self) -> dict[str, str]:
        """Client -> tier"""
        return self.clients.tiers

    @property
    def part(self) -> Part:
        """What clients keep of the model to themselves"""
        return self.layout.part(self.algorithm.is_private)

    @cached_property
    def setting(self) -> Setting:
        """What transforms work in."""
        return setting_of(
            self.algorithm, self.transforms, self.layout, self.rounds.cohort, len(self.clients), self.aggregator,
            devices=self.fleet is not None,
        )  # fmt: skip

    def figures(self, done: int, server: Memory) -> dict[str, float]:
        """What transforms tell of the run after round `done`, given what the server keeps then."""
        found: dict[str, float] = {}
        for place, transform in enumerate(self.transforms):
            found |= transform.figures(done, own(server, place), self.setting)
        return found

    def account(self) -> Account:
        """An account of no round yet."""
        sizes = [str(size) for size in self.rounds.level_sizes]
        clients = self.clients
        figures = [name for transform in self.transforms for name in transform.figure_names]
        return Account(
            self.tiers, clients.tier_names, sizes, counts_left_out=self.rounds.drops_failed, figures=figures,
            macs_a_pixel=_macs_a_pixel(clients),
            virtual=None if self.fleet is None else VirtualAccount(
                clients.tier, clients.tier_names, is_buffered=self._schedule is not None
            ),
        )  # fmt: skip

    @cached_property
    def _schedule(self) -> Schedule | None:
        """Of a server that does not wait for whole rounds"""
        pace = self.algorithm.pace(len(self.clients))
        if pace is None:
            return None
        assert self.fleet is not None
        return Schedule(self.fleet, pace.concurrency, pace.buffer, self.rounds.seed)

    def work(self, round_index: int) -> RoundWork:
        """What a round, from 0, trains."""
        clients, asked = self.clients, self.rounds
        if self._schedule is not None:
            return buffered_round(self._schedule, round_index)
        return plan_cohort(asked.cohort, self.fleet, clients.tier_of, clients.people, asked.seed, round_index)

    def hours_to_target(self, folder: RunFolder) -> Json:
        """With devices and a target, when it was first reached: by the folder's tables, which hold earlier sessions."""
        target, sizes = self.rounds.target, [str(size) for size in self.rounds.trained_sizes]
        if self.fleet is None or target is None:
            return {}
        scored = [
            (one.round, sum(one.by_resolution[size] for size in sizes) / len(sizes))
            for one in folder.scores()
            if one.split == "val"
        ]
        return {"virtual_hours_to_target": hours_to(target, scored, folder.read_rows("rounds.csv"))}

    def last_checkpoint(self, folder: RunFolder) -> Checkpoint | None:
        """What the run in a folder goes on from; None where it ended before its first checkpoint.

        Raises InputError where the folder's files are damaged or of another run.
        """
        checkpoint = folder.load_checkpoint(self.layout, self.tiers, self.rounds.rounds)
        if checkpoint is not None:
            try:
                self.account().restore(checkpoint.account)
                self._check_older(checkpoint)
            except ValueError as error:
                raise InputError(folder.not_this_run(error)) from error
        return checkpoint

    def _check_older(self, checkpoint: Checkpoint) -> None:
        """Raise ValueError where its older states are not those that later rounds train from."""
        if {down.version for down in checkpoint.older} != self.work(checkpoint.round - 1).still:
            raise ValueError("its older states are not those that clients are at")


def _macs_a_pixel(clients: Clients) -> dict[str, float]:
    """Tier -> expected forward MACs a forward pixel; {} where MACs could not be counted."""
    if clients.macs is None:
        return {}
    count = len(clients.tier_names)
    macs, pixels = (np.bincount(clients.tier, values, count) for values in (clients.macs, clients.cost))
    return dict(zip(clients.tier_names, (macs / pixels).tolist(), strict=True))


def setting_of(
    algorithm: Algorithm,
    transforms: tuple[Transform, ...],
    layout: Layout,
    cohort: CohortSpec,
    clients: int,
    aggregator: Aggregator,
    devices: bool = False,
) -> Setting:
    """What transforms work in, for their own checks and accounts."""
    is_mean = isinstance(aggregator, Mean)
    return Setting(algorithm, transforms, layout, clients, cohort.expected(clients), cohort.draw, is_mean, devices)
