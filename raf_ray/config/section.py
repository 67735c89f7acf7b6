"""What the tree is made of: sections, the values that keys share, and what a key is for."""

from __future__ import annotations

import unicodedata
from enum import Enum, auto
from typing import Annotated, Any, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, Secret, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from raf_ray.masking import masked

Positive = Annotated[int, Field(gt=0)]
People = Annotated[int, Field(gt=0, le=1_000_000)]
"""A number of people; the bound is a choice, several times what the data sets have."""
Share = Annotated[float, Field(ge=0, le=1)]
LARGEST_FLOAT = 3.4028235e38
"""Of 32 bits."""
IMPORT_PATH = r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$"
ImportPath = Annotated[str, Field(pattern=IMPORT_PATH)]


LONGEST_NAME = 100
"""Bytes of a tier's name: the 255 of a file's name, less what stands around it."""


def fault_of_name(name: str) -> str | None:
    """What is wrong with a name that is to be part of a file's, a line's and a label's; None where it is good."""
    if not name.strip():
        return "is empty; give it a name"
    if any(sign in "/\\" for sign in name):
        return "holds a slash; leave it out"
    if name.startswith("."):
        return "begins with a dot; leave it out"
    # Control characters, half surrogates, line and paragraph separators.
    if any(unicodedata.category(sign) in ("Cc", "Cs", "Zl", "Zp") for sign in name):
        return "holds a character that is no text; leave it out"
    if len(name.encode()) > LONGEST_NAME:
        return f"is longer than {LONGEST_NAME} bytes; shorten it"
    return None


class Use(Enum):
    """What a key is for, which says who may change it. Beside a field's type; below a section it holds for all keys
    that say nothing of their own. The default is TRAINING.
    """

    TRAINING = auto()
    """Changes what is trained: searches vary it."""
    PEOPLE = auto()
    """Changes the people that models are scored on: the same for all trials of a search."""
    SETTING = auto()
    """Says how models are run or scored, and can change results, if only their bits: the same for all trials."""
    FREE = auto()
    """No result depends on it: a resume may change it, and the config's hash leaves it out."""


class Section(BaseModel):
    """A branch of the tree."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False, strict=False,
        hide_input_in_errors=True,
    )  # fmt: skip

    @field_validator("*", mode="before")
    @classmethod
    def _numbers_fit(cls, value: object, info: ValidationInfo) -> Any:
        """What torch and numpy cannot hold is refused here, whatever the key; infinity and NaN by its type."""
        if info.field_name is not None and section_of(cls.model_fields[info.field_name].annotation) is not None:
            return value  # the section's own keys are looked at one by one
        items: list[Any] = [value]
        for item in items:
            if isinstance(item, int) and not -(2**63) <= item < 2**63:
                raise PydanticCustomError("too_large", "a number beyond 64 bits; write a smaller one")
            if isinstance(item, float) and LARGEST_FLOAT < abs(item) < float("inf"):
                raise PydanticCustomError("too_large", "a number beyond a float of 32 bits; write a smaller one")
            if isinstance(item, list | tuple | dict):
                items.extend(item.values() if isinstance(item, dict) else item)
        return value


def section_of(annotation: object) -> type[Section] | None:
    """The section that a field's type names, where it may be one."""
    if get_origin(annotation) is dict:
        return None
    for candidate in (annotation, *getattr(annotation, "__args__", ())):
        if isinstance(candidate, type) and issubclass(candidate, Section):
            return candidate
    return None


def entries_of(annotation: object) -> type[Section] | None:
    """The section that every value of a mapping is, where a field's type is such a mapping."""
    return section_of(get_args(annotation)[1]) if get_origin(annotation) is dict else None


class SecretUri(Secret[str]):
    """A URI that may hold a password. As text, in YAML or JSON, and in a pickle it is masked: its secret lives in
    this process's memory alone, and only `get_secret_value` gives it."""

    def _display(self) -> str:
        return masked(self.get_secret_value())

    def __reduce__(self) -> tuple[type[SecretUri], tuple[str]]:
        return SecretUri, (str(self),)

    def __copy__(self) -> SecretUri:
        return self

    def __deepcopy__(self, memo: Any) -> SecretUri:
        return self
