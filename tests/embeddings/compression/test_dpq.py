"""DPQ: codes and gradients against plain loops, frozen codes against evaluation."""

from __future__ import annotations

import pytest
import torch

from recsys.embeddings.compression.budget import planned_bytes
from recsys.embeddings.compression.codes import Codes
from recsys.embeddings.compression.dpq import DPQ
from recsys.embeddings.freeze import freeze
from recsys.embeddings.optimizer import EmbeddingOptimizerConfig
from recsys.embeddings.scheme import Full
from recsys.errors import BudgetInfeasible, ConfigError
from recsys.testing.table import OTHER, SPEC, TableConformance, bag_batch, vectors
from tests.embeddings.compression.quantized import (
    learn,
    plain_codes,
    plain_rows,
    quantizer_of,
    queries_of,
    spread,
)
from tests.embeddings.compression.toy import BAGS, WEIGHTS, check_bags, made, round_trip, table

SCHEME = DPQ(num_parts=2, num_centroids=4)
SX = DPQ(num_parts=2, num_centroids=4, mode="sx")
MEAN = SPEC.model_copy(update={"pooling": "mean"})


class TestVQ(TableConformance):
    scheme = SCHEME
    std_tolerance = 0.2  # the nearest of few centroids is on average the shorter one

    def expected_bytes(self) -> int:
        return 40 * 4 * 4 + 2 * 4 * 2 * 4

    def step(self, tables, indices):
        # Centroids are not the table optimizer's: a vector moves when a query reaches another.
        config = EmbeddingOptimizerConfig(kind="sgd", learning_rate=10.0)
        owner = tables.attach_optimizer(config)
        owner.zero_grad()
        vectors(tables, indices).sum().backward()
        owner.step()


class TestVQMean(TestVQ):
    spec = MEAN


class TestSX(TestVQ):
    scheme = DPQ(num_parts=2, num_centroids=8, mode="sx")

    def expected_bytes(self) -> int:
        return 40 * 4 * 4 + 2 * 2 * 8 * 2 * 4

    def step(self, tables, indices):
        owner = tables.attach_optimizer(EmbeddingOptimizerConfig(kind="sgd", learning_rate=30.0))
        owner.zero_grad()
        vectors(tables, indices).sum().backward()
        owner.step()


@pytest.mark.parametrize("scheme", [SCHEME, SX])
@pytest.mark.parametrize("spec", [SPEC, MEAN])
@pytest.mark.parametrize("training", [False, True])
def test_values_and_bags(scheme, spec, training):
    tables = made(scheme, spec)
    spread(tables)
    tables.train(training)
    quantizer = quantizer_of(tables)
    codes = plain_codes(queries_of(tables), quantizer.keys.detach(), scheme.mode, {})
    assert len({tuple(row) for row in codes}) > 8
    books = quantizer.keys if scheme.mode == "vq" else quantizer.values
    assert books is not None
    check_bags(tables, plain_rows(codes, books.detach()))


def test_gradients_of_vq():
    tables = made(DPQ(num_parts=2, num_centroids=4, weight=0.5), SPEC)
    spread(tables)
    tables.attach_optimizer(EmbeddingOptimizerConfig(kind="sgd", mode="dense"))
    indices, slope = [3, 0, 8, 3], torch.randn(4, 4)
    out = vectors(tables, indices)
    tables.zero_grad()
    ((out * slope).sum() + tables.aux_loss()).backward()
    assert quantizer_of(tables).aux_loss() is None
    queries, keys = queries_of(tables), quantizer_of(tables).keys
    (weight,) = tables.table_parameters()
    grad = weight.grad
    assert grad is not None and keys.grad is not None
    first = OTHER.num_embeddings
    torch.testing.assert_close(grad[first + 3], slope[0] + slope[3])  # straight through
    torch.testing.assert_close(grad[first + 8], slope[2])
    expected = torch.zeros_like(keys)
    codes = plain_codes(queries, keys.detach(), "vq", {})
    for index in (3, 8, 3):
        for part, code in enumerate(codes[index - 1]):
            error = keys[part, code].detach() - queries[index, 2 * part : 2 * part + 2]
            expected[part, code] += 0.5 * 2 * error / (3 * 4)  # 3 ids of width 4
    torch.testing.assert_close(keys.grad, expected)


def test_gradients_of_sx():
    tables = made(SX, SPEC)
    spread(tables)
    tables.attach_optimizer(EmbeddingOptimizerConfig(kind="sgd", mode="dense"))
    slope = torch.randn(2, 4)
    tables.zero_grad()
    (vectors(tables, [3, 8]) * slope).sum().backward()
    quantizer = quantizer_of(tables)
    assert quantizer.values is not None and tables.aux_loss() == 0
    queries = queries_of(tables)[[3, 8]].detach().requires_grad_()
    keys, values = (
        tensor.detach().requires_grad_() for tensor in (quantizer.keys, quantizer.values)
    )
    codes = plain_codes(queries_of(tables), keys.detach(), "sx", {})
    total = torch.zeros(())
    for row, index in enumerate((3, 8)):
        for part in range(2):
            columns = slice(2 * part, 2 * part + 2)
            soft = torch.softmax(keys[part] @ queries[row, columns], 0)
            # Hard weights for the values, soft ones for the choice.
            total = total + (soft @ values.detach()[part] * slope[row, columns]).sum()
            total = total + (values[part, codes[index - 1][part]] * slope[row, columns]).sum()
    total.backward()
    (weight,) = tables.table_parameters()
    assert weight.grad is not None
    first = OTHER.num_embeddings
    torch.testing.assert_close(weight.grad[[first + 3, first + 8]], queries.grad)
    torch.testing.assert_close(quantizer.keys.grad, keys.grad)
    torch.testing.assert_close(quantizer.values.grad, values.grad)


