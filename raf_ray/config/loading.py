"""From presets, files and ``key=value`` words to a validated tree, and back to YAML.

Precedence: defaults < --preset (later ones win) < --config file < key=value.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib.util
import io
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from ruamel.yaml import YAML

from raf_ray.config import plain_yaml
from raf_ray.config.plain_yaml import DEEPEST, NotPlain, shown
from raf_ray.config.section import Section, Use, entries_of, section_of
from raf_ray.config.tree import Config
from raf_ray.errors import InputError
from raf_ray.files import Json, read_text
from raf_ray.paths import existing_file

PRESETS = Path(__file__).parent / "presets"
REPLACED_WHOLE = ("resolution.tiers", "federation.clients", "data.annotations", "data.images")
"""Mappings that a later source replaces instead of merging into."""

MOST_SHOWN = 20
"""Names that an error lists; a choice."""

Tree = TypeVar("Tree", bound=BaseModel)


def preset_names() -> list[str]:
    return sorted(path.stem for path in PRESETS.glob("*.yaml"))


def preset_path(name: str) -> Path:
    path = PRESETS / f"{name}.yaml"
    if not path.is_file():
        raise InputError(f"unknown preset '{name}'{nearest(name, preset_names())}")
    return path


def read_preset(name: str) -> Json:
    """A preset's keys; with those that it has below `where_installed`, by a package's name, where that is installed."""
    values = read_yaml(preset_path(name))
    for package, more in values.pop("where_installed", {}).items():
        if importlib.util.find_spec(package) is not None:
            merge(values, more)
    return values


def load_config(presets: Iterable[str] = (), file: str | Path | None = None, overrides: Sequence[str] = ()) -> Config:
    """Resolve a config. Raises InputError with one clear sentence for whatever is wrong."""
    values: Json = {}
    for name in presets:
        merge(values, read_preset(name))
    if file is not None:
        merge(values, read_yaml(existing_file(file, "config file")))
    for word in overrides:
        merge(values, parse_override(word))
    config = validate(Config, values)
    for word in overrides:
        _check_used(config, word.partition("=")[0].strip())
    return config


def _check_used(config: Config, key: str) -> None:
    """Raise InputError where a word's key is a parameter of a part that was not chosen, and would do nothing."""
    chosen: dict[str, Sequence[str | None]] = {
        "algorithm.name": [config.algorithm.name], "aggregation.name": [config.aggregation.name],
        "attack.name": [config.attack.name], "transforms.apply": config.transforms.apply,
    }  # fmt: skip
    for chooser, names in chosen.items():
        room, part = chooser.split(".")[0], key.split(".")
        if part[0] == room and len(part) == 3 and part[1] not in names:
            choice = f"[{part[1]}]" if chooser == "transforms.apply" else part[1]
            now = shown(names if chooser == "transforms.apply" else names[0] or "null")
            raise InputError(f"{key} is of {part[1]}, and {chooser} is {now}; set {chooser}={choice}, or leave it out")
    if key in ("attack.share", "attack.tier") and config.attack.name is None:
        raise InputError(f"{key} is of bad clients, and attack.name is null; name an attack, or leave it out")


def parse_override(word: str) -> Json:
    """``"objective.alpha=0.7"`` -> {"objective": {"alpha": 0.7}}; the value is YAML 1.2."""
    key, equals, text = word.partition("=")
    key = key.strip()
    if not equals or not key:
        raise InputError(f"{shown(word)} is not an override; write key=value, such as federation.rounds=10")
    if key.count(".") > DEEPEST:
        raise InputError(f"unknown key {shown(key)}; no key has so many parts")
    value: Any = parse_yaml(text, key) if text.strip() else ""
    for part in reversed(key.split(".")):
        value = {part: value}
    return dict(value)


def parse_yaml(text: str, key: str = "value") -> Any:
    """A key's value as it is written in a word of the command. Raises InputError naming the key."""
    try:
        return plain_yaml.read(text)
    except NotPlain as error:
        if error.line is None:
            raise InputError(f"{shown(key)[1:-1]}: {shown(text)} {error}") from error
        entry = f"{key}.{error.entry}" if error.entry else key
        raise InputError(f"{shown(entry)[1:-1]}: {error}") from error


def read_yaml(path: Path) -> Json:
    """A file of config keys; an empty one holds none. Raises InputError naming file, line and key."""
    try:
        values = plain_yaml.read(read_text(path, "config file"))
    except NotPlain as error:
        if error.line is None:
            raise InputError(f"{path} {error}") from error
        entry = f", {error.entry}" if error.entry else ""
        raise InputError(f"{path}, line {error.line}{entry}: {error}") from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise InputError(f"{path} holds no mapping of config keys; write lines such as seed: 1")
    return values


def write_yaml(config: BaseModel) -> str:
    """The resolved tree as YAML that `load_config` takes back."""
    return dump_yaml(config.model_dump(mode="json"))


def dump_yaml(values: Mapping[str, Any]) -> str:
    """Plain values as YAML that `read_yaml` takes back."""
    stream = io.StringIO()
    yaml = YAML()
    yaml.default_flow_style = False
    yaml.dump(dict(values), stream)
    return stream.getvalue()


