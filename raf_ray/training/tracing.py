"""A profiler trace of one client's round, in the form that Perfetto and Chrome's tracing page open."""

from __future__ import annotations

import gzip
import tempfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from raf_ray.training.task import Batch

TRACED_BATCHES = 20
"""A trace grows by every operation, 0.8 MB a batch of the demo's RAF: so many show a round and still open."""


class Tracer:
    """Watches the first `TRACED_BATCHES` batches that pass through `watch`."""

    def __init__(self, device: torch.device) -> None:
        self._activities = [ProfilerActivity.CPU]
        if device.type == "cuda":
            self._activities.append(ProfilerActivity.CUDA)
        self.trace: bytes | None = None
        """Gzipped Chrome trace (JSON), once the batches have passed."""

    def watch(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """The same batches; what the caller does with each of the first is traced as `batch 1`, `batch 2` ..."""
        if self.trace is None:
            with profile(activities=self._activities) as profiler:
                for number, batch in enumerate(islice(batches, TRACED_BATCHES), 1):
                    with record_function(f"batch {number}"):
                        yield batch
            self.trace = _exported(profiler)
        yield from batches


def trace_name(client: str, done: int) -> str:
    """File of the run folder that holds the trace of a client's round, counted from 1."""
    return f"trace-{client}-round-{done}.json"


def _exported(profiler: profile) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(path))
        return gzip.compress(path.read_bytes(), compresslevel=1)
