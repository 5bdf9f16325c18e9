"""What do I lose if my tables must fit in so many bytes? Every scheme at every budget.

One experiment is trained once a scheme, budget and seed; each trained model is then frozen in
several dtypes and judged again. Cells that are done are kept, so a stopped comparison goes on
where it was.

Stability: experimental
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import json
import multiprocessing
import re
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from recsys.config import validate
from recsys.config_text import parse
from recsys.embeddings.compression.plan import CompressionConfig
from recsys.embeddings.compression.schemes import AnyScheme
from recsys.embeddings.scheme import Dtype, Full, Scheme
from recsys.errors import BudgetInfeasible, ConfigError, RecsysError, did_you_mean
from recsys.folders import write_json
from recsys.train.launch import die_with_parent
from recsys.tune.compression_cell import Cell, CellResult, train_cell
from recsys.tune.experiment_kinds import prepared_folder, workload_of
from recsys.tune.workload import Searched, Workload, monitored


@dataclasses.dataclass(frozen=True, slots=True)
class CompareOptions:
    """How a comparison runs.

    Args:
        budgets: Shares of the full tables' bytes.
        dtypes: How every trained model is frozen.
        jobs: Cells trained at the same time; the cores are shared out among them.
        cache_dir: Where data is fetched to and prepared.
        say: Shows a line of progress.
    """

    budgets: tuple[float, ...] = (0.5, 0.25, 0.1, 0.01, 0.001)
    dtypes: tuple[Dtype, ...] = ("fp32",)
    jobs: int = 1
    cache_dir: Path = Path(".data")
    say: Callable[[str], None] = print


@dataclasses.dataclass(frozen=True, slots=True)
class Infeasible:
    """A scheme that cannot reach a budget.

    Args:
        label: Of the scheme.
        budget: Asked for.
        min_bytes: The smallest size it reaches; 0 where it cannot hold these tables at all.
        reason: Why not.
    """

    label: str
    budget: float
    min_bytes: int
    reason: str = ""


@dataclasses.dataclass(frozen=True)
class Comparison:
    """What a comparison gave.

    Args:
        directory: Where everything is.
        full_bytes: Of the fp32 tables in full.
        cells: Done, the full tables first.
        infeasible: Combinations that do not exist.
        failed: Why a cell failed, by its name.
        metric: What is compared.
    """

    directory: Path
    full_bytes: int
    cells: tuple[CellResult, ...]
    infeasible: tuple[Infeasible, ...]
    failed: Mapping[str, str]
    metric: str = "auc"


def all_schemes() -> dict[str, Scheme]:
    """Every scheme that can be trained with its defaults, and its multiplexed form, by label."""
    found: dict[str, Scheme] = {}
    for member in typing.get_args(typing.get_args(AnyScheme)[0]):
        if member is Full or member.served_only:
            continue
        for variant in _variants(member()):
            found[label_of(variant)] = variant
    return found


def _variants(scheme: Scheme) -> list[Scheme]:
    """A scheme, and shared among tables where it can be."""
    if getattr(scheme, "multiplex", None) is False:
        return [scheme, scheme.model_copy(update={"multiplex": True})]
    return [scheme]


def label_of(scheme: Scheme) -> str:
    """A short name: the kind, and what differs from its defaults.

    Example:
        >>> from recsys.embeddings.compression.hash import Hash
        >>> label_of(Hash(multiplex=True))
        'hash(multiplex=True)'
    """
    values = scheme.model_dump(exclude_defaults=True, exclude={"kind"})
    inside = ", ".join(f"{name}={value}" for name, value in values.items())
    return (
        f"{scheme.model_dump()['kind']}({inside})" if inside else str(scheme.model_dump()["kind"])
    )


def parse_schemes(text: str) -> dict[str, Scheme]:
    """Schemes named on a command line.

    Args:
        text: ``all``, kinds separated by commas, or a YAML list of kinds and mappings.

    Raises:
        ConfigError: An unknown kind or field.

    Example:
        >>> list(parse_schemes("hash, {kind: hash, multiplex: true}"))
        ['hash', 'hash(multiplex=True)']
    """
    if text.strip() == "all":
        return all_schemes()
    text = text if text.lstrip().startswith("[") else f"[{text}]"
    values = parse(text, "schemes")
    kinds = {
        member.model_fields["kind"].default: member
        for member in typing.get_args(typing.get_args(AnyScheme)[0])
    }
    found: dict[str, Scheme] = {}
    for value in values if isinstance(values, list) else [values]:
        data = {"kind": value} if isinstance(value, str) else value
        kind = data.get("kind") if isinstance(data, dict) else None
        if not isinstance(kind, str) or kind not in kinds:
            raise ConfigError(f"unknown scheme {value!r}. {did_you_mean(str(kind), kinds)}")
        scheme: Scheme = validate(kinds[kind], data, (), f"scheme `{kind}`")
        found[label_of(scheme)] = scheme
    if not found:
        raise ConfigError("expected schemes to compare, say `hash, unified` or `all`, got none.")
    return found


def parse_dtypes(text: str) -> tuple[Dtype, ...]:
    """Dtypes named on a command line.

    Args:
        text: Separated by commas.

    Raises:
        ConfigError: An unknown one.
    """
    known = typing.get_args(Dtype)
    found = [part.strip() for part in text.split(",")]
    for name in found:
        if name not in known:
            raise ConfigError(f"unknown dtype `{name}`. {did_you_mean(name, known)}")
    return typing.cast(tuple[Dtype, ...], tuple(found))


def plan_cells(
    experiment: Searched,
    workload: Workload,
    schemes: Mapping[str, Scheme],
    budgets: Sequence[float],
) -> tuple[list[Cell], list[Infeasible]]:
    """What there is to train: each distinct plan once, the full tables first.

    Args:
        experiment: Its model says which tables.
        workload: Its data.
        schemes: By label.
        budgets: Shares of the full size. A scheme that has a size of its own is also planned at
            that size where a budget is out of its reach.

    Returns:
        Cells, and what cannot be reached.

    Raises:
        ConfigError: No scheme can hold these tables.
    """
    groups = workload.plan(with_compression(experiment, None)).embeddings.groups
    cells = [Cell("full", None, CompressionConfig())]
    infeasible: list[Infeasible] = []
    seen: set[str] = set()
    for label, scheme in schemes.items():
        for budget in sorted(budgets, reverse=True):
            try:
                plan = CompressionConfig.model_validate({"scheme": scheme, "ratio": budget})
                planned = plan.resolve(groups)
            except BudgetInfeasible as error:
                infeasible.append(Infeasible(label, budget, error.min_bytes))
                plan = CompressionConfig.model_validate({"scheme": scheme})
                try:
                    planned = plan.resolve(groups)
                except RecsysError:
                    continue
            except ConfigError as error:
                infeasible.append(Infeasible(label, budget, 0, str(error)))
                continue
            reason = workload.refused(planned)
            if reason:
                infeasible.append(Infeasible(label, budget, 0, reason))
                continue
            key = json.dumps({name: s.model_dump(mode="json") for name, s in planned.items()})
            if key not in seen and not all(isinstance(s, Full) for s in planned.values()):
                seen.add(key)
                cells.append(Cell(label, plan.ratio, plan))
    reasons = [item.reason for item in infeasible if item.reason]
    if len(cells) == 1 and reasons:
        raise ConfigError(reasons[0])
    return cells, infeasible


def compare(
    experiment: Searched,
    schemes: Mapping[str, Scheme],
    directory: Path | str,
    options: CompareOptions | None = None,
) -> Comparison:
    """Trains every scheme at every budget and seed.

    Args:
        experiment: What to train on what; its own compression is replaced.
        schemes: By label, see `parse_schemes`.
        directory: Results; cells that are done there are taken as they are.
        options: Budgets, dtypes, parallel jobs.

    Raises:
        ConfigError: A budget is not in (0, 1], or the folder holds another comparison.
        RecsysError: The data is bad. A failed cell does not stop the others.
    """
    options = options or CompareOptions()
    target = Path(directory)
    for budget in options.budgets:
        if not 0 < budget <= 1:
            raise ConfigError(f"budgets must be above 0 and at most 1, got {budget}.")
    target.mkdir(parents=True, exist_ok=True)
    _open(target, experiment)
    prepared = prepared_folder(experiment, options.cache_dir)
    workload = workload_of(experiment, options.cache_dir, prepared)
    cells, infeasible = plan_cells(experiment, workload, schemes, options.budgets)
    for label, reason in {i.label: i.reason for i in infeasible if i.reason}.items():
        options.say(f"left out: {label}: {reason.splitlines()[0]}")
    options.say(
        f"{len(cells)} cells x {len(experiment.seeds)} seeds, {options.jobs} at a time; "
        f"{len(infeasible)} combinations out of reach"
    )
    results, failed = _run(experiment, cells, target, options)
    full = next((result.full_bytes for result in results), 0)
    ordered = sorted(results, key=lambda r: (r.label != "full", r.label, -r.real_bytes("fp32")))
    return Comparison(
        target, full, tuple(ordered), tuple(infeasible), failed, monitored(experiment)
    )


def _open(target: Path, experiment: Searched) -> None:
    """Refuses a folder of another comparison."""
    path = target / "experiment.json"
    if path.exists():
        # Parsed, not compared as text: settings that came with later versions have their defaults.
        before = None
        with contextlib.suppress(ConfigError, ValueError):
            before = type(experiment).parse(json.loads(path.read_text()))
        if before != experiment:
            raise ConfigError(
                f"{target} holds a comparison of another experiment. Choose another folder, or "
                "take the changes of the configuration back."
            )
    write_json(path, experiment.model_dump(mode="json"))


def _run(
    experiment: Searched, cells: Sequence[Cell], target: Path, options: CompareOptions
) -> tuple[list[CellResult], dict[str, str]]:
    """Cells in parallel processes; finished ones are read."""
    results: list[CellResult] = []
    failed: dict[str, str] = {}
    todo: list[tuple[Cell, Path]] = []
    for cell in cells:
        folder = target / "cells" / slug(cell)
        done = CellResult.load(folder, options.dtypes)
        if done is not None:
            results.append(done)
        else:
            todo.append((cell, folder))
    if len(results):
        options.say(f"{len(results)} cells are done already")
    threads = max(1, torch.get_num_threads() // options.jobs)
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(
        options.jobs, mp_context=context, initializer=die_with_parent
    ) as pool:
        running = {
            pool.submit(
                train_cell,
                with_compression(experiment, cell.compression),
                cell,
                folder,
                options.cache_dir,
                options.dtypes,
                threads,
            ): cell
            for cell, folder in todo
        }
        try:
            for number, future in enumerate(concurrent.futures.as_completed(running), 1):
                cell, error = running[future], future.exception()
                head = f"[{number}/{len(todo)}] {slug(cell)}: "
                if error is not None:
                    failed[slug(cell)] = f"{type(error).__name__}: {error}"
                    options.say(head + f"failed. {failed[slug(cell)].splitlines()[0]}")
                    continue
                results.append(future.result())
                options.say(head + results[-1].line())
        except KeyboardInterrupt:
            for future in running:
                future.cancel()
            raise
    return results, failed


def slug(cell: Cell) -> str:
    """Name of a cell's folder."""
    label = re.sub(r"[^\w.]+", "-", cell.label).strip("-")
    return label if cell.budget is None else f"{label}-{cell.budget:g}"


def with_compression(experiment: Searched, compression: CompressionConfig | None) -> Searched:
    """The same experiment with its tables held in another way.

    Args:
        experiment: Whose model has a ``compression``.
        compression: The new one.

    Raises:
        ConfigError: The model takes no compression.
    """
    config: Any = experiment.model.config
    if "compression" not in type(config).model_fields:
        raise ConfigError(f"{experiment.model.class_path} takes no `compression`.")
    changed = config.model_copy(update={"compression": compression})
    block = type(experiment.model).model_validate(
        {"class": experiment.model.class_path, "config": changed}
    )
    return experiment.model_copy(update={"model": block})
