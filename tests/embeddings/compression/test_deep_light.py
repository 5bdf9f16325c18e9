from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
import torch
from torch import Tensor

from recsys.embeddings.collection import EmbeddingCollection
from recsys.embeddings.compression.budget import full_bytes, planned_bytes
from recsys.embeddings.compression.deep_light import DeepLight
from recsys.embeddings.compression.pruned import Pruned
from recsys.embeddings.compression.pruning import cut, magnitude_bits, threshold
from recsys.embeddings.scheme import Full, Scheme, Trained
from recsys.errors import BudgetInfeasible, ConfigError
from recsys.testing.table import SPEC, TableConformance, vectors
from tests.embeddings.compression.successors import (
    CONTEXT,
    advanced,
    collection_of,
    frozen,
    item_of,
    train,
)
from tests.embeddings.compression.toy import check_bags, made, round_trip, table

SERVED = Pruned(layout="bitmask", kept=39, nnz=78)
ROOMY = Pruned(layout="bitmask", kept=39, nnz=156)  # nothing has to go


class TestWarmup(TableConformance):
    scheme = DeepLight(served=ROOMY)
    size_is_known = False  # the plan states the worst case

    def expected_bytes(self) -> int:
        return 40 * 4 * 4 + 8


class TestPrune(TableConformance):
    scheme = DeepLight(served=ROOMY, stage="prune", ramp_steps=10)
    size_is_known = False

    def expected_bytes(self) -> int:
        return 40 * 4 * 4 + 8


def one(scheme: DeepLight, spec=SPEC, seed: int = 1) -> EmbeddingCollection:
    return made(scheme, spec, seed)


class TestThreshold:
    @pytest.mark.parametrize("count", [0, 1, 17, 300, 1499, 1500])
    def test_keeps_the_largest_as_numpy_sorts_them(self, count):
        weight = torch.randn(101, 15, generator=torch.Generator().manual_seed(count)) * 1e-3
        weight[0] = 100.0  # PAD does not count
        least = threshold(weight, lambda kept, nnz: nnz <= count)
        size = np.sort(np.abs(weight[1:].numpy()).ravel())[::-1]
        keep = (np.abs(weight[1:].numpy()) >= size[count - 1]) & (count > 0)
        assert np.array_equal((magnitude_bits(weight[1:]) >= least).numpy(), keep)

    def test_counts_rows(self):
        weight = torch.tensor([[0.0, 0], [9, 8], [7, 0.5], [6, 5], [0.1, 0.2]])
        least = threshold(weight, lambda kept, nnz: kept <= 2)
        assert cut(weight, least).tolist() == [[0, 0], [9, 8], [7, 0], [0, 0], [0, 0]]

    def test_equal_values_stay_or_go_together_and_zeros_cost_nothing(self):
        weight = torch.tensor([[0.0, 0], [1, 1], [-1, 2], [0, 0]])
        least = threshold(weight, lambda kept, nnz: nnz <= 3)
        assert cut(weight, least).count_nonzero() == 1
        assert threshold(weight, lambda kept, nnz: nnz <= 4) == 1


class TestPlan:
    tables = (table("a", 5000), table("b", 300), table("c", 2, 4))

    @pytest.mark.parametrize("ratio", [0.9, 0.5, 0.1, 0.01, 0.001])
    def test_fits_and_fills_the_budget(self, ratio):
        budget = int(ratio * full_bytes(self.tables))
        plan = DeepLight().plan(self.tables, budget)
        assert 0.9 * budget <= planned_bytes(self.tables, plan) <= budget

    def test_floor(self):
        with pytest.raises(BudgetInfeasible) as caught:
            DeepLight().plan(self.tables[:2], 50)
        # one value a table: a list of one row and PAD, a word of bits, two values
        assert caught.value.min_bytes == 2 * (4 * 2 + 10 + 4 + 2 * 4)
        DeepLight().plan(self.tables[:2], caught.value.min_bytes)

    def test_full_where_that_is_smaller(self):
        assert DeepLight(density=0.99).plan(self.tables, None)["a"] == Full()
        assert DeepLight(density=0.5).plan(self.tables, None)["c"] == Full()

    def test_density(self):
        scheme = DeepLight(density=0.25).plan(self.tables, None)["b"]
        assert scheme.frozen_scheme() == Pruned(layout="bitmask", kept=299, nnz=1196)
        with pytest.raises(ConfigError, match="density"):
            DeepLight().plan(self.tables, None)

    def test_json(self):
        scheme = DeepLight().plan(self.tables, 100_000)["a"]
        assert round_trip(scheme) == scheme

    def test_dtypes(self):
        DeepLight().check_dtype("fp16")
        with pytest.raises(ConfigError, match="fp16"):
            DeepLight().check_dtype("int4")


