"""A whole search: check, connect, run trials under Tune, score the winner on `test`, leave the answer."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from raf_ray.cluster.connect import joined
from raf_ray.cluster.planner import all_nodes
from raf_ray.cluster.room import settled
from raf_ray.cluster.trials import Placement, TrialRequest, plan_trials
from raf_ray.config import Config
from raf_ray.config.loading import differences, dump_yaml, read_yaml, validate
from raf_ray.config.plain_yaml import shown
from raf_ray.errors import InputError, RunError
from raf_ray.files import Json, write_text
from raf_ray.models import size_divisor
from raf_ray.report.search import TrialRow
from raf_ray.request import assembly, parts
from raf_ray.request.crops import check_ours
from raf_ray.request.people import picture_notes
from raf_ray.request.plans import final_sizes, plan_clients, trainers
from raf_ray.request.task import check_can_be_stored, task_of
from raf_ray.resolution import check_divides
from raf_ray.runs.output import check_free, writing_to
from raf_ray.search.answer import score_winner, write_answer
from raf_ray.search.display import SearchDisplay
from raf_ray.search.ledger import Ledger, load_ledger
from raf_ray.search.spec import Search, SearchConfig, TrialResources, may_change
from raf_ray.search.tracked import tracked
from raf_ray.search.trial import needs_of_trial
from raf_ray.search.tuning import run_trials
from raf_ray.tracking.checks import check_tracking

SPEC = "search.yaml"


@dataclass(frozen=True)
class Answer:
    """What a search leaves: `values` is results.json."""

    folder: Path
    ledger: Ledger
    rows: list[TrialRow]
    values: Json


@dataclass(frozen=True)
class Request:
    """A search that was checked against data and output, not yet against a cluster."""

    search: Search
    output: Path
    ledger: Ledger
    overwrite: bool
    notes: tuple[str, ...] = ()
    """What is odd about its pictures, for the user."""


def prepare_search(search: Search, output: Path, *, resume: bool, overwrite: bool) -> Request:
    """Check all that needs no cluster. Raises InputError; nothing is written."""
    ledger = _check_output(search, output, resume, overwrite)
    check_tracking(search.tracking, output)
    prepared = assembly.prepare(search.final_config(search.drawn[0]), check_pictures=False)
    check_ours(prepared.config, "a search")
    check_can_be_stored(prepared.config, task_of(prepared.config), prepared.held_out["val"])
    notes = picture_notes([prepared.data], [prepared.held_out])
    model = parts.model_spec(prepared.config, len(prepared.outputs)).build()
    divisor = size_divisor(model)
    for params in search.drawn:
        config = search.trial_config(params)
        plans = plan_clients(config)
        for size in (*(size for plan in plans for size in plan.levels), *final_sizes(config, plans)):
            check_divides(size, divisor, "param_space")
    return Request(search, output, ledger, overwrite, notes)


def run_search(
    request: Request,
    *,
    address: str | None,
    display: Callable[[Callable[[], list[TrialRow]]], SearchDisplay],
    say: Callable[[str], None],
    warn: Callable[[str], None],
) -> Answer:
    """Run the trials that have not ended, then score the winner on `test`, once.

    Args:
        address: of a Ray cluster, as for `raf_ray.experiment.run.run_federation`.
        display: makes the display of a function that gives all trials, best first.
        say: told which cluster was joined.
        warn: told, in one sentence each, what MLflow did not get.

    Raises:
        InputError: the trials do not fit the cluster; nothing was written.
        RunError: no trial finished.
    """
    search, output, ledger = request.search, request.output, request.ledger
    for note in request.notes:
        warn(note)
    begin, rows = time.monotonic(), partial(_rows, search, ledger)
    resources = search.base_config().resources
    with joined(address, resources.dashboard) as cluster:
        if cluster is not None:
            say(cluster.description)
        can_grow = cluster is not None and not cluster.private
        placement = settled(partial(_placement, search), resources.wait_for_room_s if can_grow else 0.0, say)
        _make_folder(request)
        with tracked(search, output, warn) as tracking:
            run_trials(
                search, output.resolve(), ledger, placement, display(rows), tracking.watchers, tracking.setting.address
            )
            best = ledger.best()
            if best is None:
                failed = next((e.note for e in ledger.records if e.status == "failed"), "time was up; --resume goes on")
                raise RunError(f"no trial of {output} finished: {failed}")
            trained = time.monotonic()
            test = score_winner(output, ledger, best)
            values = write_answer(search, ledger, rows(), test, trained - begin, warn)
            tracking.answer(ledger, best, test)
    return Answer(output, ledger, rows(), values)


# --- before the start ---------------------------------------------------------------------------------


def _check_output(search: Search, output: Path, resume: bool, overwrite: bool) -> Ledger:
    check_free(
        output, "search", overwrite=overwrite, resume=resume,
        foreign=lambda names: None if SPEC in names else "no search",
    )  # fmt: skip
    if not resume:
        return Ledger(output, search.metrics, search.modes)
    if not (output / SPEC).is_file():
        raise InputError(f"{output} holds no search to resume (no {SPEC}); leave --resume out to start one")
    _check_same(search, output)
    return load_ledger(output, search.metrics, search.modes)


def _check_same(search: Search, output: Path) -> None:
    """Raise InputError where the folder's search is another, saying what differs."""
    old, new = read_yaml(output / SPEC), _spec_values(search)
    if old.get("name") != new["name"]:
        raise InputError(f"{output} holds the search '{old.get('name')}', not '{new['name']}'; choose its own folder")
    before = validate(SearchConfig, {k: v for k, v in old.items() if k != "name"})
    after = validate(SearchConfig, {k: v for k, v in new.items() if k != "name"})
    changed = {k: v for k, v in differences(before, after).items() if not may_change(k)}
    if changed:
        told = "; ".join(f"{key} was {shown(old)}, now {shown(new)}" for key, (old, new) in list(changed.items())[:3])
        more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
        raise InputError(f"cannot resume {output} with another search: {told}{more}")


