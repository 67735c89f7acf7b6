"""From the outbox to the server: in order, once each, again and again until it answers. The run never waits for it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Protocol

from raf_ray.masking import masked, scrubbed
from raf_ray.tracking.outbox import Outbox, Record, Sent

SEND_EVERY = 2.0
"""Seconds that records are gathered before they are sent, so that short rounds share a request."""
FIRST_RETRY = 0.5
LONGEST_RETRY = 30.0
NOTICE_SECONDS = 60.0
"""A server that is away for so long is told of while the run goes on."""
AWAY_SECONDS = 2.0
"""At the end of a run: wait so long for a server that last failed to answer,"""
ANSWERING_SECONDS = 10.0
"""so long without progress for one that answered,"""
LONGEST_WAIT = 60.0
"""and so long in all. Choices."""

LoggedMetric = tuple[str, float, int, int]
"""Name, value, time in ms, step."""


class Away(Exception):
    """The server did not take it now; it may later. The text is the cause."""


class NotYet(Away):
    """It waits for another run's records to be sent first."""


class Refused(Exception):
    """The server will never take it. The text is the cause."""


class Destination(Protocol):
    """A tracking server. Each method raises Away or Refused, and may be called again for what it has done already."""

    is_packing: bool
    """Whether it is at work on this machine, on the model, and waits for nobody."""

    def has_run(self, run_id: str) -> bool: ...
    def open_run(self, record: Record) -> str: ...
    def log_params(self, run_id: str, values: dict[str, str]) -> None: ...
    def log_metrics(self, run_id: str, metrics: Sequence[LoggedMetric]) -> None: ...
    def log_artifact(self, run_id: str, path: Path) -> None: ...
    def log_model(self, run_id: str, folder: Path, register: str | None, step: Callable[[], None]) -> None: ...
    def set_status(self, run_id: str, record: Record) -> None: ...


def send_waiting(
    outbox: Outbox,
    uri: str,
    destination: Destination,
    refused: Callable[[str], None],
    progress: Callable[[], None] = lambda: None,
) -> int:
    """Send all that waits and remember it; the number of records.

    A record that the server refuses for good is told to `refused` and passed over. `progress` is called as things
    get done.

    Raises:
        Away: the rest waits; what was taken is remembered.
    """
    sent = outbox.sent()
    if not sent.is_of(uri) or (sent.run_id and not destination.has_run(sent.run_id)):
        sent = Sent(uri)
    count = 0
    while batch := _batch(outbox, sent.offset):
        records = [record for record, _ in batch]
        if records[0]["kind"] == "run":
            try:
                run_id = destination.open_run(records[0])
            except Refused as error:  # without its run nothing can be taken: let it wait for the cause's end
                raise Away(str(error)) from error
            sent = Sent(uri, run_id, batch[-1][1])
        else:
            _send(outbox.folder, destination, sent.run_id, records, refused, progress)
            sent = Sent(uri, sent.run_id, batch[-1][1])
        outbox.save_sent(sent)
        count += len(batch)
        progress()
    return count


def _batch(outbox: Outbox, offset: int) -> list[tuple[Record, int]]:
    """The next record; of metrics, with all that follow it."""
    records = outbox.read(offset)
    first = next(records, None)
    if first is None:
        return []
    more = takewhile(lambda pair: pair[0]["kind"] == "metrics", records) if first[0]["kind"] == "metrics" else ()
    return [first, *more]


def _send(
    folder: Path,
    destination: Destination,
    run_id: str,
    records: Sequence[Record],
    refused: Callable[[str], None],
    progress: Callable[[], None],
) -> None:
    first = records[0]
    kind = first["kind"]
    try:
        if kind == "metrics":
            metrics = [(k, v, r["time"], r["step"]) for r in records for k, v in r["values"].items()]
            _send_metrics(destination, run_id, metrics, refused)
        elif kind == "params":
            destination.log_params(run_id, first["values"])
        elif kind == "artifact":
            destination.log_artifact(run_id, folder / first["path"])
        elif kind == "model":
            destination.log_model(run_id, folder, first["register"], progress)
        elif kind in ("resumed", "end"):
            destination.set_status(run_id, first)
        else:
            raise Refused(f"this version of raf-ray does not know it; it was written by a later one ({kind})")
    except Refused as error:
        refused(f"{kind} {first.get('path', '')}".strip() + f": {error}")


