"""Clients that share one process: one model, trained by turns, and one partial sum of what several of them send."""

from __future__ import annotations

import ctypes
import time
import traceback
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from raf_ray.algorithms.interface import Memory
from raf_ray.errors import described
from raf_ray.federation.aggregation import ExactSum, Weigher, check_summable
from raf_ray.federation.collected import Collected, nothing_yet
from raf_ray.training.exchange import Down, LocalClient, OpenClient, Receipt, Up, Workplace

GIVE_BACK_SECONDS = 5.0
"""Between two times that memory is given back: a choice."""

OPEN_MB = 0.02
"""Of an open client beside its pixels: labels and records of 16 people, as measured."""


@dataclass(frozen=True)
class Turn:
    """A client to be trained in a round."""

    client: str
    number: int
    """Its place among the federation's clients"""
    people: int
    """That it owns: its weight"""


@dataclass(frozen=True)
class ClientFailure:
    """What a client's own code raised."""

    client: str
    cause: str
    """In one line"""
    details: str
    """The traceback"""


@dataclass(frozen=True)
class Trained:
    """What a host answers: the update of one client as it is, or the exact sum of several, or each of several where
    nothing may be added up; and a receipt each."""

    start: int
    """Rounds that made the state that they trained from"""
    total: Up | ExactSum | Collected
    receipts: tuple[Receipt, ...]
    failures: tuple[ClientFailure, ...] = ()


class Host:
    """Opens clients when they are first asked for, and closes the longest unused ones where pixels fill its memory."""

    def __init__(self, make: OpenClient, cache_mb: float) -> None:
        """`cache_mb`: for the pixels of all open clients; the one that trains stays open whatever it needs."""
        self._make, self._cache_mb = make, cache_mb
        self._place = Workplace()
        self._open: OrderedDict[int, LocalClient] = OrderedDict()
        """By the clients' numbers"""
        self._mb: dict[int, float] = {}
        """Memory of each one's pixels, when it last trained"""
        self._held_mb = 0.0
        self._given_back = time.monotonic()

    def open(self, number: int) -> LocalClient:
        if number not in self._open:
            self._open[number] = self._make(number, self._place)
        self._open.move_to_end(number)
        return self._open[number]

    def train(
        self,
        down: Down,
        round_index: int,
        turns: Sequence[Turn],
        memories: Sequence[Memory | None],
        weigher: Weigher,
        go_on: bool,
        at: Callable[[str], None] = lambda client: None,
    ) -> tuple[Trained, list[Memory]]:
        """Train the clients one after the other from the same state.

        Args:
            memories: what each kept; None: nothing yet.
            go_on: after a client that fails too.
            at: told the client that it is at.

        Returns:
            The answer, and what each client keeps; {} where it has no receipt.
        """
        total, receipts = nothing_yet(weigher), []
        kept: list[Memory] = [{} for _ in turns]
        alone: Up | None = None
        failures = []
        for i, (turn, memory) in enumerate(zip(turns, memories, strict=True)):
            at(turn.client)
            try:
                up, receipt, kept[i] = self.open(turn.number).train(down, round_index, memory)
                shares = weigher.shares(up, turn.people)
                if len(turns) == 1 and weigher.streams:
                    check_summable(up, shares)
                    alone = up  # as float32: half the bytes, weighed and rounded where it arrives
                else:
                    total.add(up, shares)
            except Exception as error:  # whatever a client's own code raises
                failures.append(ClientFailure(turn.client, described(error), traceback.format_exc()))
                kept[i] = {}
                if go_on:
                    continue
                break
            receipts.append(receipt)
            self._make_room(turn.number)
        self._give_back_memory()
        sent = alone if alone is not None else total.narrowed()
        return Trained(down.version, sent, tuple(receipts), tuple(failures)), kept

    def _give_back_memory(self) -> None:
        """Return free pages to the system.

        A client's crops, which stay, among updates, which go, keep glibc's heap from shrinking by itself: a process of
        600 open clients of 4 people held 1.6 GB so, and 0.9 GB after it (30 ms).
        """
        if time.monotonic() - self._given_back > GIVE_BACK_SECONDS:
            trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's alone
            if trim is not None:
                trim(0)
            self._given_back = time.monotonic()

    def _make_room(self, last: int) -> None:
        self._held_mb -= self._mb.get(last, 0.0)
        self._mb[last] = self._open[last].cached_mb + OPEN_MB
        self._held_mb += self._mb[last]
        while self._held_mb > self._cache_mb and len(self._open) > 1:
            closed, _ = self._open.popitem(last=False)
            self._held_mb -= self._mb.pop(closed, 0.0)
