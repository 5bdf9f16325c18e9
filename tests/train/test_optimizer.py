import pytest
import torch
from torch import nn

from recsys.config import TrainConfig
from recsys.errors import CheckpointError
from recsys.train.optimizer import DenseOptimizer

KINDS = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "sgd": torch.optim.SGD,
    "adagrad": torch.optim.Adagrad,
}


def weight():
    return nn.Parameter(torch.tensor([[1.0, -2.0, 3.0]]))


@pytest.mark.parametrize("kind", KINDS)
def test_equals_torchs_own_with_weight_decay(kind):
    mine, theirs = weight(), weight()
    optimizer = DenseOptimizer({"w": mine}, TrainConfig(optimizer=kind, weight_decay=0.1))
    reference = KINDS[kind]([theirs], lr=1e-3, weight_decay=0.1, foreach=False)
    for _ in range(5):
        for parameter in (mine, theirs):
            parameter.grad = parameter.detach() ** 2
        optimizer.step()
        reference.step()
    torch.testing.assert_close(mine, theirs, atol=1e-7, rtol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_state_survives_by_name_bit_for_bit(kind):
    config = TrainConfig(optimizer=kind)
    results = []
    for cut in (False, True):
        parameter = weight()
        optimizer = DenseOptimizer({"w": parameter}, config)
        for step in range(6):
            if cut and step == 3:
                state = {name: value.clone() for name, value in optimizer.state_dict().items()}
                optimizer = DenseOptimizer({"w": parameter}, config)
                optimizer.load_state_dict(state)
            optimizer.set_learning_rate(0.1 / (step + 1))
            parameter.grad = torch.sin(parameter.detach() + step)
            optimizer.step()
        results.append(parameter.detach().clone())
    assert torch.equal(*results)


def test_biases_do_not_decay():
    bias = nn.Parameter(torch.ones(2))
    optimizer = DenseOptimizer({"b": bias}, TrainConfig(optimizer="sgd", weight_decay=0.5))
    bias.grad = torch.zeros(2)
    optimizer.step()
    assert bias.tolist() == [1.0, 1.0]


def test_state_of_another_model():
    optimizer = DenseOptimizer({"w": weight()}, TrainConfig())
    with pytest.raises(CheckpointError, match="the model has no such parameter"):
        optimizer.load_state_dict({"v:exp_avg": torch.zeros(1, 3)})
    with pytest.raises(CheckpointError, match=r"shape \(1, 4\), the model has \(1, 3\)"):
        optimizer.load_state_dict({"w:exp_avg": torch.zeros(1, 4)})


def test_a_model_without_dense_part():
    optimizer = DenseOptimizer({}, TrainConfig())
    optimizer.zero_grad()
    optimizer.step()
    optimizer.set_learning_rate(1.0)
    optimizer.load_state_dict(optimizer.state_dict())
    assert optimizer.state_dict() == {}
