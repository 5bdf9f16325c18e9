"""Fitting the encoder on training rows, batch by batch.

Memory grows with distinct ids, not with rows: counts are exact, means and deviations stream, and
quantiles come from a bounded sample (exact while all rows fit in it).

Stability: internal
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import numpy as np
import pyarrow as pa

from recsys.data.encoder import FeatureEncoder, FitState, uses_vocabulary
from recsys.data.parsing import Parser
from recsys.data.transforms import (
    BucketFit,
    Moments,
    RowSample,
    log_square,
    quantile_borders,
    squash,
)
from recsys.data.vocabulary import Backend, VocabularyCounter
from recsys.errors import SchemaError
from recsys.schema import (
    FIRST_INDEX,
    Bucketized,
    KeyedFeature,
    MultiValued,
    Numeric,
    Schema,
)
from recsys.schema import Sequence as SequenceFeature

QUANTILE_ROWS = 1 << 17
"""Sampled rows for quantiles: the share of a bucket is then exact to about 0.1 % of all rows."""

_MAX_ROWS = (1 << 31) - 1


class EncoderFitter:
    """Collects what the encoder needs to know of the training rows.

    Args:
        schema: The declared schema.
        null_values: Texts that mean missing.
        backend: Of the vocabularies; None takes the default.
        quantile_rows: Size of the sample for quantiles.
    """

    def __init__(
        self,
        schema: Schema,
        null_values: Sequence[str] = (),
        backend: Backend | None = None,
        quantile_rows: int = QUANTILE_ROWS,
    ) -> None:
        self.schema = schema
        self._null_values = tuple(null_values)
        self._tables: dict[str, list[KeyedFeature]] = {}
        for feature in schema.keyed:
            if uses_vocabulary(feature):
                self._tables.setdefault(feature.table_name, []).append(feature)
        self._counters = {
            table: VocabularyCounter(_id_dtype(features[0]), backend)
            for table, features in self._tables.items()
        }
        self._moments = {feature.name: Moments() for feature in schema.numeric}
        self._quantiles = [
            f for f in schema.keyed if isinstance(f, Bucketized) and f.method == "quantile"
        ]
        self._sample = RowSample(quantile_rows)
        self._missing = np.zeros(len(self._quantiles), bool)

    def add(self, parsed: pa.Table, pool: ThreadPoolExecutor | None = None) -> None:
        """Adds training rows.

        Args:
            parsed: Typed columns (`recsys.data.parsing`), bad and ignored rows left out.
            pool: Threads to share the columns out to.
        """
        jobs = [(self._count_table, table) for table in self._tables]
        jobs += [(self._add_moments, feature) for feature in self.schema.numeric]
        if pool is None:
            for job, what in jobs:
                job(what, parsed)  # type: ignore[arg-type]
        else:
            list(pool.map(lambda pair: pair[0](pair[1], parsed), jobs))  # type: ignore[arg-type]
        if self._quantiles:
            columns = [parsed.column(feature.name).to_numpy() for feature in self._quantiles]
            rows = np.stack(columns, axis=1)
            self._missing |= np.isnan(rows).any(axis=0)
            self._sample.add(rows)

    def finish(self) -> FeatureEncoder:
        """The encoder of everything added. The fitter is spent afterwards.

        Raises:
            SchemaError: A table is too large for int32 indices.
        """
        vocabularies = {}
        rows: dict[str, int] = {}
        for table, features in self._tables.items():
            first = features[0]
            limit = getattr(first, "max_vocab", None)
            vocabularies[table] = self._counters[table].finish(first.min_count, limit)
            rows[table] = vocabularies[table].num_embeddings
        buckets = {}
        if self._quantiles:
            sample = self._sample.rows()
            for position, feature in enumerate(self._quantiles):
                borders = quantile_borders(sample[:, position], feature.num_buckets or 2)
                buckets[feature.name] = BucketFit(
                    borders=borders, missing=bool(self._missing[position])
                )
                rows[feature.table_name] = buckets[feature.name].num_embeddings
        for feature in self.schema.keyed:
            if feature.table_name not in rows:
                rows[feature.table_name] = FIRST_INDEX + (feature.num_buckets or 1)
        for table, size in rows.items():
            if size > _MAX_ROWS:
                raise SchemaError(
                    f"table `{table}` has {size:,} rows; indices are int32, so {_MAX_ROWS:,} is "
                    "the most. Lower `num_buckets` or `max_vocab`."
                )
        numbers = {name: moments.fit() for name, moments in self._moments.items()}
        state = FitState(numbers=numbers, buckets=buckets, null_values=self._null_values)
        return FeatureEncoder(self.schema.fitted(rows), state, vocabularies)

    def _count_table(self, table: str, parsed: pa.Table) -> None:
        counter = self._counters[table]
        for feature in self._tables[table]:
            for chunk in parsed.column(feature.name).chunks:
                if isinstance(feature, Bucketized):
                    counter.add(log_square(chunk.to_numpy(zero_copy_only=False)))
                elif isinstance(feature, MultiValued | SequenceFeature):
                    counter.add(chunk.flatten())
                else:
                    counter.add(chunk)

    def _add_moments(self, feature: Numeric, parsed: pa.Table) -> None:
        self._moments[feature.name].add(squash(feature, parsed.column(feature.name).to_numpy()))


def fit_table(schema: Schema, table: pa.Table) -> FeatureEncoder:
    """Fits an encoder on rows that are in memory, all of them training rows.

    Args:
        schema: The declared schema.
        table: Raw columns; only features are read.

    Raises:
        DataError: A cell is bad.

    Example:
        >>> from recsys.schema import Categorical, Label
        >>> schema = Schema(features=(Categorical(name="user"),), labels=(Label(name="click"),))
        >>> encoder = fit_table(schema, pa.table({"user": ["a", "b", "a"]}))
        >>> encoder.batch(pa.table({"user": ["b", "new"]})).values.tolist()
        [3, 1]
    """
    parsed = Parser(schema, (), labels=False).parse_good(table)
    fitter = EncoderFitter(schema)
    fitter.add(parsed)
    return fitter.finish()


def _id_dtype(feature: KeyedFeature) -> Literal["string", "int"]:
    return "int" if isinstance(feature, Bucketized) else feature.dtype
