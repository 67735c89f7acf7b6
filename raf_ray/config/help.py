"""Help for the command line, made from the tree: every key with its values, default and meaning."""

from __future__ import annotations

import types
from collections.abc import Iterable
from typing import Any, Literal, Union, get_args, get_origin

from raf_ray.config.loading import preset_names, preset_path, walk
from raf_ray.config.section import IMPORT_PATH
from raf_ray.config.tree import Config

PRECEDENCE = "Precedence: defaults (the demo) < --preset (later ones win) < --config < key=value."


def preset_lines() -> list[str]:
    """A line a preset: its name and the first comment line of its file."""
    lines = []
    for name in preset_names():
        first = preset_path(name).read_text(encoding="utf-8").splitlines()[0]
        lines.append(f"  {name:<12} {first.lstrip('# ')}")
    return lines


def key_lines() -> list[str]:
    """Two lines a key: name, values and default; meaning."""
    lines = []
    section = ""
    for key, field in walk(Config):
        head = key.rpartition(".")[0]
        if head != section:
            lines.append("")
            section = head
        default = field.get_default(call_default_factory=True)
        shown = "" if field.is_required() else f" = {_shown(default)}"
        lines.append(f"  {key}: {_values(field.annotation, field.metadata)}{shown}")
        lines.append(f"      {field.description}")
    return lines


def _shown(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_shown(item) for item in value) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k}: {_shown(v)}" for k, v in value.items()) + "}"
    return str(value)


def _values(annotation: Any, metadata: Iterable[Any] = ()) -> str:
    """What a key may be, in words."""
    if any(getattr(item, "pattern", None) == IMPORT_PATH for item in metadata):
        return "package.module:name"
    origin = get_origin(annotation)
    if origin is Literal:
        return "|".join(str(choice) for choice in get_args(annotation))
    if origin in (Union, types.UnionType):
        return "|".join(_values(choice) for choice in get_args(annotation))
    if hasattr(annotation, "__metadata__"):
        inner = [m for item in annotation.__metadata__ for m in (item, *getattr(item, "metadata", ()))]
        return _values(annotation.__origin__, inner)
    if origin in (list, tuple):
        return f"list of {_values(get_args(annotation)[0])}"
    if origin is dict:
        return "mapping"
    words = {"NoneType": "null", "SecretUri": "str", "AugmentConfig": "true|false", "ProfileConfig": "{client, round}",
             "DevicesConfig": "{profiles, ...}"}  # fmt: skip
    return words.get(annotation.__name__, annotation.__name__)
