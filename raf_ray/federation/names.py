"""The names under which the dashboard and `ray list actors` show a federation's actors."""

from __future__ import annotations

import uuid

PREFIX = "raf-ray"
DRIVER = "driver"
EVALUATOR = "evaluator"


def new_namespace(run: str) -> str:
    """A Ray namespace for the actors of one federation: ``raf-ray/RUN/ID``.

    Names are unique in a namespace only, and two federations on one cluster have clients of the same names.
    """
    return f"{PREFIX}/{run}/{uuid.uuid4().hex[:8]}"


def run_of(namespace: str) -> str | None:
    """The run that `new_namespace` was told; None for a namespace that is not ours."""
    prefix, _, rest = namespace.partition("/")
    return rest.rpartition("/")[0] if prefix == PREFIX and "/" in rest else None
