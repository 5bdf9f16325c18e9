"""MUVERA's encodings against their definition, bucket by bucket."""

import numpy as np
import pytest
import torch

from recsys.errors import DataError
from recsys.retrieval.fixed_encodings import FixedEncodings
from recsys.retrieval.vector_sets import VectorSets, max_sim

RANDOM = np.random.default_rng(0)


def unit_sets(count, low, high, dim=8):
    made = [RANDOM.normal(size=(RANDOM.integers(low, high), dim)) for _ in range(count)]
    return VectorSets.of([m / np.linalg.norm(m, axis=1, keepdims=True) for m in made])


SETS = unit_sets(6, 1, 6)


@pytest.mark.parametrize("fill", [True, False])
@pytest.mark.parametrize("projected", [None, 3])
def test_buckets_one_by_one(fill, projected):
    encodings = FixedEncodings(8, bits=3, repetitions=2, projected=projected, fill=fill, seed=4)
    width = projected or 8
    queries = encodings.queries(SETS).view(6, 2, 8, width)
    documents = encodings.documents(SETS).view(6, 2, 8, width)
    for number in range(6):
        rows = SETS[number]
        for cut in range(2):
            side = (rows @ encodings._planes[cut] > 0).int()
            bucket = (side * torch.tensor([1, 2, 4])).sum(1).tolist()
            values = rows if projected is None else rows @ encodings._sketches[cut]
            for place in range(8):
                own = values[[b == place for b in bucket]]
                torch.testing.assert_close(queries[number, cut, place], own.sum(0) / 2)
                if len(own):
                    wanted = own.mean(0)
                elif fill:
                    far = [bin(b ^ place).count("1") for b in bucket]
                    wanted = values[far.index(min(far))]
                else:
                    wanted = torch.zeros(width)
                torch.testing.assert_close(documents[number, cut, place], wanted)


def test_the_sketches_keep_products_in_expectation():
    """Without hyperplanes the product is that of the sum and the mean, exactly or on average."""
    sums = torch.stack([SETS[n].sum(0) for n in range(6)])
    plain = FixedEncodings(8, bits=0, repetitions=1)
    exact = sums @ SETS.means().T
    torch.testing.assert_close(plain.queries(SETS) @ plain.documents(SETS).T, exact)
    for options in ({"projected": 4}, {"final": 16}):
        total = torch.zeros(6, 6)
        for seed in range(150):
            made = FixedEncodings(8, bits=0, repetitions=4, seed=seed, **options)
            total += made.queries(SETS) @ made.documents(SETS).T / 150
        assert float((total - exact).abs().max()) < 0.35, options
        assert float((total - exact).square().mean().sqrt()) < 0.12, options


def test_more_repetitions_find_more_of_the_exact_best():
    documents, queries = unit_sets(300, 10, 20), unit_sets(20, 10, 20)
    true = torch.stack([max_sim(queries[n], documents) for n in range(20)]).topk(10).indices

    def kept(**options):
        made = FixedEncodings(8, bits=3, **options)
        best = (made.queries(queries) @ made.documents(documents).T).topk(50).indices
        return float((best[:, :, None] == true[:, None]).any(1).float().mean())

    few, many = kept(repetitions=1), kept(repetitions=30)
    assert many > few + 0.1
    means = (queries.means() @ documents.means().T).topk(50).indices
    assert many > float((means[:, :, None] == true[:, None]).any(1).float().mean())


def test_blocks_change_nothing_and_sets_of_none_are_zero(monkeypatch):
    sets = VectorSets.of([SETS[0], [], SETS[3]])
    made = FixedEncodings(8, bits=2, repetitions=3, projected=5, final=40)
    whole = made.documents(sets), made.queries(sets)
    monkeypatch.setattr("recsys.retrieval.fixed_encodings._FLOATS", 1)
    assert torch.equal(whole[0], made.documents(sets)) and torch.equal(whole[1], made.queries(sets))
    assert not whole[0][1].any() and not whole[1][1].any() and whole[0].shape == (3, 40)


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: FixedEncodings(8, bits=13), "`bits` must be"),
        (lambda: FixedEncodings(8, repetitions=0), "`repetitions` must be"),
        (lambda: FixedEncodings(8, projected=0), "`projected` must be"),
        (lambda: FixedEncodings(4).queries(SETS), "vectors of 4 values, got sets of 8"),
    ],
)
def test_bad_input_is_named(call, text):
    with pytest.raises(DataError, match=text):
        call()
