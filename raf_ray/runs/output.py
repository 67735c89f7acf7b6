"""The claim to an output folder, whatever is written there: a run, a comparison, a search, shards."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from raf_ray.errors import InputError
from raf_ray.storage import Storage


def check_free(
    path: Path | Storage,
    holds: str,
    *,
    overwrite: bool,
    resume: bool = False,
    can_resume: bool = True,
    replaced: str = "it",
    foreign: Callable[[list[str]], str | None] = lambda names: None,
) -> None:
    """Raise InputError where a folder cannot be written to as asked.

    Args:
        holds: names what is written there, such as ``run``.
        overwrite: what it holds may be replaced ...
        resume: or gone on with.
        can_resume: the command knows ``--resume``.
        replaced: names what ``--overwrite`` replaces.
        foreign: given the names in the folder, in order: what it holds instead, where that is nothing of ours.
    """
    if isinstance(path, Storage):
        names = sorted({name.partition("/")[0] for name in path.files()})
    else:
        if not path.exists():
            return
        if not path.is_dir():
            raise InputError(f"output {path} is a file; choose a folder")
        names = sorted(entry.name for entry in path.iterdir())
    if not names or resume:
        return
    if not overwrite:
        go_on = f"--resume to go on with its {holds} or " if can_resume else ""
        raise InputError(
            f"output folder {path} is not empty; choose another --output, or add {go_on}--overwrite to replace "
            f"{replaced}"
        )
    instead = foreign(names)
    if instead is not None:
        raise InputError(f"{path} holds {instead}, so --overwrite leaves it alone; choose another --output")


@contextmanager
def writing_to(path: Path) -> Iterator[None]:
    """What cannot be written to an output folder before anything has begun is an InputError."""
    try:
        yield
    except OSError as error:
        raise InputError(f"cannot write to output folder {path}: {error.strerror or error}") from error
