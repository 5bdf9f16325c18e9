"""OptEmbed against the paper's equations, written out, and its search with a fake validation."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from recsys.embeddings import start_values
from recsys.embeddings.collection import EmbeddingCollection
from recsys.embeddings.compression.budget import full_bytes, planned_bytes
from recsys.embeddings.compression.evolution import Evolution
from recsys.embeddings.compression.opt_embed import OptEmbed
from recsys.embeddings.compression.opt_embed_supernet import Step, Supernet
from recsys.embeddings.freeze import freeze
from recsys.embeddings.scheme import Full, SearchContext, Successor
from recsys.embeddings.store import LocalStore
from recsys.errors import BudgetInfeasible, ConfigError
from recsys.schema import Init
from recsys.testing.table import SPEC, TableConformance, bag_batch, make_tables, vectors
from tests.embeddings.compression.toy import check_bags, made, regress, round_trip, table


class TestOptEmbed(TableConformance):
    """All rows and three of four columns are kept: what can be compared with a full table."""

    scheme = OptEmbed(num_rows=39, width=3)

    def expected_bytes(self) -> int:
        return 4 * 40 * 3

    def test_start_values(self) -> None:
        """Those of a full table in the columns that are there, zero in the others."""
        wide = self.spec.model_copy(update={"embedding_dim": 64})
        tables = make_tables(OptEmbed(num_rows=39, width=48), wide)
        tables.reset_parameters(1)
        first = vectors(tables, self.indices)
        assert first[:, :48].std().item() == pytest.approx(self.spec.init.std, rel=0.1)
        assert not first[:, 48:].any()


class TestMean(TestOptEmbed):
    spec = SPEC.model_copy(update={"pooling": "mean"})


class TestAllColumns(TableConformance):
    """A set of kept rows that has nearly all of them."""

    scheme = OptEmbed(num_rows=39, width=4)

    def expected_bytes(self) -> int:
        return 4 * 40 * 4

    def test_start_values(self) -> None:
        """As above."""


class TestPruned(TableConformance):
    """Rows 1 .. 38 of 39; the set is one word of 8 bytes, 2 and 4 bytes of ranks."""

    scheme = OptEmbed(num_rows=38, width=3)
    spec = SPEC

    def expected_bytes(self) -> int:
        return 4 * 39 * 3 + 14

    @property
    def indices(self) -> list[int]:
        return list(range(1, 39))

    def test_step_reaches_the_right_rows(self) -> None:
        """Index 39 is pruned: training it moves nothing."""
        tables = self.tables()
        before = tables.all_rows("embedding", "item").detach().clone()
        self.step(tables, [39])
        assert torch.equal(tables.all_rows("embedding", "item"), before)
        self.step(tables, [3, 38])
        moved = (tables.all_rows("embedding", "item") != before).any(dim=1)
        assert moved.nonzero().flatten().tolist() == [3, 38]

    def test_start_values(self) -> None:
        """As above."""


def net(tables: EmbeddingCollection, name: str = "item") -> Supernet:
    found = tables.decoders[f"embedding/{name}"]
    assert isinstance(found, Supernet) and found.threshold is not None
    return found


def set_threshold(tables: EmbeddingCollection, value: float) -> None:
    threshold = net(tables).threshold
    assert threshold is not None
    threshold.data.fill_(value)


def no_context() -> SearchContext:
    return SearchContext(lambda: 0.5, lambda text: None, 1)


# ------------------------------------------------------------------------------- the supernet


def test_the_surrogate_gradient():
    z = torch.tensor([-1.5, -0.8, -0.3, 0.0, 0.1, 0.4, 0.6, 1.0, 1.1], requires_grad=True)
    value = Step.apply(z)
    assert value.tolist() == [0, 0, 0, 0, 1, 1, 1, 1, 1]
    value.sum().backward()
    assert z.grad is not None
    assert z.grad.tolist() == pytest.approx([0, 0.4, 0.8, 2.0, 1.6, 0.4, 0.4, 0.4, 0])


@pytest.mark.parametrize("pooling", ["sum", "mean"])
def test_evaluation_masks_rows_and_columns(pooling):
    tables = made(OptEmbed(), SPEC.model_copy(update={"pooling": pooling})).eval()
    dense = tables.state_dict()["embedding.item@supernet.weight"].clone()
    check_bags(tables, dense)  # threshold 0, all columns: a full table
    set_threshold(tables, 1.6)
    net(tables).width.fill_(3)
    kept = dense.abs().sum(1) > 1.6
    assert 5 < kept.sum() < 35
    dense[~kept] = 0
    dense[:, 3] = 0
    check_bags(tables, dense)


def test_training_draws_a_width_for_every_look_up():
    tables = made(OptEmbed(), SPEC)
    dense = tables.state_dict()["embedding.item@supernet.weight"]
    torch.manual_seed(3)
    widths = torch.randint(1, 5, (400, 1))
    torch.manual_seed(3)
    got = vectors(tables, [7] * 400)
    torch.testing.assert_close(got, dense[7] * (torch.arange(4) < widths))
    assert torch.bincount((got != 0).sum(1), minlength=5).tolist()[0] == 0
    assert min(torch.bincount((got != 0).sum(1))[1:]) > 60  # a quarter each


def test_gradients_are_those_of_the_equations():
    """d/de = m mask g + (g . mask e) surrogate(z) sign(e), d/dt = -(g . mask e) surrogate(z)."""
    tables = made(OptEmbed(alpha=0.5), SPEC).eval()
    set_threshold(tables, 1.6)
    net(tables).width.fill_(3)
    dense = tables.state_dict()["embedding.item@supernet.weight"]
    weight = torch.tensor([1.0, -2.0, 0.5, 3.0])
    mask = torch.tensor([1.0, 1.0, 1.0, 0.0])
    for index in range(1, 40):
        tables.zero_grad()
        (vectors(tables, [index])[0] * weight).sum().backward()
        e = dense[index]
        z = float(e.abs().sum() - 1.6)
        slope = 2 - 4 * abs(z) if abs(z) <= 0.4 else 0.4 if abs(z) <= 1 else 0.0
        through = float((weight * mask * e).sum()) * slope
        expected = (z > 0) * mask * weight + through * e.sign()
        store = tables.store
        assert isinstance(store, LocalStore)
        start, flat = store.first_row[1], store.flat(4).grad
        threshold = net(tables).threshold
        assert flat is not None and threshold is not None and threshold.grad is not None
        torch.testing.assert_close(flat[start + index], expected)
        assert threshold.grad.item() == pytest.approx(-through, abs=1e-5)


def test_the_loss_raises_thresholds_by_sgd():
    tables = made(OptEmbed(alpha=0.5, threshold_learning_rate=0.2), SPEC)
    assert tables.aux_loss().item() == pytest.approx(0.5)  # alpha exp(0), however many calls
    vectors(tables, [1])
    vectors(tables, [2])
    tables.aux_loss().backward()
    tables.after_step(None)
    threshold = net(tables).threshold
    assert threshold is not None
    assert threshold.item() == pytest.approx(0.1)  # - 0.2 * -0.5
    assert threshold.grad is None
    assert tables.architecture_parameters() == [threshold]  # no optimizer has it
    assert tables.aux_loss().item() == pytest.approx(0.5 * math.exp(-0.1))
    tables.eval()
    assert tables.aux_loss().item() == 0


def test_training_prunes_what_is_not_needed():
    torch.manual_seed(0)
    targets = torch.randn(39, 4)
    targets[20:] = 0
    tables = made(OptEmbed(alpha=0.0), SPEC.model_copy(update={"init": Init(std=0.05)}))
    losses = regress(tables, targets, 300)
    assert losses[-1] < losses[0]
    margin = net(tables).margin(tables.state_dict()["embedding.item@supernet.weight"])
    assert margin[1:21].mean() > margin[21:].mean() + 0.5


def test_without_rows_there_is_no_threshold():
    tables = made(OptEmbed(rows=False), SPEC)
    assert tables.architecture_parameters() == [] and tables.aux_loss().item() == 0
    dense = tables.state_dict()["embedding.item@supernet.weight"]
    check_bags(tables.eval(), dense)


def test_state_is_restored_exactly():
    one, other = made(OptEmbed(alpha=0.1), SPEC), made(OptEmbed(alpha=0.1), SPEC, seed=2)
    torch.manual_seed(0)
    targets = torch.randn(39, 4)
    regress(one, targets, 20)
    other.load_state_dict({k: v.clone() for k, v in one.state_dict().items()})
    ends = []
    for tables in (one, other):
        torch.manual_seed(3)
        ends.append((regress(tables, targets, 5), net(tables).threshold))
    assert ends[0][0] == ends[1][0] and torch.equal(ends[0][1], ends[1][1])


# ------------------------------------------------------------------------------- evolution


def test_evolution_keeps_its_elite_and_never_judges_twice():
    judged: list[tuple[int, ...]] = []

    def fitness(genes: tuple[int, ...]) -> float:
        judged.append(genes)
        return -float(sum((gene - 3) ** 2 for gene in genes))

    said: list[str] = []
    search = Evolution(generations=25)
    best = search.run([8, 6, 5], fitness, lambda genes: True, 1, said.append)
    assert best == (3, 3, 3)
    assert len(judged) == len(set(judged)) and judged[0] == (8, 6, 5)
    tops = [float(text.split()[3]) for text in said]
    assert tops == sorted(tops) and len(said) == 26  # never worse
    assert search.run([8, 6, 5], fitness, lambda genes: True, 1, said.append) == best
    assert all(1 <= g <= most for genes in judged for g, most in zip(genes, (8, 6, 5)))


def test_crossover_cuts_between_tables():
    """With parents of all ones and all nines every child is ones then nines, or the reverse."""
    search = Evolution(mutations=0, crossovers=30)
    draw_from = [(1,) * 6, (9,) * 6]
    draw = random.Random(0)
    children = {tuple(search._crossed(draw_from, [9] * 6, draw)) for _ in range(200)}
    for child in children:
        assert sum(one != two for one, two in itertools.pairwise(child)) <= 1
    assert len(children) == 2 + 2 * 5


def test_evolution_stays_within_the_constraint():
    judged: list[tuple[int, ...]] = []

    def fitness(genes: tuple[int, ...]) -> float:
        judged.append(genes)
        return float(3 * genes[0] + genes[1])

    best = Evolution(generations=15).run(
        [8, 8], fitness, lambda genes: sum(genes) <= 9, 1, lambda text: None
    )
    assert best == (8, 1) and all(sum(genes) <= 9 for genes in judged)


# ------------------------------------------------------------------------------- what follows


def advanced(
    tables: EmbeddingCollection, scheme: OptEmbed, wanted: Sequence[int]
) -> dict[str, Successor]:
    """The search where validation likes these widths best."""
    trained = {k: v for k, v in tables.trained().items() if v.scheme != Full()}
    parts = [t.part.decoder for t in trained.values()]

    def validate() -> float:
        widths = [int(part.width) for part in parts if isinstance(part, Supernet)]
        return -float(sum(abs(width - want) for width, want in zip(widths, wanted)))

    return scheme.advance("supernet", trained, SearchContext(validate, lambda text: None, 5))


def rebuilt(found: Successor) -> Tensor:
    """All vectors of the successor."""
    after = make_tables(found.scheme, SPEC)
    after.reset_parameters(9)
    state = after.state_dict()
    assert found.probes is not None
    probe = found.scheme.part(SPEC).probes[0].name
    state[f"embedding.{probe}.weight"] = found.probes[0]
    for key, value in (found.encoder or {}).items():
        state[f"encoders.embedding/item.{key}"] = value
    after.load_state_dict(state)
    return after.all_rows("embedding", "item").detach()


def test_the_successor_has_the_start_values_of_kept_rows():
    scheme = OptEmbed()
    tables = made(scheme, SPEC, seed=5)
    before = tables.state_dict()["embedding.item@supernet.weight"].clone()
    torch.manual_seed(0)
    regress(tables, torch.randn(39, 4), 20)
    set_threshold(tables, 2.5)
    trained = tables.state_dict()["embedding.item@supernet.weight"]
    kept = trained.abs().sum(1) > 2.5
    assert 3 < kept.sum() < 36
    found = advanced(tables, scheme, [3])["embedding.item"]
    assert isinstance(found.scheme, OptEmbed) and round_trip(found.scheme) == found.scheme
    assert (found.scheme.num_rows, found.scheme.width) == (int(kept.sum()), 3)
    assert len(found.scheme.phases()) == 1
    expected = before * kept[:, None]
    expected[:, 3] = 0
    assert torch.equal(rebuilt(found), expected)
    again = torch.empty(40, 4)
    start_values.fill(again, SPEC.init, 5, ("embedding", "item@supernet"))
    assert torch.equal(before, again)


def test_a_table_that_is_needed_whole_becomes_full():
    scheme = OptEmbed()
    tables = made(scheme, SPEC, seed=5)
    before = tables.state_dict()["embedding.item@supernet.weight"].clone()
    found = advanced(tables, scheme, [4])["embedding.item"]
    assert found.scheme == Full() and torch.equal(rebuilt(found), before)


def test_few_kept_rows_are_listed():
    """3 rows of 5,000: a list of 4 numbers is smaller than 79 words."""
    spec = table("item", 5000)
    tables = EmbeddingCollection({"g": [spec]}, ("item",), schemes={"g.item": OptEmbed()})
    state = tables.state_dict()
    state["g.item@supernet.weight"][[7, 4000, 4999]] = 3.0
    tables.load_state_dict(state)
    part = tables.trained()["g.item"].part.decoder
    assert isinstance(part, Supernet) and part.threshold is not None
    part.threshold.data.fill_(40.0)
    search = Evolution(generations=0, mutations=1, crossovers=0)
    found = OptEmbed(evolution=search).advance("supernet", tables.trained(), no_context())
    scheme = found["g.item"].scheme
    assert isinstance(scheme, OptEmbed) and (scheme.num_rows, scheme.width) == (3, 16)
    assert planned_bytes([spec], {"item": scheme}) == 4 * 4 * 16 + 4 * 4
    after = EmbeddingCollection({"g": [spec]}, ("item",), schemes={"g.item": scheme})
    encoder = after.encoders["g/item"]
    encoder.load_state_dict(dict(found["g.item"].encoder or {}))
    asked = torch.tensor([0, 7, 8, 4000, 1, 4999], dtype=torch.int32)
    assert encoder(asked)[0].tolist() == [0, 1, 0, 2, 0, 3]


@pytest.mark.parametrize("rows", [True, False])
@pytest.mark.parametrize("ratio", [0.5, 0.2, 0.1])
def test_the_search_stays_within_the_budget(ratio, rows):
    specs = [table("a", 2000), table("b", 500)]
    budget = int(ratio * full_bytes(specs))
    scheme = OptEmbed(rows=rows, evolution=Evolution(generations=3))
    plan = scheme.plan(specs, budget)
    tables = EmbeddingCollection(
        {"g": specs}, ("a", "b"), schemes={f"g.{n}": s for n, s in plan.items()}
    )
    decoders = [tables.decoders["g/a"], tables.decoders["g/b"]]

    def wide() -> float:
        return float(sum(int(d.width) for d in decoders if isinstance(d, Supernet)))

    context = SearchContext(wide, lambda text: None, 1)
    found = scheme.advance("supernet", tables.trained(), context)
    schemes = {name: found[f"g.{name}"].scheme for name in ("a", "b")}
    used = planned_bytes(specs, schemes)
    assert used <= budget
    if rows:  # half width fits after pruning, and validation wants all of the rest
        assert used > 0.75 * budget
        counts = [getattr(schemes[n], "num_rows", 0) for n in "ab"]
        assert 0 < counts[0] < (1999 if ratio < 0.5 else 2000)
    else:
        assert all(getattr(schemes[n], "num_rows", 0) in (1999, 499, 0) for n in "ab")


@pytest.mark.parametrize("likes", ["wide", "narrow"])
def test_validation_chooses_between_rows_and_columns(likes):
    spec = table("a", 2000)
    scheme = OptEmbed(evolution=Evolution(generations=2))
    plan = scheme.plan([spec], full_bytes([spec]) // 5)
    tables = EmbeddingCollection({"g": [spec]}, ("a",), schemes={"g.a": plan["a"]})
    decoder = tables.decoders["g/a"]
    assert isinstance(decoder, Supernet)

    def judge() -> float:
        width = float(decoder.width)
        return width if likes == "wide" else -width

    said: list[str] = []
    found = scheme.advance("supernet", tables.trained(), SearchContext(judge, said.append, 1))
    got = found["g.a"].scheme
    assert isinstance(got, OptEmbed) and got.num_rows is not None
    if likes == "wide":  # all columns, and as many rows as a fifth of the bytes hold
        assert got.width == 16 and 350 < got.num_rows < 400
    else:  # all rows fit at width 2
        assert got.num_rows == 1999 and got.width == 1
    assert [line for line in said if "rows of width 16" in line]


# ------------------------------------------------------------------------------- planning


@pytest.mark.parametrize("rows", [True, False])
def test_plans_fit_and_use_the_budget(rows):
    specs = [table("a", 5000), table("b", 3000), table("c", 40)]
    for ratio in (0.9, 0.5, 0.2, 0.1):
        budget = int(ratio * full_bytes(specs))
        plan = OptEmbed(rows=rows).plan(specs, budget)
        used = planned_bytes(specs, plan)
        assert used <= budget
        if rows:
            assert used >= 0.9 * budget
        else:  # not even a column of `b` is left
            assert used > budget - 4 * 3000
        scheme = plan["a"]
        assert isinstance(scheme, OptEmbed) and scheme.budget == budget
        assert [phase.start for phase in scheme.phases()] == ["inherit", "initial"]
        assert round_trip(scheme) == scheme


def test_the_floor():
    specs = [table("a", 5000), table("b", 3000)]
    # One row of width 16 and PAD, and a list of 1 number and an end.
    floor = 2 * (2 * 16 * 4 + 2 * 4)
    with pytest.raises(BudgetInfeasible) as caught:
        OptEmbed().plan(specs, floor - 1)
    assert caught.value.min_bytes == floor
    floor = 4 * 8000
    with pytest.raises(BudgetInfeasible) as caught:
        OptEmbed(rows=False).plan(specs, floor - 1)
    assert caught.value.min_bytes == floor
    assert planned_bytes(specs, OptEmbed(rows=False).plan(specs, floor)) == floor


def test_a_stated_size_is_trained_once():
    plan = OptEmbed(num_rows=100, width=8).plan([table("a", 500)], None)
    assert len(plan["a"].phases()) == 1
    with pytest.raises(ConfigError, match="not stated"):
        OptEmbed(width=8).plan([table("a", 500)], None)
    with pytest.raises(ConfigError, match="at most 39 rows of width 4, got num_rows=40"):
        OptEmbed(num_rows=40, width=4).part(SPEC)
    whole = OptEmbed(num_rows=39, width=4).plan([SPEC], None)
    assert whole["item"] == Full()


def test_pruned_indices_count_in_a_mean():
    scheme = OptEmbed(num_rows=10, width=3)
    tables = made(scheme, SPEC.model_copy(update={"pooling": "mean"}))
    dense = torch.zeros(40, 4)
    dense[:11, :3] = tables.state_dict()["embedding.item@kept.weight"]
    check_bags(tables, dense)
    got = tables(bag_batch([[5, 39]]))["embedding"]["item"]
    torch.testing.assert_close(got[0], dense[5] / 2)


@pytest.mark.parametrize("dtype", ["fp32", "fp16", "int8"])
def test_frozen_tables(dtype):
    spec = SPEC.model_copy(update={"embedding_dim": 16})
    tables = made(OptEmbed(num_rows=25, width=12), spec).eval()
    frozen = freeze(tables, dtype)
    assert frozen.bytes().total == tables.bytes("infer", dtype=dtype).total
    before = vectors(tables, range(40)).detach()
    error = (vectors(frozen, range(40)) - before).abs().max().item()
    assert error == 0 if dtype == "fp32" else 0 < error < 0.02 * before.abs().max().item()
    with pytest.raises(ConfigError, match="has not searched yet"):
        freeze(made(OptEmbed(), spec))
