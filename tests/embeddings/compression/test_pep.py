from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from recsys.embeddings.collection import EmbeddingCollection
from recsys.embeddings.compression.budget import full_bytes, planned_bytes
from recsys.embeddings.compression.masked import Masked, pack_mask
from recsys.embeddings.compression.pep import PEP, SoftThreshold
from recsys.embeddings.compression.pruned import Pruned
from recsys.embeddings.scheme import Full
from recsys.errors import BudgetInfeasible
from recsys.testing.table import SPEC, TableConformance, vectors
from tests.embeddings.compression.successors import advanced, frozen, item_of, train
from tests.embeddings.compression.toy import check_bags, made, round_trip, table

SERVED = Pruned(layout="bitmask", kept=39, nnz=78)
ROOMY = Pruned(layout="bitmask", kept=39, nnz=156)  # nothing has to go


class Search(TableConformance):
    size_is_known = False  # the plan states the worst case
    extra = 0

    def expected_bytes(self) -> int:
        return 40 * 4 * 4 + self.extra + 16


class TestTable(Search):
    scheme, extra = PEP(served=ROOMY, per="table"), 4


class TestDimension(Search):
    scheme, extra = PEP(served=ROOMY, per="dimension"), 4 * 4


class TestRow(Search):
    scheme, extra = PEP(served=ROOMY, per="row"), 40 * 4


class TestElement(Search):
    scheme, extra = PEP(served=ROOMY, per="element"), 40 * 4 * 4


class TestRetrain(TableConformance):
    scheme = PEP(served=ROOMY, stage="retrain")
    size_is_known = False

    def expected_bytes(self) -> int:
        return 40 * 4 * 4 + 40


def soft(value: np.ndarray, s: np.ndarray) -> np.ndarray:
    """Equation 4 of the paper."""
    return np.sign(value) * np.maximum(np.abs(value) - 1 / (1 + np.exp(-s)), 0)


@pytest.mark.parametrize("per", ["table", "dimension", "row", "element"])
@pytest.mark.parametrize("pooling", ["sum", "mean"])
def test_values_are_the_equation(per, pooling):
    spec = SPEC.model_copy(update={"pooling": pooling})
    tables = made(PEP(served=SERVED, per=per, start=-2.0, drift=0.1), spec)
    shape = {"table": (1,), "dimension": (4,), "row": (40, 1), "element": (40, 4)}[per]
    learned = torch.randn(shape, generator=torch.Generator().manual_seed(2))
    item = item_of(tables)
    if per in ("row", "element"):
        item.probes[1][1:] = learned[1:]
    else:
        item.part.decoder.load_state_dict({"threshold": learned}, strict=False)
    for _ in range(7):
        tables.after_step()
    s = -2.0 + 0.1 * 7 + learned.numpy() * np.ones((40, 4))
    dense = torch.from_numpy(soft(item.probes[0].numpy(), s)).float()
    dense[0] = 0
    assert 20 < dense.count_nonzero() < 120
    check_bags(tables, dense)


def test_gradients_reach_values_and_thresholds():
    decoder = SoftThreshold(-1.0, 0.0, 4)
    decoder.initialize()
    value = torch.tensor([[2.0, -3.0, 0.1, -0.1]], requires_grad=True)
    decoder([value], None).sum().backward()
    assert value.grad is not None and decoder.threshold is not None
    assert value.grad.tolist() == [[1, 1, 0, 0]]
    slope = 1 / (1 + math.e) * (1 - 1 / (1 + math.e))  # d sigmoid(s) / ds at -1
    assert decoder.threshold.grad is not None
    expected = torch.tensor([-slope, slope, 0, 0])
    torch.testing.assert_close(decoder.threshold.grad, expected)
    decoder.threshold.grad = None
    decoder.done.fill_(1)
    decoder([value], None).sum().backward()
    assert decoder.threshold.grad is None or not decoder.threshold.grad.any()


