"""Runs a few calls ahead of their consumer, in order and with a bound on how many results wait in
memory.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

T = TypeVar("T")
U = TypeVar("U")


def ahead(
    what: Iterable[T], work: Callable[[T], U], *, workers: int
) -> Iterator[tuple[T, Future[U]]]:
    """Each with its work done; the caller asks for the result, or for what went wrong."""
    waiting: deque[tuple[T, Future[U]]] = deque()
    rest = iter(what)
    with ThreadPoolExecutor(workers, thread_name_prefix="ahead") as pool:
        try:
            while True:
                some = islice(rest, 2 * workers - len(waiting))
                waiting += [(w, pool.submit(work, w)) for w in some]
                if not waiting:
                    return
                one, done = waiting.popleft()
                done.exception()  # waited for here, so that the others go on meanwhile
                yield one, done
        finally:
            # A caller who has had enough waits for what has begun, and for no more.
            for _, left in waiting:
                left.cancel()
