"""The FL method of a config."""

from __future__ import annotations

import inspect

from torch import nn

from raf_ray import algorithms
from raf_ray.algorithms.interface import Algorithm, Setting
from raf_ray.config.tree import Config
from raf_ray.errors import InputError, one_line
from raf_ray.models import head_of
from raf_ray.plugins import is_import_path, load_object
from raf_ray.state import Layout


def algorithm_of(config: Config) -> Algorithm:
    """The method with its parameters. Raises InputError where it is one's own and does not fit."""
    asked = config.algorithm
    if not is_import_path(asked.name):
        own = getattr(asked, asked.name, None)
        parameters = {"weighting": asked.weighting, **(own.model_dump() if own is not None else {})}
        return algorithms.built_in()[asked.name](**parameters)
    make = load_object(asked.name, "algorithm.name")
    if not callable(make):
        raise InputError(f"algorithm.name={asked.name} gives {type(make).__name__}, not a class of a method")
    shared = {"weighting": asked.weighting} if "weighting" in inspect.signature(make).parameters else {}
    if not shared and asked.weighting != "people":
        raise InputError(f"algorithm.weighting={asked.weighting}, but {asked.name} takes no weighting; leave it out")
    try:
        algorithm = make(**{**shared, **asked.parameters})
    except (TypeError, ValueError) as error:
        raise InputError(f"algorithm.parameters do not fit {asked.name}: {one_line(error)}") from error
    if not isinstance(algorithm, Algorithm):
        raise InputError(
            f"algorithm.name={asked.name} gives {type(algorithm).__name__}, "
            "not a raf_ray.algorithms.interface.Algorithm"
        )
    return algorithm


def check_method(config: Config, model: nn.Module, layout: Layout) -> list[str]:
    """What a user should know of the method in this setting. Raises InputError where it cannot work in it."""
    algorithm = algorithm_of(config)
    has_features = head_of(model) is not None
    setting = Setting(config.optimizer.name, layout, has_features, compiled=config.resources.compile)
    if unfit := algorithm.requires(setting):
        raise InputError(f"algorithm.name={config.algorithm.name}: {unfit}")
    told = algorithm.says(setting)
    return [told] if told else []
