from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from recsys.embeddings.collection import EmbeddingCollection
from recsys.embeddings.compression.auto_srh import AutoSrh, Gates
from recsys.embeddings.compression.budget import full_bytes, planned_bytes
from recsys.embeddings.compression.pruned import Pruned
from recsys.embeddings.scheme import Full
from recsys.errors import BudgetInfeasible
from recsys.testing.table import SPEC, TableConformance, vectors
from tests.embeddings.compression.successors import advanced, frozen, item_of, train
from tests.embeddings.compression.toy import check_bags, made, round_trip, table

SERVED = Pruned(layout="bitmask", kept=39, nnz=78)
ROOMY = Pruned(layout="bitmask", kept=39, nnz=156)  # nothing has to go


class TestWarmup(TableConformance):
    scheme = AutoSrh(served=ROOMY)
    size_is_known = False  # the plan states the worst case

    def expected_bytes(self) -> int:
        return 40 * 4 * 4


class TestSearch(TableConformance):
    scheme = AutoSrh(served=ROOMY, stage="search")
    size_is_known = False

    def expected_bytes(self) -> int:
        return 40 * 4 * 4 + 6 * 4 * 4


class TestRetrain(TableConformance):
    scheme = AutoSrh(served=ROOMY, stage="retrain")
    size_is_known = False

    def expected_bytes(self) -> int:
        return 40 * 4 * 4 + 40


def set_alpha(tables: EmbeddingCollection, alpha: Tensor) -> None:
    item_of(tables).part.decoder.load_state_dict({"alpha": alpha})


@pytest.mark.parametrize("pooling", ["sum", "mean"])
def test_values_by_hand(pooling):
    spec = SPEC.model_copy(update={"pooling": pooling})
    tables = made(AutoSrh(served=SERVED, stage="search", groups=3), spec)
    alpha = torch.rand(3, 4, generator=torch.Generator().manual_seed(0))
    set_alpha(tables, alpha)
    dense = item_of(tables).probes[0].clone()
    # 39 ids: 13 a group
    dense[1:14] *= alpha[0]
    dense[14:27] *= alpha[1]
    dense[27:40] *= alpha[2]
    check_bags(tables, dense)


