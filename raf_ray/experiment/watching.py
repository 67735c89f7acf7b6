"""Who sees a run while it goes on. Watching never ends a run."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Protocol

from rich.console import Console

from raf_ray.config import Config
from raf_ray.errors import described
from raf_ray.federation.events import Event
from raf_ray.files import Json
from raf_ray.request.prepared import Prepared
from raf_ray.terminal import warn

log = logging.getLogger(__name__)


class Watcher(Protocol):
    """Sees a run's events: progress on the terminal, MLflow, a test. What it raises ends the run; see `Guarded`."""

    def begin(self, prepared: Prepared, folder: Path) -> None: ...
    def see(self, event: Event) -> None: ...
    def end(self, folder: Path, results: Json | None) -> None: ...


class Guarded:
    """A watcher by which no run ends: after its first failure, which is noted, it is only told of the end."""

    def __init__(self, watcher: Watcher, name: str, warn: Callable[[str], None]) -> None:
        """
        Args:
            name: of what the watcher does, for the warning.
            warn: told of the failure, in one sentence.
        """
        self._watcher, self._name, self._warn = watcher, name, warn
        self._failed = False

    def begin(self, prepared: Prepared, folder: Path) -> None:
        self._try(partial(self._watcher.begin, prepared, folder))

    def see(self, event: Event) -> None:
        if not self._failed:
            self._try(partial(self._watcher.see, event))

    def end(self, folder: Path, results: Json | None) -> None:
        self._try(partial(self._watcher.end, folder, results))

    def _try(self, call: Callable[[], None]) -> None:
        try:
            call()
        except Exception as error:  # of whatever library shows or stores
            log.info("%s failed", self._name, exc_info=error)
            if not self._failed:
                self._failed = True
                self._warn(f"{self._name} failed ({described(error)}), and the run goes on without it")


def watchers_for(config: Config, console: Console, title: str = "") -> list[Watcher]:
    """The watchers of a command: progress, and MLflow where it is asked for."""
    from raf_ray.tracking.progress import ProgressDisplay

    tell = partial(warn, console)
    return [Guarded(ProgressDisplay(console, title), "the progress display", tell), *trackers_for(config, tell)]


def trackers_for(config: Config, warn: Callable[[str], None]) -> list[Watcher]:
    """MLflow, where `tracking.mlflow` asks for it."""
    from raf_ray.tracking.mlflow import MlflowTracker

    return [Guarded(MlflowTracker(config, warn), "logging to MLflow", warn)] if config.tracking.mlflow else []