def target(spec=SPEC) -> Tensor:
    """Few large values, many small ones."""
    generator = torch.Generator().manual_seed(3)
    return torch.randn(spec.num_embeddings - 1, spec.embedding_dim, generator=generator) ** 3


def loss_of(tables: EmbeddingCollection) -> Tensor:
    return ((vectors(tables, range(1, 40)) - target()) ** 2).mean()


def test_the_schedule_by_hand():
    # 156 values, 16 stay: after t steps round(156 - 140 (1 - 0.001^(t/20))) of them.
    scheme = DeepLight(density=16 / 156, served=SERVED, stage="prune", ramp_steps=20, prune_every=5)
    tables = one(scheme)
    start = vectors(tables, range(1, 40)).detach()
    counts = []
    for step in range(40):
        assert tables.settled() == (step >= 20)
        tables.after_step()
        counts.append(int(vectors(tables, range(1, 40)).count_nonzero()))
    expected = {
        step: int(156 - 140 * (1 - 0.001 ** (step / 20))) for step in (5, 10, 15, 20, 25, 40)
    }
    assert counts[3] == 156
    assert {step: counts[step - 1] for step in expected} == expected
    left = vectors(tables, range(1, 40))
    order = start.abs().flatten().sort(descending=True).values[counts[-1] - 1]
    assert torch.equal(left, start * (start.abs() >= order))


def test_zeros_grow_again_between_prunes():
    scheme = DeepLight(density=0.1, served=SERVED, stage="prune", ramp_steps=4, prune_every=4)
    tables = one(scheme)
    train(tables, loss_of, 4)
    after_prune = int(vectors(tables, range(1, 40)).count_nonzero())
    train(tables, loss_of, 1)
    assert after_prune < 30 < int(vectors(tables, range(1, 40)).count_nonzero())


def test_large_tables_are_pruned_by_a_sample(monkeypatch):
    monkeypatch.setattr("recsys.embeddings.compression.deep_light._SAMPLE", 2000)
    spec = SPEC.model_copy(update={"num_embeddings": 5001})
    scheme = DeepLight(density=0.1, served=SERVED, stage="prune", ramp_steps=1, prune_every=10)
    tables = one(scheme, spec)
    for _ in range(10):
        tables.after_step()
    count = int(vectors(tables, range(1, 5001)).count_nonzero())
    assert count == pytest.approx(2000, rel=0.1)


def test_from_warm_up_to_the_served_table():
    budget = 240  # of 640: at most so many bytes
    scheme = DeepLight(prune_every=5).plan([SPEC], budget)["item"]
    tables = one(scheme)  # type: ignore[arg-type]
    first = train(tables, loss_of, 60, 0.5)
    assert first[-1] < 0.5 * first[0]
    again = advanced(tables, "warmup", SPEC)
    torch.testing.assert_close(vectors(again, range(40)), vectors(tables, range(40)))
    item = item_of(again).scheme
    assert isinstance(item, DeepLight) and item.ramp_steps == 30 and item.stage == "prune"
    train(again, loss_of, 60, 0.5)
    served = frozen(again, SPEC)
    size = served.bytes().total - full_bytes(served.groups["embedding"][:1])
    assert 0.9 * budget <= size <= budget
    # Independent: the largest values of the trained table, as many as were kept.
    weight, got = item_of(again).probes[0], vectors(served, range(40))
    count = int(got.count_nonzero())
    least = weight.abs().flatten().sort(descending=True).values[count - 1]
    dense = weight * (weight.abs() >= least)
    check_bags(served, dense)
    # More of them than the plan promised, which thought every value alone in its row.
    assert isinstance(scheme, DeepLight) and isinstance(scheme.served, Pruned)
    assert scheme.served.nnz is not None and count >= scheme.served.nnz


