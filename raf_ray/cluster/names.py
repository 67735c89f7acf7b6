"""The names under which Ray, its dashboard and its metrics know a federation: the one place that makes them."""

from __future__ import annotations

import string
import uuid
from urllib.parse import quote, unquote

PREFIX = "raf-ray"
DRIVER = "driver"
EVALUATOR = "evaluator"

KEPT = "".join(sorted({*string.punctuation, " "} - {"%", '"', "\\"}))


def ray_name(text: str) -> str:
    """The same in printable ASCII, which is all that a metric's tag may hold; other characters as in a URL.

    No two texts become one, and `plain_name` gives the text back. Raises nothing, whatever the text.
    """
    return quote(text, safe=KEPT, errors="surrogatepass")


def plain_name(name: str) -> str:
    """What `ray_name` was told."""
    return unquote(name, errors="surrogatepass")


def new_namespace(run: str) -> str:
    """A Ray namespace for the actors of one federation: ``raf-ray/RUN/ID``.

    Names are unique in a namespace only, and two federations on one cluster have clients of the same names.
    """
    return f"{PREFIX}/{ray_name(run)}/{uuid.uuid4().hex[:8]}"


def run_of(namespace: str) -> str | None:
    """The run that `new_namespace` was told; None for a namespace that is not ours."""
    prefix, _, rest = namespace.partition("/")
    return plain_name(rest.rpartition("/")[0]) if prefix == PREFIX and "/" in rest else None