@pytest.mark.parametrize("width", [1, 8, 11])
def test_masks_are_packed(width):
    keep = torch.rand(40, width, generator=torch.Generator().manual_seed(width)) < 0.5
    decoder = Masked(40, width)
    decoder.load_state_dict({"mask": pack_mask(keep)})
    got = decoder([torch.full((40, width), 3.0)], torch.arange(40, dtype=torch.int32))
    assert torch.equal(got, 3.0 * keep)
    assert decoder.mask.shape == (40, -(-width // 8))


class TestPlan:
    tables = (table("a", 5000), table("b", 300, 8))

    @pytest.mark.parametrize("ratio", [0.5, 0.1, 0.001])
    def test_fits_and_fills_the_budget(self, ratio):
        budget = int(ratio * full_bytes(self.tables))
        plan = PEP().plan(self.tables, budget)
        assert 0.9 * budget <= planned_bytes(self.tables, plan) <= budget
        assert round_trip(plan["a"]) == plan["a"]

    def test_floor_and_full(self):
        with pytest.raises(BudgetInfeasible) as caught:
            PEP().plan(self.tables, 10)
        assert caught.value.min_bytes == 2 * 30  # as in test_deep_light
        assert PEP(density=0.99).plan(self.tables, None)["a"] == Full()


def target() -> Tensor:
    return torch.randn(39, 4, generator=torch.Generator().manual_seed(3)) ** 3


def loss_of(tables: EmbeddingCollection) -> Tensor:
    return ((vectors(tables, range(1, 40)) - target()) ** 2).mean()


def searched(per: str, steps: int = 150) -> tuple[EmbeddingCollection, int]:
    """After a search for at most 300 of 640 bytes."""
    scheme = PEP(per=per, drift=0.1, check_every=5).plan([SPEC], 300)["item"]  # type: ignore[arg-type]
    tables = made(scheme, SPEC)
    losses = train(tables, loss_of, 100, 0.5)
    assert losses[-1] < 0.5 * losses[0]
    train(tables, loss_of, steps, 0.01)  # values stay where they are, thresholds rise
    return tables, 300


@pytest.mark.parametrize("per", ["table", "dimension", "row", "element"])
def test_search_then_retrain_then_serve(per):
    tables, budget = searched(per)
    decoder = item_of(tables).part.decoder
    assert isinstance(decoder, SoftThreshold) and tables.settled()  # it got there by itself
    assert not searched(per, 10)[0].settled()
    assert int(decoder.steps) < 250
    found = vectors(tables, range(40)).detach()
    again = advanced(tables, "search", SPEC)
    start = made(PEP(served=SERVED), SPEC, seed=0)
    initial = item_of(start).probes[0]
    torch.testing.assert_close(item_of(again).probes[0], initial)  # the lottery ticket
    mask = vectors(again, range(40)) != 0
    assert 0 < int(mask.sum()) <= int((found != 0).sum())
    assert not (mask & (found == 0)).any()
    losses = train(again, loss_of, 150, 0.3)
    assert losses[-1] < losses[0]
    served = frozen(again, SPEC)
    torch.testing.assert_close(vectors(served, range(40)), vectors(again, range(40)))
    check_bags(served, item_of(again).probes[0] * mask)
    assert served.bytes().total - full_bytes(served.groups["embedding"][:1]) <= budget


def test_a_search_that_ends_too_early_is_cut_by_magnitude():
    tables, _ = searched("row", 10)
    item = item_of(tables)
    item.part.decoder.load_state_dict({"steps": torch.tensor(0)}, strict=False)
    dense = vectors(tables, range(40)).detach().abs()
    assert dense.count_nonzero() == 156
    mask = vectors(advanced(tables, "search", SPEC), range(40)) != 0
    count = int(mask.sum())
    order = dense.flatten().sort(descending=True).values
    assert torch.equal(mask, dense >= order[count - 1])
    assert 30 < count < 78


def test_a_resumed_search_goes_on_alike():
    scheme = PEP(served=SERVED, drift=0.1, check_every=3)
    whole, resumed = made(scheme, SPEC), made(scheme, SPEC, seed=2)
    train(whole, loss_of, 5)
    resumed.load_state_dict({k: v.clone() for k, v in whole.state_dict().items()})
    for tables in (whole, resumed):
        train(tables, loss_of, 6)
    assert torch.equal(vectors(whole, range(40)), vectors(resumed, range(40)))
    assert int(item_of(resumed).part.decoder.state_dict()["steps"]) == 11
