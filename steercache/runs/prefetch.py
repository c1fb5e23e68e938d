"""The next batch is made while the model computes this one: its pictures are read, decoded and laid out in the background."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from steercache.runs.threads import settle_helper

T = TypeVar("T")
R = TypeVar("R")

AHEAD = 1  # batches that wait beside the one in use: what bounds the memory


def prefetched(make: Callable[[T], R], items: Iterable[T], *, ahead: int = AHEAD) -> Generator[R, None, None]:
    """`make(item)` of every item, in order; at most `ahead` results are made in advance, on one thread.

    An error is raised where its result would have come, and what was begun after it is thrown away.
    """
    waiting: deque[Future[R]] = deque()
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="steercache-reader") as pool:
        settle_helper(lambda call: pool.submit(call).result())
        try:
            for item in items:
                waiting.append(pool.submit(make, item))
                if len(waiting) > ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
