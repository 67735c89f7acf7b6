"""A search's trials under Ray Tune: its settings, its trainable, its callbacks."""

from __future__ import annotations

import io
import logging
import os
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raf_ray.cluster.trials import Placement
from raf_ray.config import Config
from raf_ray.errors import RunError, one_line
from raf_ray.experiment.watching import Watcher
from raf_ray.search.display import SearchDisplay
from raf_ray.search.ledger import Ledger, TrialRecord
from raf_ray.search.spec import Search

if TYPE_CHECKING:  # late: it needs Tune, which reads its settings when it is imported
    from raf_ray.search.proposer import Proposer

TUNE = "tune"
"""Tune's experiment folder, below the search's: a folder a trial, each with its federation's run folder."""


TUNE_STATE = ("experiment_state*", "basic-variant-state*", "search_gen_state*", "searcher-state*", "tuner.pkl",
              "trainable.pkl", "*/result.json", "*/progress.csv", "*/params.*", "*/error.*")  # fmt: skip
"""What Tune wrote in an earlier session; it writes it anew from the told histories."""


def run_trials(
    search: Search,
    output: Path,
    ledger: Ledger,
    placement: Placement,
    display: SearchDisplay,
    watchers: Callable[[Config, TrialRecord, str | None], Sequence[Watcher]],
    uri: str | None,
) -> None:
    """Run all that have not ended; the ledger says what came of each. Raises RunError where Tune ends early."""
    with _tune_settings():
        import ray
        from ray import tune
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        from raf_ray.search.proposer import Proposer
        from raf_ray.search.shared_data import SharedDataActor
        from raf_ray.search.trial import TrialSetting, run_trial

        for pattern in TUNE_STATE:
            for path in (output / TUNE).glob(pattern):
                path.unlink()
        proposer = Proposer(search, ledger)
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        shared_data = SharedDataActor.options(scheduling_strategy=here).remote()
        ray.get(shared_data.keep_uri.remote(uri))
        setting = TrialSetting(search, output, Path.cwd(), uuid.uuid4().hex, shared_data, placement, watchers)

        def bundles(sampled: Mapping[str, Any]) -> Any:
            from raf_ray.search.space import unlabel
            from raf_ray.search.trial import trial_shares

            shares = trial_shares(search.trial_config(unlabel(search.space, sampled)), placement)
            labels = placement.labels(shares)
            more = {"bundle_label_selector": labels} if labels else {}
            return tune.PlacementGroupFactory(placement.bundles(shares), strategy=placement.strategy, **more)

        def trial(sampled: Mapping[str, Any]) -> None:
            run_trial(sampled, setting)

        tuner = _tuner(tune.with_resources(trial, bundles), search, output, ledger, proposer, display)
        display.begin()
        try:
            with redirect_stdout(io.StringIO()):  # at every verbosity Tune prints something; the display shows it all
                tuner.fit()
        except tune.TuneError as error:
            raise RunError(f"Ray Tune ended the search of {output}: {one_line(error)[-300:]}") from error
        finally:
            display.end()
            ledger.interrupt()


def _tuner(
    trainable: Any, search: Search, output: Path, ledger: Ledger, proposer: Proposer, display: SearchDisplay
) -> Any:
    from ray import tune
    from ray.tune.logger import JsonLoggerCallback

    from raf_ray.search.recorder import Recorder
    from raf_ray.search.scheduler import Room, scheduler_of

    def name(trial: Any) -> str:
        return proposer.record_of(trial.trial_id).name

    room = Room(search.base_config().resources.wait_for_room_s, proposer.given_up.__setitem__)
    rounds = max(search.rounds_of(params) for params in search.drawn)
    return tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(
            search_alg=proposer,
            scheduler=scheduler_of(search, rounds, room),
            num_samples=search.num_trials,
            max_concurrent_trials=search.config.max_concurrent_trials,
            time_budget_s=search.config.time_budget_s,
            reuse_actors=True,
            trial_name_creator=name,
            trial_dirname_creator=name,
        ),
        run_config=tune.RunConfig(
            name=TUNE,
            storage_path=str(output),
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=search.config.max_failures),
            callbacks=[JsonLoggerCallback(), Recorder(search, proposer, ledger, display)],
        ),
    )


@contextmanager
def _tune_settings() -> Iterator[None]:
    """Tune reads these when it starts: its own tables and loggers are not wanted, nor its handler of SIGINT.

    Nor are its tracebacks beside our sentences: a trial's lies in its run.log, and in error.txt beside that folder.
    """
    wanted = {
        "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
        "TUNE_DISABLE_SIGINT_HANDLER": "1",
        "RAY_CHDIR_TO_TRIAL_DIR": "0",
        "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    }
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    logger = logging.getLogger("ray.tune")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