def _spec_values(search: Search) -> Json:
    """The search with its base resolved, so that it means the same when presets change."""
    return {"name": search.name, **search.config.model_dump(mode="json"), "base": dict(search.values)}


def trial_request(configs: Sequence[Config], asked: TrialResources, at_once: int | None) -> TrialRequest:
    """What the largest trial of `configs` asks for."""
    counts = [len(trainers(config, plan_clients(config))) for config in configs]
    largest = configs[counts.index(max(counts))]
    return TrialRequest(
        needs=tuple(needs_of_trial(largest)),
        clients_per_actor=largest.resources.clients_per_actor,
        in_process=largest.federation.engine == "in_process",
        threads=largest.resources.threads,
        at_once=at_once,
        **asked.model_dump(),
    )


def _placement(search: Search) -> Placement:
    import ray

    most = search.config.max_concurrent_trials
    request = trial_request(
        [search.trial_config(params) for params in search.drawn],
        search.config.resources,
        None if most is None else min(most, search.num_trials),
    )
    return plan_trials(request, all_nodes(), f"node:{ray.util.get_node_ip_address()}")


def _make_folder(request: Request) -> None:
    output = request.output
    with writing_to(output):
        output.mkdir(parents=True, exist_ok=True)
        if request.overwrite:
            for path in output.iterdir():
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        write_text(output / SPEC, dump_yaml(_spec_values(request.search)))
        request.ledger.save()


def _rows(search: Search, ledger: Ledger) -> list[TrialRow]:
    from raf_ray.search.recorder import row_of

    finished = ledger.ranked(ledger.finished())
    rest = [e for e in ledger.shown if e not in finished]
    rest = sorted(ledger.ranked(rest), key=lambda e: -e.round) + [e for e in rest if not e.metrics]
    return [row_of(search, record) for record in [*finished, *rest]]