def _send_metrics(
    destination: Destination, run_id: str, metrics: Sequence[LoggedMetric], refused: Callable[[str], None]
) -> None:
    """One batch; where it is refused, its halves, down to the metric that is at fault."""
    try:
        destination.log_metrics(run_id, metrics)
    except Refused as error:
        if len(metrics) == 1:
            name, _, _, step = metrics[0]
            refused(f"metric {name} at step {step}: {error}")
            return
        half = len(metrics) // 2
        _send_metrics(destination, run_id, metrics[:half], refused)
        _send_metrics(destination, run_id, metrics[half:], refused)


class Sender:
    """The thread that sends one run's outbox while the run goes on."""

    def __init__(
        self, outbox: Outbox, uri: str, connect: Callable[[str], Destination], warn: Callable[[str], None]
    ) -> None:
        self._outbox, self._uri, self._connect, self._warn = outbox, uri, connect, warn
        self._destination: Destination | None = None
        self._new, self._finishing, self._given_up = threading.Event(), threading.Event(), threading.Event()
        self._cause: str | None = None
        self._away_since: float | None = None
        self._told = False
        self._refused: list[str] = []
        self._progress = time.monotonic()
        self._thread = threading.Thread(target=self._work, name="mlflow", daemon=True)
        self._locked = outbox.lock()  # now: a `track sync` that starts later must not take it for a dead run's
        self._thread.start()

    def wake(self) -> None:
        """There is something new to send."""
        self._new.set()

    def finish(self) -> None:
        """Wait for what waits, but not long; say what did not go."""
        begin = self._progress = time.monotonic()
        self._finishing.set()
        self._new.set()
        while self._thread.is_alive():
            self._thread.join(0.05)
            now = time.monotonic()
            patience = AWAY_SECONDS if self._cause else ANSWERING_SECONDS
            if self._destination is not None and self._destination.is_packing:
                self._progress = now
            if now - self._progress > patience or now - begin > LONGEST_WAIT:
                break
        self._given_up.set()
        self._thread.join(FIRST_RETRY)  # so that, but for a request under way, the records are free to be sent
        self._tell(self._thread.is_alive() or self._cause is not None)

    def _tell(self, unfinished: bool) -> None:
        if len(self._refused) > 1:
            self._warn(f"MLflow refused {len(self._refused)} records of {self._outbox.folder}, the last: "
                       f"{self._refused[-1]}")  # fmt: skip
        outbox = Outbox(self._outbox.folder)
        waiting = outbox.waiting(self._uri) if unfinished else 0
        outbox.close()
        if waiting:
            cause = self._cause or f"{masked(self._uri)} is slow"
            self._warn(
                f"MLflow lacks {waiting} records of this run ({cause}); they wait on disk, and "
                f"python -m raf_ray.track sync {self._outbox.folder} sends them"
            )

    def _work(self) -> None:
        delay = FIRST_RETRY
        while True:
            self._new.wait()
            self._new.clear()
            last = self._finishing.is_set()
            try:
                self._send()
                self._cause = self._away_since = None
                delay = FIRST_RETRY
                if last:
                    break
                self._finishing.wait(SEND_EVERY)
            except Exception as error:  # whatever MLflow or its server raises must not end the run
                self._cause = scrubbed(str(error), self._uri) or type(error).__name__
                self._notice()
                # At the end of the run it is tried more often: the run waits a moment for it.
                if last and self._given_up.wait(FIRST_RETRY):
                    break
                self._finishing.wait(delay)
                delay = min(2 * delay, LONGEST_RETRY)
                self._new.set()
        self._outbox.close()

    def _send(self) -> None:
        if not self._locked:
            self._locked = self._outbox.lock()
        if not self._locked:
            raise Away("another process sends this run's records")
        if self._destination is None:
            self._destination = self._connect(self._uri)
        send_waiting(self._outbox, self._uri, self._destination, self._refuse, self._advance)

    def _advance(self) -> None:
        self._progress = time.monotonic()
        self._cause = self._away_since = None
        if self._given_up.is_set():
            raise Away("the run has ended")

    def _refuse(self, what: str) -> None:
        if not self._refused:
            self._warn(f"MLflow refused a record of {self._outbox.folder}, {what}; the rest goes on")
        self._refused.append(what)

    def _notice(self) -> None:
        now = time.monotonic()
        self._away_since = self._away_since or now
        if now - self._away_since > NOTICE_SECONDS and not self._told:
            self._told = True
            self._warn(f"MLflow does not get this run's records ({self._cause}); the run goes on and they wait on disk")
