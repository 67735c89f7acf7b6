"""What a search leaves: the winner's score on `test`, its config, trials.csv, plots and report.html."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from raf_ray.config import write_yaml
from raf_ray.files import Json, without_nan, write_json, write_text
from raf_ray.metrics import title_of
from raf_ray.report.figure import picture_problem
from raf_ray.report.html import Part, write_report
from raf_ray.report.search import (
    FEWEST_FOR_IMPORTANCE,
    TrialRow,
    draw_importance,
    draw_parallel,
    draw_pareto,
    importance,
    points,
    short,
    short_key,
)
from raf_ray.saved import load_run, score_run
from raf_ray.search.ledger import Ledger, TrialRecord
from raf_ray.search.spec import COSTS, Search


def score_winner(output: Path, ledger: Ledger, best: TrialRecord) -> Json:
    """The winner's scores on `test`; kept in test.json, so that the test people are looked at once."""
    path = output / "test.json"
    if path.is_file():
        known = json.loads(path.read_text(encoding="utf-8"))
        if known.get("hash") == best.hash:
            return dict(known)
    scores, _ = score_run(load_run(ledger.folder_of(best).path, ["evaluation.split=test"]))
    values = {
        "hash": best.hash,
        "trial": best.number,
        "metric": scores.metric,
        "people": scores.people,
        "by_resolution": without_nan(scores.by_resolution),
    }
    write_json(path, values)
    return values


def write_answer(
    search: Search,
    ledger: Ledger,
    rows: Sequence[TrialRow],
    test: Json,
    seconds: float,
    warn: Callable[[str], None],
) -> Json:
    """Write all files of the answer; the values of results.json. `warn` is told what cannot be drawn."""
    output, best = ledger.output, ledger.best()
    assert best is not None
    config = write_yaml(search.final_config(best.params))
    shares = importance(rows, search.metrics[0])
    values = {
        "status": "completed",
        "name": search.name,
        "metric": search.metrics,
        "mode": search.modes,
        "best": {"trial": best.number, "params": best.params, "val": best.metrics, "test": test},
        "front": [record.number for record in ledger.front()],
        "trials": {status: sum(e.status == status for e in ledger.records) for status in
                   ("finished", "stopped", "interrupted", "failed", "superseded")},
        "importance": {key: mean for key, (mean, _) in shares.items()},
        "seconds": seconds,
    }  # fmt: skip
    write_text(output / "best.yaml", config)
    write_text(output / "trials.csv", _csv(rows))
    write_json(output / "results.json", values)
    write_report(
        output / "report.html",
        f"Search {search.name}",
        _facts(search, values, seconds),
        [
            _winner_part(best, test),
            *_trial_parts(search, ledger, rows, shares, warn),
            Part("The best's config", text="best.yaml, for python -m raf_ray.run --config best.yaml", code=config),
        ],
    )
    return values


def _facts(search: Search, values: Json, seconds: float) -> dict[str, str]:
    config = search.config
    goal = ", ".join(f"{name} ({mode})" for name, mode in zip(search.metrics, search.modes, strict=True))
    counts = ", ".join(f"{count} {status}" for status, count in values["trials"].items() if count)
    return {
        "searched for": f"{goal}, on val",
        "by": f"{config.search_alg}, scheduler {config.scheduler}, seed {config.seed}",
        "trials": counts,
        "this session": f"{seconds:.0f} s",
        "federation": f"{search.base_config().federation.rounds} rounds, seed {search.base_config().seed}",
    }


def _winner_part(best: TrialRecord, test: Json) -> Part:
    scored = [s for s, value in test["by_resolution"].items() if value is not None and f"score/{s}" in best.metrics]
    metric = title_of(test["metric"])
    return Part(
        f"The best: trial {best.number}",
        text=f"{metric} (%). Trials were compared on val; this one alone was scored on test, on {test['people']} "
        "people. The score on val is that of the best of many, so it flatters; the one on test does not.",
        columns=["", *scored],
        rows=[
            ["val", *(f"{100 * best.metrics[f'score/{size}']:.1f}" for size in scored)],
            ["test", *(f"{100 * test['by_resolution'][size]:.1f}" for size in scored)],
        ],
    )


def _trial_parts(
    search: Search,
    ledger: Ledger,
    rows: Sequence[TrialRow],
    shares: Mapping[str, tuple[float, float]],
    warn: Callable[[str], None],
) -> list[Part]:
    output, first = ledger.output, search.metrics[0]
    keys = list(rows[0].params)
    shown = [*search.metrics, *(cost for cost in COSTS if cost not in search.metrics)]
    parts = []
    for name in ("parallel.png", "importance.png", "pareto.png"):
        (output / name).unlink(missing_ok=True)

    def picture(title: str, name: str, draw: Callable[..., None], *what: Any, text: str = "") -> None:
        if problem := picture_problem(output / name, draw, *what):
            warn(problem)
        else:
            parts.append(Part(title, text=text, picture=output / name))

    if len(search.metrics) > 1:
        picture("Pareto front", "pareto.png", draw_pareto, rows, [record.number for record in ledger.front()],
                search.metrics)  # fmt: skip
    picture("All trials", "parallel.png", draw_parallel, rows, first, text="Dark lines score better.")
    if shares:
        finished = sum(row.status == "finished" for row in rows)
        picture("What mattered", "importance.png", draw_importance, shares, first, finished)
    else:
        parts.append(
            Part("What mattered", text=f"Fewer than {FEWEST_FOR_IMPORTANCE} trials finished: too few to tell.")
        )
    table = [
        [str(row.number), row.status, f"{row.round}/{row.rounds}",
         *(points(name, row.metrics.get(name)) for name in shown),
         *(short(value) for value in row.params.values()), row.note]
        for row in rows
    ]  # fmt: skip
    columns = ["trial", "status", "round", *shown, *(short_key(key, keys) for key in keys), ""]
    return [*parts, Part("Trials", columns=columns, rows=table)]


def _csv(rows: Sequence[TrialRow]) -> str:
    text = io.StringIO()
    metrics = list(dict.fromkeys(name for row in rows for name in row.metrics))
    keys = list(rows[0].params)
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["trial", "status", "round", *keys, *metrics])
    for row in rows:
        values = [short(v) if isinstance(v, list | dict) else v for v in row.params.values()]
        writer.writerow([row.number, row.status, row.round, *values, *(row.metrics.get(name, "") for name in metrics)])
    return text.getvalue()