def test_pruning_while_training_beats_cutting_at_once():
    """Weights that matter together: what is left makes up for what went."""
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(4, 4, generator=generator)

    def loss(tables: EmbeddingCollection) -> Tensor:
        return ((vectors(tables, range(1, 40)) @ mixing - target()) ** 2).mean()

    scheme = DeepLight(density=0.4, served=SERVED, prune_every=5)
    tables = one(scheme)
    train(tables, loss, 300, 0.3)
    at_once = loss(frozen(tables, SPEC))
    again = advanced(tables, "warmup", SPEC)
    train(again, loss, 300, 0.3)
    assert loss(frozen(again, SPEC)) < 0.9 * at_once


PAIR = (SPEC, SPEC.model_copy(update={"name": "b", "feature_names": ("b",)}))


def trained_pair(schemes: Mapping[str, Scheme], scale: float) -> dict[str, Trained]:
    """Two tables, the values of the second so many times larger."""
    named = {f"embedding.{name}": scheme for name, scheme in schemes.items()}
    tables = EmbeddingCollection({"embedding": PAIR}, ("item", "b"), schemes=named)
    tables.reset_parameters(4)
    trained = tables.trained()
    trained["embedding.b"].probes[0].mul_(scale)
    return trained


def test_one_threshold_for_all_tables():
    scheme = DeepLight(density=0.25, served=SERVED)
    trained = trained_pair({"item": scheme, "b": scheme}, 10.0)
    after = scheme.advance("warmup", trained, CONTEXT)
    densities = {name: _density(one.scheme) for name, one in after.items()}
    assert densities["embedding.b"] > 0.4 and densities["embedding.item"] < 0.1
    assert sum(densities.values()) == pytest.approx(0.5, abs=0.02)
    alone = scheme.model_copy(update={"scope": "table"})
    trained = trained_pair({"item": alone, "b": alone}, 10.0)
    after = alone.advance("warmup", trained, CONTEXT)
    assert {_density(one.scheme) for one in after.values()} == {0.25}


def _density(scheme: Scheme) -> float:
    assert isinstance(scheme, DeepLight) and scheme.density is not None
    return scheme.density


def test_bytes_are_shared_out_within_the_budget():
    budget = int(0.4 * full_bytes(PAIR))
    plan = DeepLight().plan(PAIR, budget)
    after = plan["b"].advance("warmup", trained_pair(plan, 2.0), CONTEXT)
    schemes = {name.partition(".")[2]: one.scheme for name, one in after.items()}
    assert 0.85 * budget <= planned_bytes(PAIR, schemes) <= budget
    assert planned_bytes(PAIR[1:], {"b": schemes["b"]}) > 0.5 * budget


def test_a_resumed_run_prunes_alike():
    scheme = DeepLight(density=0.2, served=SERVED, stage="prune", ramp_steps=9, prune_every=3)
    whole, half = one(scheme), one(scheme)
    for _ in range(9):
        whole.after_step()
    for _ in range(4):
        half.after_step()
    resumed = one(scheme, seed=2)
    resumed.load_state_dict(half.state_dict())
    for _ in range(5):
        resumed.after_step()
    assert torch.equal(vectors(resumed, range(40)), vectors(whole, range(40)))


def test_nothing_to_gain_is_served_in_full():
    scheme = DeepLight(served=Full())
    item = item_of(one(scheme))
    successor = scheme.frozen(item)
    assert successor.scheme == Full()
    check_bags(collection_of(successor, SPEC, "fp32"), item.probes[0])
