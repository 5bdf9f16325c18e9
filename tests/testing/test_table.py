"""The table suite on a plain table; and that the suite can fail."""

import pytest

from recsys.embeddings.scheme import Full
from recsys.schema import TableSpec
from recsys.testing.table import SPEC, TableConformance


class TestFull(TableConformance):
    scheme = Full()

    def expected_bytes(self):
        return 40 * 4 * 4


class TestFullWithMeanPooling(TestFull):
    spec = SPEC.model_copy(update={"pooling": "mean"})


class _Halved(Full):
    """A wrong scheme: pretends to hold all rows, but keeps half the width."""

    def part(self, table: TableSpec):
        return super().part(table.model_copy(update={"embedding_dim": table.embedding_dim // 2}))


def test_a_wrong_scheme_is_caught():
    class Wrong(TestFull):
        scheme = _Halved()

    with pytest.raises(AssertionError):
        Wrong().test_bytes_are_the_formula_and_the_storage()


def test_the_formula_must_be_stated():
    with pytest.raises(NotImplementedError, match="state the formula"):
        TableConformance().expected_bytes()
