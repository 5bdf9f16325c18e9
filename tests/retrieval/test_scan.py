import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.retrieval.rows import Rows
from recsys.retrieval.scan import Hidden, rescore, scan


@given(st.integers(1, 30), st.integers(1, 30), st.integers(1, 9), st.integers(0, 2**31))
@settings(max_examples=100, deadline=None)
def test_blocks_do_not_matter(size, k, block, seed):
    random = torch.Generator().manual_seed(seed)
    scores = torch.randint(0, 4, (3, size), generator=random).float()
    mask = torch.rand(size, generator=random) < 0.7
    pairs = torch.randint(0, 3 * size, (5,), generator=random)
    closed = scores.clone()
    closed[1:, ~mask] = -torch.inf
    closed.view(-1)[pairs] = -torch.inf
    k = min(k, size)
    values, rows = scan(
        lambda a, b: scores[:, a:b].clone(),
        size,
        k,
        [(torch.tensor([1, 2]), mask)],
        Hidden.of(pairs // size, pairs % size),
        block,
    )
    for query in range(3):
        order = sorted(range(size), key=lambda i: (-closed[query, i].item(), i))
        order = [i for i in order[:k] if closed[query, i] > -torch.inf]
        assert rows[query, values[query] > -torch.inf].tolist() == order


def test_rescoring_orders_candidates_by_exact_products():
    table = Rows(torch.tensor([[1.0], [5.0], [3.0], [3.0]]))
    values = torch.tensor([[0.0, 0.0, 0.0, -torch.inf]])
    rows = torch.tensor([[3, 0, 2, 1]])
    best, found = rescore(torch.tensor([[2.0]]), values, rows, table, 2)
    assert (best.tolist(), found.tolist()) == ([[6.0, 6.0]], [[2, 3]])


def test_hidden_pairs_find_their_new_numbers():
    hidden = Hidden.of(torch.tensor([0, 2, 2, 1]), torch.tensor([5, 9, 3, 5]))
    assert hidden.rows.tolist() == [3, 5, 5, 9]
    part = hidden.within(torch.tensor([2, 0]), 3)
    assert sorted(zip(part.queries.tolist(), part.rows.tolist())) == [(0, 3), (0, 9), (1, 5)]
    few = part.among(torch.tensor([5, 7, 9]))
    assert sorted(zip(few.queries.tolist(), few.rows.tolist())) == [(0, 2), (1, 0)]
