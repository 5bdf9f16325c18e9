"""Deep hash embeddings: vectors are computed from hashes, there is no table.

Stability: experimental
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from recsys.embeddings.compression.budget import check_fixed, fit, full_bytes
from recsys.embeddings.compression.hashing import mixed_products
from recsys.embeddings.ids import is_traced
from recsys.embeddings.scheme import Decoder, Dtype, Encoder, Full, Part, Scheme
from recsys.errors import ConfigError
from recsys.hashing import hash_strings, splitmix64
from recsys.layers.initialization import normal_
from recsys.layers.mlp import BatchNorm
from recsys.schema import TableSpec

Norm = Literal["none", "layer", "batch"]
Activation = Literal["mish", "relu"]
Distribution = Literal["uniform", "normal"]

_SECOND_MOMENT = {"relu": 0.5, "mish": 0.4523}
"""Mean square of the activation of N(0, 1)."""
_NARROWEST, _FEWEST_HASHES, _MOST_HASHES = 4, 16, 1024
_CHUNK = 4096  # rows at a time: hashes of more would fill the memory


class DHE(Scheme):
    """k hashes of an id, as real numbers, go through an MLP of the table's own.

        u_j(x) in [-1, 1),  j = 1 .. k                 (or N(0, 1))
        e(x) = W f_depth( ... f_1(u(x))) + b,          f(z) = activation(norm(V z + c))

    Nothing is stored for an id, and every step trains all of the network. Lookups cost
    ``k w + (depth - 1) w^2 + w D`` multiplications an id, by far the most of all schemes.

    Memory: ``4 (k w + w + (depth - 1)(w^2 + w) + w D + D)`` bytes a table, 8 for the salt, and for
    each hidden layer ``8 w`` (layer norm) or ``16 w + 8`` (batch norm).

    Example:
        >>> table = TableSpec(name="user", num_embeddings=10_000, embedding_dim=16,
        ...                   feature_names=("user",), pooling="sum")
        >>> plan = DHE().plan([table], budget=64_000)
        >>> plan["user"].hidden, plan["user"].num_hashes
        (53, 53)

    Source:
        Kang et al., "Learning to Embed Categorical Features without Embedding Tables for
        Recommendation", KDD 2021, Sections 3 and 4. Hashes are multiply-shift of a mixed 64-bit id
        in 2^24 steps, not ``((a x + b) mod p) mod 10^6``. Layer norm is the default instead of
        batch norm, so that the vector of an id does not depend on the batch. k follows the width,
        up to the paper's 1024: with a small budget the first layer would take all of it. Weights
        start so that all layers have unit variance.
    """

    kind: Literal["dhe"] = "dhe"
    """Name in configurations."""
    hidden: int | None = Field(default=None, ge=1)
    """Units w of every hidden layer; None is set by the budget."""
    num_hashes: int | None = Field(default=None, ge=1)
    """Hashes k of an id. None: as many as hidden units, from 16 to 1024."""
    depth: int = Field(default=5, ge=1)
    """Hidden layers."""
    activation: Activation = "mish"
    """After every hidden layer."""
    norm: Norm = "layer"
    """Before every activation. ``batch`` is the paper's."""
    distribution: Distribution = "uniform"
    """Of the hashes as real numbers."""
    salt: int = Field(default=0, ge=0)
    """Seed of the hashes."""

    def plan(self, tables: Sequence[TableSpec], budget: int | None) -> dict[str, Scheme]:
        """Widths by bisection: every MLP gets the same share of its table's full size."""
        if budget is None or self.hidden is not None:
            self.need(hidden=self.hidden)
            assert self.hidden is not None
            width = self.hidden
            return check_fixed(
                self.kind, tables, budget, {t.name: self._smaller(t, width) for t in tables}
            )
        if full_bytes(tables) <= budget:
            return {table.name: Full() for table in tables}
        return fit(self.kind, tables, budget, lambda share: self._at(tables, share))

    def _at(self, tables: Sequence[TableSpec], share: float) -> dict[str, Scheme]:
        """The widest MLPs of at most this share of each table."""
        plan: dict[str, Scheme] = {}
        for table in tables:
            most, low = share * full_bytes([table]), _NARROWEST
            high = max(low, math.isqrt(int(most)) + 1)  # far above: w^2 floats would not fit
            while low < high:
                middle = (low + high + 1) // 2
                low, high = (
                    (middle, high) if self._bytes(table, middle) <= most else (low, middle - 1)
                )
            plan[table.name] = self._smaller(table, low)
        return plan

    def _smaller(self, table: TableSpec, width: int) -> Scheme:
        """This scheme at a width, or `Full` where that is smaller."""
        if self._bytes(table, width) >= full_bytes([table]):
            return Full()
        return self.model_copy(update={"hidden": width, "num_hashes": self._hashes(width)})

    def _hashes(self, width: int) -> int:
        return self.num_hashes or min(max(width, _FEWEST_HASHES), _MOST_HASHES)

    def _bytes(self, table: TableSpec, width: int) -> int:
        """The formula of the class."""
        dim, between = table.embedding_dim, self.depth - 1
        floats = (self._hashes(width) + 1) * width + between * (width + 1) * width
        floats += (width + 1) * dim
        norms = {"none": 0, "layer": 8 * width, "batch": 16 * width + 8}[self.norm]
        return 4 * floats + self.depth * norms + 8

    def part(self, table: TableSpec) -> Part:
        """A decoder without tables."""
        self.need(hidden=self.hidden)
        assert self.hidden is not None
        hashes = Hashes(table.name, self._hashes(self.hidden), self.distribution, self.salt)
        return Part((), Encoder(), DeepHash(hashes, self, table))

    def check_dtype(self, dtype: Dtype) -> None:
        """Refuses all but fp32: there are no rows to store otherwise."""
        if dtype != "fp32":
            raise ConfigError(
                f"scheme `{self.kind}`: expected dtype fp32, got {dtype}. It has no rows, and the "
                "weights of its MLP stay in fp32. Freeze to fp32, or lower `hidden`."
            )


