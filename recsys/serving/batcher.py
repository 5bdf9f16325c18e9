"""Requests that come at once, computed at once.

While a batch is computed, what comes in waits, and is the next batch: nobody waits for others to
come, and under load batches grow by themselves.

Stability: experimental
"""

from __future__ import annotations

import collections
import threading
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from typing import Generic, NamedTuple, TypeVar

from recsys.errors import RecsysError

Ask = TypeVar("Ask")
Got = TypeVar("Got")


class Overloaded(RecsysError, RuntimeError):
    """Too many requests wait, or one waited too long."""


class _Waiting(NamedTuple):
    ask: object
    key: Hashable
    weight: int
    answer: Future


class Batcher(Generic[Ask, Got]):
    """Calls a function on lists of requests, from one thread of its own.

    Args:
        run: Gives an answer for each request, in order. Where it raises for several at once, it is
            called for each alone, so that an error is nobody else's.
        max_weight: Sum of the weights of a batch; a request above it is a batch by itself.
        max_waiting: Requests that may wait.

    Example:
        >>> with Batcher(lambda asks: [ask * 2 for ask in asks]) as double:
        ...     double.ask(21)
        42
    """

    def __init__(
        self,
        run: Callable[[list[Ask]], Sequence[Got]],
        max_weight: int = 4096,
        max_waiting: int = 256,
    ) -> None:
        self._run, self._max_weight, self._max_waiting = run, max_weight, max_waiting
        self._queue: collections.deque[_Waiting] = collections.deque()
        self._changed = threading.Condition()
        self._closed = False
        self.batches = 0
        """Batches so far."""
        self.asked = 0
        """Requests in them."""
        self._thread = threading.Thread(target=self._work, name="recsys-batcher", daemon=True)
        self._thread.start()

    def __enter__(self) -> Batcher[Ask, Got]:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def ask(
        self, ask: Ask, key: Hashable = None, weight: int = 1, timeout: float | None = None
    ) -> Got:
        """The answer to a request.

        Args:
            ask: The request.
            key: Only requests of equal keys share a batch.
            weight: Of the request.
            timeout: Seconds to wait.

        Raises:
            Overloaded: Too many wait, the time is over, or the batcher was closed.
        """
        waiting = _Waiting(ask, key, weight, Future())
        with self._changed:
            if self._closed:
                raise Overloaded("the server is shutting down. Ask another one.")
            if len(self._queue) >= self._max_waiting:
                raise Overloaded(
                    f"{self._max_waiting:,} requests wait already. Ask again later, or serve with "
                    "more replicas."
                )
            self._queue.append(waiting)
            self._changed.notify()
        try:
            return waiting.answer.result(timeout)
        except FutureTimeout:
            if waiting.answer.done():  # at the last moment, or the function's own error
                return waiting.answer.result()
            waiting.answer.cancel()
            raise Overloaded(
                f"no answer within {timeout:g} s. Ask for less, or ask again later."
            ) from None

    def close(self) -> None:
        """Answers what waits, then ends the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        while batch := self._next():
            self.batches += 1
            self.asked += len(batch)
            self._answer(batch)

    def _next(self) -> list[_Waiting]:
        """The first that waits, and those behind it that fit; nothing once closed and empty."""
        with self._changed:
            while True:
                while not self._queue and not self._closed:
                    self._changed.wait()
                batch = self._taken()
                if batch or self._closed:  # else all had been given up
                    return batch

    def _taken(self) -> list[_Waiting]:
        batch: list[_Waiting] = []
        left: collections.deque[_Waiting] = collections.deque()
        weight, full = 0, False
        for one in self._queue:
            same = not batch or one.key == batch[0].key
            full = full or (bool(batch) and same and weight + one.weight > self._max_weight)
            if full or not same:
                left.append(one)
            elif one.answer.set_running_or_notify_cancel():
                batch.append(one)
                weight += one.weight
        self._queue = left
        return batch

    def _answer(self, batch: list[_Waiting]) -> None:
        try:
            answers = self._run([one.ask for one in batch])  # pyright: ignore[reportArgumentType]
        except Exception as error:  # noqa: BLE001 - given to whoever asked
            if len(batch) == 1:
                batch[0].answer.set_exception(error)
                return
            for one in batch:
                self._answer([one])
            return
        for one, answer in zip(batch, answers):
            one.answer.set_result(answer)
