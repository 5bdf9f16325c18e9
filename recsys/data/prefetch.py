"""Makes items in a thread, a few ahead of who uses them.

Stability: internal
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

T = TypeVar("T")

THREAD = "recsys-prefetch"
"""Name of the threads."""
_END = object()


def prefetch(make: Callable[[], Iterator[T]], depth: int) -> Iterator[T]:
    """Iterates over ``make()``, which runs in a thread of its own.

    The thread ends when the consumer stops early; an exception in it reaches the consumer.

    Args:
        make: Starts the iteration.
        depth: Items made ahead; 0 makes them in the caller's thread.
    """
    if depth == 0:
        yield from make()
        return
    items: queue.Queue[Any] = queue.Queue(depth)
    stop = threading.Event()

    def put(item: object) -> bool:
        while not stop.is_set():
            try:
                items.put(item, timeout=0.1)
            except queue.Full:
                continue
            return True
        return False

    def work() -> None:
        iterator = make()
        try:
            for item in iterator:
                if not put(item):
                    return
            put(_END)
        except BaseException as error:  # noqa: BLE001, handed on whole
            put(_Failure(error))

    thread = threading.Thread(target=work, name=THREAD, daemon=True)
    thread.start()
    try:
        while True:
            item = items.get()
            if item is _END:
                return
            if isinstance(item, _Failure):
                raise item.error
            yield item
    finally:
        stop.set()
        thread.join()


class _Failure:
    def __init__(self, error: BaseException) -> None:
        self.error = error
