"""A stack of fully connected layers.

Stability: caller
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Literal

from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from recsys.layers import onednn
from recsys.layers.factored import Factored
from recsys.layers.initialization import initialize
from recsys.schema import Frozen

Activation = Literal["relu", "leaky_relu", "gelu", "silu", "sigmoid", "tanh"]

_ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
}


class MLPConfig(Frozen):
    """Options of an `MLP`."""

    hidden_units: tuple[int, ...] = (400, 400, 400)
    """Width of every hidden layer, first to last. May be empty."""
    activation: Activation = "relu"
    """After every hidden layer."""
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Share of hidden units set to zero in training."""
    batch_norm: bool = False
    """Batch normalization between a hidden layer and its activation."""


class MLP(nn.Module):
    """Fully connected layers: ``Linear -> [BatchNorm] -> activation -> [Dropout]``, repeated.

    With ``out_features`` a last plain ``Linear`` follows, without activation.

    Args:
        in_features: Width of the input.
        config: Hidden layers.
        out_features: Width of the last plain layer; None for none.

    Shape:
        - input: (B, in_features)
        - output: (B, out_features), or (B, last hidden width) without ``out_features``

    Raises:
        ValueError: A width is not positive.

    Source:
        The block order is that of FuxiCTR 2.3 ``MLP_Block``, which made the BARS figures.
        Differs: no bias in front of a batch norm, which would take it away again.

    Example:
        >>> import torch
        >>> layer = MLP(4, MLPConfig(hidden_units=(8, 3), batch_norm=True), out_features=1)
        >>> layer(torch.zeros(2, 4))
        tensor([[0.],
                [0.]], grad_fn=<AddmmBackward0>)

    Stability: caller
    """

    def __init__(
        self, in_features: int, config: MLPConfig, out_features: int | None = None
    ) -> None:
        super().__init__()
        widths = [in_features, *config.hidden_units]
        if min([*widths, out_features or 1]) < 1 or out_features == 0:
            raise ValueError(
                f"MLP: every width must be at least 1, got in_features={in_features}, "
                f"hidden_units={config.hidden_units}, out_features={out_features}."
            )
        layers: list[nn.Module] = []
        for width, following in pairwise(widths):
            layers.append(nn.Linear(width, following, bias=not config.batch_norm))
            if config.batch_norm:
                layers.append(BatchNorm(following))
            layers.append(_activation(config.activation))
            if config.dropout:
                layers.append(nn.Dropout(config.dropout))
        self._num_hidden = len(layers)
        if out_features is not None:
            layers.append(nn.Linear(widths[-1], out_features))
        self.layers = nn.Sequential(*layers)
        self.out_features = out_features or widths[-1]
        initialize(self)

    def forward(self, x: Tensor | Factored) -> Tensor:
        """Input (B, in_features), output (B, out_features)."""
        if not len(self.layers):
            return x.written_out() if isinstance(x, Factored) else x
        layers = list(self.layers)
        hidden, output = layers[: self._num_hidden], layers[self._num_hidden :]
        steps: list[Callable[[Tensor], Tensor]] = [*layers]
        if isinstance(x, Factored):
            first = self.layers[0]
            assert isinstance(first, nn.Linear)
            x, weight = x.folded(first.weight)
            steps[0] = partial(functional.linear, weight=weight, bias=first.bias)
        if onednn.fits(x, hidden):
            x = x.to_mkldnn()
            steps.insert(len(steps) - len(output), Tensor.to_dense)
        for step in steps:
            x = step(x)
        return x


class BatchNorm(nn.BatchNorm1d):
    """``torch.nn.BatchNorm1d`` that also takes a training batch of one row.

    One row has no variance. The last batch of an epoch may have one row, so that row is
    normalized by the running statistics (which stay as they are) and training does not stop.

    Shape:
        - input and output: (B, num_features)
    """

    def forward(self, input: Tensor) -> Tensor:
        """Input and output (B, num_features)."""
        if self.training and input.shape[0] != 1:
            return super().forward(input)
        return functional.batch_norm(
            input, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
        )


def _activation(name: Activation) -> nn.Module:
    kind = _ACTIVATIONS[name]
    # In place is safe here: neither Linear nor BatchNorm needs its own output for its gradient.
    return kind(inplace=True) if kind in (nn.ReLU, nn.LeakyReLU) else kind()
