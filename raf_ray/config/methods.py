"""The sections of FL methods: made from the parameters of every file of `raf_ray/algorithms`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, create_model, model_validator

from raf_ray.algorithms import built_in, parameters_of
from raf_ray.config.section import ImportPath, Section


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


def _algorithm_config() -> Any:
    """The section with a name, and parameters of its own, for every file of `raf_ray/algorithms`."""
    methods = built_in()
    name = Field("fedavg", description="Which method; its own parameters are in the section of its name.")
    fields: dict[str, Any] = {"name": (Literal[*methods] | ImportPath, name)}
    for method, kind in methods.items():
        own = {key: (field.annotation, field) for key, field in parameters_of(kind).items() if key != "weighting"}
        if own:
            section = _made(f"{kind.__name__}Config", Section, kind.__doc__, own)
            fields[method] = (section, section())
    return _made("AlgorithmConfig", AlgorithmBase, AlgorithmBase.__doc__, fields)


if TYPE_CHECKING:
    AlgorithmConfig = AlgorithmBase
else:
    AlgorithmConfig = _algorithm_config()
