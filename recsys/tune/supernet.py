"""Widths of tables without retraining: one supernet is trained, many widths are judged in it.

The supernet is the experiment with every searched table at its widest, and a random number of
leading columns at every look-up (`recsys.embeddings.compression.opt_embed_supernet`). A candidate
is judged by the validation AUC of these very weights with the columns beyond its widths masked,
and by the bytes that its tables would have as they are served. What comes out is a front, which
gives a study its first trials (``prior.supernet`` of a sweep).

The AUC of a candidate is a proxy, good for ranking at best:

- weights are shared: a candidate that was trained alone is better than in the supernet, and narrow
  ones gain more, since the supernet is seldom at all of their widths at once;
- a narrow table is padded with zeros here, while ``tables.<t>.embedding_dim`` trains a matrix that
  brings it to the model's width. Only tables whose widest width is not the model's have that matrix
  in the supernet too, of which a narrow width uses the leading columns;
- the best of a thousand candidates on some thousand rows is lucky there: train it to know.

    supernet.json     what the folder holds; another search is refused
    checkpoints/      of the supernet's training, which goes on from there
    judged.jsonl      AUC by widths; what is in it is not judged again

Source:
    Lyu et al., "OptEmbed: Learning Optimal Embedding Table for Click-through Rate Prediction", CIKM
    2022, sections 3.2 and 3.3. Different: no rows are pruned, a front in place of the best, widths
    of the space only. Training draws from all widths, as there.

Stability: experimental
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from recsys.base import CTRModel
from recsys.config import Experiment
from recsys.data.loader import BatchLoader, LoaderConfig
from recsys.data.prepared import Prepared
from recsys.embeddings.compression.evolution import Evolution
from recsys.embeddings.compression.opt_embed import OptEmbed
from recsys.embeddings.compression.plan import CompressionConfig
from recsys.embeddings.scheme import Dtype, Full
from recsys.errors import ConfigError
from recsys.folders import write_json
from recsys.train.backend import attach_tables
from recsys.train.click_task import ClickTask
from recsys.train.folder import locked
from recsys.train.phases import phase_config
from recsys.train.ranks import Ranks
from recsys.train.state import seed_everything
from recsys.train.trainer import Trainer
from recsys.tune.cost import Costs
from recsys.tune.domain import Choice, IntRange, PowerOfTwo
from recsys.tune.front_search import FrontSearch, Genes, Sizes
from recsys.tune.space import Candidate, Parameter, Space
from recsys.tune.supernet_judge import JudgedFile, SupernetJudge, some_rows
from recsys.tune.sweep import Limits

_EVOLUTION = Evolution(generations=30, mutations=16, crossovers=16, elite=32)


@dataclasses.dataclass(frozen=True, slots=True)
class SupernetOptions:
    """How widths are searched.

    Args:
        most_bytes: Of a candidate's tables as they are served; None for any.
        dtype: How the tables are stored.
        epochs: Length of the supernet's training, as a share of ``train.num_epochs``.
        evolution: ``elite`` candidates survive a generation.
        max_rows: Validation rows that candidates are judged on at most, drawn once. They are kept
            in memory with their vectors, ``4 * max_rows * features * width`` bytes.
        seed: Of the evolution. The supernet has the first seed of the experiment.
        device: ``cpu`` or ``cuda``; None takes a GPU if there is one.
        say: Shows a line of progress.
    """

    most_bytes: int | None = None
    dtype: Dtype = "fp32"
    epochs: float = 1.0
    evolution: Evolution = _EVOLUTION
    max_rows: int = 20_000
    seed: int = 0
    device: str | None = None
    say: Callable[[str], None] = print


@dataclasses.dataclass(frozen=True, slots=True)
class WidthPoint:
    """One point of the supernet's front.

    Args:
        answers: What a trial of the space answers for these widths, by parameter.
        widths: By table.
        bytes: Of the tables as they would be served.
        auc: On the validation rows, of the supernet. A proxy, see above.
    """

    answers: Mapping[str, Any]
    widths: Mapping[str, int]
    bytes: int
    auc: float


def search_widths(
    experiment: Experiment,
    space: Space,
    prepared: Prepared,
    directory: Path,
    options: SupernetOptions | None = None,
) -> list[WidthPoint]:
    """Trains a supernet and searches the front of AUC against bytes in it.

    Searched are the widths of tables (``model.tables.<t>.embedding_dim``) that are in the space,
    one number for tables that share a parameter; everything else is as in the experiment.

    Args:
        experiment: Around which to search.
        space: Says which widths there are.
        prepared: The experiment's data.
        directory: Of this search. One that was cut short goes on; nothing is judged twice.
        options: Limits, rows, evolution.

    Returns:
        The front, the smallest first.

    Raises:
        ConfigError: No width is searched, tables are compressed, there is no validation split, or
            the folder holds another search.
        BudgetInfeasible: Nothing in the space has so few bytes.
        KeyboardInterrupt: A signal ended the training.
    """
    options = options or SupernetOptions()
    if options.max_rows < 1:
        raise ConfigError(f"supernet: max_rows must be at least 1, got {options.max_rows}.")
    genes = _searched(experiment, space, prepared)
    sizes = _sizes(experiment, genes, prepared, options.dtype)
    search = FrontSearch(sizes, options.most_bytes, options.evolution)
    with locked(directory):
        _check_same(directory, experiment, genes, prepared, options)

        @functools.cache
        def judge() -> SupernetJudge:  # nothing is trained where all is known
            return _judge(experiment, genes, prepared, directory, options)

        judged = JudgedFile(directory / "judged.jsonl", lambda widths: judge().auc(widths))
        scores = search.run(lambda one: judged(_widths(genes, one)), options.seed, options.say)
        if judge.cache_info().currsize:
            rate = judge().count / max(judge().seconds, 1e-9)
            options.say(f"supernet: {judge().count:,} widths judged, {rate:,.1f} a second")
    return [
        WidthPoint(
            answers={k: v for gene, at in zip(genes, one) for k, v in gene.answers(at).items()},
            widths=_widths(genes, one),
            bytes=sizes.of(one),
            auc=scores[one],
        )
        for one in search.front(scores)
    ]


def spread(points: Sequence[WidthPoint], number: int) -> list[WidthPoint]:
    """Some points of a front, evenly spread over the logarithm of bytes; both ends are in.

    Args:
        points: The smallest first.
        number: How many; one is the largest.
    """
    if number >= len(points) or number < 1:
        return list(points[: max(0, number)])
    low, high = (math.log(max(1, point.bytes)) for point in (points[0], points[-1]))
    left, found = list(range(len(points))), []
    for step in reversed(range(number)):
        goal = low + (high - low) * (step / (number - 1) if number > 1 else 1.0)
        best = min(left, key=lambda i: abs(math.log(max(1, points[i].bytes)) - goal))
        left.remove(best)
        found.append(best)
    return [points[i] for i in sorted(found)]


# ----------------------------------------------------------------------------------- widths


@dataclasses.dataclass(frozen=True)
class _Gene:
    """One searched width: a parameter, its tables, and the raw value of every width."""

    parameter: Parameter
    tables: tuple[str, ...]
    values: tuple[tuple[int, Any], ...]

    def answers(self, at: int) -> dict[str, Any]:
        return self.parameter.domain.known(self.parameter.name, self.values[at][1]) or {}

    def settings(self, at: int) -> dict[str, Any]:
        return dict.fromkeys(self.parameter.places, self.values[at][1])


def _widths(genes: Sequence[_Gene], one: Genes) -> dict[str, int]:
    """Widths by table."""
    return {table: gene.values[at][0] for gene, at in zip(genes, one) for table in gene.tables}


def _searched(experiment: Experiment, space: Space, prepared: Prepared) -> list[_Gene]:
    """The widths of tables in the space."""
    if getattr(experiment.model.config, "compression", None) is not None:
        raise ConfigError(
            "supernet: the experiment compresses its tables (`model.compression`), and a supernet "
            "has full ones. Remove the compression, or leave the supernet out."
        )
    if "valid" not in prepared.split_rows:
        raise ConfigError(
            "supernet: candidates are judged on the validation split, and the data set has none. "
            "Add one, or leave the supernet out."
        )
    found = []
    for parameter in space.parameters:
        parts = [place.split(".") for place in parameter.places]
        if all(p[:2] == ["model", "tables"] and p[3:] == ["embedding_dim"] for p in parts):
            default = getattr(experiment.model.config, "embedding_dim", None)
            values = sorted(_values(parameter, default).items())
            found.append(_Gene(parameter, tuple(p[2] for p in parts), tuple(values)))
    if not found:
        raise ConfigError(
            "supernet: no width of a table is searched. Search "
            "`model.tables.*.embedding_dim: {power_of_two: [2, 16]}`, or leave the supernet out."
        )
    return found


def _values(parameter: Parameter, default: int | None) -> dict[int, Any]:
    """Raw values of a parameter by the width that they mean."""
    domain = parameter.domain
    if isinstance(domain, PowerOfTwo):
        low, high = domain.power_of_two
        return {low << i: low << i for i in range((high // low).bit_length())}
    if isinstance(domain, IntRange):
        low, high = domain.int_
        return {width: width for width in range(low, high + 1, domain.step)}
    if isinstance(domain, Choice):
        found = {default if value is None else value: value for value in domain.choice}
        if all(isinstance(width, int) for width in found):
            return found  # type: ignore[return-value]
    raise ConfigError(
        f"supernet: `{parameter.name}` must be whole numbers, say {{power_of_two: [2, 16]}}, got "
        f"{domain!r}."
    )


def _sizes(
    experiment: Experiment, genes: Sequence[_Gene], prepared: Prepared, dtype: Dtype
) -> Sizes:
    """Bytes of every width of every table, counted on meta one after the other.

    Bytes of uncompressed tables add up, those of the matrices behind narrow ones too.
    """
    costs, base = Costs(experiment, prepared, Limits()), experiment.model_dump(mode="json")
    first = {place: raw for gene in genes for place, raw in gene.settings(0).items()}

    def size(settings: Mapping[str, Any]) -> int:
        return costs.of(Candidate({**first, **settings}).experiment(base), dtype).bytes

    narrow = size({})
    more = [
        (0, *(size(gene.settings(at)) - narrow for at in range(1, len(gene.values))))
        for gene in genes
    ]
    return Sizes(narrow, tuple(more))


# ----------------------------------------------------------------------------------- the supernet


def _model(experiment: Experiment, genes: Sequence[_Gene], prepared: Prepared) -> CTRModel:
    """The experiment's model with searched tables at their widest, as supernets."""
    wide = {p: raw for g in genes for p, raw in g.settings(len(g.values) - 1).items()}
    widest = Candidate(wide).experiment(experiment.model_dump(mode="json"))
    assert isinstance(widest, Experiment)
    with torch.device("meta"):
        plain = widest.model.build(prepared.schema)
    if not isinstance(plain, CTRModel):
        raise ConfigError(
            f"supernet: expected a model that predicts clicks, got {type(plain).__name__}."
        )
    searched = {f"embedding.{table}" for gene in genes for table in gene.tables}
    planned: dict[str, Any] = {
        name: OptEmbed(rows=False) if name in searched else Full()
        for group, tables in plain.embeddings.groups.items()
        for name in (f"{group}.{table.name}" for table in tables)
    }
    update = {"compression": CompressionConfig(planned=planned)}
    config: Any = plain.config.model_copy(update=update)
    return type(plain)(config, prepared.schema)


