"""Batches made ahead of their use, on a thread."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Made = TypeVar("Made")


def one_ahead(makes: Iterator[Callable[[], Made]]) -> Iterator[Made]:
    """What each of `makes` makes, in order; each is called on one thread while the one before is used.

    `makes` itself advances in the caller's thread: what is drawn at random there is drawn in the same order.
    """
    with ThreadPoolExecutor(1, "raf-ray-batches") as thread:
        coming: Future[Made] | None = None
        for make in makes:
            ready, coming = coming, thread.submit(make)
            if ready is not None:
                yield ready.result()
        if coming is not None:
            yield coming.result()
