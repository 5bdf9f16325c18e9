import numpy as np
import pytest
import torch

from recsys.errors import DataError
from recsys.retrieval.vector_sets import VectorSets, max_sim

RANDOM = np.random.default_rng(0)
SETS = [RANDOM.normal(size=(n, 5)).astype(np.float32) for n in (3, 1, 0, 7, 2)]


def test_max_sim_is_the_double_loop(monkeypatch):
    documents = VectorSets.of(SETS)
    for query in (SETS[0], SETS[3]):
        wanted = [
            sum(max(float(q @ d) for d in document) for q in query) if len(document) else -np.inf
            for document in SETS
        ]
        for floats in (1 << 22, 1):
            monkeypatch.setattr("recsys.retrieval.vector_sets._FLOATS", floats)
            found = max_sim(torch.from_numpy(query), documents)
            np.testing.assert_allclose(found.numpy(), wanted, rtol=1e-4, atol=1e-5)


def test_parts_of_sets():
    sets = VectorSets.of(SETS)
    assert [len(sets[n]) for n in range(5)] == sets.sizes.tolist() == [3, 1, 0, 7, 2]
    taken = sets.take(torch.tensor([3, 2, 0, 3]))
    for place, number in enumerate((3, 2, 0, 3)):
        np.testing.assert_array_equal(taken[place].numpy(), SETS[number])
    means = sets.means()
    np.testing.assert_allclose(means[3].numpy(), SETS[3].mean(0), rtol=1e-5)
    assert not means[2].any()
    assert sets.owners().tolist() == [0, 0, 0, 1] + [3] * 7 + [4, 4]


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: VectorSets.of([[], []]), "a vector in at least one set"),
        (lambda: VectorSets.of([SETS[0], np.ones((2, 4))]), "5 values in every vector, got 4 in"),
        (lambda: VectorSets.of([SETS[0] * np.nan]), r"sets\[0\].*finite"),
        (lambda: VectorSets(SETS[0], [0, 2, 1, 3]), "must rise"),
        (lambda: VectorSets(SETS[0], [0, 2]), "must rise from 0 to the 3 vectors"),
        (lambda: max_sim(torch.ones(1, 4), VectorSets.of(SETS)), "vectors of 5 values"),
    ],
)
def test_bad_sets_are_named(call, text):
    with pytest.raises(DataError, match=text):
        call()
