"""Work on pictures in threads, which Pillow's decoders let run side by side; bounded in number and in memory."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

THREADS = min(8, os.cpu_count() or 1)  # threads that decode pictures
T = TypeVar("T")
R = TypeVar("R")


class Room:
    """Admits threads while the memory that they need together is limited; one that needs more is alone."""

    def __init__(self, size: int):
        self._size = self._left = size
        self._changed = threading.Condition()

    @contextmanager
    def taken(self, needed: int) -> Iterator[None]:
        """Waits until that much is left, and gives it back at the end."""
        needed = min(needed, self._size)
        with self._changed:
            self._changed.wait_for(lambda: self._left >= needed)
            self._left -= needed
        try:
            yield
        finally:
            with self._changed:
                self._left += needed
                self._changed.notify_all()


def ahead(function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """Maps items in order, in threads, a few of them ahead of what is taken."""
    with ThreadPoolExecutor(THREADS) as pool:
        waiting: deque[Future[R]] = deque()
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) > 2 * THREADS:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
