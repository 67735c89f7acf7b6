"""What actors may use, and what is done when one dies."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from raf_ray.config.section import Positive, Section, Use

GpuShare = Annotated[float, Field(ge=0)]
CpuShare = Annotated[float, Field(gt=0)]


class ProfileConfig(Section):
    """Which client's round a profiler watches."""

    client: str
    """A client's name: client-TIER-NNN, numbered from 000 in each tier."""
    round: Positive
    """A round from 1 in which it takes part; its first 20 batches are traced."""


class ResourcesConfig(Section):
    """What an actor may use."""

    gpus_per_client: Literal["auto"] | GpuShare | dict[str, GpuShare] = 0.0
    """GPU share of a client (0.25: four clients a GPU; 0: CPU), or one a tier; auto: by the memory of a tier's step."""
    cpus_per_client: Annotated[Literal["auto"] | CpuShare | dict[str, CpuShare], Use.FREE] = "auto"
    """CPU share of a client, or one a tier; auto: what the cluster has, shared out, at most 1."""
    labels: Annotated[dict[str, dict[str, str]], Use.FREE] = {}
    """Tier -> labels of the nodes where its clients live, as `ray start --labels` gives them; {}: anywhere."""
    clients_per_actor: Annotated[Literal["auto"] | Positive, Use.FREE] = "auto"
    """Clients that share a Ray actor, trained by turns; auto: one each while they fit, else an actor a core."""
    retries: Annotated[int, Field(ge=0, le=100), Use.FREE] = 2
    """Times that a client's round, or a scoring, begins again where its actor's process or node died."""
    wait_for_room_s: Annotated[float, Field(ge=0), Use.FREE] = 60.0
    """Seconds that a run waits for room on the cluster when all of its actors died."""
    threads: Annotated[int, Field(gt=0, le=256)] = 1
    """Threads of a client's CPU work; part of the results' bits."""
    precision: Literal["float32", "bf16"] = "float32"
    """bf16: autocast of forward passes."""
    compile: bool = False
    """torch.compile of the model, once for each size of a batch (on a GPU with CUDA graphs); other bits."""
    dashboard: Annotated[bool, Use.FREE] = True
    """Start the Ray dashboard with a private local cluster."""
    profile: Annotated[ProfileConfig | None, Use.FREE] = None
    """Write trace-CLIENT-round-N.json of one client's round, for Perfetto; its keys below, or null."""
