"""What a search knows before its first trial: the defaults, important fields, earlier studies.

Stability: internal
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import TrialState

from recsys.base import CTRModel
from recsys.cf_config import CFExperiment
from recsys.config import Experiment
from recsys.data.loader import BatchLoader, LoaderConfig
from recsys.data.prepared import Prepared
from recsys.embeddings.scheme import Dtype
from recsys.errors import ConfigError, RecsysError
from recsys.folders import write_json
from recsys.serving.artefact import load_artefact
from recsys.train.run import RunOptions, run
from recsys.tune.cost import REASONS, Costs
from recsys.tune.domain import PowerOfTwo
from recsys.tune.halving import first_front, losses
from recsys.tune.space import SERVE, Parameter, Space, dtypes_of
from recsys.tune.supernet import SupernetOptions, search_widths, spread
from recsys.tune.sweep import Sweep
from recsys.types import KeyedEmbeddings

if TYPE_CHECKING:
    from recsys.tune.study import Study
    from recsys.tune.worker import Task

_BATCHES = 32  # of the training split, for importance
_BATCH_SIZE = 4096


def field_importance(model: CTRModel, prepared: Prepared) -> dict[str, float]:
    """How much the loss would change if a field's vector were the same for all rows.

        score(f) = mean over rows of | (mean(e_f) - e_f) . dL/de_f |

    Args:
        model: Trained.
        prepared: Its data; some batches of the training split are read.

    Returns:
        By feature, all above 0 together 1.

    Source:
        Zhang et al., "SHARK: A Lightweight Model Compression Approach for Large-scale Recommender
        Systems", CIKM 2023, section 3.1 (F-Permutation, first-order). Different: absolute values,
        so that rows that gain and rows that lose do not cancel out.
    """
    model.eval()
    held: list[KeyedEmbeddings] = []

    def hook(_module: Any, _inputs: Any, output: dict[str, KeyedEmbeddings]) -> Any:
        found = output["embedding"]
        found = dataclasses.replace(found, values=found.values.detach().requires_grad_())
        held[:] = [found]
        return {**output, "embedding": found}

    handle = model.embeddings.register_forward_hook(hook)
    config = LoaderConfig(batch_size=_BATCH_SIZE, prefetch=0, shuffle=True)
    scores: dict[str, float] = {}
    try:
        for number, batch in enumerate(BatchLoader(prepared, "train", config)):
            if number == _BATCHES:
                break
            model.loss(model(batch).float(), batch).sum().backward()
            (found,) = held
            assert found.values.grad is not None
            values = found.values.detach()
            moved = (values.mean(0) - values) * found.values.grad
            for name, part in zip(found.keys, moved.split(list(found.dims), dim=1)):
                scores[name] = scores.get(name, 0.0) + float(part.sum(1).abs().mean())
    finally:
        handle.remove()
        model.zero_grad()
    total = sum(scores.values()) or 1.0
    return {name: score / total for name, score in scores.items()}


def first_answers(
    task: Task, space: Space, costs: Costs, say: Callable[[str], None]
) -> list[dict[str, Any]]:
    """Trials that come before those of the sampler: the experiment as it is, then priors.

    Args:
        task: Of the search.
        space: To search.
        costs: Of candidates.
        say: Shows a line of progress.
    """
    found = [space.defaults()]
    for answers in _fronts_of_others(task.sweep, space):
        found.append({**space.defaults(), **answers})
    found += _uniform(space, task.sweep.prior.uniform)
    number = task.sweep.prior.importance
    if number:
        found += _by_importance(task, space, costs, number, say)
    if task.sweep.prior.supernet:
        found += _by_supernet(task, space, costs, say)
    return found


# ------------------------------------------------------------------------------- one width


def _uniform(space: Space, number: int) -> list[dict[str, Any]]:
    """One width for all tables, or the nearest that a table may have."""
    widths = _widths(space)
    if not widths or not number:
        return []
    ends = [cast(PowerOfTwo, parameter.domain).power_of_two for parameter in widths]
    low, high = min(a for a, _ in ends), max(b for _, b in ends)
    steps = [low << i for i in range((high // low).bit_length())]
    found = []
    for i in spread_evenly(len(steps), number):
        answers = space.defaults()
        for parameter, (least, most) in zip(widths, ends, strict=True):
            width = min(max(steps[i], least), most)
            answers |= parameter.domain.known(parameter.name, width) or {}
        found.append(answers)
    return found


def _widths(space: Space) -> list[Parameter]:
    """Settings that are widths of tables, in powers of two; filters have one for all."""
    if isinstance(space.experiment, CFExperiment):
        return [
            parameter
            for parameter in space.parameters
            if isinstance(parameter.domain, PowerOfTwo) and parameter.name == "model.embedding_dim"
        ]
    return [
        parameter
        for parameter in space.parameters
        if isinstance(parameter.domain, PowerOfTwo)
        and all(".tables." in place and place.endswith(".embedding_dim")
                for place in parameter.places)
    ]  # fmt: skip


def spread_evenly(length: int, number: int) -> list[int]:
    """Positions in a list, both ends among them; fewer where the list is short.

    Args:
        length: Of the list.
        number: Of positions.

    Example:
        >>> spread_evenly(5, 3), spread_evenly(2, 4)
        ([0, 2, 4], [0, 1])
    """
    return sorted({round(i * (length - 1) / max(1, number - 1)) for i in range(number)})


# ------------------------------------------------------------------------------- importance


def _by_importance(
    task: Task, space: Space, costs: Costs, number: int, say: Callable[[str], None]
) -> list[dict[str, Any]]:
    """Widths under several budgets: where a byte buys most importance first."""
    widths = _widths(space)
    if not widths:
        raise ConfigError(
            "prior.importance: no width of a table is searched. Search "
            "`model.tables.*.embedding_dim: {power_of_two: [2, 16]}`, or leave the prior out."
        )
    assert task.prepared is not None  # `check_sweep` lets nothing but clicks come here
    scores = _scores(task, say)
    rows = costs.tables(task.experiment)
    schema = Prepared.load(task.prepared).schema
    by_table: dict[str, float] = {}
    for feature in schema.keyed:
        by_table[feature.table_name] = by_table.get(feature.table_name, 0.0) + scores[feature.name]
    ladder = _ladder(widths, by_table, rows)
    say(
        "importance of fields: "
        + ", ".join(f"{n} {s:.2f}" for n, s in sorted(by_table.items(), key=lambda i: -i[1])[:6])
    )
    picks = spread_evenly(len(ladder), number)
    return [{**space.defaults(), **ladder[i]} for i in picks]


def _scores(task: Task, say: Callable[[str], None]) -> dict[str, float]:
    folder = task.directory / "prior"
    path = folder / "importance.json"
    if path.exists():
        return json.loads(path.read_text())
    say("training the experiment once, for the importance of its fields")
    seed = task.experiment.seeds[0]
    one = task.experiment.model_copy(update={"seeds": (seed,)})
    again = (folder / "config.json").exists()
    result = run(one, folder, RunOptions(task.cache_dir, resume=again, show="none", report=False))
    if result.interrupted:
        raise KeyboardInterrupt
    model = load_artefact(folder).model
    assert isinstance(model, CTRModel) and result.prepared is not None
    scores = field_importance(model, result.prepared)
    write_json(path, scores)
    return scores


def _ladder(
    widths: Sequence[Parameter], scores: Mapping[str, float], rows: Mapping[str, int]
) -> list[dict[str, Any]]:
    """From the narrowest to the widest: each step doubles the width that is worth it most.

    Doubling d is worth ``score / (2 d)`` (half of the error that is left, if it falls as 1 / d)
    and costs ``4 d`` bytes a row.
    """
    at: dict[str, int] = {}
    top: dict[str, int] = {}
    worth: dict[str, float] = {}
    size: dict[str, int] = {}
    for parameter in widths:
        assert isinstance(parameter.domain, PowerOfTwo)
        tables = [place.split(".tables.")[1].split(".")[0] for place in parameter.places]
        at[parameter.name], top[parameter.name] = parameter.domain.power_of_two
        worth[parameter.name] = sum(scores.get(table, 0.0) for table in tables)
        size[parameter.name] = sum(rows[table] for table in tables)
    by_name = {parameter.name: parameter for parameter in widths}

    def answers() -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, width in at.items():
            found |= by_name[name].domain.known(name, width) or {}
        return found

    ladder = [answers()]
    while any(at[name] < top[name] for name in at):
        best = max(
            (name for name in at if at[name] < top[name]),
            key=lambda name: worth[name] / (2 * at[name]) / (4 * at[name] * size[name]),
        )
        at[best] *= 2
        ladder.append(answers())
    return ladder


# ------------------------------------------------------------------------------- supernet


def _by_supernet(
    task: Task, space: Space, costs: Costs, say: Callable[[str], None]
) -> list[dict[str, Any]]:
    """Widths of the front of a supernet, spread over bytes."""
    dtypes = dtypes_of(space)
    dtype: Any = "fp32" if "fp32" in dtypes else dtypes[0]
    options = SupernetOptions(
        most_bytes=costs.most_bytes, dtype=dtype, seed=task.sweep.sampler.seed, say=say
    )
    experiment, folder = task.experiment, task.directory / "prior" / "supernet"
    assert isinstance(experiment, Experiment) and task.prepared is not None  # see `check_sweep`
    prepared = Prepared.load(task.prepared)
    points = search_widths(experiment, space, prepared, folder, options)
    fixed = space.defaults()
    for parameter in space.parameters:
        if parameter.name == SERVE:
            fixed |= parameter.domain.known(SERVE, dtype) or {}
    return [{**fixed, **one.answers} for one in spread(points, task.sweep.prior.supernet)]


# ------------------------------------------------------------------------------- other studies


def _others(sweep: Sweep) -> list[tuple[Path, Mapping[str, Any], optuna.Study]]:
    found = []
    for folder in sweep.prior.studies:
        path = folder / "sweep.json"
        if not path.exists() or not (folder / "journal.log").exists():
            raise ConfigError(
                f"prior.studies: {folder} holds no study (sweep.json and journal.log). Give the "
                "folder of an earlier search."
            )
        log = str(folder / "journal.log")
        storage = JournalStorage(JournalFileBackend(log, lock_obj=JournalFileOpenLock(log)))
        names = [summary.study_name for summary in optuna.get_all_study_summaries(storage)]
        study = optuna.load_study(study_name=names[0], storage=storage)
        found.append((folder, json.loads(path.read_text()), study))
    return found


def told_before(study: Study, sweep: Sweep, costs: Costs, say: Callable[[str], None]) -> None:
    """Tells the sampler trials of earlier studies of the same experiment and objectives.

    Args:
        study: New.
        sweep: Names them.
        costs: With the limits; trials beyond them are left out.
        say: Shows a line of progress.
    """
    kept: dict[str, float] = dict.fromkeys(REASONS if sweep.limits.any else (), 0.0)
    for folder, identity, other in _others(sweep):
        same = identity["experiment"] == study.space.base
        if not same or identity["objectives"] != list(sweep.objectives):
            continue
        told = 0
        for trial in other.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
            fixed = optuna.trial.FixedTrial(dict(trial.params))
            try:
                candidate = study.space.ask(fixed)
                made = candidate.experiment(study.space.base)
                if costs.of(made, cast(Dtype, candidate.dtype)).refused:
                    continue
            except (ValueError, RecsysError):
                continue  # outside of this space
            attrs = {k: v for k, v in trial.user_attrs.items() if k in ("facts", "dtype")}
            attrs |= {"settings": dict(candidate.settings), "source": str(folder)}
            study.inner.add_trial(
                optuna.create_trial(
                    params=fixed.params, distributions=fixed.distributions, values=trial.values,
                    user_attrs=attrs, constraints=kept,
                )
            )  # fmt: skip
            told += 1
        say(f"{told} trials of {folder} are known")


def _fronts_of_others(sweep: Sweep, space: Space) -> list[dict[str, Any]]:
    """The best of studies of another experiment or other objectives, as far as they fit."""
    found = []
    for _, identity, other in _others(sweep):
        if identity["experiment"] == space.base and identity["objectives"] == list(
            sweep.objectives
        ):
            continue
        done = other.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        directions = [d.name.lower() for d in other.directions]
        points = [losses(trial.values, directions) for trial in done]
        for position in first_front(points):
            trial = done[position]
            settings = trial.user_attrs.get("settings", {})
            answers = space.answers(settings, trial.user_attrs.get("dtype", "fp32"))
            if answers:
                found.append(answers)
    return found
