"""How far runs are, read from their folders while they are written: a run, a comparison, a search."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from raf_ray.config import load_config
from raf_ray.errors import InputError
from raf_ray.files import Json, read_json
from raf_ray.metrics import title_of
from raf_ray.metrics.pareto import unbeaten
from raf_ray.runs.folder import RunFolder
from raf_ray.runs.tables import Scoring

RECENT_ROUNDS = 5
"""What is left is told from so many rounds."""

SETTLED_SECONDS = 60.0
"""After so long without a new line a folder of ended runs gets no other."""

DIED = (
    "its process is gone without a word, as by a kill (or lives on a machine whose locks this file system does not "
    "show); --resume goes on with it"
)

SEEN = ("config.yaml", "results.json", "rounds.csv", "scores.csv", "run.log", "comparison.json", "trials.json")
"""Files that are looked at."""

STYLES = {
    "completed": "green",
    "finished": "green",
    "running": "cyan",
    "failed": "red",
    "died": "red",
    "interrupted": "yellow",
}


@dataclass(frozen=True)
class RunStatus:
    """One run folder at one moment."""

    name: str
    status: str
    """`starting`, as in results.json, or `died`: it has not ended, and no process of it lives"""
    error: str
    rounds: int
    """Of the whole run."""
    rows: tuple[dict[str, str], ...]
    """Whole lines of rounds.csv"""
    scores: tuple[Scoring, ...]
    """Of whole lines of scores.csv"""
    silent_seconds: float
    """Since the driver's log, results or config were written."""

    @property
    def round(self) -> int:
        return int(self.rows[-1]["round"]) if self.rows else 0

    @property
    def ended(self) -> bool:
        return self.status not in ("starting", "running")

    @property
    def seconds_left(self) -> float | None:
        """Training time that is left; None before the first round and after the end."""
        if self.ended or not self.rows:
            return None
        recent = [float(row["seconds"]) for row in self.rows[-RECENT_ROUNDS:]]
        return (self.rounds - self.round) * sum(recent) / len(recent)

    def latest_scores(self) -> dict[str, Scoring]:
        """Split -> its newest scoring."""
        return {one.split: one for one in sorted(self.scores, key=lambda one: one.round)}


def read_run(folder: Path, name: str = "") -> RunStatus:
    """A folder with config.yaml. Raises InputError where that cannot be read."""
    config = load_config(file=folder / "config.yaml")
    is_held = RunFolder(folder).is_held()  # asked first, since a run says how it ended before it lets go
    results = _read_json(folder / "results.json")
    marks = [folder / name for name in ("run.log", "results.json", "config.yaml")]
    silent = max(0.0, time.time() - max(path.stat().st_mtime for path in marks if path.exists()))
    status, error = results.get("status", "starting"), results.get("error", "")
    if not is_held and (status == "running" or (status == "starting" and silent > SETTLED_SECONDS)):
        status, error = "died", DIED
    return RunStatus(
        name=name or folder.name or str(folder.resolve().name),
        status=status,
        error=error,
        rounds=config.federation.rounds,
        rows=tuple(RunFolder(folder).read_rows("rounds.csv")),
        scores=tuple(RunFolder(folder).scores()),
        silent_seconds=silent,
    )


def read_folder(folder: Path, title: str) -> tuple[Group, bool]:
    """What to show of a run, a comparison or a search, and whether it has ended.

    Raises:
        InputError: the folder holds none of them.
    """
    if (folder / "trials.json").is_file():
        return _search_view(folder, title)
    if (folder / "config.yaml").is_file():
        run = read_run(folder)
        return run_view(run, title), run.ended
    inner = sorted(path.parent for path in folder.glob("*/config.yaml")) if folder.is_dir() else []
    if not inner:
        raise InputError(
            f"{title} holds no run (no config.yaml), no runs and no search; give a run folder, or the dashboard's "
            "address such as http://127.0.0.1:8265"
        )
    runs = [read_run(path) for path in inner]
    # A comparison makes its next run's folder a moment after the last run's end.
    settled = (folder / "comparison.json").exists() or min(run.silent_seconds for run in runs) > SETTLED_SECONDS
    return Group(runs_table(runs, title)), settled and all(run.ended for run in runs)


def run_view(run: RunStatus, title: str) -> Group:
    """One run: where it is, its last round, its newest scores."""
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_row("status", _status(run.status), style=None)
    table.add_row("round", f"{run.round} of {run.rounds}{_left(run)}")
    if run.rows:
        row = run.rows[-1]
        table.add_row("loss", f"{_loss(row)}  {_terms(row)}".rstrip())
        waited = f", {float(row['wait_seconds']):.1f} s waiting for the last client" if row.get("wait_seconds") else ""
        table.add_row(
            "speed", f"{float(row['people_per_s']):.0f} people/s, {float(row['seconds']):.1f} s a round{waited}"
        )
    if run.error:
        table.add_row("error", Text(run.error))
    if not run.ended:
        table.add_row("last sign", f"{_duration(run.silent_seconds)} ago")
    parts: list[Any] = [Text(title, style="bold"), table]
    latest = run.latest_scores()
    if latest:
        parts.append(_scores_table(latest))
    return Group(*parts)


