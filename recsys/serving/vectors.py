"""Vectors of users or items with their ids and the model they are of, as a file or an index.

Stability: caller
"""

from __future__ import annotations

import dataclasses
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from recsys.errors import ConfigError, DataError
from recsys.folders import whole_file
from recsys.retrieval.index import Index

_FORMAT = "recsys vectors"


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Vectors:
    """Vectors with the ids they belong to.

    Args:
        ids: Strings or integers.
        values: Of each.
        metric: How two vectors make a score: ``dot``.
        version: Of the model that made them; vectors of two models have no meaningful product, even
            where their dimensions fit. None where it is not known.

    Shape:
        - ids: (N,)
        - values: (N, D) float32

    Example:
        >>> import tempfile
        >>> made = Vectors(np.array(["a", "b"]), np.eye(2, dtype=np.float32))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     again = read_vectors(made.write(Path(folder) / "items.safetensors"))
        >>> again.ids.tolist(), again.values[1].tolist(), again.metric
        (['a', 'b'], [0.0, 1.0], 'dot')
        >>> again.index().search([[2, 3]], k=1).ids.tolist()
        ['b']
    """

    ids: np.ndarray
    values: np.ndarray
    metric: str = "dot"
    version: str | None = None

    def index(self, meta: pa.Table | None = None, **options: Any) -> Index:
        """An index of them, of their version: it refuses queries of another model.

        Args:
            meta: What filters can ask, a row for every id.
            options: ``prior``, ``codes`` and ``rescore`` of `recsys.retrieval.index.Index`.

        Raises:
            DataError: See `recsys.retrieval.index.Index`.
        """
        return Index(self.values, self.ids, meta, version=self.version, **options)

    def write(self, path: Path | str) -> Path:
        """Writes them, the whole file or nothing.

        ``.parquet``: columns ``id`` and ``vector`` (a list of fixed size). ``.safetensors``:
        tensors ``vectors`` and ``ids``; ids that are strings are the UTF-8 bytes ``id_bytes`` with
        ``id_offsets``. Metric and version are in the metadata of both.

        Args:
            path: Of the file; its folder is made.

        Returns:
            The path.

        Raises:
            ConfigError: Another ending.
        """
        target = Path(path)
        if target.suffix not in (".parquet", ".safetensors"):
            raise ConfigError(
                f"expected a file that ends in .parquet or .safetensors, got {target}."
            )
        metadata = {"format": _FORMAT, "metric": self.metric}
        if self.version is not None:
            metadata["version"] = self.version
        with whole_file(target) as draft:
            if target.suffix == ".parquet":
                self._write_parquet(draft, metadata)
            else:
                save_file(self._tensors(), draft, metadata)
        return target

    def _write_parquet(self, path: Path, metadata: dict[str, str]) -> None:
        flat = pa.array(np.ascontiguousarray(self.values, np.float32).ravel())
        rows = pa.FixedSizeListArray.from_arrays(flat, self.values.shape[1])
        table = pa.table({"id": pa.array(self.ids), "vector": rows})
        pq.write_table(table.replace_schema_metadata(dict(metadata)), path)

    def _tensors(self) -> dict[str, np.ndarray]:
        values = {"vectors": np.ascontiguousarray(self.values, np.float32)}
        if np.issubdtype(self.ids.dtype, np.integer):
            return {**values, "ids": np.ascontiguousarray(self.ids)}
        texts = [str(value).encode() for value in self.ids.tolist()]
        offsets = np.concatenate([[0], np.cumsum([len(text) for text in texts])])
        found = np.frombuffer(b"".join(texts), np.uint8)
        return {**values, "id_bytes": found, "id_offsets": offsets.astype(np.int64)}


def read_vectors(path: Path | str) -> Vectors:
    """Reads what `Vectors.write` wrote.

    Args:
        path: Of the file.

    Raises:
        DataError: It is missing, damaged or another kind of file.
    """
    file = Path(path)
    if not file.is_file():
        raise DataError(
            "expected vectors as `Vectors.write` writes them, got no such file.", file=str(path)
        )
    try:
        found = _read_parquet(file) if file.suffix == ".parquet" else _read_safetensors(file)
    except (OSError, SafetensorError, pa.ArrowInvalid, KeyError, json.JSONDecodeError) as error:
        raise DataError(
            f"expected vectors as `Vectors.write` writes them, got: {error}", file=str(path)
        ) from None
    return found


def _read_parquet(path: Path) -> Vectors:
    table = pq.read_table(path)
    metadata = table.schema.metadata or {}
    if metadata[b"format"] != _FORMAT.encode():
        raise KeyError("format")
    version = metadata.get(b"version")
    column = table["vector"].combine_chunks()
    width = table.schema.field("vector").type.list_size
    values = column.flatten().to_numpy().reshape(-1, width)
    return Vectors(
        table["id"].to_numpy(),
        values,
        metadata[b"metric"].decode(),
        None if version is None else version.decode(),
    )


def _read_safetensors(path: Path) -> Vectors:
    with safe_open(path, "numpy") as file:
        metadata = file.metadata() or {}
        if metadata["format"] != _FORMAT:
            raise KeyError("format")
        names, about = set(file.keys()), (metadata["metric"], metadata.get("version"))
        values = file.get_tensor("vectors")
        if "ids" in names:
            return Vectors(file.get_tensor("ids"), values, *about)
        text, ends = file.get_tensor("id_bytes").tobytes(), file.get_tensor("id_offsets").tolist()
    ids = [text[start:end].decode() for start, end in itertools.pairwise(ends)]
    return Vectors(np.array(ids, object), values, *about)
