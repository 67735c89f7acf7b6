"""Image of any size -> heatmaps of a quarter of it, or finer. One file a family: names, config, builder, forward.

A file here with `NAMES` and `build(name, num_joints, depth)` is new values of `model.name`. Where it has
`OPTIONS`, those keys of `model` are keywords of its `build`; another file's models refuse them. Where it has `EXTRA`,
its pretrained weights come with that extra of raf-ray, that is with the packages of its `PACKAGES`.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from raf_ray.errors import InputError
from raf_ray.models.norms import freeze_norms
from raf_ray.plugins import constants_in, is_import_path, load_object, names_in
from raf_ray.resolution import HEATMAP_STRIDE

Option = str | int
"""A value of a key of `model` that is for a model's file"""


def build_model(name: str, num_joints: int, depth: int = 18, **options: Option) -> nn.Module:
    """A built-in model: images (B, 3, H, W), normalised, -> heatmaps (B, `num_joints`, H/4, W/4) or finer ones.

    `depth` is the ResNet's of `simple_baseline`. Raises ValueError where no file here names it, and InputError where it
    does not take an option, or needs packages that are not there.
    """
    files = names_in(__name__)
    if name not in files:
        raise ValueError(f"no built-in model is called '{name}'")
    if files[name] in (extras := missing_extras()):
        extra = extras[files[name]]
        raise InputError(
            f"model.name={name} needs the {extra} extra; install it with pip install 'raf-ray[{extra}]', or choose "
            "another model.name"
        )
    module = importlib.import_module(f"{__name__}.{files[name]}")
    check_options(name, options, getattr(module, "OPTIONS", ()))
    model: nn.Module = module.build(name, num_joints, depth, **options)
    return model


def missing_extras() -> dict[str, str]:
    """File -> its extra, of those whose packages are not all installed; none of them is imported."""
    packages = constants_in(__name__, "PACKAGES")
    extras = constants_in(__name__, "EXTRA").items()
    return {file: extra for file, extra in extras if not all(map(importlib.util.find_spec, packages[file]))}


def pretrained() -> dict[str, str | None]:
    """Name -> what must be installed for it, of the models that come with weights; None: all of it is."""
    missing, files = missing_extras(), names_in(__name__)
    with_weights = constants_in(__name__, "EXTRA")
    return {name: missing.get(file) for name, file in files.items() if file in with_weights}


def check_options(name: str, options: Mapping[str, Option], taken: Sequence[str] = ()) -> None:
    """Raise InputError where a model does not take an option."""
    for key, value in options.items():
        if key not in taken:
            raise InputError(f"model.{key}={value} does not go with model.name={name}; leave it out")


def heatmap_stride(model: nn.Module) -> int:
    """Image pixels per heatmap pixel, on each side: its own `heatmap_stride`, where it says one."""
    return int(getattr(model, "heatmap_stride", HEATMAP_STRIDE))


def size_divisor(model: nn.Module) -> int:
    """What must divide a model's sizes: its own `size_divisor`, where it says one, and its stride."""
    return int(getattr(model, "size_divisor", heatmap_stride(model)))


def head_of(model: nn.Module) -> nn.Module | None:
    """What turns a model's ``features(images)``, (B, C, h, w), into heatmaps: the module that its `head_name` names.

    None where it lacks one of the two, as one's own model may.
    """
    name = getattr(model, "head_name", None)
    return model.get_submodule(name) if name is not None and hasattr(model, "features") else None


def _as_it_is(model: nn.Module, outputs: int) -> nn.Module:
    return model


@dataclass(frozen=True)
class ModelSpec:
    """A model before it lives anywhere."""

    name: str
    depth: int
    joints: int
    """Or whatever else its outputs mean"""
    adapt: Callable[[nn.Module, int], nn.Module] = _as_it_is
    """Puts the head of a task into it"""
    freeze_norms: bool | None = None
    """As `raf_ray.models.norms.freeze_norms` takes it"""
    options: tuple[tuple[str, Option], ...] = ()
    """Keys of `model` that were given another value than their default, for the model's file"""

    def build(self) -> nn.Module:
        """A model with fresh weights. Raises InputError where one's own gives none, or lacks what is asked of it."""
        return freeze_norms(self.adapt(self._plain(), self.joints), self.name, self.freeze_norms)

    def _plain(self) -> nn.Module:
        if not is_import_path(self.name):
            return build_model(self.name, self.joints, self.depth, **dict(self.options))
        options = dict(self.options)
        asked = options.pop("heatmap_stride", HEATMAP_STRIDE)
        check_options(self.name, options)
        model = load_object(self.name, "model.name")(self.joints)
        if not isinstance(model, nn.Module):
            raise InputError(f"model.name={self.name} returned {type(model).__name__}, not a torch.nn.Module")
        if heatmap_stride(model) != asked:
            raise InputError(
                f"model.heatmap_stride={asked}, but the model of {self.name} gives heatmaps of stride "
                f"{heatmap_stride(model)} (its attribute heatmap_stride; 4 where it has none); set the key to that"
            )
        return model
