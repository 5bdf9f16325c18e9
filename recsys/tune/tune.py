"""A whole search: opens the study, starts workers, shows how it goes, writes what came out.

Stability: experimental
"""

from __future__ import annotations

import contextlib
import dataclasses
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import torch

from recsys.embeddings.scheme import Dtype
from recsys.errors import BudgetInfeasible, ConfigError, RecsysError
from recsys.tune.cost import Costs
from recsys.tune.experiment_kinds import prepared_folder
from recsys.tune.objectives import COSTS
from recsys.tune.prior import first_answers, told_before
from recsys.tune.processes import work_in_processes
from recsys.tune.space import Space
from recsys.tune.study import Study, TrialRow
from recsys.tune.sweep import Sweep
from recsys.tune.sweep_check import check_sweep
from recsys.tune.worker import Task, work
from recsys.tune.workload import Searched

_POLL_S = 0.5


@dataclasses.dataclass(frozen=True, slots=True)
class TuneOptions:
    """Where and how a search runs.

    Args:
        workers: Processes that train candidates; the cores are shared out among them.
        storage: A database that workers of several machines share; by default a journal in the
            folder of the study.
        cache_dir: Where data is fetched to and prepared.
        keep_models: Whether models that are not on the front are kept.
        say: Shows a line of progress.
        start: Runs ``workers`` copies of `work` on a task until they end, in place of processes of
            this machine.
    """

    workers: int = 1
    storage: str | None = None
    cache_dir: Path = Path(".data")
    keep_models: bool = False
    say: Callable[[str], None] = print
    start: Callable[[Task, int], None] | None = None


