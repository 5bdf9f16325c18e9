"""A trained model behind one call: raw rows in, probabilities out. No web code.

Importing this loads torch and Arrow, and nothing that is only needed for training.

Stability: caller
"""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import torch

from recsys.base import RecModel
from recsys.data.encoder import FeatureEncoder
from recsys.data.readers import read_chunks
from recsys.data.source import Source
from recsys.errors import ConfigError, DataError
from recsys.folders import whole_file
from recsys.serving.artefact import load_artefact
from recsys.serving.rows import RowReader, Rows

PREDICTION = "prediction"
"""Name of the output column; with several tasks ``prediction.<label>``."""


@dataclasses.dataclass(frozen=True, slots=True)
class Latency:
    """How long calls of one size take.

    Args:
        batch_size: Rows a call.
        p50_ms: Half of the calls were faster.
        p99_ms: 99 of 100 calls were faster.
        rows_per_s: Rows by the median call.
    """

    batch_size: int
    p50_ms: float
    p99_ms: float
    rows_per_s: float


class Predictor:
    """Predicts from raw rows, as the training files had them.

    An id that training did not see counts as unknown (OOV). Columns that the model does not read
    are ignored. Several threads may call it at once.

    Args:
        model: A trained model; it is put in eval mode.
        encoder: Of the data it was trained on.
        device: Where to compute.
        batch_size: Rows computed at once; bounds memory, not the size of a call.
        negative_rate: Share of the negative rows that were kept for training, where they were
            down-sampled. Probabilities are corrected to the full log: ``p / (p + (1 - p) / w)``
            with w the share.

    Raises:
        ConfigError: ``negative_rate`` is not in (0, 1], or ``batch_size`` is not positive.

    Source:
        He et al., "Practical Lessons from Predicting Clicks on Ads at Facebook", ADKDD 2014,
        Section 6.3 (the correction).
    """

    def __init__(
        self,
        model: RecModel,
        encoder: FeatureEncoder,
        device: torch.device | str = "cpu",
        batch_size: int = 8192,
        negative_rate: float | None = None,
    ) -> None:
        if negative_rate is not None and not 0 < negative_rate <= 1:
            raise ConfigError(
                f"`negative_rate` must be above 0 and at most 1, got {negative_rate}. It is the "
                "share of negative rows that training kept."
            )
        if batch_size < 1:
            raise ConfigError(f"`batch_size` must be at least 1, got {batch_size}.")
        self.model = model.to(device).eval()
        self.encoder, self.device, self.batch_size = encoder, torch.device(device), batch_size
        self.negative_rate = negative_rate
        self.metadata: dict[str, Any] = {}
        self._reader = RowReader(encoder.schema)
        for vocabulary in encoder.vocabularies.values():  # builds its map now, not in a request
            vocabulary.encode(vocabulary.ids.slice(0, 1))

    @classmethod
    def load(
        cls,
        directory: Path | str,
        model_class: type[RecModel] | None = None,
        num_threads: int | None = None,
        **options: Any,
    ) -> Self:
        """Loads a model folder, verified and without running anything it holds.

        Args:
            directory: A run folder or the model folder in it.
            model_class: The model's class, where it is not one of ``recsys.models``.
            num_threads: Threads of torch for one call, in the whole process. 1 is best where a
                server handles many calls at once.
            options: ``device``, ``batch_size`` and ``negative_rate`` as in the class.

        Raises:
            CheckpointError: The folder is not a sound artefact, or its class is not trusted.
            ConfigError: An option is wrong.
        """
        artefact = load_artefact(directory, model_class)
        if num_threads is not None:
            torch.set_num_threads(num_threads)
        predictor = cls(artefact.model, artefact.encoder, **options)
        predictor.metadata = artefact.metadata
        return predictor

    @property
    def columns(self) -> tuple[str, ...]:
        """Raw columns that every row must have."""
        return self._reader.columns

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of what is predicted, in output order."""
        return tuple(label.name for label in self.encoder.schema.labels)

    def predict(self, rows: Rows) -> np.ndarray:
        """Probabilities.

        Args:
            rows: A dict with one row, a dict of equally long lists, a list of dicts, a DataFrame,
                or an Arrow table or record batch. None (in a DataFrame also NaN) means missing.

        Returns:
            float32, (B,) for one task and (B, T) for several.

        Raises:
            DataError: Columns are missing (all are named), or a value is bad (its row is named,
                counted from 1).
        """
        parts = []
        for start, table in self._reader.slices(rows, self.batch_size):
            try:
                parts.append(self._probabilities(table))
            except DataError as error:
                row = None if error.row is None else error.row + start
                raise DataError(error.message, row=row, column=error.column) from None
        found = np.concatenate(parts) if parts else np.zeros((0, len(self.tasks)), np.float32)
        return found[:, 0] if len(self.tasks) == 1 else found

    def _probabilities(self, table: pa.Table) -> np.ndarray:
        try:
            batch = self.encoder.batch(table).to(self.device)
        except pa.ArrowException as error:  # types that no file has, say truth values in lists
            told = str(error).splitlines()[0]
            raise DataError(f"a column has values of a kind that it cannot hold: {told}.") from None
        with torch.inference_mode():
            probs = self.model(batch).float().sigmoid()
            if self.negative_rate is not None:
                probs = probs / (probs + (1 - probs) / self.negative_rate)
        return probs.cpu().numpy()

    # ----------------------------------------------------------------------------------- files

    def predict_file(
        self, source: Source | Path | str, out: Path | str, keep: Sequence[str] = ()
    ) -> int:
        """Predicts a file of any size into a Parquet file with one line a row, in order.

        Args:
            source: CSV, TSV or Parquet by its ending, or a `Source`.
            out: Parquet file to write; it appears when it is complete.
            keep: Columns to copy to the output, say a request id.

        Returns:
            Number of rows.

        Raises:
            DataError: A file or a cell is bad; file, row and column are named.
            ConfigError: The format of the file is not known.
        """
        if not isinstance(source, Source):
            source = source_of(source, null_values=self.encoder.state.null_values or ("",))
        tables = self._predicted(source, tuple(keep))
        first = next(tables, None)
        if first is None:
            return 0
        rows = 0
        with (
            whole_file(Path(out)) as draft,
            pyarrow.parquet.ParquetWriter(draft, first.schema) as writer,
        ):
            for table in itertools.chain([first], tables):
                writer.write_table(table.cast(writer.schema))
                rows += table.num_rows
        return rows

    def _predicted(self, source: Source, keep: tuple[str, ...]) -> Iterator[pa.Table]:
        needed = tuple(dict.fromkeys([*self.columns, *keep]))
        names = [PREDICTION] if len(self.tasks) == 1 else [f"{PREDICTION}.{t}" for t in self.tasks]
        for chunk in read_chunks(source, needed):
            table = pa.Table.from_batches([chunk.columns])
            for start in range(0, table.num_rows, self.batch_size):
                part = table.slice(start, self.batch_size)
                try:
                    probs = self._probabilities(part.select(self.columns))
                except DataError as error:
                    row = error.row
                    if row is not None:
                        row = int(chunk.rows[start + row - 1]) + 1
                    raise DataError(
                        error.message, file=chunk.file, row=row, column=error.column
                    ) from None
                kept = {name: _text(part.column(name)) for name in keep}
                yield pa.table({**kept, **dict(zip(names, probs.T))})

    # ------------------------------------------------------------------------------- measuring

    def bench(
        self, rows: Sequence[Mapping[str, Any]], batch_sizes: Sequence[int], calls: int = 200
    ) -> list[Latency]:
        """Times `predict` on raw rows, encoding included.

        Args:
            rows: Typical rows; repeated where a batch is larger.
            batch_sizes: Rows a call.
            calls: Timed calls of each size, after five untimed ones.
        """
        if not rows or calls < 1:
            raise ConfigError(f"bench needs rows and calls, got {len(rows)} and {calls}.")
        results = []
        for size in batch_sizes:
            batches = [[rows[(n * size + i) % len(rows)] for i in range(size)] for n in range(8)]
            times = []
            for call in range(calls + 5):
                start = time.perf_counter()
                self.predict(batches[call % 8])
                times.append((time.perf_counter() - start) * 1e3)
            p50, p99 = np.percentile(times[5:], [50, 99])
            results.append(Latency(size, float(p50), float(p99), size / float(p50) * 1e3))
        return results


def source_of(path: Path | str, **options: Any) -> Source:
    """A file as a `Source`, its format told by its ending.

    Args:
        path: ``.csv``, ``.tsv`` (also ``.gz``), ``.parquet`` or ``.libfm``.
        options: Other fields of `Source`.

    Raises:
        ConfigError: Another ending.

    Example:
        >>> source_of("rows.tsv.gz").format
        'tsv'
    """
    name = str(path).lower().removesuffix(".gz")
    formats = {".csv": "csv", ".tsv": "tsv", ".txt": "tsv", ".parquet": "parquet"}
    kind = formats.get(Path(name).suffix) or ("libfm" if name.endswith(".libfm") else None)
    if kind is None:
        raise ConfigError(
            f"cannot tell the format of {path}: expected .csv, .tsv, .parquet or .libfm, also .gz. "
            "Rename it, or pass a recsys.data.source.Source."
        )
    return Source.model_validate({"files": (str(path),), "format": kind, **options})


def _text(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Text files are read as bytes."""
    return column.cast(pa.string()) if pa.types.is_binary(column.type) else column
