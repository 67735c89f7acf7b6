"""Where a command writes: a folder of this machine, or one of a storage, of which a local copy is worked in."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from raf_ray.errors import InputError, RunError
from raf_ray.paths import given_path
from raf_ray.runs.folder import RunFolder
from raf_ray.runs.mirror import Mirror, fetch, holder_of
from raf_ray.storage import Storage, is_uri, open_storage
from raf_ray.tracking.checks import LOCAL_FILE

STOPPED_SECONDS = 10.0
"""That a command which was stopped waits for a storage that is away."""


@contextmanager
def working_folder(
    output: str | os.PathLike[str] | Storage, what: str, say: Callable[[str], None] = lambda line: None
) -> Iterator[Path]:
    """The folder to work in. Of a storage's, or of the URI of one, what is done is copied there as it goes on.

    The local copy begins with what the storage has, and goes away at the end.

    Args:
        what: names it in the error, such as ``--output``.
        say: told what the end waits for.

    Raises:
        InputError: it can be no folder, or the storage cannot be used or is written to by another process.
        RunError: the storage did not take all of it; the local copy stays.
    """
    if isinstance(output, Storage):
        storage = output
    elif is_uri(output):
        storage = open_storage(os.fspath(output), what, writes=True)
    else:
        yield given_path(output, what)
        return
    parent = Path(tempfile.mkdtemp(prefix="raf-ray-"))
    folder, mirror = parent / storage.name, None
    try:
        # An SQLite file in a storage could not be written to: MLflow's stays on this machine, where other runs have it.
        (parent / LOCAL_FILE).symlink_to(Path("runs", LOCAL_FILE).absolute())
        mirror = Mirror(folder, storage)
        mirror.begin(what)
        try:
            yield folder
        except BaseException as error:
            mirror.finish(STOPPED_SECONDS if isinstance(error, KeyboardInterrupt) else None)
            raise
        if mirror.problem:
            say(f"waiting for the storage: {mirror.problem}")
        mirror.finish()
    except (InputError, RunError) as error:
        if mirror is not None and mirror.failure is error:
            raise RunError(f"{error}; all of it is in {folder}, where --resume goes on") from error
        if str(folder) not in str(error):
            raise
        kind = InputError if isinstance(error, InputError) else RunError
        raise kind(str(error).replace(str(folder), str(storage))) from error
    finally:
        if mirror is None or mirror.failure is None:
            shutil.rmtree(parent, ignore_errors=True)


@contextmanager
def reading_folder(given: str, what: str, names: Sequence[str] | None = None) -> Iterator[Path]:
    """A folder to read from; of a URI, a local copy that goes away at the end.

    Args:
        names: of the files that are needed; None: all.

    Raises InputError where it can be none, RunError where a storage does not answer.
    """
    if not is_uri(given):
        yield given_path(given, what)
        return
    storage = open_storage(given, what)
    with tempfile.TemporaryDirectory(prefix="raf-ray-") as parent:
        folder = Path(parent, storage.name)
        folder.mkdir()
        fetch(storage, folder, names)
        if not any(folder.iterdir()):
            raise InputError(f"{what} {storage} holds no run; check the URI")
        with ExitStack() as held:
            if holder_of(storage) is not None:  # so its runs have not died
                for path in folder.rglob("config.yaml"):
                    held.enter_context(RunFolder(path.parent).locked())
            yield folder
