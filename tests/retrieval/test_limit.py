import pytest
import torch

from recsys.errors import DataError
from recsys.retrieval.index import Index
from recsys.retrieval.limit import critical_size, exact_pairs, index_pairs, moment_curve
from recsys.retrieval.scalar_codes import ScalarCodes


def test_the_query_of_a_pair_scores_both_alike_and_all_others_lower():
    items, queries, pairs = moment_curve(9)
    assert (items.shape, queries.shape) == ((9, 4), (36, 4))
    scores = queries @ items.T
    own = scores.gather(1, pairs)
    torch.testing.assert_close(own[:, 0], own[:, 1], rtol=0, atol=1e-12)
    others = scores.scatter(1, pairs, -torch.inf).amax(1)
    assert bool((own.amin(1) - others > 1e-3).all())


def test_precision_ends_before_dimensions_do():
    """Values of the reference: 1.000 / .958 of 20 items, 1.000 / .438 of 80."""
    assert exact_pairs(20) == exact_pairs(20, "float16") == exact_pairs(80) == 1.0
    assert exact_pairs(20, "int8") == pytest.approx(0.958, abs=0.001)
    assert exact_pairs(80, "int8") == pytest.approx(0.438, abs=0.001)
    assert 0.8 < exact_pairs(80, "float16") < 0.9


def test_an_index_is_exact_and_its_codes_are_not():
    items, queries, pairs = moment_curve(40)
    assert index_pairs(Index(items, range(40)), queries, pairs) == 1.0
    assert index_pairs(Index(items, range(40), codes=ScalarCodes(8), rescore=0), queries, pairs) < 1
    rescored = Index(items, range(40), codes=ScalarCodes(8), rescore=5)
    assert index_pairs(rescored, queries, pairs) == 1.0


def test_free_vectors_of_three_dimensions_hold_four_items():
    # By the reference: 3 items in 2 dimensions, 4 in 3.
    assert critical_size(3, largest=5, steps=300) == 4


def test_bad_arguments_are_named():
    with pytest.raises(DataError, match="`num_items` must be"):
        moment_curve(2)
    with pytest.raises(DataError, match="`precision` must be"):
        exact_pairs(9, "int4")
    with pytest.raises(DataError, match="`dim` must be"):
        critical_size(0)