def _judge(
    experiment: Experiment,
    genes: Sequence[_Gene],
    prepared: Prepared,
    directory: Path,
    options: SupernetOptions,
) -> SupernetJudge:
    """The trained supernet and the rows to judge on."""
    model = _trained(experiment, genes, prepared, directory, options)
    train, seed = experiment.train, experiment.seeds[0]
    rows = some_rows(prepared, options.max_rows, train.eval_batch_size, seed, _device(options))
    return SupernetJudge(model, rows, train.precision)


def _trained(
    experiment: Experiment,
    genes: Sequence[_Gene],
    prepared: Prepared,
    directory: Path,
    options: SupernetOptions,
) -> CTRModel:
    """The trained supernet, from checkpoints as far as there are any."""
    seed, device = experiment.seeds[0], _device(options)
    seed_everything(seed)
    model = _model(experiment, genes, prepared)
    model.reset_parameters(seed)
    model.to(device)
    tables = attach_tables(model, experiment.embedding, "local", device)
    phase = OptEmbed(rows=False, supernet_epochs=options.epochs).phases()[0]
    config = phase_config(experiment.train, phase)
    task = ClickTask(model, config, tables, Ranks.current())
    trainer = Trainer(task, tables, directory, "none", phase)
    again = trainer.checkpoints.exists()
    if not again:
        options.say("training a supernet of the experiment once, for the widths of its tables")
    shuffled = LoaderConfig(batch_size=config.batch_size, shuffle=config.shuffle, seed=seed)
    valid = LoaderConfig(batch_size=config.eval_batch_size)
    fit = trainer.fit(
        BatchLoader(prepared, "train", shuffled), BatchLoader(prepared, "valid", valid),
        resume=again,
    )  # fmt: skip
    if fit.interrupted:
        raise KeyboardInterrupt
    trainer.load_best()
    options.say(
        f"supernet: {fit.steps:,} steps in {fit.seconds:.0f} s, validation AUC "
        f"{fit.best.get('auc', math.nan):.5f} with all columns"
    )
    return model.eval()


def _device(options: SupernetOptions) -> str:
    return options.device or ("cuda" if torch.cuda.is_available() else "cpu")


def _check_same(
    directory: Path,
    experiment: Experiment,
    genes: Sequence[_Gene],
    prepared: Prepared,
    options: SupernetOptions,
) -> None:
    """Refuses a folder whose numbers are of another supernet or other rows."""
    now = {
        "experiment": experiment.model_dump(mode="json"),
        "widths": {gene.parameter.name: [width for width, _ in gene.values] for gene in genes},
        "data": prepared.fingerprint,
        "epochs": options.epochs,
        "max_rows": options.max_rows,
    }
    path, now = directory / "supernet.json", json.loads(json.dumps(now))
    before = json.loads(path.read_text()) if path.exists() else now
    changed = [name for name in now if before.get(name) != now[name]]
    if changed:
        raise ConfigError(
            f"{directory} holds a supernet of another search ({', '.join(changed)} changed). "
            "Choose another folder, or remove it."
        )
    write_json(path, now)
