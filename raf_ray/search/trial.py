"""One trial: a whole federation inside a Tune trainable, whose process is the federation's driver."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from ray.actor import ActorHandle

from raf_ray.cluster.shares import ActorShares, TierNeed
from raf_ray.cluster.trials import Placement
from raf_ray.config import Config
from raf_ray.config.loading import config_hash
from raf_ray.devices.account import hours_to
from raf_ray.errors import RunError
from raf_ray.experiment.run import run_prepared
from raf_ray.experiment.watching import Watcher
from raf_ray.federation.engines import Engine, InProcess, InTrial
from raf_ray.federation.events import Event, RoundFinished, Scored
from raf_ray.files import Json, write_json
from raf_ray.metrics.drift import drift_spread
from raf_ray.request.assembly import federation_spec, prepare
from raf_ray.request.needs import needs_of
from raf_ray.request.plans import asked_sizes, plan_clients, trained_sizes
from raf_ray.request.prepared import Prepared
from raf_ray.runs.folder import RunFolder
from raf_ray.search.ledger import TrialRecord
from raf_ray.search.shared_data import shared_load, uri_of, with_shared_pixels
from raf_ray.search.space import unlabel
from raf_ray.search.spec import UNREACHED_HOURS, Search

REPORTED = "reported.json"
"""In Tune's trial folder: up to which round this session's searcher and scheduler know the trial."""


@dataclass(frozen=True)
class TrialSetting:
    """What all trials of a session are given."""

    search: Search
    output: Path
    """The search's folder."""
    directory: Path
    """Where the command runs: relative paths of the config mean this one."""
    session: str
    """Another one after each resume."""
    shared_data: ActorHandle
    """Handle of the actor that keeps what trials share."""
    placement: Placement
    watchers: Callable[[Config, TrialRecord, str | None], Sequence[Watcher]]
    """Of a trial's federation and MLflow's URI, made in the trial's process."""


def run_trial(sampled: Mapping[str, Any], setting: TrialSetting) -> None:
    """Tune's trainable. `sampled` holds the trial's number and its labelled values.

    A federation that has ended tells its history and is done; one with a checkpoint tells it up to there and
    goes on; another starts.
    """
    # A stopped trial's thread may still tell MLflow when the next one takes its process over; Tune waits 2 s, and
    # then loses the next trial without a word.
    os.environ["TUNE_FUNCTION_THREAD_TIMEOUT_S"] = "120"
    os.chdir(setting.directory)
    params = unlabel(setting.search.space, sampled)
    config = setting.search.trial_config(params)
    record = TrialRecord(int(sampled["trial"]), config_hash(config), params)
    folder = RunFolder(setting.output / record.folder)
    reporter = Reporter(config, folder, setting.session)
    begun = (folder / "config.yaml").is_file()
    if begun:
        with folder.locked():  # a killed session's process may still be about to end
            results = folder.results() or {}
        if results.get("status") in ("completed", "stopped"):
            reporter.replay(config.federation.rounds)
            return
    prepared = prepare(config, load=partial(shared_load, setting.shared_data), check_pictures=False)
    engine: Engine = InProcess()
    if config.federation.engine == "ray":
        prepared = with_shared_pixels(setting.shared_data, prepared)
        shares = trial_shares(config, setting.placement)
        engine = InTrial(shares, f"{setting.search.name}-{record.name}")
    if begun:
        checkpoint = federation_spec(prepared, folder.path.name).last_checkpoint(folder)
        reporter.replay(0 if checkpoint is None else checkpoint.round)
    run_prepared(
        prepared, folder.path, resume=begun, overwrite=not begun, address=None, engine=engine,
        watchers=[*setting.watchers(config, record, uri_of(setting.shared_data)), reporter],
    )  # fmt: skip


def needs_of_trial(config: Config) -> list[TierNeed]:
    """What a trial's tiers ask for; its clients' people are taken to be as many."""
    plans = plan_clients(config)
    return needs_of(config, plans, np.ones(len(plans)), None)


