"""Codes of signs: of a vector in rotated coordinates, then of what that leaves, and so on.

Stability: experimental
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from recsys.errors import DataError
from recsys.retrieval.codes import Basis, ScannedCodes, half, sample, take_state
from recsys.retrieval.sign_bits import pack_signs, sign_products, unpack_signs


class SignCodes(ScannedCodes):
    """``v = sum_l s_l b_l`` with signs b of +1 and -1, and a length s for every level.

    Level l has the signs of what the levels before it left, and their mean absolute value as its
    length, which is the best one. Nothing is trained but the basis.

    Args:
        levels: Signs a coordinate.
        dims: Main directions to keep; None keeps all. They are mixed by a random rotation.

    Raises:
        DataError: ``levels`` or ``dims`` is out of range.

    Source:
        The residual form of Gan et al., "Binary Embedding-based Retrieval at Tencent", KDD 2023,
        without its networks and with lengths kept.

    Example:
        >>> vectors = torch.randn(100, 16, generator=torch.Generator().manual_seed(0))
        >>> losses = []
        >>> for levels in (1, 2, 4):
        ...     codes = SignCodes(levels).fitted(vectors)
        ...     rest = codes.decode(codes.encode(vectors)) - vectors
        ...     losses.append(round(float(rest.square().sum() / vectors.square().sum()), 2))
        >>> losses[0] > 2 * losses[1] > 4 * losses[2]
        True
    """

    kind = "sign"

    def __init__(self, levels: int = 2, dims: int | None = None) -> None:
        if not 1 <= levels <= 8:
            raise DataError(f"`levels` must be from 1 to 8, got {levels}.")
        self.levels = levels
        self._basis = Basis(dims, rotate=True)
        self._unit = torch.ones(())

    @property
    def name(self) -> str:
        """``sign2``, ``pca32-sign4``, ..."""
        dims = self._basis.dims
        return f"sign{self.levels}" if dims is None else f"pca{dims}-sign{self.levels}"

    def options(self) -> dict[str, int | float | bool | str | None]:
        """See `Codes`."""
        return {"levels": self.levels, "dims": self._basis.dims}

    def fit(self, vectors: Tensor) -> None:
        """See `Codes`."""
        rows = sample(vectors)
        self._basis.fit(rows)
        self._unit = self._basis.into(rows).abs().mean(1).max().clamp(min=1e-30)

    def encode(self, vectors: Tensor) -> dict[str, Tensor]:
        """See `Codes`."""
        rest = self._basis.into(vectors)
        packed, lengths = [], []
        for _ in range(self.levels):
            length = rest.abs().mean(1)
            positive = rest >= 0
            packed.append(pack_signs(positive))
            lengths.append(length)
            rest = rest - length[:, None] * (2.0 * positive - 1.0)
        return {
            "codes": torch.stack(packed, 1),
            "length": half(torch.stack(lengths, 1), self._unit),
        }

    def decode(self, parts: Mapping[str, Tensor]) -> Tensor:
        """Approximate vectors, (n, D).

        Args:
            parts: From `encode`.
        """
        lengths = parts["length"].float() * self._unit
        width = self._matrix.shape[1]
        total = torch.zeros(len(lengths), width)
        for level in range(self.levels):
            signs = unpack_signs(parts["codes"][:, level])[:, :width]
            total += lengths[:, level, None] * signs
        return self._basis.back(total)

    def prepare(self, queries: Tensor) -> Tensor:
        """See `ScannedCodes`: coordinates, filled up to whole bytes with zeros."""
        inside = self._basis.into(queries) * self._unit
        return torch.nn.functional.pad(inside, (0, -inside.shape[1] % 8))

    def products(self, prepared: Tensor, parts: Mapping[str, Tensor]) -> Tensor:
        """See `ScannedCodes`."""
        lengths = parts["length"].float()
        total = prepared.new_zeros((len(prepared), len(lengths)))
        for level in range(self.levels):
            total.addcmul_(sign_products(prepared, parts["codes"][:, level]), lengths[:, level])
        return total

    @property
    def _matrix(self) -> Tensor:
        assert self._basis.matrix is not None, "fit first"
        return self._basis.matrix

    def state(self) -> dict[str, Tensor]:
        """See `Codes`."""
        return {"matrix": self._matrix, "unit": self._unit}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """See `Codes`."""
        self._basis.matrix, self._unit = take_state(state, {"matrix": 2, "unit": 0})
