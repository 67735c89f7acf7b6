"""Pictures by matplotlib's Agg, whatever the environment says, on which users' names are never formulas."""

from __future__ import annotations

import io
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

from raf_ray.files import write_atomically

log = logging.getLogger(__name__)


def picture_problem(path: Path, draw: Callable[..., None], *what: Any) -> str | None:
    """Let `draw(path, *what)` draw; a sentence where it cannot, since no picture is worth a finished run."""
    try:
        draw(path, *what)
    except Exception as error:  # matplotlib and what it is built on raise of every kind
        log.info("%s could not be drawn", path, exc_info=error)
        return f"{path.name} could not be drawn ({type(error).__name__}: {' '.join(str(error).split())})"
    return None


@contextmanager
def figure(
    path: Path, width: float, height: float, dpi: int, layout: Literal["constrained"] | None = "constrained"
) -> Iterator[Any]:
    """An empty matplotlib figure, `width` x `height` inches, that is written to `path` as PNG in the end."""
    matplotlib = _matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context(), warnings.catch_warnings():
        matplotlib.rcdefaults()  # not a user's own settings, such as LaTeX for all text
        matplotlib.rcParams["text.parse_math"] = False
        warnings.simplefilter("ignore")  # a font that lacks a character of a name
        empty = Figure(figsize=(width, height), dpi=dpi, layout=layout)
        FigureCanvasAgg(empty)
        yield empty
        written = io.BytesIO()
        empty.savefig(written, format="png")
    write_atomically(path, lambda temporary: temporary.write_bytes(written.getvalue()))


def _matplotlib() -> Any:
    """The module, whose import fails by an unknown MPLBACKEND, such as a notebook's that is not installed here."""
    if "matplotlib" not in sys.modules:
        backend = os.environ.pop("MPLBACKEND", None)
        logger = logging.getLogger("matplotlib")
        level = logger.level
        logger.setLevel(logging.ERROR)  # not a word on a HOME where it cannot keep its cache
        try:
            import matplotlib
        finally:
            logger.setLevel(level)
            if backend is not None:
                os.environ["MPLBACKEND"] = backend
        if backend:
            with suppress(ValueError):  # for the caller's own figures, as matplotlib would have it
                matplotlib.rcParams["backend"] = backend
    return sys.modules["matplotlib"]
