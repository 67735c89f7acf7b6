"""Which trial runs, and which is stopped: Tune's schedulers, told what the ledger and the cluster know."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler

from raf_ray.cluster.packing import fits
from raf_ray.cluster.planner import all_nodes, counted
from raf_ray.search.spec import Search

LOOK_SECONDS = 1.0
"""Between looks at the cluster: a choice."""


class Room:
    """Gives up a waiting trial that the cluster, even empty, has been too small for during `wait_s`."""

    def __init__(self, wait_s: float, give_up: Callable[[str, str], None]) -> None:
        """`give_up`: told a trial's id and why, before it is stopped."""
        self._wait_s, self._give_up = wait_s, give_up
        self._since: dict[str, float] = {}
        """Trial -> since when there is no room for it"""
        self._looked = 0.0

    def look(self, controller: Any) -> None:
        now = time.monotonic()
        if now - self._looked < LOOK_SECONDS:
            return
        self._looked, nodes = now, all_nodes()
        for trial in controller.get_trials():
            if trial.status != "PENDING" or fits(trial.placement_group_factory.bundles, nodes):
                self._since.pop(trial.trial_id, None)
            elif now - self._since.setdefault(trial.trial_id, now) > self._wait_s:
                why = (
                    f"no room for it in {self._wait_s:g} s (resources.wait_for_room_s): the cluster is down to "
                    f"{counted(nodes)}; --resume goes on once there is room"
                )
                self._give_up(trial.trial_id, why)
                controller.stop_trial(trial)


class Looking:
    """In front of a scheduler of Tune: looks for room whenever a trial is chosen."""

    def __init__(self, room: Room, **scheduler: Any) -> None:
        super().__init__(**scheduler)
        self._room = room

    def choose_trial_to_run(self, tune_controller: Any) -> Any:
        self._room.look(tune_controller)
        return super().choose_trial_to_run(tune_controller)  # type: ignore[misc]


class InOrder(Looking, FIFOScheduler):  # type: ignore[misc]
    """Every trial trains to its end."""


class ReplayingAsha(Looking, ASHAScheduler):  # type: ignore[misc]
    """ASHA that stops no trial in a history that is told again (that was decided before), nor one that is done."""

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        decision = super().on_trial_result(tune_controller, trial, result)
        return TrialScheduler.CONTINUE if result["replayed"] or result["last"] else decision


def scheduler_of(search: Search, rounds: int, room: Room) -> TrialScheduler:
    """Tune's scheduler; `rounds` is the longest trial's."""
    if search.config.scheduler == "none":
        return InOrder(room)
    asha = search.config.asha
    return ReplayingAsha(
        room,
        time_attr="round",
        metric=search.metrics[0],
        mode=search.modes[0],
        grace_period=asha.grace_period,
        reduction_factor=asha.reduction_factor,
        max_t=rounds + 1,  # never reached
    )
