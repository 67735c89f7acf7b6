"""A search file: one typed tree like a run's, in Tune's own words, validated whole before Ray starts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from raf_ray.config import Config
from raf_ray.config.loading import merge, parse_override, read_preset, read_yaml, use_of, validate
from raf_ray.config.plain_yaml import shown
from raf_ray.config.section import Positive, Section, Use
from raf_ray.config.tree import TrackingConfig
from raf_ray.errors import InputError
from raf_ray.files import Json
from raf_ray.masking import masked
from raf_ray.paths import existing_file
from raf_ray.request.plans import asked_sizes, plan_clients
from raf_ray.search.space import Domain, Params, check_draws, check_space, draw, parse_space, resolve

SELECTION = {"evaluation": {"split": "val", "round_sizes": "all"}}
"""What every trial is given: it is scored on `val` at all sizes, and sees no test person."""

COSTS = ("forward_pixels", "mb_sent", "seconds")
METRICS = ("score_mean", "score_worst", "score_tiers", "drift_spread", "loss", *COSTS)
"""What trials report; also ``score/HxW`` of each of `evaluation.resolutions`."""

VIRTUAL = ("virtual_hours", "virtual_hours_to_target")
"""What they report too where the base has `devices`, and the second where it has a `devices.target`."""

UNREACHED_HOURS = 1e6
"""Stands for the hours to a target that is not reached: a choice, beyond any run, so that such a trial ranks last."""

OPTUNA_CHECKED = 64
"""Random draws that are checked beforehand where Optuna will choose."""


MOST_TRIALS = 100_000
"""All of them are drawn and checked beforehand."""


class AshaConfig(Section):
    """Asynchronous successive halving (Li et al. 2020)."""

    grace_period: Positive = 2
    """Rounds that every trial may train."""
    reduction_factor: Annotated[int, Field(ge=2)] = 3
    """One of so many trials goes on at each rung."""


class TrialResources(Section):
    """The bundles of a trial's placement group, as Tune reserves them."""

    driver_cpus: Annotated[float, Field(gt=0)] = 0.1
    """Bundle 0: the trial's own process, which is the driver."""
    evaluator_cpus: Annotated[float, Field(gt=0)] = 0.3
    """Bundle 1."""
    evaluator_gpus: Annotated[float, Field(ge=0)] = 0.0
    """GPU share of the evaluator; 0: CPU."""
    client_cpus: Literal["auto"] | Annotated[float, Field(gt=0)] = "auto"
    """A bundle each; auto: the cluster's CPUs, shared out among the trials that run at once, at most 1."""
    strategy: Literal["PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD"] = "PACK"
    """How Ray places a trial's bundles on nodes."""


class SearchConfig(Section):
    """One search: federations that differ in some config keys."""

    base: Json = Field(default_factory=dict)
    """What all trials share: `presets` (a list), `config` (a file), and config keys over them."""
    param_space: Json = Field(default_factory=dict)
    """Config key -> {uniform|loguniform|quniform|randint|choice|grid_search: values}."""
    metric: str | list[str] = "score_mean"
    """What is searched for, on `val`: one, or several for a Pareto front; the first names the winner."""
    mode: Literal["max", "min"] | list[Literal["max", "min"]] = "max"
    """Best is largest or smallest; one word for each metric."""
    search_alg: Literal["random", "grid", "optuna"] = "random"
    """Random draws, the whole grid, or Optuna's TPE (several metrics: its multi-objective form)."""
    scheduler: Literal["none", "asha"] = "none"
    """`asha` stops weak trials early."""
    asha: AshaConfig = AshaConfig()
    """ASHA's own keys."""
    num_samples: Annotated[Positive, Use.FREE] = 1
    """Trials (random: draws, each with the whole grid of its grid_search keys)."""
    max_concurrent_trials: Annotated[Positive | None, Use.FREE] = None
    """Trials at once; null: as many as fit."""
    time_budget_s: Annotated[Annotated[float, Field(gt=0)] | None, Use.FREE] = None
    """Seconds after which running trials are stopped and none is started; null: none."""
    max_failures: Annotated[int, Field(ge=0), Use.FREE] = 1
    """Times that a trial whose process or node died goes on from its checkpoint."""
    resources: Annotated[TrialResources, Use.FREE] = TrialResources()
    """What a trial reserves."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Of the draws; the federations' own is base.seed."""


