"""CAFE: the sketch against a plain one, scores against dense gradients, rows that move."""

from __future__ import annotations

import pytest
import torch

from recsys.embeddings.compression.budget import planned_bytes
from recsys.embeddings.compression.cafe import CAFE, GradientWatch
from recsys.embeddings.compression.chosen_rows import ChosenRows
from recsys.embeddings.compression.sketch import HotSketch
from recsys.embeddings.freeze import freeze
from recsys.embeddings.optimizer import EmbeddingOptimizerConfig
from recsys.embeddings.scheme import Full
from recsys.errors import BudgetInfeasible, ConfigError
from recsys.testing.table import OTHER, SPEC, TableConformance, bag_batch, make_tables, vectors
from tests.embeddings.compression.hashed import collection, row
from tests.embeddings.compression.toy import check_bags, made, regress, round_trip, table

HOT, SHARED = 5, 9
SCHEME = CAFE(hot_rows=HOT, num_buckets=SHARED)
EAGER = CAFE(hot_rows=HOT, num_buckets=SHARED, threshold=2.0)
MEAN = SPEC.model_copy(update={"pooling": "mean"})


def shared_row(index: int) -> int:
    return HOT + row(index, "item", SHARED)


def parts(tables) -> tuple[HotSketch, GradientWatch]:
    part = tables.trained()["embedding.item"].part
    assert isinstance(part.encoder, HotSketch) and isinstance(part.decoder, GradientWatch)
    return part.encoder, part.decoder


class TestCAFE(TableConformance):
    scheme = SCHEME

    def expected_bytes(self):
        return (1 + HOT + SHARED) * 4 * 4 + 48 * HOT + 32

    def sharing(self, index):
        return {other for other in self.indices if shared_row(other) == shared_row(index)}


class TestMean(TestCAFE):
    spec = MEAN


# ---------------------------------------------------------------------------------- the sketch


class PlainSketch:
    """One id at a time, with dictionaries."""

    def __init__(self, hot: int, threshold: float, decay: float):
        self.hot, self.base, self.decay, self.mass = hot, threshold, decay, 0.0
        self.threshold, self.given = threshold, 0
        self.buckets = [[[0, 0.0, 0] for _ in range(4)] for _ in range(hot)]

    def update(self, batch: dict[int, float]) -> dict[int, int]:
        known, new = [], {}
        for index, score in sorted(batch.items()):
            home = row(index, "item@sketch", self.hot) - 1
            slot = next((slot for slot in self.buckets[home] if slot[0] == index), None)
            if slot is None:
                new.setdefault(home, []).append((score, index))
            else:
                slot[1] += score
                known.append(slot)
        for home, ids in new.items():
            for score, index in sorted(sorted(ids, key=lambda x: -x[0])[:4]):
                cold = [slot for slot in self.buckets[home] if not slot[2]]
                if cold:
                    least = min(cold, key=lambda slot: slot[1])
                    least[0], least[1] = index, least[1] + score
        promoted = {}
        for slot in sorted(known, key=lambda slot: -slot[1]):
            taken = {slot[2] for bucket in self.buckets for slot in bucket}
            free = [row for row in range(1, self.hot + 1) if row not in taken]
            new = [row for row in free if row > self.given]
            if not free or (self.given < self.hot and not new):
                continue
            if not slot[2] and slot[1] >= self.threshold:
                slot[2] = (new or free)[0]
                promoted[slot[0]] = slot[2]
        self.given = max(self.given, *promoted.values(), 0)
        self.mass += sum(batch.values())
        if self.mass > 10 * self.hot * self.base:
            self.mass = 0.0
            slots = [slot for bucket in self.buckets for slot in bucket]
            for slot in slots:
                slot[1] *= self.decay
            scores = sorted((slot[1] for slot in slots), reverse=True)
            self.threshold = max(self.base, scores[self.hot - 1])
            for slot in slots:
                slot[2] = slot[2] if slot[1] >= self.threshold else 0
        return promoted


