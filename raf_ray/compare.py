"""Several federations from one seed, initial weights and people: the methods side by side."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from raf_ray.config import Config
from raf_ray.config.loading import merge, preset_path, read_yaml, validate
from raf_ray.config.tree import ObjectiveConfig
from raf_ray.errors import InputError
from raf_ray.experiment.run import connected, run_prepared
from raf_ray.experiment.watching import watchers_for
from raf_ray.files import Json, write_json, write_text
from raf_ray.metrics.drift import drift_to_reference
from raf_ray.report.figure import picture_problem
from raf_ray.report.plots import draw_drift
from raf_ray.request import assembly
from raf_ray.request.people import picture_notes
from raf_ray.request.plans import expected_pixels, plan_clients
from raf_ray.request.prepared import Prepared
from raf_ray.request.task import task_of, unfit_objective
from raf_ray.runs.folder import RunFolder
from raf_ray.runs.output import check_free, writing_to
from raf_ray.terminal import warn
from raf_ray.tracking.checks import check_tracking
from raf_ray.tracking.mlflow import log_afterwards


def run_name(config: Config, objective: str = "") -> str:
    """The name of a comparison's run of all tiers: `fedprox-mixed`; by objective `raf-mixed`, `raf-fedprox-mixed`."""
    method = config.algorithm.name.rpartition(":")[2].lower()
    if objective:
        return f"{objective}-mixed" if method == "fedavg" else f"{objective}-{method}-mixed"
    return f"{method}-mixed"


def methods_of(config: Config) -> dict[str, Config]:
    """Method name -> its config. References first: one federation a tier, all its clients of that tier."""
    plans = plan_clients(config)
    levels = config.objective.levels
    if config.objective != ObjectiveConfig(levels=levels):
        raise InputError(
            "--compare sets each method's objective itself, so of objective.* only levels can be given; run other "
            "objectives one by one and compare their results.json"
        )
    paper = ObjectiveConfig(name="mrkd", levels=levels)
    plus: Json = {"objective": paper.model_dump()}
    merge(plus, read_yaml(preset_path("raf_plus")))
    plain = ObjectiveConfig(name="heatmap", levels=levels)
    methods: dict[str, Config] = {}
    for tier in plans.counts():
        if tier == "mixed":
            raise InputError(
                f"--compare names its runs by tiers, and {run_name(config)} is one of all; rename tier 'mixed'"
            )
        methods[f"{run_name(config).removesuffix('mixed')}{tier}"] = _with(config, plain, [tier] * len(plans))
    methods[run_name(config)] = _with(config, plain)
    methods[run_name(config, "multires")] = _with(config, ObjectiveConfig(name="multires", levels=levels))
    methods[run_name(config, "raf")] = _with(config, paper)
    ours = validate(ObjectiveConfig, plus["objective"])
    if unfit_objective(config.task.name, task_of(config), ours) is None:  # the matched teacher is of heatmaps alone
        methods[run_name(config, "raf-plus")] = _with(config, ours)
    return methods


def _with(config: Config, objective: ObjectiveConfig, clients: list[str] | None = None) -> Config:
    update: Json = {"objective": objective}
    if clients is not None:
        update["federation"] = config.federation.model_copy(update={"clients": clients})
    return config.model_copy(update=update)


def at_equal_compute(methods: Mapping[str, Prepared], budget_of: str) -> dict[str, Prepared]:
    """The same methods with as many whole rounds as the total forward pixels of `budget_of` allow."""

    def a_round(request: Prepared) -> float:
        return float(expected_pixels(request.config, request.plans, request.data.counts).sum())

    reference = methods[budget_of]
    budget = a_round(reference) * reference.config.federation.rounds
    changed = {}
    for name, request in methods.items():
        config = request.config
        rounds = max(1, int(budget / a_round(request) + 1e-9))
        factor = rounds / config.federation.rounds
        federation = config.federation.model_copy(update={"rounds": rounds})
        steps = [max(1, round(step * factor)) for step in config.optimizer.steps]
        optimizer = config.optimizer.model_copy(update={"steps": steps})
        config = config.model_copy(update={"federation": federation, "optimizer": optimizer})
        changed[name] = replace(request, config=config)
    return changed