@dataclass(frozen=True)
class Search:
    """A checked search."""

    name: str
    config: SearchConfig
    values: Mapping[str, Any]
    """The base's config values, presets and files merged, without defaults; the tracking URI masked."""
    tracking: TrackingConfig
    """The base's, with the URI's secrets."""
    space: Mapping[str, Domain]
    planned: tuple[Params, ...] | None
    """Every trial's values, in order, without repeats; None where Optuna will choose."""
    drawn: tuple[Params, ...] = ()
    """What was checked: the planned trials, or random draws where Optuna will choose."""
    repeats: int = 0
    """Draws that were left out because an earlier one is the same."""

    @property
    def metrics(self) -> list[str]:
        return [self.config.metric] if isinstance(self.config.metric, str) else list(self.config.metric)

    @property
    def modes(self) -> list[str]:
        return [self.config.mode] if isinstance(self.config.mode, str) else list(self.config.mode)

    @property
    def num_trials(self) -> int:
        return self.config.num_samples if self.planned is None else len(self.planned)

    def base_config(self) -> Config:
        return self._base

    @cached_property
    def _base(self) -> Config:
        return validate(Config, self.values).model_copy(update={"tracking": self.tracking})

    def rounds_of(self, params: Mapping[str, Any]) -> int:
        """A trial's rounds, without building its config: displays ask often."""
        return int(params.get("federation.rounds", self._base.federation.rounds))

    def trial_config(self, params: Mapping[str, Any]) -> Config:
        """A trial's config: its values over the base's, scored on `val`. Raises InputError."""
        values: Json = {}
        merge(values, self.values)
        merge(values, SELECTION)
        return resolve(values, params)

    def final_config(self, params: Mapping[str, Any]) -> Config:
        """The same as a config of its own, whose final table is on `test`."""
        return resolve(self.values, params)


def load_search(path: Path, words: Sequence[str] = ()) -> Search:
    """Read and check a search file; ``key=value`` words go over it. Raises InputError; Ray is not started."""
    values = read_yaml(path)
    for word in words:
        merge(values, parse_override(word))
    return check_search(path.stem, values)


def may_change(key: str) -> bool:
    """Whether a resumed search may change a key of its file: no trial depends on it."""
    if key.startswith("base."):
        return use_of(key.removeprefix("base.")) is Use.FREE
    return use_of(key, SearchConfig) is Use.FREE


def check_search(name: str, values: Mapping[str, Any]) -> Search:
    """A search from a file's values. Raises InputError for what is wrong with it."""
    config = validate(SearchConfig, values)
    space = parse_space(config.param_space)
    base = _base_values(config.base)
    shared = validate(Config, base)
    sizes = [str(size) for size in asked_sizes(shared)]
    if shared.evaluation.train_people:
        raise InputError("base.evaluation.train_people: a search chooses by held-out people alone; leave it out")
    check_space(space, base)
    config = config.model_copy(update={"base": _without_secrets(config.base)})
    search = Search(name, config, _without_secrets(base), shared.tracking, space, None)
    _check_metrics(search, sizes, shared)
    _check_algorithm(search)
    if config.search_alg == "optuna":
        drawn = list(draw(space, OPTUNA_CHECKED, config.seed))
        _check_trials(search, drawn)
        return replace(search, drawn=tuple(drawn))
    drawn_from = _as_grid(space) if config.search_alg == "grid" else space
    asked = config.num_samples * math.prod(len(d.args) for d in drawn_from.values() if d.kind == "grid_search")
    if asked > MOST_TRIALS:
        raise InputError(
            f"the search asks for {shown(asked)} trials, of which at most {MOST_TRIALS:,} can be drawn; lower "
            "num_samples or list fewer values"
        )
    drawn = list(draw(drawn_from, config.num_samples, config.seed))
    unique = list({repr(params): params for params in drawn}.values())
    _check_trials(search, unique)
    return replace(search, planned=tuple(unique), drawn=tuple(unique), repeats=len(drawn) - len(unique))


