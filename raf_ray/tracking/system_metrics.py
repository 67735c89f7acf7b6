"""CPU, memory and GPU use of this machine under the names of MLflow's own system metrics."""

from __future__ import annotations

import threading
from collections.abc import Callable

SAMPLE_SECONDS = 10.0
"""MLflow's own interval."""


class SystemSampler:
    """A thread that hands out a sample every SAMPLE_SECONDS until it is stopped, or this machine gives none."""

    def __init__(self, take: Callable[[dict[str, float]], object], warn: Callable[[str], None]) -> None:
        self._take, self._warn = take, warn
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._work, name="system metrics", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join()

    def _work(self) -> None:
        import psutil

        try:
            psutil.cpu_percent()  # the first answer is about no interval
            while not self._stopped.wait(SAMPLE_SECONDS):
                self._take(sample())
        except Exception as error:  # psutil's and the GPU library's own
            self._warn(f"MLflow gets no further system metrics of this run ({type(error).__name__}: {error})")


def sample() -> dict[str, float]:
    """Name -> value; of GPUs where NVIDIA's library is there."""
    import psutil

    memory = psutil.virtual_memory()
    return {
        "system/cpu_utilization_percentage": psutil.cpu_percent(),
        "system/system_memory_usage_megabytes": memory.used / 1e6,
        "system/system_memory_usage_percentage": memory.percent,
        **_gpus(),
    }


def _gpus() -> dict[str, float]:
    try:
        import pynvml
    except ImportError:
        return {}
    try:
        pynvml.nvmlInit()
        found: dict[str, float] = {}
        for index in range(pynvml.nvmlDeviceGetCount()):
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
            found[f"system/gpu_{index}_utilization_percentage"] = pynvml.nvmlDeviceGetUtilizationRates(handle).gpu
            found[f"system/gpu_{index}_memory_usage_megabytes"] = memory.used / 1e6
    except pynvml.NVMLError:  # no driver, or a card that does not tell
        return {}
    return found
