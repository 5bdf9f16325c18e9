"""Results by user, to a file and back."""

import math

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys.errors import DataError
from recsys.evaluate.user_results import UserResults

VALUES = {"recall@2": np.array([0.5, 1 / 3]), "novelty@2": np.array([math.nan, 2.0])}


@pytest.mark.parametrize("users", [np.array(["ann", "bo"]), np.array([7, 2**40])])
def test_written_and_read(tmp_path, users):
    path = tmp_path / "new" / "users.parquet"
    UserResults(users, VALUES, "all items").write(path)
    found = UserResults.read(path)
    assert found.users.tolist() == users.tolist() and found.protocol == "all items"
    for name, column in VALUES.items():
        np.testing.assert_array_equal(found.values[name], column)
    assert [file.name for file in path.parent.iterdir()] == ["users.parquet"]


def test_mean_leaves_out_users_without_a_value():
    found = UserResults(np.array([1, 2]), VALUES | {"none": np.full(2, math.nan)}, "")
    assert found.mean("novelty@2") == 2.0 and math.isnan(found.mean("none"))


def test_what_it_refuses(tmp_path):
    with pytest.raises(DataError, match="every user once"):
        UserResults(np.array([1, 1]), {}, "")
    with pytest.raises(DataError, match=r"expected 2 values of `a`, got \(3,\)"):
        UserResults(np.array([1, 2]), {"a": np.zeros(3)}, "")
    with pytest.raises(DataError, match=r"expected the Parquet file(.|\n)*none\.parquet"):
        UserResults.read(tmp_path / "none.parquet")
    (tmp_path / "bad.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match="expected the Parquet file of an evaluation"):
        UserResults.read(tmp_path / "bad.parquet")
    pq.write_table(pa.table({"user": [1]}), tmp_path / "other.parquet")
    with pytest.raises(DataError, match="expected results by user"):
        UserResults.read(tmp_path / "other.parquet")
