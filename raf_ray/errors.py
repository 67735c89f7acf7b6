"""The two ways a command ends badly. Both carry one or two clear sentences: what, where, what to do.

What they quote of a request may hold a URI with a password: it is masked here, so that no sentence can tell it.
"""

from raf_ray.masking import masked_in


class InputError(ValueError):
    """The request is wrong; nothing was written. Commands exit with code 2."""

    def __init__(self, sentence: str) -> None:
        super().__init__(masked_in(sentence))


class RunError(RuntimeError):
    """A run that had begun could not go on; its folder is kept with ``status: failed``. Exit code 1."""

    def __init__(self, sentence: str) -> None:
        super().__init__(masked_in(sentence))

    details: str = ""
    """Further lines for run.log, such as the traceback of another process."""

    lost: tuple[str, ...] = ()
    """Actors whose processes are gone, where that was the cause."""


def one_line(words: object, most: int | None = None) -> str:
    """The same without line breaks, at most so many characters."""
    return " ".join(str(words).split())[:most]


def abridged(text: str, most: int, head: int, tail: int) -> str:
    """The same where it has at most so many characters, else its two ends."""
    return text if len(text) <= most else f"{text[:head]} ... {text[-tail:]}"


def described(error: BaseException | None) -> str:
    """An exception in one line; those of this project speak for themselves."""
    return one_line(error if isinstance(error, InputError | RunError) else f"{type(error).__name__}: {error}")