class Hashes(nn.Module):
    """k unrelated hashes of an index, as real numbers.

    Args:
        name: Of the table.
        count: k.
        distribution: ``uniform`` in [-1, 1), or ``normal``.
        salt: Seed.

    Shape:
        - input: (L,)
        - output: (L, k) float32
    """

    def __init__(self, name: str, count: int, distribution: Distribution, salt: int) -> None:
        super().__init__()
        self.count, self.distribution = count, distribution
        self._name, self._seed = name, salt
        self.salt: Tensor
        self.register_buffer("salt", torch.empty(1, dtype=torch.int64))

    def initialize(self, generator: torch.Generator | None = None) -> None:
        """Writes the salt: of the name alone, not of the run's seed."""
        del generator
        if not self.salt.is_meta:
            self.salt.copy_(torch.from_numpy(hash_strings([f"{self._name}#dhe"], self._seed)))

    def forward(self, indices: Tensor) -> Tensor:
        """The upper 24 bits of 64-bit products, which never leave int64."""
        salts = splitmix64(self.salt + torch.arange(self.count, device=indices.device))
        steps = mixed_products(indices, salts).bitwise_right_shift_(40)  # in [-2^23, 2^23)
        real = steps.to(torch.float32).t()
        if self.distribution == "uniform":
            return real * 2.0**-23
        return torch.erfinv((real + 0.5) * 2.0**-23) * math.sqrt(2.0)


class Layer(nn.Module):
    """A linear layer with a start of its own: weights N(0, std^2), bias zero.

    Args:
        in_features: Inputs.
        out_features: Outputs.
        std: Of the weights.

    Shape:
        - input: (L, in_features)
        - output: (L, out_features)
    """

    def __init__(self, in_features: int, out_features: int, std: float) -> None:
        super().__init__()
        self.std = std
        self.weight = nn.Parameter(torch.empty(out_features, in_features))
        self.bias = nn.Parameter(torch.empty(out_features))

    def initialize(self, generator: torch.Generator | None = None) -> None:
        """Draws the start values."""
        normal_(self.weight, self.std, generator)
        if not self.bias.is_meta:
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Weights times input plus bias."""
        return functional.linear(x, self.weight, self.bias)


class DeepHash(Decoder):
    """Hashes through an MLP. Equal indices are computed once, but for batch norm's statistics.

    Args:
        hashes: Of an index.
        scheme: Resolved.
        table: What is wanted.

    Shape:
        - as `Decoder`, without probes
    """

    linear = False

    def __init__(self, hashes: Hashes, scheme: DHE, table: TableSpec) -> None:
        super().__init__()
        assert scheme.hidden is not None
        width, moment = scheme.hidden, _SECOND_MOMENT[scheme.activation]
        self.hashes = hashes
        self.whole_batch = scheme.norm == "batch"
        layers: list[nn.Module] = []
        size = hashes.count
        mean_square = 1.0 if scheme.distribution == "normal" else 1 / 3
        for _ in range(scheme.depth):
            layers.append(Layer(size, width, (size * mean_square) ** -0.5))
            if scheme.norm != "none":
                layers.append(nn.LayerNorm(width) if scheme.norm == "layer" else BatchNorm(width))
            layers.append(nn.Mish() if scheme.activation == "mish" else nn.ReLU())
            size, mean_square = width, moment
        std = 0.0 if table.init.kind == "zeros" else table.init.std
        layers.append(Layer(width, table.embedding_dim, std * (width * moment) ** -0.5))
        self.layers = nn.Sequential(*layers)

    def forward(self, probes: Sequence[Tensor], indices: Tensor | None) -> Tensor:
        """Hashes and computes."""
        assert indices is not None
        if is_traced(indices) or (self.whole_batch and self.training):
            return self.layers(self.hashes(indices))
        distinct, back = torch.unique(indices, return_inverse=True)
        found = [self.layers(self.hashes(some)) for some in distinct.split(_CHUNK)]
        return torch.cat(found).index_select(0, back)
