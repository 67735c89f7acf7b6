"""The sections of FL methods, transforms, aggregators and attacks: made from the parameters of every file of a room."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, create_model, model_validator

from raf_ray import aggregators, algorithms, attacks, transforms
from raf_ray.config.section import ImportPath, Section
from raf_ray.plugins import parameters_of


class AlgorithmBase(Section):
    """How updates are combined: the FL method."""

    name: str = "fedavg"
    weighting: Literal["people", "equal"] = "people"
    """A client weighs by its number of people, or each the same (the RAF authors' code)."""
    parameters: dict[str, Any] = {}
    """Keywords of one's own `package.module:Class`."""

    @model_validator(mode="after")
    def _own(self) -> AlgorithmBase:
        if self.parameters and ":" not in self.name:
            raise ValueError(
                f"algorithm.parameters are for a method of one's own; those of {self.name} are algorithm.{self.name}.*"
            )
        return self


def _made(name: str, base: type[Section], doc: str | None, fields: dict[str, Any]) -> type[Section]:
    """A section made from other code's fields; a name of this module, so that it can be pickled."""
    section: type[Section] = create_model(name, __base__=base, __doc__=doc, __module__=__name__, **fields)
    globals()[name] = section
    return section


class TransformsBase(Section):
    """What is done to updates on their way, whatever the FL method."""

    apply: list[str] = []
    """In this order: `clip`, `noise`, or one's own `package.module:Class`."""


class AggregationBase(Section):
    """How the clients' updates become one, whatever the FL method."""

    name: str = "mean"


class AttackBase(Section):
    """Bad clients, to try aggregators with. They are bad in every round, and results.json names them."""

    name: str | None = None
    share: Annotated[float, Field(gt=0, le=1)] = 0.2
    """Share of all clients that are bad, rounded; which ones is drawn by the seed."""
    tier: str | None = None
    """Tier that all bad clients are of; null: any."""


def _with_parameters(kinds: Mapping[str, type], but: tuple[str, ...] = ()) -> dict[str, Any]:
    """Name -> a section of its parameters, of those that have any."""
    fields: dict[str, Any] = {}
    for name, kind in kinds.items():
        own = {key: (field.annotation, field) for key, field in parameters_of(kind).items() if key not in but}
        if own:
            section = _made(f"{kind.__name__}Config", Section, kind.__doc__, own)
            fields[name] = (section, section())
    return fields


def _algorithm_config() -> Any:
    """The section with a name, and parameters of its own, for every file of `raf_ray/algorithms`."""
    methods = algorithms.built_in()
    name = Field("fedavg", description="Which method; its own parameters are in the section of its name.")
    fields = {"name": (Literal[*methods] | ImportPath, name), **_with_parameters(methods, ("weighting",))}
    return _made("AlgorithmConfig", AlgorithmBase, AlgorithmBase.__doc__, fields)


def _transforms_config() -> Any:
    """The section with those to apply, and parameters of every file of `raf_ray/transforms`."""
    known = transforms.built_in()
    told = f"In this order: {', '.join(known)}, or one's own `package.module:Class`; empty: none."
    choice: Any = Literal[*known] | ImportPath
    names: Any = Field([], description=told)
    fields = {"apply": (list[choice], names), **_with_parameters(known)}
    return _made("TransformsConfig", TransformsBase, TransformsBase.__doc__, fields)


def _aggregation_config() -> Any:
    """The section with a name, and parameters of every file of `raf_ray/aggregators`."""
    known = aggregators.built_in()
    told = "What is made of a round's updates: their mean, or one that bad clients cannot move at will."
    name: Any = Field("mean", description=told)
    fields = {"name": (Literal[*known] | ImportPath, name), **_with_parameters(known)}
    return _made("AggregationConfig", AggregationBase, AggregationBase.__doc__, fields)


def _attack_config() -> Any:
    """The section with a name, and parameters of every file of `raf_ray/attacks`."""
    known = attacks.built_in()
    name: Any = Field(None, description="What bad clients do; null: there are none.")
    fields = {"name": (Literal[*known] | ImportPath | None, name), **_with_parameters(known)}
    return _made("AttackConfig", AttackBase, AttackBase.__doc__, fields)


if TYPE_CHECKING:
    AlgorithmConfig = AlgorithmBase
    AggregationConfig = AggregationBase
    AttackConfig = AttackBase
    TransformsConfig = TransformsBase
else:
    AlgorithmConfig = _algorithm_config()
    AggregationConfig = _aggregation_config()
    AttackConfig = _attack_config()
    TransformsConfig = _transforms_config()
