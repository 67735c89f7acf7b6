"""The ledger of a search, trials.json: every federation by number and config hash, and how it stands.

Tune's own snapshot is up to ten seconds old after a kill and knows trials by ids that a new process may give to
another config. A resumed search goes by this file and by the run folders instead.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from raf_ray.errors import InputError
from raf_ray.files import Json, write_json
from raf_ray.metrics.pareto import unbeaten
from raf_ray.runs.folder import RunFolder
from raf_ray.search.space import Params

FILE = "trials.json"
Status = Literal["pending", "running", "finished", "stopped", "interrupted", "failed", "superseded"]
"""`stopped` by the scheduler, for good; `interrupted` with the search, to go on after a resume."""


@dataclass
class TrialRecord:
    """One trial."""

    number: int
    hash: str
    """Of its resolved config."""
    params: Params
    status: Status = "pending"
    round: int = 0
    """Of the last report."""
    metrics: dict[str, float] = field(default_factory=dict)
    """The last report."""
    note: str = ""
    """Why it failed or was replaced."""

    @property
    def name(self) -> str:
        return f"{self.number:04d}-{self.hash[:8]}"

    @property
    def folder(self) -> str:
        """Its run folder, below the search's."""
        return f"tune/{self.name}/federation"


@dataclass
class Ledger:
    """All trials of a search, in order; kept on disk by whoever runs the search."""

    output: Path
    metrics: Sequence[str]
    modes: Sequence[str]
    records: list[TrialRecord] = field(default_factory=list)

    def add(self, config_hash: str, params: Params) -> TrialRecord:
        """A new trial."""
        record = TrialRecord(len(self.records), config_hash, params)
        self.records.append(record)
        self.save()
        return record

    def save(self) -> None:
        trials = [{**asdict(e), "folder": e.folder} for e in self.records]
        write_json(
            self.output / FILE, {"metric": list(self.metrics), "mode": list(self.modes), "trials": _no_nan(trials)}
        )

    def interrupt(self) -> None:
        """The search ends: what still ran can go on after a resume."""
        for record in self.records:
            if record.status in ("pending", "running"):
                record.status = "interrupted"
                self.folder_of(record).mark_ended("interrupted", f"the search ended after round {record.round}")
        self.save()

    def folder_of(self, record: TrialRecord) -> RunFolder:
        return RunFolder(self.output / record.folder)

    @property
    def shown(self) -> list[TrialRecord]:
        """The trials that anybody sees."""
        return [e for e in self.records if e.status != "superseded"]

    def finished(self) -> list[TrialRecord]:
        return [e for e in self.records if e.status == "finished"]

    def best(self) -> TrialRecord | None:
        """The finished trial that leads by the first metric; of equals the one that no other beats."""
        front = self.front()
        return front[0] if front else None

    def ranked(self, records: Sequence[TrialRecord]) -> list[TrialRecord]:
        """Best first, by the first metric; the lower number where equal."""
        sign = -1 if self.modes[0] == "max" else 1
        scored = [e for e in records if self.metrics[0] in e.metrics]
        return sorted(scored, key=lambda e: (sign * e.metrics[self.metrics[0]], e.number))

    def front(self) -> list[TrialRecord]:
        """The finished trials that no other beats, best by the first metric first."""
        ranked = self.ranked(self.finished())
        return [ranked[i] for i in unbeaten([[e.metrics[name] for name in self.metrics] for e in ranked], self.modes)]


def load_ledger(output: Path, metrics: Sequence[str], modes: Sequence[str]) -> Ledger:
    """Read trials.json back; empty where a kill came before it. Raises InputError where it is damaged."""
    path = output / FILE
    if not path.exists():
        return Ledger(output, metrics, modes)
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        records = [TrialRecord(**{k: v for k, v in trial.items() if k != "folder"}) for trial in values["trials"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path} cannot be read ({type(error).__name__}: {error}); it is no search's, or damaged"
        ) from error
    return Ledger(output, values["metric"], values["mode"], records)


def _no_nan(trials: list[Json]) -> list[Json]:
    for trial in trials:
        trial["metrics"] = {key: value for key, value in trial["metrics"].items() if value == value}
    return trials
