"""What was asked for: a typed tree, its presets, and the rules by which words become values."""

from raf_ray.config.loading import load_config, write_yaml
from raf_ray.config.tree import Config

__all__ = ["Config", "load_config", "write_yaml"]
