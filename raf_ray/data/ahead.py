"""Batches made ahead of their use, on threads."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch

Made = TypeVar("Made")


def made_ahead(makes: Iterator[Callable[[], Made]], threads: int = 1) -> Iterator[Made]:
    """What each of `makes` makes, in order; as many as `threads` are called while the one before them is used.

    `makes` itself advances in the caller's thread: what is drawn at random there is drawn in the same order.
    """
    coming: deque[Future[Made]] = deque()
    within = torch.get_num_threads()  # of an operator: OpenMP's number is each thread's own
    with ThreadPoolExecutor(threads, "raf-ray-batches", torch.set_num_threads, (within,)) as pool:
        for make in makes:
            coming.append(pool.submit(make))
            if len(coming) > threads:
                yield coming.popleft().result()
        while coming:
            yield coming.popleft().result()