def _loss(row: Mapping[str, str]) -> str:
    """Of a round; of one that nobody answered there is none."""
    return f"{float(row['loss']):.5f}" if row.get("loss") else "-"


def runs_table(runs: Sequence[RunStatus], title: str) -> Table:
    """A line a run."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for heading in ("run", "status", "round", "loss", "people/s", "left", "mean score (%)"):
        table.add_column(heading, justify="left" if heading in ("run", "status") else "right", no_wrap=True)
    for run in runs:
        row = run.rows[-1] if run.rows else {}
        left = run.seconds_left
        table.add_row(
            run.name,
            _status(run.status),
            f"{run.round}/{run.rounds}",
            _loss(row),
            f"{float(row['people_per_s']):.0f}" if row else "-",
            "-" if left is None else _duration(left),
            _mean_score(run),
        )
    return table


def best_trials(trials: Sequence[Mapping[str, Any]], metrics: Sequence[str], modes: Sequence[str]) -> list[int]:
    """Numbers of the trials that no other beats: with one metric, the best one.

    Of the finished trials, or where there are none yet, of all that were scored and not replaced.
    """
    scored = [t for t in trials if t["status"] != "superseded" and None not in _values(t, metrics)]
    scored = [t for t in scored if t["status"] == "finished"] or scored
    return [scored[i]["number"] for i in unbeaten([_values(t, metrics) for t in scored], modes)]


def _search_view(folder: Path, title: str) -> tuple[Group, bool]:
    search = _read_json(folder / "trials.json")
    trials = [_trial_now(folder, trial) for trial in search.get("trials", [])]
    metrics, modes = search.get("metric", []), search.get("mode", [])
    best = best_trials(trials, metrics, modes)
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for heading in ("trial", "status", "round", *metrics, "parameters"):
        table.add_column(heading, justify="left" if heading in ("status", "parameters") else "right")
    for trial in trials:
        params = ", ".join(f"{name}={_short(value)}" for name, value in trial["params"].items())
        values = ["-" if v is None else f"{v:.4g}" for v in _values(trial, metrics)]
        star = "*" if trial["number"] in best else ""
        table.add_row(f"{star}{trial['number']}", _status(trial["status"]), str(trial["round"]), *values, params)
    counts: dict[str, int] = {}
    for trial in trials:
        counts[trial["status"]] = counts.get(trial["status"], 0) + 1
    lines = [Text(f"{len(trials)} trials: " + ", ".join(f"{n} {status}" for status, n in counts.items()))]
    for trial in trials:
        if trial["number"] in best:
            shown = ", ".join(f"{m} {v:.4g}" for m, v in zip(metrics, _values(trial, metrics), strict=True))
            lines.append(Text(f"* best: trial {trial['number']}, {shown}; {trial['folder']}"))
    return Group(table, *lines), bool(trials) and not {"running", "pending"} & counts.keys()


def _trial_now(folder: Path, trial: Mapping[str, Any]) -> Mapping[str, Any]:
    """A trial, whose status is `died` where it should run and no process does."""
    died = trial["status"] == "running" and not RunFolder(folder / trial["folder"]).is_held()
    return {**trial, "status": "died"} if died else trial


def _values(trial: Mapping[str, Any], metrics: Sequence[str]) -> list[Any]:
    return [(trial.get("metrics") or {}).get(metric) for metric in metrics]


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _status(word: str) -> Text:
    return Text(word, style=STYLES.get(word, ""))


def _left(run: RunStatus) -> str:
    left = run.seconds_left
    return "" if left is None else f", about {_duration(left)} left"


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def _terms(row: Mapping[str, str]) -> str:
    told = (f"{column.replace('_', ' ')} {float(value):.5f}" for column, value in row.items()
            if column.startswith(("gt_", "kd_")) and value)  # fmt: skip
    return "  ".join(told)


def _scores_table(latest: Mapping[str, Scoring]) -> Table:
    newest = list(latest.values())
    metric = newest[0].metric
    sizes = list(dict.fromkeys(size for one in reversed(newest) for size in one.by_resolution))
    table = Table(title=f"{title_of(metric)} (%)", title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("newest", no_wrap=True)
    for size in sizes:
        table.add_column(size, justify="right", no_wrap=True)
    for one in newest:
        name = "" if one.metric == metric else f", {title_of(one.metric)}"
        table.add_row(f"{one.split}, round {one.round}{name}", *(_points(one.by_resolution.get(s)) for s in sizes))
    return table


def _mean_score(run: RunStatus) -> str:
    latest = list(run.latest_scores().values())
    if not latest:
        return "-"
    known = [value for value in latest[-1].by_resolution.values() if value == value]
    return f"{100 * sum(known) / len(known):.1f} {latest[-1].split}, round {latest[-1].round}" if known else "-"


def _points(value: float | None) -> str:
    return "-" if value is None or value != value else f"{100 * value:.1f}"


def _read_json(path: Path) -> Json:
    if not path.exists():
        return {}
    values = read_json(path, "file")
    if not isinstance(values, dict):
        raise InputError(f"{path} is no run's or search's: it holds a {type(values).__name__}")
    return values
