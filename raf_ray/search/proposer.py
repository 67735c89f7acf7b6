"""Who proposes trials: Tune's searcher, by the ledger."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from ray.tune.search import Searcher

from raf_ray.config.loading import config_hash
from raf_ray.search.ledger import Ledger, TrialRecord
from raf_ray.search.space import Params, relabel, unlabel
from raf_ray.search.spec import Search

MOST_REPEATS = 50
"""Draws in a row that were all known: the space is used up, and the search ends."""


class Proposer(Searcher):  # type: ignore[misc]
    """The planned trials in order, or Optuna's; each is in the ledger before Tune hears of it.

    After a resume the ledger's trials are proposed again, in order and with the same values. Those that have
    ended only tell their history, so that Optuna learns what it knew.
    """

    def __init__(self, search: Search, ledger: Ledger) -> None:
        super().__init__()
        self._search = search
        self._ledger = ledger
        self._proposed = 0
        self._optuna = _optuna(search, [e.params for e in ledger.records]) if search.planned is None else None
        self._earlier = len(ledger.records)
        """Trials of earlier sessions."""
        self._asked: dict[str, str] = {}
        """Tune's trial id -> Optuna's"""
        self._records: dict[str, TrialRecord] = {}
        self.given_up: dict[str, str] = {}
        """Tune's trial id -> why it will not run"""

    def set_search_properties(self, metric: Any, mode: Any, config: Any, **spec: Any) -> bool:
        return True

    def suggest(self, trial_id: str) -> Any:
        params = self._next(trial_id)
        if params is None:
            return Searcher.FINISHED
        record = self._register(params)
        self._records[trial_id] = record
        return {"trial": record.number, **relabel(self._search.space, params)}

    def record_of(self, trial_id: str) -> TrialRecord:
        return self._records[trial_id]

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        if self._optuna is not None and self._search.metrics[0] in result:
            self._optuna.on_trial_result(self._asked[trial_id], result)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        if self._optuna is not None:
            self._optuna.on_trial_complete(self._asked[trial_id], result, error)

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the ledger is what a resume goes by."""

    def restore(self, checkpoint_path: str) -> None:
        raise NotImplementedError("a search is resumed from its ledger")

    def _next(self, trial_id: str) -> Params | None:
        if self._proposed >= self._search.num_trials:
            return None
        if self._optuna is None:
            assert self._search.planned is not None
            return self._search.planned[self._proposed]
        for attempt in range(MOST_REPEATS):
            asked = f"{trial_id}.{attempt}"
            params = unlabel(self._search.space, self._optuna.suggest(asked))
            known = self._known(params)
            if known is None or self._proposed < self._earlier:
                self._asked[trial_id] = asked
                return params
            # A repeat is not trained again: Optuna hears what came of the first, where that is known.
            self._optuna.on_trial_complete(asked, known.metrics if known.status == "finished" else None)
        return None

    def _known(self, params: Params) -> TrialRecord | None:
        key = config_hash(self._search.trial_config(params))
        return next((e for e in self._ledger.records if e.hash == key and e.status != "superseded"), None)

    def _register(self, params: Params) -> TrialRecord:
        position, self._proposed = self._proposed, self._proposed + 1
        key = config_hash(self._search.trial_config(params))
        if position < self._earlier:
            known = self._ledger.records[position]
            if known.hash == key:
                return known
            known.status, known.note = "superseded", "proposed with other values after a resume"
        return self._ledger.add(key, params)


def _optuna(search: Search, known: Sequence[Params]) -> Any:
    import optuna
    from ray.tune.search.optuna import OptunaSearch

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    # Another stream after a resume: the same one would draw the first trials' values again.
    seed = search.config.seed
    if known:
        seed = int(np.random.SeedSequence([seed, len(known)]).generate_state(1)[0])
    sampler = optuna.samplers.TPESampler(seed=seed)
    several = len(search.metrics) > 1
    return OptunaSearch(
        space=OptunaSearch.convert_search_space({key: domain.to_tune() for key, domain in search.space.items()}),
        metric=search.metrics if several else search.metrics[0],
        mode=search.modes if several else search.modes[0],
        points_to_evaluate=[relabel(search.space, params) for params in known] or None,
        sampler=sampler,
    )
