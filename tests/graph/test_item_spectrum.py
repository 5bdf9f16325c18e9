"""Against a singular value decomposition of the dense matrix."""

import numpy as np
import torch

from recsys.graph.interactions import Interactions, Names
from recsys.graph.item_spectrum import ItemSpectrum, unit_rows


def pairs() -> Interactions:
    random = np.random.default_rng(0)
    user, item = np.nonzero(random.random((12, 8)) < 0.4)
    there = item != 5
    return Interactions(Names(range(12)), Names(range(8)), user[there], item[there])


def test_cosines_are_those_of_the_dense_decomposition():
    found, width = pairs(), 3
    spectrum = ItemSpectrum(found, width)
    spectrum.initialize()
    dense = np.zeros((12, 8))
    dense[found.user, found.item] = 1
    users, items = (np.sqrt(np.maximum(dense.sum(axis), 1)) for axis in (1, 0))
    _, _, axes = np.linalg.svd(dense / users[:, None] / items)
    rows = unit_rows(axes[:width].T)
    rows[5] = 0  # an item that nobody took
    expected = rows @ rows.T
    np.testing.assert_allclose(spectrum.values @ spectrum.values.T, expected, atol=1e-5)


def test_it_is_computed_again_from_the_pairs_and_not_drawn():
    one, two = (ItemSpectrum(pairs(), 4) for _ in range(2))
    one.initialize()
    torch.manual_seed(7)
    two.initialize()
    torch.testing.assert_close(one.values, two.values)


def test_rows_of_zeros_stay():
    found = unit_rows(np.array([[0.0, 0.0], [0.0, -2.0]]))
    np.testing.assert_array_equal(found, [[0, 0], [0, -1]])
    assert found.dtype == np.float32