def tune(
    sweep: Sweep,
    experiment: Searched,
    directory: Path | str,
    options: TuneOptions | None = None,
) -> Study:
    """Searches, or goes on with a search. A study that is done is only read.

    Args:
        sweep: What to search.
        experiment: Around which experiment, from `Sweep.experiment`.
        directory: Of the study.
        options: Workers, storage, cache.

    Returns:
        The study.

    Raises:
        ConfigError: The space is wrong, or the folder holds another study.
        BudgetInfeasible: Nothing in the space keeps the limits.
        RecsysError: The data is bad. A failed trial does not stop the others.
    """
    options, target = options or TuneOptions(), Path(directory)
    if options.workers < 1:
        raise ConfigError(f"workers must be at least 1, got {options.workers}.")
    check_sweep(sweep, experiment)
    prepared = prepared_folder(experiment, options.cache_dir)
    cores = torch.get_num_threads()
    task = Task(
        sweep=sweep,
        experiment=experiment,
        directory=target,
        storage=options.storage,
        cache_dir=options.cache_dir,
        prepared=prepared,
        threads=experiment.train.num_threads or max(1, cores // options.workers),
        parallel=options.workers > 1 or options.storage is not None,
        until=None if sweep.hours is None else time.time() + 3600 * sweep.hours,
        keep_models=options.keep_models,
    )
    costs = task.costs()
    space = sweep.space_of(experiment, costs.tables(experiment))
    least = check_reachable(space, costs)
    study = task.open(costs)
    again = study.take_up()
    rows = study.rows()
    if rows or again:
        options.say(f"{target}: goes on after {sum(r.trained for r in rows)} trials, "
                    f"{again} of them cut short and tried again")  # fmt: skip
    else:
        size = f"; full tables {costs.full_bytes:,} bytes" if costs.workload.has_tables else ""
        options.say(
            f"{len(space.parameters)} settings, {study.goal} trials, {options.workers} "
            f"worker(s){size}"
        )
        told_before(study, sweep, costs, options.say)
        first = first_answers(task, space, costs, options.say)
        if least and _least(space, costs, first[0])[2]:
            first.append(least)  # one that keeps the limits, to learn from
        study.first_trials(first)
    with shown(study, options.say):
        _run(task, options, study, costs)
    return study


def _run(task: Task, options: TuneOptions, study: Study, costs: Costs) -> None:
    if options.start is not None:
        options.start(task, options.workers)
    elif options.workers == 1:
        threads = torch.get_num_threads()
        try:
            work(task, costs=costs)
        finally:
            torch.set_num_threads(threads)
    else:
        work_in_processes(task, options.workers, study)


# ----------------------------------------------------------------------------------- the smallest


class _Fixed:
    """Answers what it was told, else the smallest or first; keeps what it answered."""

    def __init__(self, answers: Mapping[str, Any]) -> None:
        self._answers, self.given = answers, dict[str, Any]()

    def suggest_categorical(self, name: str, choices: Any) -> Any:
        """See `Asker`."""
        return self.given.setdefault(name, self._answers.get(name, choices[0]))

    def suggest_int(self, name: str, low: int, high: int, **_: Any) -> int:
        """See `Asker`."""
        return self.given.setdefault(name, self._answers.get(name, low))

    def suggest_float(self, name: str, low: float, high: float, **_: Any) -> float:
        """See `Asker`."""
        return self.given.setdefault(name, self._answers.get(name, low))


def check_reachable(space: Space, costs: Costs) -> dict[str, Any]:
    """Refuses limits that nothing in the space keeps, before anything is trained.

    Every setting is tried at its ends, one after the other, and kept where tables are smallest.

    Args:
        space: To search.
        costs: With the limits.

    Returns:
        Answers of the smallest tables; empty without a limit of bytes.

    Raises:
        BudgetInfeasible: The smallest tables found are too large.
    """
    most = costs.most_bytes
    if most is None:
        return {}
    answers, smallest, refused = _least(space, costs, {})
    for parameter in space.parameters:
        for end in parameter.domain.ends():
            told = parameter.domain.known(parameter.name, end) or {}
            found, size, why = _least(space, costs, {**answers, **told})
            if (bool(why), size) < (bool(refused), smallest):
                answers, smallest, refused = found, size, why
    if refused:
        raise BudgetInfeasible(
            f"limits: at most {most:,} bytes are allowed, and the smallest tables in this space "
            f"take {smallest:,}. Raise the limit, or let the space reach smaller tables "
            "(narrower `embedding_dim`, `model.compression`, `serve.dtype`).",
            smallest,
        )
    return answers


def _least(
    space: Space, costs: Costs, answers: Mapping[str, Any]
) -> tuple[dict[str, Any], int, str]:
    """All answers, bytes, and why not, where these are given and others are as small as can be."""
    fixed = _Fixed(answers)
    candidate = space.ask(fixed)
    try:
        cost = costs.of(candidate.experiment(space.base), cast(Dtype, candidate.dtype))
    except RecsysError as error:
        return fixed.given, 1 << 62, str(error)
    return fixed.given, cost.bytes, "; ".join(text for text, _ in cost.refused.values())


# ----------------------------------------------------------------------------------- progress


@contextlib.contextmanager
def shown(study: Study, say: Callable[[str], None]) -> Iterator[None]:
    """Says a line for every trial that ends.

    Args:
        study: Whose.
        say: How.
    """
    end, seen = threading.Event(), {row.number for row in study.rows() if row.state != "running"}
    start, before = time.perf_counter(), sum(row.trained for row in study.rows())

    def look() -> None:
        rows = study.rows()
        for row in rows:
            if row.state == "running" or row.number in seen:
                continue
            seen.add(row.number)
            if row.state != "rejected" and row.twin_of is None:
                say(line(study, rows, row, time.perf_counter() - start, before))

    def watch() -> None:
        while not end.wait(_POLL_S):
            with contextlib.suppress(Exception):  # the storage may be written just now
                look()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        end.set()
        thread.join()
        look()


def line(study: Study, rows: list[TrialRow], row: TrialRow, seconds: float, before: int) -> str:
    """What is said of a trial.

    Args:
        study: Whose.
        rows: All trials.
        row: Which.
        seconds: Since this search was started or gone on with.
        before: Trials that were there then.
    """
    sweep = study.sweep
    ended = [r for r in rows if r.trained and r.state != "running"]
    head = f"[{len(ended)}/{study.goal}] trial {row.number}: "
    if row.state == "complete":
        text = ", ".join(f"{name} {_shown(name, value)}" for name, value in row.values.items())
        if "bytes" in row.facts and "bytes" not in row.values:
            text += f", {row.facts['bytes']:,} bytes"
    else:
        text = f"{row.state}, {row.facts.get('why', '')}".splitlines()[0]
    if "seconds" in row.facts:
        text += f" in {row.facts['seconds']:.0f} s"
    front = study.front(rows)
    if front:
        first = sweep.objectives[0]
        text += f" | best {_shown(first, front[0].values[first])}"
    if len(sweep.objectives) > 1:
        text += f", {len(front)} on the front"
    rejected = sum(r.state == "rejected" for r in rows)
    if rejected:
        text += f", {rejected} turned down"
    done = len(ended) - before
    if done > 0 and len(ended) < study.goal:
        text += f", {_span(seconds / done * (study.goal - len(ended)))} left"
    return head + text


def _shown(name: str, value: float) -> str:
    if name not in COSTS:
        return f"{value:.5f}"
    return f"{value:,.0f}" if name == "bytes" else f"{value:.3g}"


def _span(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
