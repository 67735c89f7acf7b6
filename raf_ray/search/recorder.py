"""Tune's callback that keeps the ledger and the display."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from ray.tune import Callback

from raf_ray.errors import described
from raf_ray.report.search import TrialRow
from raf_ray.search.display import SearchDisplay
from raf_ray.search.ledger import Ledger, Status, TrialRecord
from raf_ray.search.proposer import Proposer
from raf_ray.search.spec import METRICS, VIRTUAL, Search

log = logging.getLogger(__name__)

ENDED = ("finished", "stopped")


class Recorder(Callback):  # type: ignore[misc]
    """Writes what becomes of each trial into the ledger at once, and shows it."""

    def __init__(self, search: Search, proposer: Proposer, ledger: Ledger, display: SearchDisplay) -> None:
        self._search, self._proposer, self._ledger = search, proposer, ledger
        self._display: SearchDisplay | None = display

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles its callbacks for a restore, which goes by the ledger here

    def on_trial_start(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        if self._proposer.record_of(trial.trial_id).status not in ENDED:  # it only tells what is known
            self._set(trial, "running")

    def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: dict[str, Any], **info: Any) -> None:
        record = self._proposer.record_of(trial.trial_id)
        if record.status in ENDED and result["replayed"]:
            return
        record.round, record.metrics = int(result["round"]), _reported(result)
        self._ledger.save()
        if not result.get("replayed"):
            self._show(record)

    def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        record = self._proposer.record_of(trial.trial_id)
        folder = self._ledger.folder_of(record)
        if trial.trial_id in self._proposer.given_up:
            self._set(trial, "failed", self._proposer.given_up[trial.trial_id])
        elif (folder.results() or {}).get("status") == "completed":
            self._set(trial, "finished")
        else:
            folder.mark_ended("stopped", f"stopped after round {record.round}: others did better")
            self._set(trial, "stopped")

    def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        folder = self._ledger.folder_of(self._proposer.record_of(trial.trial_id))
        folder.mark_ended("failed", _last_line(trial))
        self._set(trial, "failed", str((folder.results() or {}).get("error") or _last_line(trial)))

    def _show(self, record: TrialRecord) -> None:
        """What fails here is said once, and the search goes on unseen: a callback that raises would end it."""
        if self._display is None:
            return
        try:
            self._display.see(row_of(self._search, record))
        except Exception as error:  # of the terminal's library
            self._display = None
            log.warning("the search is no longer shown (%s), and goes on", described(error))

    def _set(self, trial: Any, status: Status, note: str = "") -> None:
        record = self._proposer.record_of(trial.trial_id)
        if (record.status, record.note) == (status, note):
            return
        record.status, record.note = status, note
        self._ledger.save()
        self._show(record)


def row_of(search: Search, record: TrialRecord) -> TrialRow:
    """A trial as the display shows it."""
    rounds = search.rounds_of(record.params)
    return TrialRow(record.number, record.status, record.round, rounds, record.metrics, record.params, record.note)


def _reported(result: Mapping[str, Any]) -> dict[str, float]:
    return {
        key: float(value) for key, value in result.items() if key in (*METRICS, *VIRTUAL) or key.startswith("score/")
    }


def _last_line(trial: Any) -> str:
    lines = [line.strip() for line in str(trial.get_pickled_error() or "").splitlines() if line.strip()]
    return lines[-1][:300] if lines else "its process died"
