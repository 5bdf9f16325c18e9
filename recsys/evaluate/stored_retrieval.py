"""Two towers of a run, judged by what they retrieve of a split of its data.

Stability: experimental
"""

from __future__ import annotations

from pathlib import Path

from recsys.base import RecModel
from recsys.data.loader import BatchLoader, LoaderConfig
from recsys.data.prepared import Prepared
from recsys.evaluate.retrieval import RetrievalEvaluation, RetrievalOptions, evaluate_retrieval
from recsys.evaluate.stored import load_run


def evaluate_lists(
    model: RecModel,
    prepared: Prepared,
    split: str,
    batch_size: int = 16384,
    options: RetrievalOptions | None = None,
) -> RetrievalEvaluation:
    """Ranks all items of the training split and of another one for the users of that other one.

    Args:
        model: Two towers with an item id.
        prepared: The data.
        split: Whose clicks are to be found.
        batch_size: Rows at a time.
        options: Questions, cut-offs, intervals.

    Raises:
        ConfigError: See `recsys.evaluate.retrieval.evaluate_retrieval`.
        DataError: There is no such split, or nothing to judge in it.
    """
    config = LoaderConfig(batch_size=batch_size)
    seen, held_out = (BatchLoader(prepared, name, config) for name in ("train", split))
    return evaluate_retrieval(model, seen, held_out, options)


def evaluate_retrieval_run(
    run_dir: Path | str,
    split: str = "test",
    cache_dir: Path | str = ".data",
    options: RetrievalOptions | None = None,
) -> RetrievalEvaluation:
    """Judges the lists of a run's two towers for the users of one of its splits.

    Args:
        run_dir: With ``config.json`` and ``model/``.
        split: ``valid`` or ``test``; items that training clicked are left out of lists.
        cache_dir: Where data is fetched to and prepared.
        options: Questions, cut-offs, intervals.

    Raises:
        ConfigError: The model has no towers, or what they need is not there.
        DataError: The data is not that the model was trained on, or has no such split.
        CheckpointError: There is no model, or it is damaged.
    """
    run = load_run(run_dir, cache_dir)
    size = run.experiment.train.eval_batch_size
    return evaluate_lists(run.artefact.model, run.prepared, split, size, options)