def test_aux_loss_adds_up_calls_and_forgets():
    tables = made(SCHEME, SPEC)
    vectors(tables, [3, 4])
    once = tables.aux_loss().item()
    vectors(tables, [3, 4])
    vectors(tables, [3, 4])
    assert tables.aux_loss().item() == pytest.approx(2 * once) and once > 0
    with torch.no_grad():
        vectors(tables, [3, 4])
    tables.eval()
    vectors(tables, [3, 4])
    assert tables.aux_loss().item() == 0
    tables.train()
    vectors(tables, [0])
    assert tables.aux_loss().item() == 0  # PAD alone


@pytest.mark.parametrize("scheme", [SCHEME, SX])
def test_training_lowers_the_loss(scheme):
    centres = torch.randn(4, 4, generator=torch.Generator().manual_seed(0))
    targets = centres[torch.arange(39) % 4]
    losses = learn(made(scheme, SPEC), targets, 150)
    assert losses[-1] < 0.3 * losses[0]


@pytest.mark.parametrize("scheme", [SCHEME, SX, DPQ(num_parts=4, num_centroids=32)])
@pytest.mark.parametrize("spec", [SPEC, MEAN])
def test_frozen_equals_evaluation_exactly(scheme, spec):
    tables = made(scheme, spec)
    learn(tables, torch.randn(39, 4, generator=torch.Generator().manual_seed(0)), 20)
    tables.eval()
    served = freeze(tables, "fp32")
    assert served.schemes["embedding.item"] == scheme.frozen_scheme()
    for batch in (bag_batch([[i] for i in range(40)]), bag_batch(BAGS, WEIGHTS), bag_batch([[5]])):
        with torch.no_grad():
            assert torch.equal(
                served(batch)["embedding"]["item"], tables(batch)["embedding"]["item"]
            )
    assert served.bytes().total == tables.bytes("infer").total
    codes = 39 * (scheme.num_parts * (scheme.num_centroids.bit_length() - 1) + 7 >> 3)
    books = 4 * (4 // scheme.num_parts) * (1 + scheme.num_parts * scheme.num_centroids)
    assert served.bytes().total - OTHER.num_embeddings * 16 == codes + books


def test_codes_do_not_depend_on_the_batch():
    tables = made(DPQ(num_parts=4, num_centroids=256), table("item", 3000))
    queries, quantizer = queries_of(tables), quantizer_of(tables)
    indices = torch.arange(3000)
    whole = quantizer.codes(queries, indices)
    alone = [quantizer.codes(queries[i : i + 1], indices[i : i + 1]) for i in range(200)]
    assert torch.equal(whole[:, :200], torch.cat(alone, dim=1))


@pytest.mark.parametrize("ratio", [0.25, 0.1, 0.05, 0.02])
def test_plan_fits(ratio):
    tables = [table("big", 300_000), table("small", 5_000)]
    budget = int(ratio * 305_000 * 64)
    plan = DPQ().plan(tables, budget)
    assert 0.75 * budget < planned_bytes(tables, plan) <= budget  # whole bytes an id


def test_plan_takes_the_longest_codes():
    big = table("big", 10_000)
    # 6.5 bytes an id. 8 parts of 64 centroids are 6 bytes, and 4 of 256 only 4.
    plan = DPQ().plan([big], 65_000)["big"]
    assert plan == DPQ(num_parts=8, num_centroids=64)
    assert planned_bytes([big], {"big": plan}) == 9_999 * 6 + 8 * (1 + 512)
    # 3 bytes are 4 parts of 64 centroids or 8 of 8: the larger codebook wins.
    assert DPQ().plan([big], 35_000)["big"] == DPQ(num_parts=4, num_centroids=64)


def test_plan_without_a_budget_and_of_stated_sizes():
    plan = DPQ().plan([table("a", 5_000, 16), table("b", 5_000, 12), table("c", 20)], None)
    assert plan["a"] == DPQ(num_parts=8, num_centroids=32)
    assert plan["b"] == DPQ(num_parts=6, num_centroids=32)
    assert plan["c"] == DPQ(num_parts=8, num_centroids=16) or plan["c"] == Full()
    chosen = DPQ(num_parts=2).plan([table("a", 5_000)], 20_000)["a"]
    assert isinstance(chosen, DPQ) and chosen.num_parts == 2


def test_infeasible_and_full():
    least = 2_999 + 8 * 17  # a byte an id: 8 parts of two centroids, and PAD's row
    with pytest.raises(BudgetInfeasible) as error:
        DPQ().plan([table("big", 3_000)], least - 1)
    assert error.value.min_bytes == least
    assert planned_bytes([table("big", 3_000)], DPQ().plan([table("big", 3_000)], least)) <= least
    assert DPQ().plan([table("tiny", 2)], 2 * 64)["tiny"] == Full()


def test_refusals():
    with pytest.raises(ConfigError, match="`num_parts` must divide the width"):
        made(DPQ(num_parts=3, num_centroids=4), SPEC)
    with pytest.raises(ValueError, match="power of two"):
        DPQ(num_centroids=12)
    with pytest.raises(ConfigError, match="cannot be frozen in int8"):
        freeze(made(SCHEME, SPEC), "int8")
    with pytest.raises(ConfigError, match="num_centroids"):
        DPQ(num_parts=2).part(SPEC)


def test_round_trip():
    assert round_trip(SX) == SX
    assert round_trip(SX.frozen_scheme()) == Codes(num_parts=2, num_centroids=4)
