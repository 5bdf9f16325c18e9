"""Weights of pairs of items: by hand, and against the dense product."""

import math

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array, random_array

from recsys.errors import DataError, TrainingError
from recsys.graph import item_similarity
from recsys.graph.item_similarity import ItemWeights, neighbours, row_blocks, top_of_rows, weighted
from recsys.graph.products import transposed

DENSE = torch.tensor([[0.0, 2.0, -1.0], [0.5, 0.0, 0.0], [3.0, 0.25, 0.0]])
HISTORY = csr_array(np.array([[1, 0, 1], [0, 0, 0], [0, 2, 0]], np.float32))


def weights(sparse: bool) -> ItemWeights:
    made = ItemWeights(3)
    made.assign(csr_array(DENSE.numpy()) if sparse else DENSE.clone())
    return made


@pytest.mark.parametrize("sparse", [False, True])
def test_scores_rows_and_columns_by_hand(sparse):
    made = weights(sparse)
    assert made.is_sparse is sparse
    assert made(HISTORY).tolist() == [[3.0, 2.25, -1.0], [0.0, 0.0, 0.0], [1.0, 0.0, 0.0]]
    assert made.column(torch.tensor([2, 0]), 1).tolist() == [0.25, 2.0]
    assert made.rows(torch.tensor([1])).tolist() == [[0.5, 0.0, 0.0]]


@pytest.mark.parametrize("sparse", [False, True])
def test_a_state_dict_holds_them(sparse):
    made, fresh = weights(sparse), weights(not sparse)
    fresh.load_state_dict(made.state_dict())
    assert fresh.is_sparse is sparse
    assert torch.equal(fresh(HISTORY), made(HISTORY))


def test_errors():
    with pytest.raises(TrainingError, match="only built"):
        ItemWeights(3)(HISTORY)
    with pytest.raises(DataError, match="expected a history with 3 columns"):
        weights(True)(csr_array((1, 4), dtype=np.float32))


def test_top_of_rows_keeps_those_in_front_of_equal_ones():
    matrix = csr_array(np.array([[1, 2, 2, 2, 3], [0, 5, 0, 0, 0], [4, 3, 2, 1, 9]]))
    wanted = [[0, 2, 0, 0, 3], [0, 5, 0, 0, 0], [4, 0, 0, 0, 9]]
    assert top_of_rows(matrix, 2).toarray().tolist() == wanted
    assert top_of_rows(matrix, 5).toarray().tolist() == matrix.toarray().tolist()


@pytest.mark.parametrize("entries", [1, 40, 10**6])
def test_neighbours_do_not_depend_on_blocks(entries, monkeypatch):
    monkeypatch.setattr(item_similarity, "_BLOCK_ENTRIES", entries)
    matrix = csr_array(random_array((30, 12), density=0.3, rng=1, dtype=np.float32))
    factor, said = np.arange(1.0, 13.0, dtype=np.float32), []

    def adjust(block, start):
        block.data *= np.repeat(factor[start : start + block.shape[0]], np.diff(block.indptr))

    found = neighbours(transposed(matrix), matrix, 4, adjust, said.append)
    wanted = factor[:, None] * (matrix.toarray().T @ matrix.toarray())
    np.fill_diagonal(wanted, 0)
    limit = np.sort(wanted, axis=1)[:, -4:-3]
    wanted[wanted < limit] = 0
    np.testing.assert_allclose(found.toarray(), wanted, rtol=1e-5)
    assert said[-1] == "neighbours of 12 of 12 items"
    assert len(said) == len(list(row_blocks(transposed(matrix), matrix)))


def test_blocks_are_all_rows_once_even_empty_ones(monkeypatch):
    monkeypatch.setattr(item_similarity, "_BLOCK_ENTRIES", 3)
    matrix = csr_array(np.array([[0, 1, 1, 0, 0], [0, 1, 0, 0, 0]], np.float32))
    blocks = list(row_blocks(transposed(matrix), matrix))
    assert [row for block in blocks for row in range(*block)] == [0, 1, 2, 3, 4]
    assert len(blocks) > 1


def test_weighting_by_hand():
    matrix = csr_array(np.array([[4, 1, 0], [0, 1, 0]], np.float32))  # popularity 4, 2, 0
    assert weighted(matrix, "none") is matrix
    rare = [math.log(4 / 3), math.log(4 / 2)]
    wanted = [[2 * rare[0], rare[0], 0], [0, rare[1], 0]]
    np.testing.assert_allclose(weighted(matrix, "tfidf").toarray(), wanted, rtol=1e-6)
    long = [1.2 * (0.25 + 0.75 * d / 2) for d in (4, 2)]
    wanted = [
        [rare[0] * 4 * 2.2 / (4 + long[0]), rare[0] * 2.2 / (1 + long[1]), 0],
        [0, rare[1] * 2.2 / (1 + long[1]), 0],
    ]
    np.testing.assert_allclose(weighted(matrix, "bm25").toarray(), wanted, rtol=1e-6)