def merge(into: Json, values: Mapping[str, Any], path: str = "") -> None:
    """Merge mappings key by key; anything else replaces what was there."""
    for key, value in values.items():
        here = f"{path}{key}"
        old = into.get(key)
        if isinstance(value, Mapping) and isinstance(old, dict) and here not in REPLACED_WHOLE:
            merge(old, value, f"{here}.")
        else:
            into[key] = dict(value) if isinstance(value, Mapping) else value


def validate(tree: type[Tree], values: Mapping[str, Any]) -> Tree:
    """`values` as a typed tree, or InputError naming the first wrong key and what it may be."""
    _check_keys(tree, values)
    try:
        return tree.model_validate(values)
    except ValidationError as error:
        raise InputError(_explain(error)) from error


def walk(tree: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """All (dotted key, pydantic field) pairs below `tree`, in order, without the sections themselves."""
    for name, field in tree.model_fields.items():
        section = section_of(field.annotation)
        if section is None or not isinstance(field.default, Section):
            yield f"{prefix}{name}", field
        if section is not None:
            yield from walk(section, f"{prefix}{name}.")
        entry = entries_of(field.annotation)
        if entry is not None:
            yield from walk(entry, f"{prefix}{name}.NAME.")


def use_of(key: str, tree: type[BaseModel] = Config) -> Use:
    """What a dotted key is for; that of a mapping's own entry, such as ``resolution.tiers.low``, is the mapping's."""
    known = _uses(tree)
    while key and key not in known:
        key = key.rpartition(".")[0]
    return known.get(key, Use.TRAINING)


@cache
def _uses(tree: type[BaseModel], inherited: Use = Use.TRAINING) -> dict[str, Use]:
    """Dotted key -> its use, of sections too."""
    found: dict[str, Use] = {}
    for name, field in tree.model_fields.items():
        found[name] = next((mark for mark in field.metadata if isinstance(mark, Use)), inherited)
        section = section_of(field.annotation)
        if section is not None:
            found.update({f"{name}.{key}": use for key, use in _uses(section, found[name]).items()})
    return found


def differences(old: BaseModel, new: BaseModel) -> dict[str, tuple[Any, Any]]:
    """Dotted key -> (old, new) wherever two trees differ."""
    before, after = (_flatten(tree.model_dump(mode="json")) for tree in (old, new))
    keys = [*before, *(key for key in after if key not in before)]
    return {key: (before.get(key), after.get(key)) for key in keys if before.get(key, ...) != after.get(key, ...)}


def flatten(config: BaseModel) -> Json:
    """Dotted key -> value, lists and mappings of data kept whole."""
    return _flatten(config.model_dump(mode="json"))


def config_hash(config: Config) -> str:
    """16 hex digits that two configs share where they ask for the same run, wherever it is shown or tracked."""
    values = {key: value for key, value in flatten(config).items() if use_of(key) is not Use.FREE}
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def _flatten(values: Mapping[str, Any], prefix: str = "") -> Json:
    flat: Json = {}
    for key, value in values.items():
        here = f"{prefix}{key}"
        if isinstance(value, Mapping) and here not in REPLACED_WHOLE:
            flat.update(_flatten(value, f"{here}."))
        else:
            flat[here] = value
    return flat


def _check_keys(
    tree: type[BaseModel], values: Mapping[str, Any], prefix: str = "", root: type[BaseModel] | None = None
) -> None:
    root = root or tree
    for key, value in values.items():
        here = f"{prefix}{key}"
        field = tree.model_fields.get(str(key))
        if field is None:
            raise InputError(f"unknown key {shown(here)}{nearest(here, [name for name, _ in walk(root)])}")
        section = section_of(field.annotation)
        if section is None:
            continue
        if isinstance(value, Mapping):
            _check_keys(section, value, f"{here}.", root)
        elif isinstance(field.default, Section):
            raise InputError(f"'{here}' is a section, not a value; set one of its keys, such as "
                             f"{here}.{next(iter(section.model_fields))}")  # fmt: skip


def _explain(error: ValidationError) -> str:
    """The first complaint as one sentence."""
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"] if isinstance(part, int) or "[" not in str(part))
    same = [e for e in error.errors() if e["loc"][:2] == first["loc"][:2]]
    message = "; or ".join(dict.fromkeys(_plain(e) for e in same))
    if first["type"] == "value_error":
        return _plain(first)
    key = ".".join(str(part) for part in first["loc"][:2]) if len(same) > 1 else place
    return f"{key}: {message} (got {shown(first['input'])}{_meant(first)})"


def _meant(error: Any) -> str:
    """Of a name that is none of a list's, the one that is near it."""
    if error["type"] != "literal_error" or not isinstance(error["input"], str):
        return ""
    known = re.findall(r"'([^']*)'", error["ctx"]["expected"])
    close = difflib.get_close_matches(error["input"][:100], known, n=1)
    return f"; did you mean '{close[0]}'?" if close else ""


def _plain(error: Any) -> str:
    message = str(error["msg"]).removeprefix("Value error, ")
    if error["type"] == "literal_error":
        return "must be " + str(error["ctx"]["expected"])
    if error["type"] == "string_pattern_mismatch":
        return "an import path 'package.module:name'"
    return message[0].lower() + message[1:]


def nearest(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name[:100], known, n=1, cutoff=0.5)
    if close:
        return f"; did you mean '{close[0]}'?"
    return f" (known: {', '.join(known)})" if len(known) <= MOST_SHOWN else "; --help lists those there are"
