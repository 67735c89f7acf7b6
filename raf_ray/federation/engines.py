"""Where a federation runs: in this process, on a Ray cluster, or inside a trial of a search. The same bits by all."""

from __future__ import annotations

import logging
from collections.abc import Generator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from raf_ray.cluster.shares import DRIVER_CPUS, ActorShares
from raf_ray.errors import RunError
from raf_ray.federation.backend import InProcessBackend
from raf_ray.federation.driver import Federation
from raf_ray.federation.events import Event
from raf_ray.federation.spec import FederationSpec
from raf_ray.runs.checkpoint import Checkpoint
from raf_ray.runs.folder import RunFolder

log = logging.getLogger(__name__)

STOP_SECONDS = 15.0
"""For a stopped run to end in order: a choice."""


class Engine(Protocol):
    def run(self, spec: FederationSpec, folder: RunFolder, checkpoint: Checkpoint | None) -> Generator[Event]:
        """Run a federation to its end, from a checkpoint where there is one, and yield what happens."""


class InProcess:
    """All clients one after the other in this process: for a debugger, and as the reference."""

    def run(self, spec: FederationSpec, folder: RunFolder, checkpoint: Checkpoint | None) -> Generator[Event]:
        yield from Federation(spec, lambda recall: InProcessBackend(spec), folder, checkpoint).run()


@dataclass(frozen=True)
class OnRay:
    """A driver actor beside this process, and an actor for each client wherever the cluster has room."""

    shares: ActorShares

    def run(self, spec: FederationSpec, folder: RunFolder, checkpoint: Checkpoint | None) -> Generator[Event]:
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        from raf_ray.cluster.connect import wait_until_free
        from raf_ray.cluster.names import DRIVER, new_namespace, ray_name
        from raf_ray.federation.hosts import DriverActor, cause_of
        from raf_ray.federation.ray_backend import RayBackend

        name = str(spec.facts["name"])
        free = ray.available_resources().get("CPU", 0.0)
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        namespace = new_namespace(name)
        driver = DriverActor.options(
            name=DRIVER, namespace=namespace, num_cpus=DRIVER_CPUS, scheduling_strategy=here
        ).remote(partial(Federation, spec, partial(RayBackend, spec, self.shares, namespace), folder, checkpoint))
        events = driver.run.options(name=f"run {ray_name(name)}", num_returns="streaming").remote()
        try:
            for reference in events:
                yield ray.get(reference)
        except (KeyboardInterrupt, GeneratorExit):
            with suppress(ray.exceptions.RayError, TimeoutError):
                ray.get(driver.stop.remote(STOP_SECONDS), timeout=STOP_SECONDS + 5)
            raise
        except ray.exceptions.RayError as error:
            log.error("the driver failed\n%s", error)
            raise RunError(f"the driver failed: {cause_of(error)} (see run.log)") from error
        finally:
            ray.kill(driver)
            wait_until_free(free)


@dataclass(frozen=True)
class InTrial:
    """Rounds in this process, a trial's; clients and evaluator in their bundles of its placement group."""

    shares: ActorShares
    name: str
    """Under which Ray's metrics and dashboard know it"""

    def run(self, spec: FederationSpec, folder: RunFolder, checkpoint: Checkpoint | None) -> Generator[Event]:
        from raf_ray.cluster.names import new_namespace
        from raf_ray.federation.meters import Meters, metered
        from raf_ray.federation.ray_backend import RayBackend

        make = partial(RayBackend, spec, self.shares, new_namespace(self.name))
        yield from metered(Federation(spec, make, folder, checkpoint).run(), Meters(self.name))
