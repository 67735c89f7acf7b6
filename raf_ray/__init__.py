"""raf-ray: federated learning for keypoint detection when clients own images of different resolution.

``from raf_ray import Config, run_federation`` is the command ``python -m raf_ray.run`` from Python.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from raf_ray.config import Config, load_config
    from raf_ray.experiment.run import Results, run_federation

__all__ = ["Config", "Results", "load_config", "run_federation"]


def __getattr__(name: str) -> Any:
    """Import late: torch and ray take seconds, and ``--help`` needs neither."""
    if name in ("Config", "load_config"):
        from raf_ray import config

        return getattr(config, name)
    if name in ("Results", "run_federation"):
        from raf_ray.experiment import run as experiment

        return getattr(experiment, name)
    raise AttributeError(f"module 'raf_ray' has no attribute '{name}'")
