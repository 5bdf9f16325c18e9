"""A study on disk: opened or made, its trials as rows, what died in it taken up again.

    sweep.json          what it searches; another search under the same name is refused
    journal.log         Optuna's storage, unless a database is named
    trials/<n>/         the run folder of a trial
    workers/            locks: who is alive

Stability: experimental
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import math
import socket
import time
import uuid
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import IntegrityError, ProgrammingError, SQLAlchemyError

from recsys.errors import ConfigError, RecsysError
from recsys.folders import write_json
from recsys.tune.experiment_kinds import parsed
from recsys.tune.halving import first_front, losses
from recsys.tune.samplers import Seeded, make_pruner
from recsys.tune.space import TWIN_OF, Space
from recsys.tune.sweep import Sweep

STALE_S = 300.0
"""After so long without a sign, a trial of another host is taken for dead."""
_ATTEMPTS = 3  # of a trial at which the whole search died
_TRIES, _WAIT_S = 10, 0.5  # while another machine makes the tables of a new database


@dataclasses.dataclass(frozen=True)
class TrialRow:
    """One trial that was trained, stopped, turned down or failed.

    Args:
        number: In the study.
        state: ``complete``, ``stopped`` (lagging), ``rejected`` (a limit), ``failed``, ``running``.
        values: By objective; empty unless complete.
        params: Answers by parameter.
        settings: Values by place.
        dtype: How the tables are stored.
        facts: ``bytes``, ``ratio``, ``valid``, ``test``, ``sd``, ``seconds``, ``why`` ...
        folder: Of its run, under the study's; empty if there is none.
        twin_of: Number of the trial that was trained, where only the dtype is another.
    """

    number: int
    state: str
    values: Mapping[str, float]
    params: Mapping[str, Any]
    settings: Mapping[str, Any]
    dtype: str
    facts: Mapping[str, Any]
    folder: str
    twin_of: int | None = None

    @property
    def trained(self) -> bool:
        """Whether training was begun for it."""
        return bool(self.folder) and self.twin_of is None


class Study:
    """A study of one sweep.

    Args:
        directory: Of the study.
        sweep: What it searches.
        space: Checked.
        storage: A database (``postgresql://...``, ``sqlite:///...``); by default a journal in the
            folder.
        parallel: Whether there are several workers.

    Raises:
        ConfigError: The folder or database holds a study of another search under this name.
    """

    def __init__(
        self,
        directory: Path,
        sweep: Sweep,
        space: Space,
        storage: str | None = None,
        parallel: bool = False,
    ) -> None:
        self.directory, self.sweep, self.space = directory, sweep, space
        (directory / "trials").mkdir(parents=True, exist_ok=True)
        (directory / "workers").mkdir(exist_ok=True)
        self.name = directory.resolve().name
        self.shared = storage is not None
        self.home = f"{socket.gethostname()}:{directory.resolve()}"
        """This folder among those of other machines."""
        self.goal = sweep.trials
        """Trials to train."""
        if sweep.sampler.kind == "grid":
            self.goal = min(self.goal, math.prod(map(len, space.grid().values())))
        self._check_same()
        with quiet():
            self.inner = optuna.create_study(
                storage=_storage(directory, storage),
                study_name=self.name,
                directions=sweep.directions,
                sampler=Seeded(sweep.sampler, space, parallel),
                pruner=make_pruner(sweep.pruner),
                load_if_exists=True,
            )
        self._check_stored()

    def _identity(self) -> dict[str, Any]:
        return {
            "space": self.space.identity(),
            "objectives": list(self.sweep.objectives),
            "limits": self.sweep.limits.model_dump(mode="json"),
            "experiment": self.space.base,
        }

    def _check_same(self) -> None:
        path = self.directory / "sweep.json"
        if path.exists():
            self._compare(json.loads(path.read_text()), str(self.directory))
        write_json(path, self._identity())

    def _check_stored(self) -> None:
        """A database may hold a study that another folder began."""
        before = self.inner.user_attrs.get("sweep")
        if before is None:
            self.inner.set_user_attr("sweep", json.dumps(self._identity()))
            with quiet():
                self.inner.set_metric_names(list(self.sweep.objectives))
        else:
            self._compare(json.loads(before), f"study `{self.name}`")

    def _compare(self, before: Mapping[str, Any], where: str) -> None:
        now = json.loads(json.dumps(self._identity()))
        before = {**before, "experiment": _with_defaults(before.get("experiment"))}
        changed = [part for part in now if before.get(part) != now[part]]
        if not changed:
            return
        details = []
        for part in changed:
            old, new = before.get(part), now[part]
            if isinstance(old, dict) and isinstance(new, dict):
                keys = [k for k in {**old, **new} if old.get(k) != new.get(k)]
                details += [f"{part}: `{key}`" for key in sorted(keys)[:4]]
            else:
                details.append(f"{part}: {old} before, {new} now")
        raise ConfigError(
            f"{where} holds another search: {'; '.join(details)} changed. Trials of both cannot be "
            "compared. Choose another folder (--out), or take the changes back; a new study may "
            "learn from this one by `prior.studies`."
        )

    # ------------------------------------------------------------------------------- trials

    def rows(self) -> list[TrialRow]:
        """All trials but those that were lost and tried again."""
        found = []
        for trial in self.inner.get_trials(deepcopy=False):
            if trial.state == TrialState.WAITING or "lost" in trial.user_attrs:
                continue
            found.append(_row(trial, self.sweep.objectives))
        return found

    def front(self, rows: Sequence[TrialRow] | None = None) -> list[TrialRow]:
        """Complete trials that no other beats, best metric first.

        Args:
            rows: Of `rows`; by default read now.
        """
        done = [row for row in (self.rows() if rows is None else rows) if row.state == "complete"]
        points = [losses(list(row.values.values()), self.sweep.directions) for row in done]
        best = [done[i] for i in first_front(points)]
        first = self.sweep.objectives[0]
        sign = -1 if self.sweep.directions[0] == "maximize" else 1
        return sorted(best, key=lambda row: (sign * row.values[first], row.number))

    def enough(self) -> bool:
        """Whether as many trials as asked for are trained or being trained."""
        return sum(row.trained for row in self.rows()) >= self.goal

    def first_trials(self, answers: Sequence[Mapping[str, Any]]) -> None:
        """Trials that come before those of the sampler.

        Args:
            answers: By parameter; what is missing is drawn.
        """
        if self.sweep.sampler.kind == "grid":
            return  # it has everything
        with quiet():
            for one in answers:
                self.inner.enqueue_trial(dict(one), skip_if_exists=True)

    def take_up(self) -> int:
        """Trials whose worker died are tried again, and go on from their checkpoints.

        Returns:
            How many.
        """
        trials = self.inner.get_trials(deepcopy=False)
        retried = {t.user_attrs.get("retry_of") for t in trials}
        running = [t for t in trials if t.state == TrialState.RUNNING]
        lost = [t for t in running if self._dead(t)]
        for trial in lost:
            attempts = trial.user_attrs.get("attempts", 1)
            if attempts >= _ATTEMPTS:
                text = f"the search died {attempts} times at this trial; perhaps it needs too much"
                self._fail(trial, "error", f"{text} memory.")
                continue
            if trial.number not in retried:
                kept = {k: v for k, v in trial.user_attrs.items() if k in ("folder", "stages")}
                attrs = {"retry_of": trial.number, "attempts": attempts + 1, **kept}
                with quiet():
                    self.inner.enqueue_trial(trial.params, user_attrs=attrs)
            self._fail(trial, "lost", True)
        if lost and len(lost) == len(running) and not self.shared:
            self._queue_again([t for t in trials if t.state == TrialState.WAITING])
        return len(lost)

    def _queue_again(self, waiting: Sequence[FrozenTrial]) -> None:
        """Puts trials that wait behind those that are tried again, as if nobody had died."""
        for trial in waiting:
            if "retry_of" in trial.user_attrs:
                continue
            storage = self.inner._storage
            storage.set_trial_user_attr(trial._trial_id, "lost", True)
            storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)
            with quiet():
                self.inner.enqueue_trial(trial.system_attrs["fixed_params"])

    def _dead(self, trial: FrozenTrial) -> bool:
        """Whether nobody works on a running trial."""
        attrs = trial.user_attrs
        worker = attrs.get("worker")
        if worker is None:  # killed between asking and saying who asked
            begun = trial.datetime_start
            return begun is None or time.time() - begun.timestamp() > 30
        lock = self.directory / "workers" / f"{worker}.lock"
        if attrs.get("home") == self.home or lock.exists():
            return not _is_locked(lock)
        return time.time() - float(attrs.get("alive", 0)) > STALE_S

    def bury(self, worker: str, why: str) -> bool:
        """Writes down that a worker died, at the trial that it was at.

        Args:
            worker: Its name.
            why: How.

        Returns:
            Whether it was at one.
        """
        found = False
        for trial in self.inner.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if trial.user_attrs.get("worker") == worker:
                self._fail(trial, "error", f"it died: {why}")
                found = True
        return found

    def _fail(self, trial: FrozenTrial, attribute: str, value: Any) -> None:
        self.inner._storage.set_trial_user_attr(trial._trial_id, attribute, value)
        self.inner.tell(trial.number, state=TrialState.FAIL)

    @staticmethod
    def new_name() -> str:
        """A name for a worker."""
        return uuid.uuid4().hex[:12]

    @contextlib.contextmanager
    def worker(self, name: str | None = None) -> Iterator[str]:
        """Says that this process is alive, until it ends however it ends.

        Args:
            name: Of the worker; by default a new one.
        """
        name = name or self.new_name()
        path = self.directory / "workers" / f"{name}.lock"
        with path.open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            try:
                yield name
            finally:
                path.unlink(missing_ok=True)

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Only one worker of this folder draws candidates at a time."""
        with (self.directory / "workers" / "draw").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def _with_defaults(experiment: Any) -> Any:
    """As this version writes it: settings that are new since then have their defaults."""
    try:
        return parsed(experiment, experiment).model_dump(mode="json")
    except (RecsysError, TypeError, AttributeError):
        return experiment


def _is_locked(path: Path) -> bool:
    if not path.exists():
        return False
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _storage(directory: Path, url: str | None) -> BaseStorage:
    if url is None:
        path = str(directory / "journal.log")
        return JournalStorage(JournalFileBackend(path, lock_obj=JournalFileOpenLock(path)))
    left = _TRIES
    while True:
        try:
            return RDBStorage(url)
        except (SQLAlchemyError, ImportError, OSError) as error:
            left -= 1
            # Perhaps another machine makes the tables at this moment.
            if left and isinstance(error, IntegrityError | ProgrammingError):
                time.sleep(_WAIT_S)
                continue
            raise ConfigError(
                f"storage {url.split('@')[-1]}: {type(error).__name__}: {error}. Expected a "
                "database that answers, say postgresql+psycopg://user@host/name or "
                "sqlite:///file.db."
            ) from error


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without Optuna's own lines: what it says is said by recsys, or is about its insides."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        try:
            yield
        finally:
            optuna.logging.set_verbosity(before)


def _row(trial: FrozenTrial, objectives: Sequence[str]) -> TrialRow:
    attrs = trial.user_attrs
    state = {
        TrialState.COMPLETE: "complete",
        TrialState.PRUNED: "rejected" if "rejected" in attrs else "stopped",
        TrialState.FAIL: "failed",
    }.get(trial.state, "running")
    values = trial.values if trial.state == TrialState.COMPLETE else ()
    facts = dict(attrs.get("facts", {}))
    why = attrs.get("rejected") or attrs.get("error") or attrs.get("stopped")
    if why:
        facts["why"] = why
    return TrialRow(
        number=trial.number,
        state=state,
        values=dict(zip(objectives, values or ())),
        params=dict(trial.params),
        settings=attrs.get("settings", {}),
        dtype=attrs.get("dtype", "fp32"),
        facts=facts,
        folder=attrs.get("folder", ""),
        twin_of=attrs.get(TWIN_OF),
    )
