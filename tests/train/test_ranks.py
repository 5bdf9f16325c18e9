"""Averages over ranks, with an all-reduce that adds what another rank would."""

from __future__ import annotations

import pytest
import torch

from recsys.train import ranks as module
from recsys.train.ranks import GradientAverage, Ranks


def average(monkeypatch, mine: list[list[float] | None], theirs: list[list[float] | None]):
    """Gradients of this rank after averaging, None where there is none."""
    parameters = [torch.nn.Parameter(torch.zeros(2)) for _ in mine]
    for parameter, gradient in zip(parameters, mine):
        parameter.grad = None if gradient is None else torch.tensor(gradient)

    def all_reduce(flat: torch.Tensor) -> None:
        other = [torch.tensor(g or [0.0, 0.0]) for g in theirs]
        flat += torch.cat([*other, torch.tensor([float(g is not None) for g in theirs])])

    monkeypatch.setattr(module.distributed, "all_reduce", all_reduce)
    GradientAverage(parameters, Ranks(rank=0, world_size=2))()
    return [None if p.grad is None else p.grad.tolist() for p in parameters]


@pytest.mark.parametrize("theirs", [[6.0, 8.0], None])
def test_a_gradient_that_one_rank_misses_counts_as_zero(monkeypatch, theirs):
    found = average(monkeypatch, [[2.0, 4.0], None], [theirs, [1.0, 0.0]])
    assert found == [[4.0, 6.0] if theirs else [1.0, 2.0], [0.5, 0.0]]


def test_a_gradient_that_all_ranks_miss_stays_missing(monkeypatch):
    """So momentum does not move a weight that the step does not use, as on one rank."""
    assert average(monkeypatch, [None, [2.0, 2.0]], [None, [0.0, 2.0]]) == [None, [1.0, 2.0]]
