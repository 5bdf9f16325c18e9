"""One job on several local processes, each a rank.

Stability: caller
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import multiprocessing
import os
import queue
import signal
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.context import SpawnProcess
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import torch
from torch import distributed

from recsys.errors import RecsysError, TrainingError

_POLL_S = 0.2
_GRACE_S = 10.0
_CAUSE_S = 2.0


@dataclasses.dataclass(frozen=True, slots=True)
class _Message:
    rank: int
    result: Any = None
    error: Exception | None = None
    trace: str = ""


def launch(
    function: Callable[..., Any],
    arguments: Sequence[Any],
    ranks: int,
    timeout_s: float = 600.0,
) -> Any:
    """Calls a function in ``ranks`` new processes that share a gloo process group.

    Where one rank fails the others are ended, and its error is raised here, with its rank. Ctrl-C
    reaches every rank; SIGTERM is passed on.

    Args:
        function: At the top of an importable module. The caller's main script must guard its work
            with ``if __name__ == "__main__"``.
        arguments: Picklable.
        ranks: Number of processes.
        timeout_s: How long ranks wait for each other before they fail.

    Returns:
        What rank 0 returned.

    Raises:
        TrainingError: A rank failed with something else than an error of recsys, or died.
    """
    context = multiprocessing.get_context("spawn")
    messages = context.Queue()
    with tempfile.TemporaryDirectory(prefix="recsys-ranks-") as folder:
        processes = [
            context.Process(
                target=_rank,
                args=(function, tuple(arguments), rank, ranks, timeout_s, folder, messages),
                name=f"rank {rank}",
            )
            for rank in range(ranks)
        ]
        with _passing_on(processes):
            for process in processes:
                process.start()
            try:
                return _wait(processes, messages)
            finally:
                _end(processes)


def die_with_parent() -> None:
    """In a process of `multiprocessing`: nobody works on for a job that was killed."""
    parent = multiprocessing.parent_process()
    if parent is not None:

        def watch() -> None:
            parent.join()
            os._exit(1)

        threading.Thread(target=watch, name="recsys-parent", daemon=True).start()


def _rank(
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
    rank: int,
    ranks: int,
    timeout_s: float,
    folder: str,
    messages: Any,
) -> None:
    """Body of one process."""
    die_with_parent()
    try:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // ranks))
        distributed.init_process_group(
            "gloo",
            init_method=f"file://{Path(folder) / 'store'}",
            rank=rank,
            world_size=ranks,
            timeout=datetime.timedelta(seconds=timeout_s),
        )
        message = _Message(rank, result=function(*arguments))
        distributed.barrier()  # none leaves while another still talks to it
        distributed.destroy_process_group()
    except RecsysError as error:
        message = _Message(rank, error=error)
    except Exception:  # noqa: BLE001 - reported by the parent with its rank
        message = _Message(rank, trace=traceback.format_exc())
    messages.put(message)


def _wait(processes: Sequence[SpawnProcess], messages: Any) -> Any:
    """Until all ranks are done or one has failed."""
    done: dict[int, Any] = {}
    while len(done) < len(processes):
        try:
            message: _Message = messages.get(timeout=_POLL_S)
        except queue.Empty:
            _raise_dead(processes)
            continue
        if message.error is not None or message.trace:
            _raise_cause(message, processes, messages)
        done[message.rank] = message.result
    return done[0]


def _raise_dead(processes: Sequence[SpawnProcess]) -> None:
    """Raises where a rank has ended without a word."""
    for rank, process in enumerate(processes):
        if process.exitcode not in (None, 0):
            raise TrainingError(_died(rank, process.exitcode or 0)) from None


def _raise_cause(first: _Message, processes: Sequence[SpawnProcess], messages: Any) -> NoReturn:
    """Raises the failure that most likely caused the others.

    A rank that dies breaks the connections of those who talk to it, and their complaint may arrive
    before its exit code: so a death is worth a short wait, and an error of recsys comes before a
    trace.
    """
    failed = [first]
    end = time.monotonic() + _CAUSE_S
    while first.error is None and time.monotonic() < end:
        _raise_dead(processes)
        with contextlib.suppress(queue.Empty):
            message: _Message = messages.get(timeout=_POLL_S)
            failed += [message] if message.error is not None or message.trace else []
    for message in failed:
        if message.error is not None:
            message.error.add_note(f"on rank {message.rank} of {len(processes)}")
            raise message.error
    raise TrainingError(f"rank {first.rank} of {len(processes)} failed. Its error:\n{first.trace}")


def _died(rank: int, code: int) -> str:
    if code >= 0:
        return f"rank {rank} ended with exit code {code} and without a word."
    name = signal.Signals(-code).name
    hint = " Most likely memory ran out." if name == "SIGKILL" else ""
    return f"rank {rank} was killed by {name}.{hint}"


def _end(processes: Sequence[SpawnProcess]) -> None:
    """Lets finished ranks leave, ends the others."""
    failed = any(process.exitcode not in (None, 0) for process in processes)
    for process in processes:
        process.join(timeout=0.5 if failed else _GRACE_S)
        if process.is_alive():
            process.kill()
            process.join()


@contextlib.contextmanager
def _passing_on(processes: Sequence[SpawnProcess]) -> Iterator[None]:
    """SIGTERM goes on to the ranks; Ctrl-C reaches them by itself and must not end this process."""

    def pass_on(number: int, frame: FrameType | None) -> None:
        del frame
        if number == signal.SIGTERM:
            for process in processes:
                if process.pid is not None and process.is_alive():
                    os.kill(process.pid, signal.SIGTERM)

    before: dict[int, Any] = {}
    with contextlib.suppress(ValueError):  # not in the main thread: signals are not ours
        for number in (signal.SIGINT, signal.SIGTERM):
            before[number] = signal.signal(number, pass_on)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