def trial_shares(config: Config, placement: Placement) -> ActorShares:
    """What a trial's actors ask for."""
    return placement.shares(needs_of_trial(config), config.resources.clients_per_actor)


@dataclass
class Reporter:
    """Tells Tune of each scored round."""

    config: Config
    folder: RunFolder
    session: str
    _rows: list[Mapping[str, float]] = field(default_factory=list)
    _scored: list[tuple[int, float]] = field(default_factory=list)
    """(round, mean over the trained tiers)"""

    def begin(self, prepared: Prepared, folder: Path) -> None: ...

    def see(self, event: Event) -> None:
        if isinstance(event, RoundFinished):
            self._rows.append(event.row)
        elif isinstance(event, Scored):
            self._tell(self._report(event.round, event.scores.by_resolution))

    def end(self, folder: Path, results: Json | None) -> None: ...

    def replay(self, last: int) -> None:
        """Report the scored rounds of the run folder again, to round `last`, marked as replayed."""
        for name in ("rounds.csv", "scores.csv"):
            self.folder.cut_rows_after(name, last)
        for row in self.folder.read_rows("rounds.csv"):
            self._rows.append({key: float(value) for key, value in row.items() if value})
        for one in self.folder.scores():
            self._tell(self._report(one.round, one.by_resolution), replayed=True)

    def _report(self, done: int, by_resolution: Mapping[str, float]) -> dict[str, float]:
        rows = self._rows[:done]
        found = report(self.config, rows, by_resolution)
        self._scored.append((done, found["score_tiers"]))
        if self.config.devices is not None and self.config.devices.target is not None:
            hours = hours_to(self.config.devices.target, self._scored, rows)
            found["virtual_hours_to_target"] = UNREACHED_HOURS if hours is None else hours
        return found

    def _tell(self, metrics: dict[str, float], replayed: bool = False) -> None:
        from ray import tune

        path = self.folder.path.parent / REPORTED
        known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        if known.get("session") == self.session and metrics["round"] <= known["round"]:
            return  # this trial goes on after a failure: Tune has heard this
        tune.report({**metrics, "replayed": replayed, "last": metrics["round"] == self.config.federation.rounds})
        write_json(path, {"session": self.session, "round": metrics["round"]})


def report(config: Config, rows: Sequence[Mapping[str, float]], by_resolution: Mapping[str, float]) -> dict[str, float]:
    """What a trial reports of a scored round: scores on `val`, and what its rounds have cost so far.

    Args:
        rows: of rounds.csv, up to the scored round.
        by_resolution: size -> score in [0, 1] on `val`, of all `evaluation.resolutions` and trained tiers.

    Raises:
        RunError: a size could not be scored.
    """
    unknown = [size for size, score in by_resolution.items() if not math.isfinite(score)]
    if unknown:
        raise RunError(f"nothing could be scored on val at {unknown[0]}; the search cannot compare this trial")
    tiers = [by_resolution[str(size)] for size in trained_sizes(plan_clients(config))]
    names = {str(size) for size in asked_sizes(config)}
    asked = {size: score for size, score in by_resolution.items() if size in names}
    return {
        "round": int(rows[-1]["round"]),
        "score_mean": sum(asked.values()) / len(asked),
        "score_worst": min(asked.values()),
        "score_tiers": sum(tiers) / len(tiers),
        "drift_spread": drift_spread({str(i): score for i, score in enumerate(tiers)}),
        **{f"score/{size}": score for size, score in asked.items()},
        "loss": next((float(row["loss"]) for row in reversed(rows) if "loss" in row), math.nan),
        "forward_pixels": sum(row["forward_pixels"] for row in rows),
        "mb_sent": sum(row["mb_up"] + row["mb_down"] for row in rows),
        "seconds": sum(row["seconds"] for row in rows),
        **({"virtual_hours": sum(row["virtual_s"] for row in rows) / 3600} if config.devices is not None else {}),
    }
