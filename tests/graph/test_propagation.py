"""The operator against dense matrices, its gradients against numeric ones, and its dropout."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.errors import ConfigError, DataError
from recsys.graph import spmm
from recsys.graph.interaction_graph import InteractionGraph
from recsys.graph.propagation import Adjacency

PAIRS = torch.tensor([[0, 0, 1, 1, 3], [0, 2, 2, 3, 0]])
"""Users 0 to 3 (2 has nothing), items 0 to 4 (1 and 4 have nothing)."""


def graph(weight: torch.Tensor | None = None) -> InteractionGraph:
    return InteractionGraph(4, 5, *PAIRS, weight=weight)


def dense(weight: torch.Tensor | None, norm: str, loops: bool) -> torch.Tensor:
    """The matrix by its definition."""
    a = torch.zeros(9, 9)
    a[PAIRS[0], PAIRS[1] + 4] = torch.ones(5) if weight is None else weight
    a = a + a.T + (torch.eye(9) if loops else 0)
    d = a.sum(1)
    inverse = torch.where(d > 0, 1 / d, 0)
    if norm == "sym":
        return inverse.sqrt()[:, None] * a * inverse.sqrt()
    return inverse[:, None] * a if norm == "row" else a


@pytest.mark.parametrize("loops", [False, True])
@pytest.mark.parametrize("norm", ["sym", "row", "none"])
@pytest.mark.parametrize("weight", [None, torch.tensor([1.0, 2.0, 0.5, 4.0, 3.0])])
def test_bipartite_is_the_dense_matrix(weight, norm, loops):
    adj = Adjacency.bipartite(graph(weight), norm, loops)
    wanted = dense(weight, norm, loops)
    torch.testing.assert_close(adj.to_dense(), wanted)
    torch.testing.assert_close(adj.T.to_dense(), wanted.T)
    assert adj.symmetric == (norm != "row")
    assert (adj.T is adj) == adj.symmetric
    x = torch.randn(9, 7, generator=torch.Generator().manual_seed(0), requires_grad=True)
    grad = torch.randn(9, 7, generator=torch.Generator().manual_seed(1))
    out = adj @ x
    torch.testing.assert_close(out, wanted @ x)
    out.backward(grad)
    torch.testing.assert_close(x.grad, wanted.T @ grad)


def test_isolated_nodes_give_zeros():
    adj = Adjacency.bipartite(graph())
    out = adj @ torch.full((9, 3), 5.0)
    assert out[[2, 5, 8]].eq(0).all()
    assert out.isfinite().all()


@st.composite
def operators(draw):
    rows, cols = draw(st.integers(1, 12)), draw(st.integers(1, 12))
    count = draw(st.integers(0, 40))
    row = torch.tensor(draw(st.lists(st.integers(0, rows - 1), min_size=count, max_size=count)))
    col = torch.tensor(draw(st.lists(st.integers(0, cols - 1), min_size=count, max_size=count)))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 999)))
    values = torch.rand(count, generator=generator)
    x = torch.randn(cols, draw(st.sampled_from([1, 3, 16, 37, 64, 150, 300])), generator=generator)
    return row.long(), col.long(), rows, cols, values, x


@settings(max_examples=60, deadline=None)
@given(operators())
def test_any_edges_repeated_ones_too(operator):
    row, col, rows, cols, values, x = operator
    adj = Adjacency.from_edges(row, col, rows, cols, values)
    wanted = torch.zeros(rows, cols).index_put((row, col), values, accumulate=True)
    torch.testing.assert_close(adj @ x, wanted @ x, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(adj.T.to_dense(), wanted.T)
    torch.testing.assert_close(adj.T.T.to_dense(), wanted)
    assert torch.equal(adj.row, row[adj.edge_order].int())
    assert torch.equal(adj.values, values[adj.edge_order])
    keep = values[adj.edge_order] > 0.5
    taken = adj.pattern.take(keep.nonzero()[:, 0])
    kept = Adjacency(taken, adj.values[keep])
    left = torch.where(values > 0.5, values, 0)
    wanted = torch.zeros(rows, cols).index_put((row, col), left, accumulate=True)
    torch.testing.assert_close(kept.to_dense(), wanted)
    torch.testing.assert_close(kept.T.to_dense(), wanted.T)


@pytest.mark.parametrize("double", [True, False])
def test_gradients_of_rows_and_values(double):
    generator = torch.Generator().manual_seed(3)
    row = torch.tensor([0, 0, 1, 1, 1, 3, 3])
    col = torch.tensor([1, 2, 0, 2, 2, 4, 0])
    adj = Adjacency.from_edges(row, col, 4, 5)
    values = torch.rand(7, dtype=torch.float64, generator=generator, requires_grad=True)
    x = torch.randn(5, 19, dtype=torch.float64, generator=generator, requires_grad=True)
    if double:
        assert torch.autograd.gradcheck(lambda v, x: adj.reweight(v) @ x, (values, x))
        assert torch.autograd.gradcheck(lambda v, x: adj.reweight(v).T @ (adj @ x), (values, x))
        return
    wanted = torch.autograd.grad((adj.reweight(values) @ x).square().sum(), (values, x))
    v, y = values.detach().float().requires_grad_(), x.detach().float().requires_grad_()
    found = torch.autograd.grad((adj.reweight(v) @ y).square().sum(), (v, y))
    for one, other in zip(found, wanted):
        torch.testing.assert_close(one.double(), other, atol=1e-4, rtol=1e-4)


def test_values_may_be_trained_in_place():
    edge = torch.tensor([0, 1, 1])
    values = torch.nn.Parameter(torch.ones(3))
    adj = Adjacency.from_edges(edge, torch.tensor([0, 0, 1]), 2, 2).reweight(values)
    x = torch.ones(2, 1, requires_grad=True)
    for step in (1.0, 3.0):
        with torch.no_grad():
            values.fill_(step)
        out = adj @ x
        assert out.flatten().tolist() == [step, 2 * step]
        assert torch.autograd.grad(out.sum(), x)[0].flatten().tolist() == [2 * step, step]


def test_a_gradient_reaches_the_caller_s_edge_values():
    values = torch.tensor([1.0, 2.0, 3.0], requires_grad=True)
    adj = Adjacency.from_edges(torch.tensor([1, 0, 1]), torch.tensor([0, 1, 1]), 2, 2, values)
    (adj @ torch.tensor([[10.0], [100.0]])).sum().backward()
    assert values.grad.tolist() == [10, 100, 100]


@pytest.mark.parametrize("norm", ["sym", "row"])
@pytest.mark.parametrize("combine", ["mean", "sum", "last", "stack"])
@pytest.mark.parametrize("learned", [False, True])
def test_propagate_is_the_polynomial(norm, combine, learned):
    adj = Adjacency.bipartite(graph(), norm)
    a = adj.to_dense()
    if learned:
        adj = adj.reweight(adj.values.clone().requires_grad_())
    x = torch.randn(9, 6, generator=torch.Generator().manual_seed(0), requires_grad=True)
    y = x.detach().clone().requires_grad_()
    layers = [y, a @ y, a @ a @ y, a @ a @ a @ y]
    wanted = {"mean": sum(layers) / 4, "sum": sum(layers), "last": layers[3]}
    wanted["stack"] = torch.stack(layers, 1)
    found = adj.propagate(x, 3, combine)
    torch.testing.assert_close(found, wanted[combine])
    found.square().sum().backward()
    wanted[combine].square().sum().backward()
    torch.testing.assert_close(x.grad, y.grad)


def test_no_layer_is_the_input_and_does_not_change_it():
    x = torch.ones(9, 2)
    adj = Adjacency.bipartite(graph())
    for combine in ("mean", "sum", "last"):
        assert torch.equal(adj.propagate(x, 0, combine), x)
    adj.propagate(x, 2, "sum")
    assert x.eq(1).all()


def big(seed=0, nodes=3000, edges=30_000):
    rng = np.random.default_rng(seed)
    keys = np.unique(rng.integers(0, nodes * nodes, edges))
    user, item = torch.from_numpy(keys // nodes), torch.from_numpy(keys % nodes)
    return InteractionGraph(nodes, nodes, user, item)


def test_threads_do_not_change_a_bit():
    adj = Adjacency.bipartite(big())
    x = torch.randn(6000, 40)
    values = torch.rand(adj.num_edges, requires_grad=True)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            y = x.clone().requires_grad_()
            out = adj.reweight(values) @ y
            found.append([out, *torch.autograd.grad(out.square().sum(), (y, values))])
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other))


def test_torch_gives_the_same_without_the_kernels(monkeypatch):
    assert spmm.library() is not None, "recsys.graph._spmm is not built: run `make`."
    adj = Adjacency.bipartite(big(nodes=400, edges=3000), "row")
    x = torch.randn(800, 33, requires_grad=True)
    values = adj.values.clone().requires_grad_()

    def results():
        out = adj.reweight(values) @ adj.propagate(x, 2)
        return [out, *torch.autograd.grad(out.square().sum(), (x, values))]

    wanted = results()
    monkeypatch.setattr(spmm, "library", lambda: None)
    for one, other in zip(results(), wanted):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_half_rows_come_back_in_their_dtype():
    adj = Adjacency.bipartite(graph())
    x = torch.randn(9, 4)
    out = adj @ x.bfloat16()
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), adj @ x.bfloat16().float(), atol=0.02, rtol=0.02)


def test_softmax_is_that_of_every_row():
    row = torch.tensor([2, 0, 0, 2, 2])
    adj = Adjacency.from_edges(row, torch.tensor([0, 1, 2, 2, 1]), 4, 3)
    scores = torch.tensor([[0.3, 900.0], [-1.0, 2.0], [5.0, 1.0], [4.0, -900.0], [2.0, 7.0]])
    found = adj.softmax(scores)
    for number in (0, 2):
        mine = adj.row == number
        torch.testing.assert_close(found[mine], scores[mine].softmax(0))
    one = torch.randn(5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(adj.softmax, (one,))
    assert adj.softmax(torch.full((5,), -torch.inf)).eq(0).all()


# --------------------------------------------------------------------------------- dropout


@pytest.mark.parametrize("norm", ["sym", "row"])
def test_dropped_edges_go_in_both_directions(norm):
    adj = Adjacency.bipartite(big(), norm)
    for drop in (adj.drop_edges, adj.drop_nodes):
        view = drop(0.4, torch.Generator().manual_seed(0))
        matrix = view.reweight(torch.ones(view.num_edges))
        assert view.pattern.symmetric and matrix.symmetric
        x = torch.randn(6000, 5, requires_grad=True)
        (view @ x).sum().backward()
        sums = torch.zeros(6000).index_add(0, view.col.long(), view.values)
        torch.testing.assert_close(x.grad[:, 0], sums, atol=1e-5, rtol=1e-4)


def test_what_is_left_is_normalized_anew():
    weight = torch.tensor([1.0, 2.0, 0.5, 4.0, 3.0])
    for given_weight in (None, weight):
        adj = Adjacency.bipartite(graph(given_weight))
        view = adj.drop_edges(0.5, torch.Generator().manual_seed(4))
        assert 0 < view.num_edges < adj.num_edges
        left = (view.row < 4).nonzero()[:, 0]
        user, item = view.row[left].long(), view.col[left].long() - 4
        kept = None
        if given_weight is not None:
            kept = view.weights[left]
            wanted = torch.zeros(4, 5).index_put(tuple(PAIRS), weight)
            assert torch.equal(kept, wanted[user, item])
        again = Adjacency.bipartite(InteractionGraph(4, 5, user, item, kept))
        torch.testing.assert_close(view.to_dense(), again.to_dense())


def test_share_of_dropped_edges_and_nodes():
    adj = Adjacency.bipartite(big())
    generator = torch.Generator().manual_seed(0)
    for p in (0.1, 0.5, 0.9):
        kept = adj.drop_edges(p, generator).num_edges / adj.num_edges
        assert abs(kept - (1 - p)) < 4 * (p * (1 - p) / (adj.num_edges / 2)) ** 0.5
        view = adj.drop_nodes(p, generator)
        kept = view.num_edges / adj.num_edges
        assert abs(kept - (1 - p) ** 2) < 0.05
        alive = (torch.bincount(view.row, minlength=6000) > 0).float().mean()
        assert alive <= 1 - p + 0.03


def test_without_renormalizing_sums_are_right_on_average():
    adj = Adjacency.bipartite(big(nodes=200, edges=4000))
    generator, x = torch.Generator().manual_seed(0), torch.rand(400, 3)
    wanted = adj @ x
    for drop in (adj.drop_edges, adj.drop_nodes):
        mean = sum(drop(0.3, generator, renormalize=False) @ x for _ in range(300)) / 300
        assert ((mean - wanted).mean() / wanted.mean()).abs() < 0.01


def test_added_self_loops_stay():
    adj = Adjacency.bipartite(graph(), self_loops=True)
    loops = adj.row == adj.col
    for renormalize in (True, False):
        for drop in (adj.drop_edges, adj.drop_nodes):
            view = drop(0.9, torch.Generator().manual_seed(1), renormalize)
            kept = view.row == view.col
            assert kept.sum() == 9
            if not renormalize:
                assert torch.equal(view.values[kept], adj.values[loops])


def test_a_random_walk_has_another_graph_in_every_layer():
    adj = Adjacency.bipartite(big())
    views = adj.random_walk(0.5, 3, torch.Generator().manual_seed(0))
    again = adj.random_walk(0.5, 3, torch.Generator().manual_seed(0))
    assert len({view.num_edges for view in views}) == 3
    assert all(torch.equal(a.col, b.col) for a, b in zip(views, again))


def test_an_operator_made_for_inference_serves_training_too():
    adj = Adjacency.bipartite(graph(), "row")
    with torch.inference_mode():
        adj @ torch.ones(9, 2)
        adj.softmax(torch.ones(10))
        assert not adj.symmetric
    x = torch.ones(9, 2, requires_grad=True)
    scores = torch.ones(10, requires_grad=True)
    (adj.reweight(adj.softmax(scores)) @ (adj @ x)).sum().backward()
    assert x.grad is not None and scores.grad is not None


# ---------------------------------------------------------------------------------- errors


def test_bad_input_is_named():
    adj = Adjacency.bipartite(graph())
    edge = torch.tensor([0])
    with pytest.raises(DataError, match=r"expected floating-point rows \(9, D\), got \(8, 2\)"):
        adj @ torch.ones(8, 2)
    with pytest.raises(DataError, match=r"torch.int64"):
        adj.propagate(torch.ones(9, 2).long(), 1)
    with pytest.raises(DataError, match="expected 10 values, got"):
        adj.reweight(torch.ones(3))
    with pytest.raises(DataError, match="expected 10 scores, got"):
        adj.softmax(torch.ones(3))
    with pytest.raises(DataError, match="`col` from 0 to 1, got 2 to 2"):
        Adjacency.from_edges(edge, edge + 2, 2, 2)
    with pytest.raises(DataError, match="expected integers as `row`"):
        Adjacency.from_edges(edge.float(), edge, 2, 2)
    with pytest.raises(DataError, match="as many rows as columns"):
        Adjacency.from_edges(edge, torch.tensor([0, 1]), 2, 2)
    with pytest.raises(DataError, match=r"0 or more, got -1"):
        Adjacency.from_edges(edge, edge, 2, 2, torch.tensor([-1.0]), "sym")
    with pytest.raises(DataError, match=r"finite weights, 0 or more, got nan"):
        Adjacency.from_edges(edge, edge, 2, 2, torch.tensor([torch.nan]))
    with pytest.raises(DataError, match="a value of each of 1 edges"):
        Adjacency.from_edges(edge, edge, 2, 2, torch.ones(2))
    with pytest.raises(ConfigError, match="no gradient of the weights"):
        Adjacency.from_edges(edge, edge, 2, 2, torch.ones(1, requires_grad=True), "row")
    with pytest.raises(ConfigError, match="square matrix, got 2 by 3"):
        Adjacency.from_edges(edge, edge, 2, 3, self_loops=True)
    with pytest.raises(ConfigError, match="sym, row or none, got 'rw'"):
        Adjacency.from_edges(edge, edge, 2, 3, norm="rw")
    with pytest.raises(ConfigError, match="square matrix and 0 or more layers"):
        Adjacency.from_edges(edge, edge, 2, 3).propagate(torch.ones(3, 1), 1)
    with pytest.raises(ConfigError, match="mean, sum, last or stack"):
        adj.propagate(torch.ones(9, 1), 1, "max")
    with pytest.raises(ConfigError, match=r"below 1, got 1.0"):
        adj.drop_edges(1.0)
