"""Judges a saved model on a split of its own run or on any raw files.

Stability: caller
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from recsys.config import Experiment, load
from recsys.data.blocks import RowBlock
from recsys.data.encoder import FeatureEncoder
from recsys.data.loader import BatchLoader, LoaderConfig
from recsys.data.parsing import Parser
from recsys.data.prepare import prepare
from recsys.data.prepared import Prepared
from recsys.data.readers import read_chunks
from recsys.data.source import Source
from recsys.errors import DataError
from recsys.evaluate.evaluation import Evaluation, EvaluationOptions, evaluate
from recsys.serving.artefact import Artefact, load_artefact
from recsys.types import Batch


def evaluate_run(
    run_dir: Path | str,
    split: str = "test",
    cache_dir: Path | str = ".data",
    options: EvaluationOptions | None = None,
) -> Evaluation:
    """Judges the model of a run on one of the run's own splits.

    Args:
        run_dir: With ``config.json`` and ``model/``.
        split: ``train``, ``valid`` or ``test``.
        cache_dir: Where data is fetched to and prepared.
        options: Slices, intervals, precision.

    Raises:
        DataError: The data has no such split, or is not the data the model was trained on.
        CheckpointError: There is no model, or it is damaged.
    """
    experiment, artefact, prepared = load_run(run_dir, cache_dir)
    config = LoaderConfig(batch_size=experiment.train.eval_batch_size)
    loader = BatchLoader(prepared, split, config)
    if options is None:
        train = experiment.train
        options = EvaluationOptions(train.slices, train.bootstrap_samples, train.precision)
    return evaluate(artefact.model, loader, artefact.encoder, split, options)


class StoredRun(NamedTuple):
    """A run with its model and the data it was trained on."""

    experiment: Experiment
    artefact: Artefact
    prepared: Prepared


def load_run(run_dir: Path | str, cache_dir: Path | str = ".data") -> StoredRun:
    """Reads a run of a model that predicts clicks, and prepares its data.

    Args:
        run_dir: With ``config.json`` and ``model/``.
        cache_dir: Where data is fetched to and prepared.

    Raises:
        DataError: The data is not that the model was trained on.
        CheckpointError: There is no model, or it is damaged.
    """
    folder = Path(run_dir)
    experiment = load(folder / "config.json")
    artefact = load_artefact(folder)
    dataset = experiment.dataset.build()
    cache = Path(cache_dir)
    splits = dataset.splits(cache)
    prepared = prepare(dataset.schema(), splits, cache / "prepared", experiment.prepare)
    trained_on = artefact.metadata.get("data")
    if trained_on not in (None, prepared.fingerprint):
        raise DataError(
            f"the data changed since training: the model knows {trained_on}, the files now give "
            f"{prepared.fingerprint}. Restore the files, or evaluate raw files with "
            "evaluate_source."
        )
    return StoredRun(experiment, artefact, prepared)


def evaluate_source(
    directory: Path | str,
    source: Source,
    batch_size: int = 16384,
    options: EvaluationOptions | None = None,
) -> Evaluation:
    """Judges a saved model on raw files with labels; unknown ids are OOV.

    Args:
        directory: An artefact or a run folder.
        source: The files.
        batch_size: Rows at a time.
        options: Slices, intervals, precision.

    Raises:
        DataError: A file or row is bad.
        CheckpointError: There is no model, or it is damaged.
    """
    artefact = load_artefact(directory)
    batches = SourceBatches(source, artefact.encoder, batch_size)
    return evaluate(artefact.model, batches, artefact.encoder, "files", options)


@dataclasses.dataclass(frozen=True, slots=True)
class SourceBatches:
    """Raw files as batches with labels, in file order, in bounded memory.

    Args:
        source: The files.
        encoder: Fitted.
        batch_size: Rows of a batch at most.
    """

    source: Source
    encoder: FeatureEncoder
    batch_size: int

    def __iter__(self) -> Iterator[Batch]:
        nulls = self.encoder.state.null_values if self.source.format == "parquet" else ()
        parser = Parser(self.encoder.schema, nulls)
        for chunk in read_chunks(self.source, parser.columns):
            parsed = parser.parse(chunk.columns, chunk.file)
            if parsed.bad:
                row = min(parsed.bad)
                cell = parsed.bad[row]
                raise DataError(
                    cell.text, file=chunk.file, row=int(chunk.rows[row]) + 1, column=cell.column
                )
            table = parsed.table
            if parsed.ignored is not None:
                table = table.filter(pa.array(~np.asarray(parsed.ignored)))
            block = RowBlock.from_table(self.encoder.encode_parsed(table), self.encoder.schema)
            for start in range(0, block.num_rows, self.batch_size):
                yield block.rows(start, min(start + self.batch_size, block.num_rows)).to_batch()