def compare(
    config: Config,
    output: Path,
    *,
    only: Sequence[str] | None,
    equal_compute: bool,
    resume: bool,
    overwrite: bool,
    address: str | None,
    console: Console,
) -> dict[str, Json]:
    """Run the methods one after the other, each into its folder below `output`; method -> results.json."""
    every = methods_of(config)
    chosen = _choose(every, only)
    # Equal compute needs the budget's method too, whether it is run or not.
    budget_of = run_name(config, "raf")
    asked = {**chosen, budget_of: every[budget_of]} if equal_compute else chosen
    prepared = {name: _prepared(name, method, config) for name, method in asked.items()}
    if equal_compute:
        prepared = {name: r for name, r in at_equal_compute(prepared, budget_of).items() if name in chosen}
        console.print(
            f"Equal compute: each method stops at {budget_of}'s total forward pixels "
            "(all levels counted); its schedule is rescaled to its rounds.",
            highlight=False,
        )
    # Of all methods together, so that nothing is told once a method.
    notes = picture_notes([r.data for r in prepared.values()], [r.held_out for r in prepared.values()])
    check_tracking(config.tracking, output)
    check_free(output, "comparison", overwrite=overwrite, resume=resume, replaced="its runs")
    for note in notes:
        warn(console, note)
    results: dict[str, Json] = {}
    say = partial(console.print, style="dim", highlight=False, soft_wrap=True)
    with connected(list(prepared.values()), address, say):
        with writing_to(output):
            output.mkdir(parents=True, exist_ok=True)
        for name, request in prepared.items():
            results[name] = _one(request, output / name, resume, overwrite, address, console, name)
    _add_references(results, output)
    for name, values in results.items():
        if config.tracking.mlflow and values["drift_to_reference"] is not None:
            drift = {"drift_to_reference": values["drift_to_reference"]}
            log_afterwards(config, output / name, drift, values["rounds"], partial(warn, console))
    write_json(output / "comparison.json", {"equal_compute": equal_compute, "runs": results})
    write_text(output / "comparison.csv", _csv(results))
    if problem := picture_problem(output / "drift.png", draw_drift, results):
        warn(console, problem)
    return results


def _prepared(name: str, method: Config, config: Config) -> Prepared:
    """A checked request. Raises InputError, which names the run where it is one of a tier alone."""
    try:
        return assembly.prepare(method, check_pictures=False)
    except InputError as error:
        if method.federation.clients == config.federation.clients:
            raise
        raise InputError(f"{name}, where all clients are of one tier: {error}; --only leaves it out") from error


def _one(
    request: Prepared,
    folder: Path,
    resume: bool,
    overwrite: bool,
    address: str | None,
    console: Console,
    name: str,
) -> Json:
    resume_this = resume and (folder / "config.yaml").is_file()
    return run_prepared(
        request, folder, resume=resume_this, overwrite=overwrite, address=address,
        watchers=watchers_for(request.config, console, name),
    ).values  # fmt: skip


def _choose(every: Mapping[str, Config], only: Sequence[str] | None) -> dict[str, Config]:
    if only is None:
        return dict(every)
    unknown = [name for name in only if name not in every]
    if unknown:
        raise InputError(f"--only: unknown method '{unknown[0]}' (known: {', '.join(every)})")
    return {name: every[name] for name in every if name in only}


def _add_references(results: dict[str, Json], output: Path) -> None:
    """Fill in drift_to_reference where the one-tier federations ran."""
    references = {
        values["train_resolutions"][0]: values["by_resolution"][values["train_resolutions"][0]]
        for values in results.values()
        if len(values["train_resolutions"]) == 1 and values["objective"] == "heatmap"
    }
    for name, values in results.items():
        by_tier = {size: values["by_resolution"][size] for size in values["train_resolutions"]}
        known = None not in by_tier.values() and None not in references.values()  # null: nothing could be scored
        values["drift_to_reference"] = drift_to_reference(by_tier, references) if known else None
        write_json(RunFolder(output / name) / "results.json", values)


def _csv(results: Mapping[str, Mapping[str, Any]]) -> str:
    text = io.StringIO()
    sizes = list(dict.fromkeys(size for values in results.values() for size in values["by_resolution"]))
    costs = ("rounds", "forward_pixels", "seconds")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["run", *sizes, "drift_spread", "drift_to_reference", *costs])
    for name, values in results.items():
        scores = [values["by_resolution"].get(size) for size in sizes]
        totals = values["totals"]
        drift = [values["drift_spread"], values["drift_to_reference"]]
        writer.writerow([name, *scores, *drift, values["rounds"], totals["forward_pixels"], totals["seconds"]])
    return text.getvalue()