def _base_values(base: Mapping[str, Any]) -> Json:
    rest = dict(base)
    presets, file = rest.pop("presets", []), rest.pop("config", None)
    if not isinstance(presets, list):
        raise InputError(f"base.presets: write a list, such as [demo] (got {shown(presets)})")
    values: Json = {}
    for preset in presets:
        merge(values, read_preset(str(preset)))
    if file is not None:
        merge(values, read_yaml(existing_file(str(file), "config file")))
    merge(values, rest)
    return values


def _without_secrets(base: Mapping[str, Any]) -> Json:
    tracking = base.get("tracking")
    if not isinstance(tracking, Mapping) or not isinstance(tracking.get("uri"), str):
        return dict(base)
    return {**base, "tracking": {**tracking, "uri": masked(tracking["uri"])}}


def _check_metrics(search: Search, sizes: Sequence[str], shared: Config) -> None:
    if not sizes:
        raise InputError("base.evaluation.resolutions: a search needs at least one size to score at")
    if not search.metrics:
        raise InputError("metric: name at least one, such as score_mean")
    known = [*METRICS, *_virtual_metrics(shared), *(f"score/{size}" for size in sizes)]
    for metric in search.metrics:
        if metric not in known:
            raise InputError(f"metric: no trial reports '{metric}' (known: {', '.join(known)})")
    if len(search.metrics) != len(search.modes):
        raise InputError(
            f"mode: {len(search.modes)} for {len(search.metrics)} metrics; give one word, max or min, for each metric"
        )
    if len(set(search.metrics)) != len(search.metrics):
        raise InputError("metric: each may be named once")


def _virtual_metrics(shared: Config) -> Sequence[str]:
    if shared.devices is None:
        return ()
    return VIRTUAL if shared.devices.target is not None else VIRTUAL[:1]


def _check_algorithm(search: Search) -> None:
    config = search.config
    if len(search.metrics) > 1 and config.scheduler == "asha":
        raise InputError("scheduler: asha halves by one metric; give one, or scheduler: none for a Pareto front")
    if config.search_alg == "grid":
        for key, domain in search.space.items():
            if not domain.is_listed:
                raise InputError(
                    f"param_space.{key}: a grid needs listed values (choice or grid_search), not {domain.kind}"
                )
    if config.search_alg == "optuna":
        for key, domain in search.space.items():
            if domain.kind == "grid_search":
                raise InputError(f"param_space.{key}: Optuna does not walk grids; write choice in place of grid_search")
        try:
            import optuna  # noqa: F401
        except ImportError as error:
            raise InputError(
                "search_alg: optuna is not installed; pip install optuna, or use random or grid"
            ) from error


def _as_grid(space: Mapping[str, Domain]) -> dict[str, Domain]:
    return {key: Domain("grid_search", domain.args) for key, domain in space.items()}


def _check_trials(search: Search, drawn: Sequence[Params]) -> None:
    def check(params: Params) -> None:
        config = search.trial_config(params)
        plan_clients(config)
        if search.config.scheduler == "asha" and search.config.asha.grace_period > config.federation.rounds:
            raise InputError(
                f"asha.grace_period={search.config.asha.grace_period}: the federation has only "
                f"{config.federation.rounds} rounds; lower it"
            )

    check_draws(drawn, check)
