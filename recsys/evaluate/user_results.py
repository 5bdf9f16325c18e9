"""What each user's list was worth, kept so that models can be compared user by user.

Stability: caller
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from recsys.errors import DataError
from recsys.folders import whole_file

_USER = "user"
_PROTOCOL = b"recsys.protocol"


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class UserResults:
    """Metrics of every judged user.

    Args:
        users: The caller's ids, each once.
        values: By metric, say ``recall@20``; nan where a user has none.
        protocol: How they were computed, in words; only results of one protocol are comparable.

    Raises:
        DataError: A user occurs twice, or a metric has another number of values.

    Shape:
        - users: (N,)
        - values: (N,) float64 each

    Example:
        >>> found = UserResults(np.array(["ann", "bob"]), {"hr@1": np.array([1.0, 0.0])}, "all")
        >>> found.mean("hr@1")
        0.5
    """

    users: np.ndarray
    values: dict[str, np.ndarray]
    protocol: str

    def __post_init__(self) -> None:
        if len(np.unique(self.users)) != len(self.users):
            raise DataError("results by user: expected every user once.")
        for name, column in self.values.items():
            if column.shape != self.users.shape:
                raise DataError(
                    f"results by user: expected {len(self.users):,} values of `{name}`, got "
                    f"{column.shape}."
                )

    def mean(self, metric: str) -> float:
        """Mean over the users that have a value.

        Args:
            metric: A name of ``values``.
        """
        known = self.values[metric][~np.isnan(self.values[metric])]
        return float(known.mean()) if len(known) else float("nan")

    def write(self, path: Path | str) -> None:
        """Writes a Parquet file: column ``user``, then one a metric. All of it or nothing.

        Args:
            path: Of the file; its folder is made.
        """
        table = pa.table({_USER: self.users.tolist(), **self.values})
        table = table.replace_schema_metadata({_PROTOCOL: json.dumps(self.protocol).encode()})
        with whole_file(Path(path)) as draft:
            pq.write_table(table, draft)

    @classmethod
    def read(cls, path: Path | str) -> UserResults:
        """Reads what `write` wrote.

        Args:
            path: Of the file.

        Raises:
            DataError: It is missing, damaged or another kind of file.
        """
        try:
            table = pq.read_table(path)
        except (OSError, pa.ArrowInvalid) as error:
            raise DataError(
                f"expected the Parquet file of an evaluation, got: {error}", file=str(path)
            ) from error
        metadata = table.schema.metadata or {}
        if _PROTOCOL not in metadata or table.column_names[:1] != [_USER]:
            raise DataError(
                "expected results by user as `UserResults.write` writes them, got columns "
                f"{table.column_names[:8]}.",
                file=str(path),
            )
        values = {name: table[name].to_numpy() for name in table.column_names[1:]}
        users = np.array(table[_USER].to_pylist())
        return cls(users, values, json.loads(metadata[_PROTOCOL]))
