"""Workers as processes of this machine. One that dies costs its trial, and another takes its place.

Stability: internal
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import signal
import traceback
from typing import Any

from recsys.errors import RecsysError, TrainingError
from recsys.train.launch import die_with_parent
from recsys.tune.study import Study
from recsys.tune.worker import Task, work


def work_in_processes(task: Task, workers: int, study: Study) -> None:
    """Runs workers until there are enough trials.

    Args:
        task: What they do.
        workers: How many at the same time.
        study: The same, opened here.

    Raises:
        RecsysError: What a worker raised.
    """
    context = multiprocessing.get_context("spawn")
    said: Any = context.SimpleQueue()
    running: dict[str, Any] = {}

    def start() -> None:
        name = study.new_name()
        running[name] = context.Process(target=_process, args=(task, name, said), daemon=True)
        running[name].start()

    try:
        for _ in range(workers):
            start()
        while running:
            multiprocessing.connection.wait([p.sentinel for p in running.values()], timeout=1.0)
            _raise_first(said)
            for name, process in list(running.items()):
                if process.is_alive():
                    continue
                process.join()
                del running[name]
                _raise_first(said)
                if process.exitcode and study.bury(name, _died(process.exitcode)):
                    start()
    finally:
        for process in running.values():
            process.terminate()
            process.join()


def _raise_first(said: Any) -> None:
    if not said.empty():
        raise said.get()


def _died(code: int) -> str:
    """How a worker ended that said nothing."""
    if code > 0:
        return f"its process ended with exit code {code} and without a word"
    name = signal.Signals(-code).name
    hint = " Most likely memory ran out." if name == "SIGKILL" else ""
    return f"its process was killed by {name}.{hint}"


def _process(task: Task, name: str, said: Any) -> None:
    """Body of a worker."""
    die_with_parent()
    try:
        work(task, name)
    except KeyboardInterrupt:
        return  # Ctrl-C reaches the search as well, which says so
    except RecsysError as error:
        said.put(error)
    except Exception as error:  # noqa: BLE001, handed on as text
        text = "".join(traceback.format_exception(error))
        said.put(TrainingError(f"a worker of the search failed. Its error:\n{text}"))
