"""Compiled products against numpy, at widths and counts that end everywhere, and against torch."""

import logging

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.retrieval import code_products
from recsys.retrieval.code_products import few, level_products, pair_dots, table_sums
from recsys.retrieval.codes import ScannedCodes
from recsys.retrieval.index import Index
from recsys.retrieval.prefix_codes import PrefixCodes
from recsys.retrieval.product_codes import ProductCodes
from recsys.retrieval.recurrent_codes import RecurrentCodes
from recsys.retrieval.rows import Rows
from recsys.retrieval.scalar_codes import ScalarCodes
from recsys.retrieval.scan import rescore
from recsys.retrieval.sign_codes import SignCodes


def test_it_was_built():
    assert code_products.library() is not None, "_code_products is not built: run `make`."
    assert few(1) and few(7) and not few(8)


@given(
    st.integers(1, 30), st.integers(1, 40), st.integers(1, 9), st.sampled_from([8, 4]),
    st.integers(0, 2**31),
)  # fmt: skip
@settings(max_examples=200, deadline=None)
def test_levels(rows, dims, queries, bits, seed):
    """Whole numbers, so that sums are exact in any order."""
    random = np.random.default_rng(seed)
    levels = random.integers(0, 2**bits, (rows, dims))
    weights, bias = random.integers(-9, 9, (queries, dims)), random.integers(-9, 9, queries)
    codes = levels
    if bits == 4:
        width = (dims + 1) // 2
        codes = levels[:, :width].copy()
        codes[:, : dims - width] |= levels[:, width:] << 4
    found = level_products(
        torch.tensor(weights, dtype=torch.float32), torch.tensor(bias, dtype=torch.float32),
        torch.tensor(codes, dtype=torch.uint8), bits,
    )  # fmt: skip
    assert found.tolist() == (weights @ levels.T + bias[:, None]).tolist()


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("width", [255, 256, 257, 520, 1031])
def test_levels_of_wide_codes(bits, width):
    """More than is unpacked at once."""
    random = np.random.default_rng(0)
    dims = width if bits == 8 else 2 * width - 1
    codes = random.integers(0, 256, (21, width))
    weights = random.integers(-3, 4, (5, dims))
    levels = codes if bits == 8 else np.concatenate([codes & 15, codes >> 4], 1)[:, :dims]
    found = level_products(
        torch.tensor(weights, dtype=torch.float32), torch.zeros(5),
        torch.tensor(codes, dtype=torch.uint8), bits,
    )  # fmt: skip
    assert found.tolist() == (weights @ levels.T).tolist()


@given(st.integers(1, 20), st.integers(1, 20), st.integers(1, 7), st.integers(0, 2**31))
@settings(max_examples=100, deadline=None)
def test_tables(rows, width, queries, seed):
    random = np.random.default_rng(seed)
    tables = random.integers(-99, 99, (queries, width, 256))
    codes = random.integers(0, 256, (rows, 3, width))[:, 1]  # rows that are apart
    expected = [[sum(t[j, c[j]] for j in range(width)) for c in codes] for t in tables]
    taken = torch.from_numpy(codes.astype(np.uint8).repeat(3, 0)).view(rows, 3, width)[:, 1]
    assert table_sums(torch.from_numpy(tables).float(), taken).tolist() == expected


@given(st.integers(1, 40), st.integers(1, 37), st.integers(0, 2**31))
@settings(max_examples=100, deadline=None)
@pytest.mark.parametrize("compiled", [True, False])
def test_pairs_are_summed_in_float64(compiled, pairs, dim, seed):
    random = torch.Generator().manual_seed(seed)
    queries = torch.randn(3, dim, generator=random) * 1e4
    table = torch.randn(5, dim, generator=random)
    query = torch.randint(0, 3, (pairs,), generator=random)
    rows = torch.randint(0, 5, (pairs,), generator=random)
    expected = (queries.double() @ table.double().T)[query, rows].float()
    with pytest.MonkeyPatch.context() as patch:
        if not compiled:
            patch.setattr(code_products, "library", lambda: None)
        found = pair_dots(queries, query, table, rows)
    assert torch.equal(found, expected) or torch.allclose(found, expected, rtol=1e-7, atol=1e-9)


def test_threads_do_not_matter():
    random = torch.Generator().manual_seed(0)
    codes = torch.randint(0, 256, (30_011, 24), generator=random, dtype=torch.uint8)
    weights, bias = torch.randn(3, 24, generator=random), torch.randn(3, generator=random)
    tables = torch.randn(2, 24, 256, generator=random)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            found.append((level_products(weights, bias, codes, 8), table_sums(tables, codes)))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(one, other) for one, other in zip(*found))


@pytest.mark.parametrize(
    "codes",
    [
        ScalarCodes(8), ScalarCodes(4), ScalarCodes(4, 7), SignCodes(3), ProductCodes(5),
        RecurrentCodes(20, 2, epochs=1, hidden=8), PrefixCodes(9, 16), PrefixCodes(9, 4),
    ],
    ids=lambda codes: codes.name,
)  # fmt: skip
def test_both_ways_score_alike(codes: ScannedCodes, monkeypatch):
    random = torch.Generator().manual_seed(0)
    vectors = torch.randn(9001, 21, generator=random)
    queries = torch.randn(3, 21, generator=random)
    rows = {name: Rows(part) for name, part in codes.build(vectors).items()}
    prepared = codes.prepare(queries)
    compiled = codes.scores(prepared, rows, 100, 9000)
    monkeypatch.setattr(code_products, "library", lambda: None)
    plain = codes.scores(prepared, rows, 100, 9000)
    assert torch.allclose(compiled, plain, rtol=1e-5, atol=1e-5 * float(plain.abs().max()))
    if not isinstance(codes, RecurrentCodes):
        decoded = codes.decode({name: part.block(100, 9000) for name, part in rows.items()})
        assert torch.allclose(compiled, queries @ decoded.T, atol=1e-2)


def test_appended_rows_are_scored_again_where_they_lie():
    random = torch.Generator().manual_seed(0)
    vectors, queries = torch.randn(50, 6, generator=random), torch.randn(2, 6, generator=random)
    rows = torch.arange(50).repeat(2, 1)
    expected = rescore(queries, torch.zeros(2, 50), rows, Rows(vectors), 7)
    grown = Rows(vectors[:30]).append(vectors[30:41]).append(vectors[41:])
    for one, other in zip(rescore(queries, torch.zeros(2, 50), rows, grown, 7), expected):
        assert torch.equal(one, other)


def test_a_search_without_a_build_finds_the_same(monkeypatch, caplog):
    vectors = np.random.default_rng(0).normal(size=(3000, 16))
    index = Index(vectors, range(3000), codes=ScalarCodes(4))
    found = index.search(vectors[:5], 10)
    code_products.library.cache_clear()
    monkeypatch.setattr(code_products, "_ABI", -1)
    try:
        with caplog.at_level(logging.WARNING):
            again = index.search(vectors[:5], 10)
        assert "looked through by torch" in caplog.text
    finally:
        code_products.library.cache_clear()
    assert found.ids.tolist() == again.ids.tolist()
    assert np.allclose(found.scores, again.scores, rtol=1e-6)