@pytest.mark.parametrize(("rows", "groups"), [(40, 6), (3, 6), (2, 1), (1_000_000_000, 6)])
def test_groups_are_of_equal_size(rows, groups):
    decoder = Gates(rows, 4, groups, 0.0)
    ends = torch.tensor([0, 1, rows - 1], dtype=torch.int32)
    assert decoder.group(ends).tolist() == [0, 0, (rows - 2) * groups // (rows - 1)]
    if rows == 40:
        counts = torch.bincount(decoder.group(torch.arange(1, 40)), minlength=6)
        assert counts.tolist() == [7, 6, 7, 6, 7, 6]


def test_gradient_of_the_gates_is_divided_by_its_mean():
    tables = made(AutoSrh(served=SERVED, stage="search", groups=2, l1=0.25), SPEC)
    tables.train()
    weight = item_of(tables).probes[0]
    (alpha,) = tables.architecture_parameters()
    # Two calls in one step: the gradients of both and of L1 are divided together.
    loss = vectors(tables, [2, 30]).sum() + vectors(tables, [3]).sum()
    aux = tables.aux_loss()
    assert aux.item() == pytest.approx(0.25 * 8)
    (loss + aux).backward()
    raw = torch.stack([weight[2] + weight[3], weight[30]]) + 0.25
    assert alpha.grad is not None
    torch.testing.assert_close(alpha.grad, raw / raw.abs().mean(1, keepdim=True))
    assert tables.aux_loss().item() == 0  # asked once a step


def test_no_loss_in_eval_mode_and_modules_can_be_copied():
    tables = made(AutoSrh(served=SERVED, stage="search"), SPEC)
    vectors(tables, [2])
    again = copy.deepcopy(tables)  # with a step recorded
    assert torch.equal(vectors(again, [2]), vectors(tables, [2]))
    tables.eval()
    assert tables.aux_loss().item() == 0


def test_gates_stay_between_closed_and_open():
    tables = made(AutoSrh(served=SERVED, stage="search"), SPEC)
    set_alpha(tables, torch.tensor([[-0.5, 0.2, 1.0, 7.0]] * 6))
    tables.after_step()
    (alpha,) = tables.architecture_parameters()
    torch.testing.assert_close(alpha[0], torch.tensor([0.0, 0.2, 1.0, 1.0]))


class TestPlan:
    tables = (table("a", 5000), table("b", 300, 8))

    @pytest.mark.parametrize("ratio", [0.5, 0.1, 0.001])
    def test_fits_and_fills_the_budget(self, ratio):
        budget = int(ratio * full_bytes(self.tables))
        plan = AutoSrh().plan(self.tables, budget)
        assert 0.9 * budget <= planned_bytes(self.tables, plan) <= budget
        assert round_trip(plan["a"]) == plan["a"]

    def test_floor_and_full(self):
        with pytest.raises(BudgetInfeasible) as caught:
            AutoSrh().plan(self.tables, 10)
        assert caught.value.min_bytes == 2 * 30  # as in test_deep_light
        assert AutoSrh(density=0.99).plan(self.tables, None)["a"] == Full()


def loss_of(tables: EmbeddingCollection) -> Tensor:
    """Frequent ids are worth more, and need two dimensions only."""
    generator = torch.Generator().manual_seed(3)
    target = torch.randn(39, 4, generator=generator)
    target[:20, 2:] = 0
    worth = torch.linspace(2.0, 0.1, 39).unsqueeze(1)
    return (worth * (vectors(tables, range(1, 40)) - target) ** 2).mean()


def test_warm_up_search_retrain_serve():
    budget = 300
    scheme = AutoSrh(groups=2, l1=0.01).plan([SPEC], budget)["item"]
    tables = made(scheme, SPEC)
    losses = train(tables, loss_of, 100, 0.3)
    assert losses[-1] < 0.1 * losses[0]
    search = advanced(tables, "warmup", SPEC)
    torch.testing.assert_close(vectors(search, range(40)), vectors(tables, range(40)))
    (alpha,) = search.architecture_parameters()
    for _ in range(100):  # steps of alpha alone
        search.trains_tables, alpha.grad = False, None
        (loss_of(search) + search.aux_loss()).backward()
        assert alpha.grad is not None
        with torch.no_grad():
            alpha -= 0.01 * alpha.grad
        search.after_step()
    search.trains_tables = True
    assert float(alpha.detach().max()) <= 1 and float(alpha.detach().min()) < 0.7
    retrain = advanced(search, "search", SPEC)
    assert retrain.architecture_parameters() == []
    # Gates are multiplied in: 39 ids in 2 groups, indices 1-20 and 21-39. The largest are left.
    gated = item_of(search).probes[0].clone()
    gated[1:21] *= alpha.detach()[0]
    gated[21:] *= alpha.detach()[1]
    count = int(vectors(retrain, range(40)).count_nonzero())
    least = gated.abs().flatten().sort(descending=True).values[count - 1]
    kept = gated.abs() >= least
    check_bags(retrain, gated * kept)
    before = loss_of(retrain).item()
    assert train(retrain, loss_of, 50, 0.1)[-1] < before
    after = vectors(retrain, range(40))
    assert torch.equal(after != 0, kept)  # what was pruned stays zero, what was not is trained
    assert not torch.equal(after, gated * kept)
    served = frozen(retrain, SPEC)
    size = served.bytes().total - full_bytes(served.groups["embedding"][:1])
    assert 0.85 * budget <= size <= budget
    check_bags(served, after)  # nothing more is cut


def test_state_is_restored():
    scheme = AutoSrh(served=SERVED, stage="search")
    first, second = made(scheme, SPEC), made(scheme, SPEC, seed=2)
    set_alpha(first, torch.rand(6, 4, generator=torch.Generator().manual_seed(0)))
    second.load_state_dict(first.state_dict())
    assert torch.equal(vectors(second, range(40)), vectors(first, range(40)))
