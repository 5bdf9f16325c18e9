"""The optimizer of the dense part and its state as plain named tensors.

Stability: internal
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from recsys.base import RecModel
from recsys.errors import CheckpointError
from recsys.fit_config import FitConfig


def dense_parameters(model: RecModel) -> dict[str, nn.Parameter]:
    """Parameters that are not embedding tables, by name.

    Args:
        model: Its collection says which are tables; those have their own optimizer.
    """
    embeddings = model.embeddings
    others = (*embeddings.table_parameters(), *embeddings.architecture_parameters())
    tables = {id(parameter) for parameter in others}
    return {
        name: parameter
        for name, parameter in model.named_parameters()
        if id(parameter) not in tables and parameter.requires_grad
    }


class DenseOptimizer:
    """A torch optimizer whose state is saved by parameter name.

    Weight decay leaves biases and other one-dimensional weights alone.

    Args:
        parameters: By name; may be empty (a model of tables only).
        config: Kind, learning rate, weight decay.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], config: FitConfig) -> None:
        self.parameters = dict(parameters)
        self._optimizer: torch.optim.Optimizer | None = None
        if self.parameters:
            decayed = [p for p in self.parameters.values() if p.ndim > 1]
            others = [p for p in self.parameters.values() if p.ndim <= 1]
            groups = [
                {"params": decayed, "weight_decay": config.weight_decay},
                {"params": others, "weight_decay": 0.0},
            ]
            self._optimizer = _optimizer([g for g in groups if g["params"]], config)

    def step(self) -> None:
        """Applies the gradients."""
        if self._optimizer is not None:
            self._optimizer.step()

    def zero_grad(self) -> None:
        """Forgets all gradients."""
        if self._optimizer is not None:
            self._optimizer.zero_grad()

    def set_learning_rate(self, learning_rate: float) -> None:
        """Changes the step size.

        Args:
            learning_rate: Of the next step.
        """
        if self._optimizer is not None:
            for group in self._optimizer.param_groups:
                group["lr"] = learning_rate

    def state_dict(self) -> dict[str, Tensor]:
        """State tensors by ``<parameter>:<state>``; empty before the first step."""
        if self._optimizer is None:
            return {}
        state = self._optimizer.state
        return {
            f"{name}:{key}": torch.as_tensor(value).clone()
            for name, parameter in self.parameters.items()
            for key, value in state.get(parameter, {}).items()
            if value is not None
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Takes over what `state_dict` gave.

        Args:
            state: Of a checkpoint.

        Raises:
            CheckpointError: It has a parameter that the model lacks, or one of another shape.
        """
        if self._optimizer is None:
            return
        found: dict[str, dict[str, Tensor]] = {}
        for entry, value in state.items():
            name, _, key = entry.rpartition(":")
            parameter = self.parameters.get(name)
            if parameter is None or (value.ndim and value.shape != parameter.shape):
                expected = "no such parameter" if parameter is None else tuple(parameter.shape)
                raise CheckpointError(
                    f"optimizer state `{entry}` has shape {tuple(value.shape)}, the model has "
                    f"{expected}. The checkpoint belongs to another model configuration."
                )
            found.setdefault(name, {})[key] = value
        for name, values in found.items():
            parameter = self.parameters[name]
            self._optimizer.state[parameter] = {
                # Copies: torch's optimizers update their state in place.
                key: value.clone() if key == "step" else value.clone().to(parameter.device)
                for key, value in values.items()
            }


def _optimizer(groups: list[dict], config: FitConfig) -> torch.optim.Optimizer:
    """Fused kernels: one pass over memory, on CPU too."""
    rate = config.learning_rate
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=rate, fused=True)
    if config.optimizer == "adagrad":
        on_cpu = all(p.device.type == "cpu" for group in groups for p in group["params"])
        return torch.optim.Adagrad(groups, lr=rate, fused=on_cpu or None)
    make = torch.optim.AdamW if config.optimizer == "adamw" else torch.optim.Adam
    return make(groups, lr=rate, fused=True)
