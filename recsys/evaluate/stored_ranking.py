"""Judges a saved collaborative filter on a split of its own run, and compares two runs.

Stability: caller
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from recsys.cf_config import CFExperiment, RankingConfig, load_any
from recsys.errors import ConfigError, DataError
from recsys.evaluate.ranking import RankingEvaluation, RankingOptions, evaluate_ranking
from recsys.evaluate.significance import Comparison, compare
from recsys.graph.interactions import Interactions, InteractionSplits
from recsys.serving.folder import run_config
from recsys.serving.recommender_folder import Stored, load_recommender


def options_of(config: RankingConfig) -> RankingOptions:
    """How an experiment asks its model to be judged.

    Args:
        config: Its block ``evaluation``.
    """
    return RankingOptions(
        ks=config.ks,
        bootstrap_samples=config.bootstrap_samples,
        slice_groups=config.slice_groups,
        cold_below=config.cold_below,
    )


def seen_and_relevant(
    splits: InteractionSplits, name: str, hide: str = "known"
) -> tuple[Interactions, Interactions] | None:
    """What lists leave out and what should be in them, on a split.

    Validation is judged against what was trained on; test against both, or the same.

    Args:
        splits: Of the data set.
        name: ``valid`` or ``test``.
        hide: See `recsys.cf_config.RankingConfig`.

    Returns:
        None where the split is not there or empty.
    """
    relevant: Interactions | None = getattr(splits, name)
    if relevant is None or not len(relevant):
        return None
    seen = splits.train if splits.given is None else splits.train.union(splits.given)
    if name == "test" and hide == "known" and splits.valid is not None and len(splits.valid):
        seen = seen.union(splits.valid)
    return seen, relevant


def evaluate_ranking_run(
    run_dir: Path | str,
    split: str = "test",
    cache_dir: Path | str = ".data",
    options: RankingOptions | None = None,
) -> RankingEvaluation:
    """Judges the collaborative filter of a run on one of the run's own splits.

    Args:
        run_dir: With ``config.json`` (of several seeds in the folder above) and ``model/``.
        split: ``valid`` or ``test``.
        cache_dir: Where data is fetched to.
        options: Cut-offs, candidates, intervals, slices; by default as in training.

    Raises:
        DataError: The data has no such split, or is not the data the model was trained on.
        ConfigError: There is no configuration, or ``split`` is another.
        CheckpointError: There is no collaborative filter, or it is damaged.
    """
    stored, pairs, given, experiment = _opened(Path(run_dir), split, Path(cache_dir))
    options = options or options_of(experiment.evaluation)
    return evaluate_ranking(stored.model, *pairs, options, given)


def compare_runs(
    base: Path | str,
    other: Path | str,
    split: str = "test",
    cache_dir: Path | str = ".data",
    options: RankingOptions | None = None,
) -> list[Comparison]:
    """Whether the lists of one run are better than those of another, user by user.

    Args:
        base: Run folder of the first model.
        other: Of the second; a positive difference says that it is better.
        split: ``valid`` or ``test``.
        cache_dir: Where data is fetched to.
        options: For both; by default those of ``other``.

    Raises:
        DataError: The runs are of different data, or as `evaluate_ranking_run`.
        ConfigError: As `evaluate_ranking_run`.
        CheckpointError: As `evaluate_ranking_run`.
    """
    folders = [Path(base), Path(other)]
    opened = [_opened(folder, split, Path(cache_dir)) for folder in folders]
    for what, part in (("left out", 0), ("judged", 1)):
        first, second = (pairs[part] for _, pairs, _, _ in opened)
        if not _same(first, second):
            raise DataError(
                f"{folders[0]} and {folders[1]} have different pairs that are {what} on {split}: "
                f"{len(first):,} and {len(second):,}. Compare runs of the same data set and split."
            )
    options = options or options_of(opened[1][3].evaluation)
    found = [
        evaluate_ranking(stored.model, *pairs, options, given) for stored, pairs, given, _ in opened
    ]
    return compare(found[0].per_user, found[1].per_user)


def _opened(
    folder: Path, split: str, cache: Path
) -> tuple[Stored, tuple[Interactions, Interactions], Interactions | None, CFExperiment]:
    """The model, the pairs of the split, what is told of new users, and the experiment."""
    if split not in ("valid", "test"):
        raise ConfigError(
            f"split: expected valid or test, got {split!r}. Lists leave out what was trained on."
        )
    stored = load_recommender(folder)
    experiment = _experiment(folder)
    splits = experiment.dataset.build().splits(cache)
    everything = splits.train
    for _, part in splits.items():
        everything = everything.union(part)
    if splits.given is not None:
        everything = everything.union(splits.given)
    for what, mine, now in (("training", stored.train, splits.train),
                            ("known", stored.seen, everything)):  # fmt: skip
        if not _same(mine, now):
            raise DataError(
                f"the data changed since training: the model of {folder} has {len(mine):,} {what} "
                f"pairs, {experiment.dataset.class_path} now gives {len(now):,}, and they are not "
                "the same. Restore the files, or train again."
            )
    pairs = seen_and_relevant(splits, split, experiment.evaluation.hide)
    if pairs is None:
        raise DataError(
            f"{experiment.dataset.class_path} has no {split} split with these options, so there is "
            "nothing to judge on."
        )
    return stored, pairs, splits.given, experiment


def _experiment(folder: Path) -> CFExperiment:
    """Of a run folder, of one seed in it, or of the model folder in either."""
    path = run_config(folder)
    experiment = load_any(path)
    if not isinstance(experiment, CFExperiment):
        raise ConfigError(f"{path}: expected the experiment of a collaborative filter.")
    return experiment


def _same(one: Interactions, two: Interactions) -> bool:
    names = ((one.users, two.users), (one.items, two.items))
    ids = all(np.array_equal(a.values, b.values) for a, b in names)
    return ids and np.array_equal(one.keys, two.keys)