def test_the_sketch_equals_a_plain_one():
    torch.manual_seed(0)
    hot, sketch = 6, HotSketch("item", 6, 9, 0, 6, threshold=3.0, decay=0.5, salt=0)
    sketch.initialize()
    plain, moves, demoted = PlainSketch(hot, 3.0, 0.5), 0, 0
    for step in range(120):
        # What is frequent drifts, so ids lose their rows again.
        ids = 1 + (torch.rand(12) ** 3 * 60 + step // 3).long()
        scores = torch.rand(12) + 0.1
        batch = {int(i): float(scores[ids == i].sum()) for i in ids.unique()}
        before = int((sketch.rows > 0).sum())
        who, where = sketch.update(ids, scores)
        assert dict(zip(who.tolist(), where.tolist())) == plain.update(batch)
        moves += len(who)
        demoted += before + len(who) - int((sketch.rows > 0).sum())
        expected = torch.tensor(plain.buckets)
        assert torch.equal(sketch.keys.long(), expected[:, :, 0].long())
        assert torch.equal(sketch.rows.long(), expected[:, :, 2].long())
        torch.testing.assert_close(sketch.scores, expected[:, :, 1])
        assert float(sketch.state[1]) == pytest.approx(plain.threshold)
    assert moves > 10 and demoted > 5


def test_heavy_ids_of_a_zipf_stream_get_the_rows():
    generator = torch.Generator().manual_seed(1)
    sketch = HotSketch("item", 50, 9, 0, 50, threshold=10.0, decay=0.99, salt=0)
    sketch.initialize()
    odds = 1 / torch.arange(1.0, 5001.0) ** 1.2
    for _ in range(100):
        ids = 1 + torch.multinomial(odds, 512, True, generator=generator)
        sketch.update(ids, torch.ones(512))
    owners = set(sketch.keys[sketch.rows > 0].tolist())
    assert len(owners & set(range(1, 51))) >= 35
    assert set(range(1, 21)) <= owners


# ---------------------------------------------------------------------------------- scores


@pytest.mark.parametrize("mode", ["sparse", "dense"])
@pytest.mark.parametrize("spec", [SPEC, MEAN])
@pytest.mark.parametrize("weighted", [False, True])
def test_scores_are_norms_of_each_indexs_gradient(spec, weighted, mode):
    bags, weights = [[2, 3, 2], [], [0, 7]], [0.5, -2.0, 1.0, 1.0, 3.0]
    tables = made(SCHEME, spec)
    tables.attach_optimizer(EmbeddingOptimizerConfig(kind="sgd", mode=mode))
    batch = bag_batch(bags, weights if weighted else None)
    target = torch.arange(12.0).view(3, 4)
    ((tables(batch)["embedding"]["item"] - target) ** 2).sum().backward()
    indices, norms = parts(tables)[1].take(torch.device("cpu"))

    used = weights if weighted else [1.0] * 5
    table_ = tables.all_rows("embedding", "item").detach()
    rows = table_[[2, 3, 2, 0, 7]].requires_grad_()
    scaled = rows * torch.tensor(used)[:, None]
    pooled = torch.stack([scaled[:3].sum(0), torch.zeros(4), scaled[3:].sum(0)])
    if spec.pooling == "mean":
        pooled = pooled / torch.tensor([3.0, 1.0, 2.0])[:, None]
    ((pooled - target) ** 2).sum().backward()
    assert rows.grad is not None
    assert indices.tolist() == [2, 3, 2, 7]
    torch.testing.assert_close(norms, rows.grad.norm(dim=1)[[0, 1, 2, 4]])


def test_scores_of_sequences_and_of_evaluation():
    tables = made(SCHEME, SPEC)
    rows, _ = tables.sequence(bag_batch([[2, 3], [9]]), "embedding", "item")
    (rows * torch.tensor([[1.0], [2.0], [5.0]])).sum().backward()
    indices, norms = parts(tables)[1].take(torch.device("cpu"))
    assert indices.tolist() == [2, 3, 9]
    assert norms.tolist() == [2.0, 4.0, 10.0]  # of vectors of four equal values
    tables.eval()
    vectors(tables, [2]).sum().backward()
    assert not len(parts(tables)[1].take(torch.device("cpu"))[0])


# ---------------------------------------------------------------------------------- rows


def train(tables, steps: int, optimizer=None, start: int = 0):
    if optimizer is None:
        config = EmbeddingOptimizerConfig(kind="adagrad", learning_rate=0.1)
        optimizer = tables.attach_optimizer(config)
    for step in range(start, start + steps):
        generator = torch.Generator().manual_seed(step)
        indices = (1 + torch.rand(24, generator=generator) ** 3 * 39).long().tolist()
        optimizer.zero_grad()
        target = torch.tensor(indices).float().unsqueeze(1) / 10
        ((vectors(tables, indices) - target) ** 2).mean().backward()
        optimizer.step()
        tables.after_step(optimizer)
    return optimizer


@pytest.mark.parametrize("spec", [SPEC, MEAN])
def test_values_after_rows_have_moved(spec):
    tables = made(EAGER, spec)
    train(tables, 12)
    state = tables.state_dict()
    keys, rows = (state[f"encoders.embedding/item.{name}"] for name in ("keys", "rows"))
    own = {int(k): int(r) for k, r in zip(keys.flatten(), rows.flatten()) if r}
    assert len(own) == HOT and sorted(own.values()) == [1, 2, 3, 4, 5]
    where = [0, *(own.get(index, shared_row(index)) for index in range(1, 40))]
    check_bags(tables, state["embedding.item@cafe.weight"][where])


def test_promotion_copies_the_row_and_resets_its_state():
    tables = made(EAGER, SPEC)
    config = EmbeddingOptimizerConfig(kind="adagrad", learning_rate=0.1)
    optimizer = tables.attach_optimizer(config)
    stepped = vectors(tables, [7]).detach()
    for _ in range(2):
        assert not parts(tables)[0].rows.any()
        before = stepped
        optimizer.zero_grad()
        vectors(tables, [7, 7]).sum().backward()
        optimizer.step()
        stepped = vectors(tables, [7]).detach()
        tables.after_step(optimizer)
        assert not torch.equal(before, stepped)
    assert int((parts(tables)[0].rows > 0).sum()) == 1
    assert torch.equal(vectors(tables, [7]), stepped)
    weight = tables.state_dict()["embedding.item@cafe.weight"]
    assert torch.equal(weight[1], weight[shared_row(7)])
    optimizer.zero_grad()
    vectors(tables, [7]).sum().backward()
    optimizer.step()
    moved = tables.state_dict()["embedding.item@cafe.weight"]
    torch.testing.assert_close(moved[1], stepped[0] - 0.1)  # a first step of adagrad
    assert torch.equal(moved[shared_row(7)], stepped[0])


def test_resume_goes_on_exactly():
    whole, first = made(EAGER, SPEC), made(EAGER, SPEC)
    train(whole, 20)
    optimizer = train(first, 8)
    second = make_tables(EAGER, SPEC)
    second.load_state_dict({k: v.clone() for k, v in first.state_dict().items()})
    config = EmbeddingOptimizerConfig(kind="adagrad", learning_rate=0.1)
    again = second.attach_optimizer(config)
    again.load_state_dict({k: v.clone() for k, v in optimizer.state_dict().items()})
    train(second, 12, again, start=8)
    for name, value in whole.state_dict().items():
        assert torch.equal(second.state_dict()[name], value), name


def test_hot_ids_learn_their_own_vectors():
    targets = torch.randn(12, 4, generator=torch.Generator().manual_seed(0))
    few = {"num_buckets": 2, "threshold": 2.0}
    shared = regress(made(CAFE(hot_rows=0, **few), SPEC), targets, steps=60)
    losses = regress(made(CAFE(hot_rows=12, **few), SPEC), targets, steps=60)
    assert losses[-1] < 0.2 * shared[-1] < shared[0]


def test_gradients_that_are_not_finite_count_nothing():
    tables = made(EAGER, SPEC)
    optimizer = tables.attach_optimizer(EmbeddingOptimizerConfig(kind="sgd"))
    (vectors(tables, [3]).sum() * torch.inf).backward()
    tables.after_step(optimizer)
    assert not parts(tables)[0].keys.any()


# ---------------------------------------------------------------------------------- plans


@pytest.mark.parametrize("ratio", [0.5, 0.1, 0.01, 1e-3, 1e-4])
def test_plan_uses_the_budget(ratio):
    tables = [table("big", 2_000_000), table("small", 2_000)]
    budget = int(ratio * 2_002_000 * 64)
    assert 0.9 * budget <= planned_bytes(tables, CAFE().plan(tables, budget)) <= budget


def test_extreme_budget_on_few_rows_is_a_hash():
    plan = CAFE().plan([table("big", 100_000)], 200)["big"]
    assert isinstance(plan, CAFE) and plan.hot_rows == 0 and plan.num_buckets == 1
    with pytest.raises(BudgetInfeasible) as error:
        CAFE().plan([table("big", 100_000)], 135)
    assert error.value.min_bytes == 2 * 64 + 8


def test_stated_sizes_are_kept():
    spec = table("big", 3000)
    plan = CAFE(hot_rows=10).plan([spec], 64 * 100)["big"]
    assert plan == CAFE(hot_rows=10, num_buckets=87)
    plan = CAFE(num_buckets=10).plan([spec], 64 * 100)["big"]
    assert plan == CAFE(hot_rows=79, num_buckets=10)
    assert CAFE().plan([table("tiny", 4)], 4 * 64)["tiny"] == Full()
    with pytest.raises(ConfigError, match="num_buckets"):
        CAFE(hot_rows=3).plan([spec], None)


# ---------------------------------------------------------------------------------- served


def test_frozen_is_the_list_of_owners():
    tables = made(EAGER, SPEC)
    train(tables, 12)
    frozen = freeze(tables)
    scheme = frozen.schemes["embedding.item"]
    assert isinstance(scheme, ChosenRows) and scheme.hot_rows == HOT
    state = frozen.state_dict()
    ids, rows = (state[f"encoders.embedding/item.{name}"].tolist() for name in ("ids", "rows"))
    assert ids == sorted(ids) and sorted(rows) == [1, 2, 3, 4, 5]
    everything = list(range(40))
    assert torch.equal(vectors(frozen, everything), vectors(tables, everything))
    held = frozen.bytes("infer").total
    assert held == tables.bytes("infer").total
    other = OTHER.num_embeddings * OTHER.embedding_dim * 4
    assert held - other == (1 + HOT + SHARED) * 16 + 8 * HOT + 8


def test_frozen_before_anybody_owns_a_row():
    tables = made(SCHEME, SPEC)
    frozen = freeze(tables)
    assert torch.equal(vectors(frozen, range(40)), vectors(tables, range(40)))


def test_rows_of_several_tables_in_one():
    scheme = CAFE(hot_rows=2, num_buckets=3, threshold=1.5, multiplex=True)
    specs = [table("a", 30, 4), table("b", 20, 4)]
    plan = scheme.plan(specs, None)
    places = [(found.hot_start, found.shared_start) for found in plan.values()]
    assert places == [(0, 4), (2, 4)]
    tables = collection(specs, plan)
    optimizer = tables.attach_optimizer(EmbeddingOptimizerConfig(learning_rate=0.1))
    for _ in range(3):
        optimizer.zero_grad()
        (
            4 * tables.all_rows("g", "a")[[5, 9]].sum() + tables.all_rows("g", "b")[7].sum()
        ).backward()
        optimizer.step()
        tables.after_step(optimizer)
    weight = tables.state_dict()["g.shared@cafe4.weight"]
    assert weight.shape == (1 + 4 + 3, 4)
    own = {name: tables.encoders[f"g/{name}"].owners() for name in "ab"}
    assert own["a"][0].tolist() == [5, 9] and sorted(own["a"][1].tolist()) == [1, 2]
    assert own["b"][0].tolist() == [7] and own["b"][1].tolist() == [3]
    assert torch.equal(tables.all_rows("g", "b")[7], weight[3])
    frozen = freeze(tables)
    for name in "ab":
        assert torch.equal(frozen.all_rows("g", name), tables.all_rows("g", name))
    assert frozen.bytes("infer").total == 8 * 16 + 2 * (8 * 2 + 8)


def test_round_trip():
    assert round_trip(EAGER) == EAGER
