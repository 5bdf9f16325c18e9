"""AutoDim against the paper's equations, written out."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from recsys.embeddings.collection import EmbeddingCollection
from recsys.embeddings.compression.auto_dim import AutoDim, WidthMixture
from recsys.embeddings.compression.budget import full_bytes, planned_bytes
from recsys.embeddings.compression.knapsack import choose
from recsys.embeddings.freeze import freeze
from recsys.embeddings.scheme import Full, SearchContext
from recsys.errors import BudgetInfeasible, ConfigError
from recsys.testing.table import SPEC, TableConformance, bag_batch, make_tables, vectors
from tests.embeddings.compression.toy import check_bags, made, regress, round_trip, table


class TestAutoDim(TableConformance):
    scheme = AutoDim(width=2)
    std_tolerance = 0.15  # 39 ids x 2 numbers

    def expected_bytes(self) -> int:
        return 4 * (40 * 2 + 2 * 4)


class TestMean(TestAutoDim):
    spec = SPEC.model_copy(update={"pooling": "mean"})


def mixture(tables: EmbeddingCollection) -> WidthMixture:
    found = tables.decoders["embedding/item"]
    assert isinstance(found, WidthMixture)
    return found


def context(said: list[str] | None = None) -> SearchContext:
    return SearchContext(lambda: 0.5, (said if said is not None else []).append, 1)


def trained_supernet(steps: int = 30) -> EmbeddingCollection:
    tables = made(AutoDim(), SPEC)
    torch.manual_seed(0)
    regress(tables, torch.randn(39, 4), steps)
    return tables


# ------------------------------------------------------------------------------- the supernet


def test_values_are_the_mixture_of_normalised_candidates():
    """Equations 3 to 8 on a batch with repeats and PAD, in evaluation and in training."""
    tables = trained_supernet()
    state, net = tables.state_dict(), mixture(tables)
    with torch.no_grad():
        net.alpha.copy_(torch.tensor([0.3, -1.0]))
    indices = [2, 3, 2, 0, 9]
    rows = [state[f"embedding.item@width{c}.weight"][indices] for c in (2, 4)]
    wide = [r @ state[f"decoders.embedding/item.matrices.{i}.weight"] for i, r in enumerate(rows)]
    logits = torch.log_softmax(torch.tensor([0.3, -1.0]), 0)
    tau = 1 - 5e-5 * 30

    tables.eval()
    p = torch.exp(logits / tau) / torch.exp(logits / tau).sum()
    expected = torch.zeros(5, 4)
    for i in range(2):
        mean = state["decoders.embedding/item.mean"][i]
        variance = state["decoders.embedding/item.variance"][i]
        expected += p[i] * (wide[i] - mean) / torch.sqrt(variance + 1e-5)
    expected[3] = 0
    torch.testing.assert_close(vectors(tables, indices), expected)

    tables.train()
    torch.manual_seed(4)
    uniform = torch.rand(2)
    gumbel = -torch.log(-torch.log(uniform))
    scores = torch.exp((logits + gumbel) / tau)
    expected = torch.zeros(5, 4)
    for i in range(2):
        real = wide[i][[0, 1, 2, 4]]
        normal = (wide[i] - real.mean(0)) / torch.sqrt(real.var(0, unbiased=False) + 1e-5)
        expected += scores[i] / scores.sum() * normal
    expected[3] = 0
    torch.manual_seed(4)
    torch.testing.assert_close(vectors(tables, indices), expected)


def test_running_statistics_are_those_of_batch_normalisation():
    tables = made(AutoDim(), SPEC)
    state = tables.state_dict()
    wide = (
        state["embedding.item@width4.weight"] @ state["decoders.embedding/item.matrices.1.weight"]
    )
    norm = torch.nn.BatchNorm1d(4, affine=False)
    for indices in ([2, 3, 4], [5, 9, 9, 1]):
        vectors(tables, indices)
        norm(wide[indices])
    assert norm.running_mean is not None and norm.running_var is not None
    torch.testing.assert_close(mixture(tables).mean[1], norm.running_mean)
    torch.testing.assert_close(mixture(tables).variance[1], norm.running_var)
    vectors(tables, [7])  # one index has no deviation: the running one is used and kept
    torch.testing.assert_close(mixture(tables).mean[1], norm.running_mean)


def test_temperature_falls_and_sharpens_to_a_sample():
    net = WidthMixture((2, 4), 4, decay=0.01)
    net.initialize()
    with torch.no_grad():
        net.alpha.copy_(torch.tensor([0.0, 1.0]))
    assert net.chances().tolist() == pytest.approx([1 / (1 + math.e), math.e / (1 + math.e)])
    net.steps.fill_(50)
    assert net.chances()[0].item() == pytest.approx(1 / (1 + math.exp(2)))
    net.steps.fill_(10_000)  # at 0.01, not below
    assert net.chances()[0].item() == pytest.approx(math.exp(-100), rel=1e-3)


def test_gradients_reach_rows_matrices_and_alpha():
    tables = made(AutoDim(), SPEC)
    (vectors(tables, [2, 3, 4]) ** 3).sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in tables.parameters())
    assert tables.architecture_parameters() == [mixture(tables).alpha]


def test_training_lowers_the_loss():
    torch.manual_seed(0)
    losses = regress(made(AutoDim(), SPEC), torch.randn(39, 4))
    assert losses[-1] < 0.5 * losses[0]
    losses = regress(made(AutoDim(width=2), SPEC), torch.randn(39, 4))
    assert losses[-1] < 0.7 * losses[0]


def test_alpha_finds_the_better_candidate():
    """Targets that only the wide candidate can give: its chance grows by SGD on alpha."""
    tables, net = made(AutoDim(), SPEC), None
    torch.manual_seed(0)
    targets = torch.nn.functional.normalize(torch.randn(39, 4))
    for _ in range(15):
        regress(tables, targets, 10)
        net = mixture(tables)
        net.alpha.grad = None
        tables.trains_tables = False
        ((vectors(tables, range(1, 40)) - targets) ** 2).mean().backward()
        tables.trains_tables = True
        with torch.no_grad():
            assert net.alpha.grad is not None
            net.alpha -= 0.5 * net.alpha.grad
    assert net is not None and net.alpha[1] > net.alpha[0] + 0.02


def test_state_is_restored_exactly():
    one, other = trained_supernet(), made(AutoDim(), SPEC, seed=2)
    other.load_state_dict({k: v.clone() for k, v in one.state_dict().items()})
    results = []
    for tables in (one, other):
        torch.manual_seed(3)
        targets = torch.randn(39, 4)
        results.append(regress(tables, targets, 5)[-1])
        assert mixture(tables).steps == 35
    assert results[0] == results[1]


# ------------------------------------------------------------------------------- what follows


@pytest.mark.parametrize("alpha", [[2.0, 0.0], [0.0, 2.0]])
def test_the_chosen_table_goes_on_where_the_search_ended(alpha):
    """At temperature 0 the mixture is its best candidate; the successor gives the same vectors."""
    tables, said = trained_supernet(), []
    net = mixture(tables)
    with torch.no_grad():
        net.alpha.copy_(torch.tensor(alpha))
    net.steps.fill_(10**6)
    tables.eval()
    before = vectors(tables, range(1, 40)).detach()
    trained = {"embedding.item": tables.trained()["embedding.item"]}
    found = AutoDim().advance("search", trained, context(said))["embedding.item"]
    width = 2 if alpha[0] else 4
    assert said == [f"embedding.item: width {width} of 4"]
    after = make_tables(found.scheme, SPEC)
    state = after.state_dict()
    assert found.probes is not None
    if width == 4:
        assert found.scheme == Full()
        state["embedding.item.weight"] = found.probes[0]
    else:
        assert isinstance(found.scheme, AutoDim) and found.scheme.width == 2
        assert found.decoder is not None
        state["embedding.item@width2.weight"] = found.probes[0]
        state["decoders.embedding/item.weight"] = found.decoder["weight"]
    after.load_state_dict(state)
    difference = before - vectors(after, range(1, 40))
    if width == 4:
        torch.testing.assert_close(difference, torch.zeros(39, 4), atol=1e-5, rtol=1e-5)
    else:  # equal but for one constant vector that the matrix cannot reach
        torch.testing.assert_close(
            difference - difference[0], torch.zeros(39, 4), atol=1e-5, rtol=1e-5
        )
        matrix = state["decoders.embedding/item.weight"]
        torch.testing.assert_close(
            matrix @ difference[0].detach(), torch.zeros(2), atol=1e-4, rtol=1e-4
        )
    assert not vectors(after, [0]).any()


@pytest.mark.parametrize("budget", [None, 60_000, 30_000, 20_000])
def test_widths_are_the_most_likely_ones_within_the_budget(budget):
    specs = [table("a", 1000), table("b", 300), table("c", 100)]
    plan = AutoDim().plan(specs, budget)
    tables = EmbeddingCollection(
        {"g": specs}, ("a", "b", "c"), schemes={f"g.{n}": s for n, s in plan.items()}
    )
    generator = torch.Generator().manual_seed(2)
    alphas = {}
    for spec in specs:
        net = tables.decoders[f"g/{spec.name}"]
        assert isinstance(net, WidthMixture)
        with torch.no_grad():
            net.alpha.copy_(torch.randn(4, generator=generator))
        alphas[spec.name] = net.alpha.detach().log_softmax(0)
    trained = tables.trained()
    found = AutoDim().advance("search", trained, context())

    def size(spec, width):
        if width == 16:
            return 4 * spec.num_embeddings * 16
        return 4 * (spec.num_embeddings * width + width * 16)

    best, best_score = None, -math.inf
    for widths in itertools.product((2, 4, 8, 16), repeat=3):
        total = sum(size(spec, width) for spec, width in zip(specs, widths))
        score = sum(alphas[s.name][(2, 4, 8, 16).index(w)] for s, w in zip(specs, widths))
        if (budget is None or total <= budget) and score > best_score:
            best, best_score = widths, score
    got = tuple(getattr(found[f"g.{s.name}"].scheme, "width", 16) for s in specs)
    assert got == best
    schemes = {s.name: found[f"g.{s.name}"].scheme for s in specs}
    assert budget is None or planned_bytes(specs, schemes) <= budget


def test_choose_takes_the_smallest_where_nothing_fits():
    assert choose([[0.0, 1.0]], [[5, 9]], budget=3) == [0]
    assert choose([[0.0, 1.0]], [[5, 9]], budget=None) == [1]


# ------------------------------------------------------------------------------- planning


def test_plans_fit_the_budget():
    specs = [table("a", 5000), table("b", 3000), table("c", 40, dim=2)]
    floor = 4 * (5000 * 2 + 32) + 4 * (3000 * 2 + 32) + 4 * 40 * 2
    for ratio in (0.9, 0.6, 0.3, 0.13):
        budget = int(ratio * full_bytes(specs))
        plan = AutoDim().plan(specs, budget)
        assert floor <= planned_bytes(specs, plan) <= budget
        assert plan["c"] == Full()  # of width 2: there is nothing to choose
        scheme = plan["a"]
        assert isinstance(scheme, AutoDim) and scheme.budget == budget - 4 * 40 * 2
        assert scheme.phases()[0].trains_architecture and round_trip(scheme) == scheme
    with pytest.raises(BudgetInfeasible) as caught:
        AutoDim().plan(specs, floor - 1)
    assert caught.value.min_bytes == floor
    assert planned_bytes(specs, AutoDim().plan(specs, floor)) == floor


def test_without_a_budget_bytes_are_those_of_the_widest():
    specs = [table("a", 500)]
    assert planned_bytes(specs, AutoDim().plan(specs, None)) == full_bytes(specs)


def test_a_stated_width_is_trained_once():
    specs = [table("a", 500), table("b", 2)]
    plan = AutoDim(width=4).plan(specs, None)
    assert isinstance(plan["a"], AutoDim) and len(plan["a"].phases()) == 1
    assert plan["b"] == Full()  # 4 (2 * 4 + 4 * 16) bytes are more than 4 * 2 * 16
    with pytest.raises(ConfigError, match="at most the table's 4, got 9"):
        AutoDim(width=9).part(SPEC)


def test_candidates():
    assert AutoDim().widths(table("a", 9, dim=16)) == (2, 4, 8, 16)
    assert AutoDim().widths(table("a", 9, dim=10)) == (2, 4, 8, 10)
    assert AutoDim().widths(table("a", 9, dim=2)) == (2,)
    assert AutoDim(candidates=(4, 1, 99)).widths(table("a", 9, dim=16)) == (1, 4, 16)


@pytest.mark.parametrize("pooling", ["sum", "mean"])
def test_chosen_values_are_rows_times_the_matrix(pooling):
    tables = made(AutoDim(width=2), SPEC.model_copy(update={"pooling": pooling}))
    state = tables.state_dict()
    narrow, matrix = state["embedding.item@width2.weight"], state["decoders.embedding/item.weight"]
    check_bags(tables, (narrow[:, :, None] * matrix[None]).sum(1))


def test_the_supernet_pools_bags():
    tables = trained_supernet().eval()
    two, seven = vectors(tables, [2, 7])
    got = tables(bag_batch([[2, 7, 2], []], [0.5, 2.0, 1.0]))["embedding"]["item"]
    torch.testing.assert_close(got, torch.stack([1.5 * two + 2 * seven, 0 * two]))


@pytest.mark.parametrize("dtype", ["fp32", "fp16", "int8"])
def test_frozen_tables(dtype):
    spec = SPEC.model_copy(update={"embedding_dim": 16})
    tables = made(AutoDim(width=4), spec).eval()
    frozen = freeze(tables, dtype)
    assert frozen.bytes().total == tables.bytes("infer", dtype=dtype).total
    before = vectors(tables, range(40)).detach()
    error = (vectors(frozen, range(40)) - before).abs().max().item()
    assert error == 0 if dtype == "fp32" else 0 < error < 0.02 * before.abs().max().item()
    with pytest.raises(ConfigError, match="has not searched yet"):
        freeze(made(AutoDim(), spec))
