"""MGQE: as DPQ, and rare ids stay within the first centroids."""

from __future__ import annotations

import pytest
import torch

from recsys.embeddings.compression.budget import planned_bytes
from recsys.embeddings.compression.codes import Codes
from recsys.embeddings.compression.mgqe import MGQE
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

HOT = 10
SCHEME = MGQE(num_parts=2, num_centroids=16, rare_centroids=4, hot_rows=HOT)
FEW = dict.fromkeys(range(HOT + 1, 40), 4)
MEAN = SPEC.model_copy(update={"pooling": "mean"})


class TestMGQE(TableConformance):
    scheme = SCHEME
    std_tolerance = 0.2  # the nearest of few centroids is on average the shorter one

    def expected_bytes(self):
        return 40 * 4 * 4 + 2 * 16 * 2 * 4

    def step(self, tables, indices):
        # Centroids are not the table optimizer's: a vector moves when a query reaches another.
        owner = tables.attach_optimizer(EmbeddingOptimizerConfig(kind="sgd", learning_rate=10.0))
        owner.zero_grad()
        vectors(tables, indices).sum().backward()
        owner.step()


@pytest.mark.parametrize("mode", ["vq", "sx"])
@pytest.mark.parametrize("spec", [SPEC, MEAN])
@pytest.mark.parametrize("training", [False, True])
def test_values_and_bags(mode, spec, training):
    tables = made(SCHEME.model_copy(update={"mode": mode}), spec)
    spread(tables)
    tables.train(training)
    quantizer = quantizer_of(tables)
    codes = plain_codes(queries_of(tables), quantizer.keys.detach(), mode, FEW)
    assert max(max(row) for row in codes[HOT:]) == 3
    assert max(max(row) for row in codes[:HOT]) > 3
    check_bags(tables, plain_rows(codes, quantizer.codebooks.detach()))


@pytest.mark.parametrize("mode", ["vq", "sx"])
def test_training_lowers_the_loss(mode):
    targets = torch.randn(4, 4, generator=torch.Generator().manual_seed(0))[torch.arange(39) % 4]
    losses = learn(made(SCHEME.model_copy(update={"mode": mode}), SPEC), targets, 150)
    assert losses[-1] < 0.4 * losses[0]


def test_rare_ids_train_only_their_centroids():
    tables = made(SCHEME, SPEC)
    spread(tables)
    vectors(tables, list(range(HOT + 1, 40)))
    tables.aux_loss().backward()
    grad = quantizer_of(tables).keys.grad
    assert grad is not None and grad[:, :4].any() and not grad[:, 4:].any()


@pytest.mark.parametrize("mode", ["vq", "sx"])
@pytest.mark.parametrize("spec", [SPEC, MEAN])
@pytest.mark.parametrize("hot", [0, HOT, 100])
def test_frozen_equals_evaluation_exactly(mode, spec, hot):
    scheme = SCHEME.model_copy(update={"mode": mode, "hot_rows": hot})
    tables = made(scheme, spec)
    learn(tables, torch.randn(39, 4, generator=torch.Generator().manual_seed(0)), 20)
    tables.eval()
    served = freeze(tables, "fp32")
    for batch in (bag_batch([[i] for i in range(40)]), bag_batch(BAGS, WEIGHTS)):
        with torch.no_grad():
            assert torch.equal(
                served(batch)["embedding"]["item"], tables(batch)["embedding"]["item"]
            )
    own = min(hot, 39)
    expected = own * 1 + (39 - own) * 1 + 4 * 2 * (1 + 2 * 16)  # 8 and 4 bits: a byte each
    assert served.bytes().total - OTHER.num_embeddings * 16 == expected
    assert tables.bytes("infer").total == served.bytes().total


def test_plan():
    big = table("big", 10_000)
    plan = MGQE().plan([big], None)["big"]
    assert plan == MGQE(num_parts=4, num_centroids=256, hot_rows=1_000, rare_centroids=64)
    size = planned_bytes([big], {"big": plan})
    assert size == 1_000 * 4 + 8_999 * 3 + 16 * (1 + 4 * 256)
    # 16 parts of 16 and 4: 64 and 32 bits an id instead of 32 and 24, paid by small codebooks.
    best = MGQE(num_parts=16, num_centroids=16, hot_rows=1_000, rare_centroids=4)
    assert MGQE().plan([big], size)["big"] == best
    smaller = MGQE().plan([big], size - 1)["big"]
    assert 0.75 * size < planned_bytes([big], {"big": smaller}) < size
    stated = MGQE(hot_rows=50, rare_centroids=8).plan([big], 100_000)["big"]
    assert isinstance(stated, MGQE) and (stated.hot_rows, stated.rare_centroids) == (50, 8)
    with pytest.raises(BudgetInfeasible) as error:
        MGQE().plan([big], 9_000)
    assert error.value.min_bytes == 9_999 + 8 * 17
    assert MGQE().plan([table("tiny", 2)], 128)["tiny"] == Full()
    with pytest.raises(ConfigError, match="hot_rows"):
        MGQE(num_parts=4, num_centroids=16).part(SPEC)


def test_round_trip():
    assert round_trip(SCHEME) == SCHEME
    codes = Codes(num_parts=2, num_centroids=16, rare_centroids=4, hot_rows=HOT)
    assert SCHEME.frozen_scheme() == codes


def test_integers_are_refused():
    with pytest.raises(ConfigError, match="`mgqe` cannot be frozen in int4"):
        freeze(made(SCHEME, SPEC), "int4")
