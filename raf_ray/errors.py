"""The two ways a command ends badly. Both carry one or two clear sentences: what, where, what to do."""


class InputError(ValueError):
    """The request is wrong; nothing was written. Commands exit with code 2."""


class RunError(RuntimeError):
    """A run that had begun could not go on; its folder is kept with ``status: failed``. Exit code 1."""

    details: str = ""
    """Further lines for run.log, such as the traceback of another process."""

    lost: tuple[str, ...] = ()
    """Actors whose processes are gone, where that was the cause."""
