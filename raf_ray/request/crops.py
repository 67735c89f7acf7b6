"""By which rule people are cut: `data.crop`, `.codec` and `.pyramid` together; and who has crops by ours alone."""

from __future__ import annotations

from raf_ray.config.tree import Config, DataConfig
from raf_ray.data.crop import CropRule
from raf_ray.errors import InputError


def crop_rule(config: Config) -> CropRule:
    """How people are cut from their pictures. UDP's rule is of crops and heatmaps alike, so a codec brings it."""
    data = config.data
    return CropRule(data.crop == "stretch", data.codec != "subpixel", data.pyramid == "area")


def check_ours(config: Config, who: str) -> None:
    """Raise InputError where the config asks for other crops than `who` (such as "a search") can hold."""
    defaults = DataConfig()
    for key in ("crop", "codec", "pyramid"):
        value, ours = getattr(config.data, key), getattr(defaults, key)
        if value != ours:
            raise InputError(
                f"data.{key}={value}: {who} holds people cut by data.{key}={ours} alone; set it to {ours}, or run by "
                "itself on the data set"
            )
