"""Reads the items of an experiment of aspects, and judges a saved model of them.

Stability: caller
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from recsys.aspect_config import AspectEvaluationConfig, AspectExperiment
from recsys.cf_config import load_any
from recsys.errors import ConfigError, DataError
from recsys.evaluate.aspects import AspectEvaluation, AspectOptions, evaluate_aspects
from recsys.graph.aspects import AspectTable
from recsys.serving.aspect_folder import load_aspects
from recsys.serving.folder import run_config
from recsys.serving.vectors import read_vectors


def aspect_items(experiment: AspectExperiment, cache_dir: Path) -> AspectTable:
    """The data of an experiment, with the vectors of its files.

    Args:
        experiment: Names them.
        cache_dir: Where data is fetched to.

    Raises:
        DataError: The data is bad, or a file has vectors of other items.
    """
    table = experiment.dataset.build().table(cache_dir)
    vectors, report = dict(table.vectors), dict(table.report)
    for name, file in experiment.item_vectors.items():
        found = read_vectors(Path(file).expanduser())
        numbers = table.items.numbers(found.ids.tolist())
        known = numbers >= 0
        if not known.any():
            raise DataError(
                f"item_vectors.{name}: none of its {len(numbers):,} ids is an item, say "
                f"{found.ids.tolist()[0]!r} against {table.items.values.tolist()[0]!r}.", file=file,
            )  # fmt: skip
        rows = np.zeros((len(table), found.values.shape[1]), np.float32)
        rows[numbers[known]] = found.values[known]
        vectors[name] = rows
        report[f"items_without_vector:{name}"] = len(table) - len(np.unique(numbers[known]))
    return dataclasses.replace(table, vectors=vectors, report=report)


def options_of(config: AspectEvaluationConfig) -> AspectOptions:
    """How the final model is judged.

    Args:
        config: Of the experiment.
    """
    return AspectOptions(tuple(sorted(config.ks)), config.candidates, config.bootstrap_samples)


def evaluate_aspect_run(run_dir: Path | str, split: str = "test") -> AspectEvaluation:
    """Judges the model of a run on one of the splits of its items, which are in its folder.

    Args:
        run_dir: With ``config.json`` (of several seeds in the folder above) and ``model/``.
        split: ``train``, ``valid`` or ``test``.

    Raises:
        DataError: Nothing can be judged there.
        ConfigError: There is no configuration.
        CheckpointError: There is no model of aspects, or it is damaged.
    """
    path = run_config(Path(run_dir))
    experiment = load_any(path)
    if not isinstance(experiment, AspectExperiment):
        raise ConfigError(f"{path}: expected the experiment of a model of aspects.")
    return evaluate_aspects(load_aspects(run_dir), split, options_of(experiment.evaluation))
