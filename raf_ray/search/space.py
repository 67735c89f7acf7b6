"""What a search varies: config keys and their domains, in Tune's words, written as plain YAML."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from raf_ray.config import Config
from raf_ray.config.loading import REPLACED_WHOLE, merge, nearest, use_of, validate, walk
from raf_ray.config.plain_yaml import shown
from raf_ray.config.section import Use
from raf_ray.errors import InputError
from raf_ray.files import Json

Params = Json
"""Config key -> value of one trial."""

NUMERIC = ("uniform", "loguniform", "quniform", "randint")
LISTED = ("choice", "grid_search")


@dataclass(frozen=True)
class Domain:
    """The values of one key."""

    kind: str
    args: tuple[Any, ...]
    """low, high (and step) of a range; the values of a list"""

    @property
    def is_listed(self) -> bool:
        return self.kind in LISTED

    def ends(self) -> list[Any]:
        """Values that show whether the key can take the domain: all of a list, both ends of a range."""
        if self.is_listed:
            return list(self.args)
        low, high = self.args[:2]
        return [low, high - 1] if self.kind == "randint" else [low, high]

    def to_tune(self) -> Any:
        """Tune's domain; listed values are labelled: text or numbers, as Optuna wants them."""
        from ray import tune

        if not self.is_listed:
            return getattr(tune, self.kind)(*self.args)
        return getattr(tune, self.kind)([label(value) for value in self.args])

    def value_of(self, sampled: Any) -> Any:
        """The value that a labelled draw stands for."""
        if not self.is_listed:
            return sampled
        return next(value for value in self.args if label(value) == sampled)


def label(value: object) -> Any:
    """A list or mapping as one line of text; anything else as it is."""
    return json.dumps(value) if isinstance(value, list | dict) else value


def parse_space(entries: Mapping[str, Any]) -> dict[str, Domain]:
    """Read `param_space`. Raises InputError naming the key and what it may hold."""
    if not entries:
        raise InputError(
            "param_space is empty: name at least one config key, such as objective.alpha: {uniform: [0, 1]}"
        )
    return {key: _domain(key, entry) for key, entry in entries.items()}


def _domain(key: str, entry: object) -> Domain:
    kinds = ", ".join((*NUMERIC, *LISTED))
    if not isinstance(entry, Mapping) or len(entry) != 1:
        raise InputError(f"param_space.{key}: write one domain, such as {{uniform: [0, 1]}} (known: {kinds})")
    kind, args = next(iter(entry.items()))
    if kind not in (*NUMERIC, *LISTED):
        raise InputError(f"param_space.{key}: unknown domain {shown(kind)} (known: {kinds})")
    if not isinstance(args, list) or not args:
        raise InputError(f"param_space.{key}: {kind} needs a list of values")
    if kind in NUMERIC:
        wanted = 3 if kind == "quniform" else 2
        numbers = [a for a in args if isinstance(a, int | float) and not isinstance(a, bool) and math.isfinite(a)]
        if len(numbers) != len(args) or len(args) != wanted or not args[0] < args[1]:
            words = "low, high and step" if wanted == 3 else "low and high"
            raise InputError(f"param_space.{key}: {kind} needs {words}, low below high (got {shown(args)})")
        if kind == "loguniform" and args[0] <= 0:
            raise InputError(f"param_space.{key}: loguniform needs low above 0 (got {shown(args[0])})")
        if kind == "quniform" and (args[2] <= 0 or not _on_steps(args)):
            raise InputError(
                f"param_space.{key}: quniform needs a step above 0 of which low and high are multiples "
                f"(got {shown(args)})"
            )
        if kind == "randint" and any(a != int(a) for a in args):
            raise InputError(f"param_space.{key}: randint needs whole numbers (got {shown(args)})")
    return Domain(kind, tuple(args))


def _on_steps(args: list[float]) -> bool:
    """Tune's rule: both ends are multiples of the step."""
    steps = [end / args[2] for end in args[:2]]
    return all(math.isfinite(count) and abs(count - round(count)) < 1e-9 for count in steps)


def check_space(space: Mapping[str, Domain], base: Mapping[str, Any]) -> None:
    """Raise InputError where a key does not exist, must not vary, or cannot take a value of its domain."""
    for key, domain in space.items():
        _check_key(key)
        for value in domain.ends():
            try:
                resolve(base, {key: value})
            except InputError as error:
                raise InputError(f"param_space.{key}: {str(label(value))[:80]}: {error}") from error


def _check_key(key: str) -> None:
    known = [name for name, _ in walk(Config)]
    inside = any(key.startswith(f"{whole}.") for whole in REPLACED_WHOLE)
    if key not in known and not inside:
        raise InputError(f"param_space: unknown config key {shown(key)}{nearest(key, known)}")
    use = use_of(key)
    if use is Use.PEOPLE:
        raise InputError(
            f"param_space: {key} changes the people that trials are scored on, so their scores could not be "
            "compared; set it in base and search once for each value"
        )
    if use is Use.SETTING:
        raise InputError(f"param_space: {key} cannot be searched: it says how trials are run or scored; set it in base")
    if use is Use.FREE:
        raise InputError(f"param_space: {key} cannot be searched: no result depends on it; set it in base")


def resolve(base: Mapping[str, Any], params: Mapping[str, Any]) -> Config:
    """The config of a trial: `params` over the base's values. Raises InputError where they do not go together."""
    values = _copy(base)
    for key, value in params.items():
        whole = next((w for w in REPLACED_WHOLE if key.startswith(f"{w}.")), None)
        if whole is not None:
            section, _, name = whole.partition(".")
            kept = dict(values.get(section, {}).get(name) or _default(whole))
            merge(values, {section: {name: {**kept, key.removeprefix(f"{whole}."): value}}})
            continue
        nested: Any = value
        for part in reversed(key.split(".")):
            nested = {part: nested}
        merge(values, nested)
    return validate(Config, values)


def _default(key: str) -> Mapping[str, Any]:
    section, _, name = key.partition(".")
    found = getattr(getattr(Config(), section), name)
    return found if isinstance(found, Mapping) else {}


def _copy(values: object) -> Any:
    return {key: _copy(value) for key, value in values.items()} if isinstance(values, Mapping) else values


def draw(space: Mapping[str, Domain], num_samples: int, seed: int) -> Iterator[Params]:
    """Tune's random draws (and the grid of `grid_search` keys in each), the same for the same seed."""
    import numpy as np
    from ray.tune.search.variant_generator import generate_variants

    rng = np.random.RandomState(seed)
    spec = {"config": {key: domain.to_tune() for key, domain in space.items()}}
    for _ in range(num_samples):
        for _, drawn in generate_variants(spec, random_state=rng):
            yield unlabel(space, drawn["config"])


def unlabel(space: Mapping[str, Domain], sampled: Mapping[str, Any]) -> Params:
    """Plain values of a draw, in the space's order."""
    return {key: _plain(domain.value_of(sampled[key])) for key, domain in space.items()}


def relabel(space: Mapping[str, Domain], params: Params) -> Params:
    """The inverse of `unlabel`: a trial's values as a labelled draw."""
    return {key: label(params[key]) if space[key].is_listed else params[key] for key in space}


def _plain(value: object) -> Any:
    return value.item() if hasattr(value, "item") else value


def check_draws(drawn: Sequence[Params], check: Callable[[Params], None]) -> None:
    """Check each trial's values; InputError names those that do not go together."""
    for params in drawn:
        try:
            check(params)
        except InputError as error:
            told = ", ".join(f"{key}={label(value)}" for key, value in params.items())
            raise InputError(f"param_space: {told} do not go together: {error}") from error
