"""Codes of 8 or 4 bits a coordinate, in the vectors' own or in their main directions.

Stability: experimental
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from recsys.errors import DataError
from recsys.retrieval.code_products import level_products, unpacked
from recsys.retrieval.codes import Basis, ScannedCodes, half, sample, take_state

_SHRINK = torch.linspace(1.0, 0.3, 15).tolist()


class ScalarCodes(ScannedCodes):
    """``v = s (low + step c)``, c whole numbers of 8 or 4 bits, s the length.

    The direction of a vector is cut into levels, coordinate by coordinate; ranges are those that
    lose least (least squares over shrunken ranges), which for 4 bits is about half of the extremes.
    With ``dims``, coordinates are those of the main directions, mixed by a random rotation.

    Args:
        bits: 8 or 4.
        dims: Main directions to keep; None keeps the vectors' own coordinates.

    Raises:
        DataError: ``bits`` or ``dims`` is out of range.

    Example:
        >>> vectors = torch.tensor([[1.0, 2.0], [4.0, 8.0], [3.0, -1.0]])
        >>> codes = ScalarCodes(bits=8).fitted(vectors)
        >>> parts = codes.encode(vectors)
        >>> [(name, tuple(part.shape), part.dtype) for name, part in parts.items()]
        [('codes', (3, 2), torch.uint8), ('length', (3,), torch.float16)]
        >>> torch.allclose(codes.decode(parts), vectors, atol=0.02)
        True
    """

    kind = "scalar"

    def __init__(self, bits: int = 8, dims: int | None = None) -> None:
        if bits not in (4, 8):
            raise DataError(f"`bits` must be 4 or 8, got {bits}.")
        self.bits = bits
        self._basis = Basis(dims, rotate=dims is not None)
        self._low = self._step = self._unit = torch.zeros(0)

    @property
    def name(self) -> str:
        """``sq8``, ``pca32-sq4``, ..."""
        dims = self._basis.dims
        return f"sq{self.bits}" if dims is None else f"pca{dims}-sq{self.bits}"

    def options(self) -> dict[str, int | float | bool | str | None]:
        """See `Codes`."""
        return {"bits": self.bits, "dims": self._basis.dims}

    def fit(self, vectors: Tensor) -> None:
        """See `Codes`."""
        rows = sample(vectors)
        self._basis.fit(rows)
        inside = self._basis.into(rows)
        lengths = torch.linalg.vector_norm(inside, dim=1)
        self._unit = lengths.max().clamp(min=1e-30)
        directions = inside / lengths.clamp(min=1e-30)[:, None]
        low, high = directions.amin(0), directions.amax(0)
        middle, radius = (low + high) / 2, ((high - low) / 2).clamp(min=1e-6)
        best = torch.full_like(middle, torch.inf)
        self._low, self._step = low.clone(), radius.clone()
        for shrink in _SHRINK:
            low = middle - shrink * radius
            step = 2 * shrink * radius / (2**self.bits - 1)
            decoded = low + step * self._levels(directions, low, step)
            lost = (decoded - directions).square().mean(0)
            better = lost < best
            best = torch.where(better, lost, best)
            self._low = torch.where(better, low, self._low)
            self._step = torch.where(better, step, self._step)

    def _levels(self, directions: Tensor, low: Tensor, step: Tensor) -> Tensor:
        return ((directions - low) / step).round_().clamp_(0, 2**self.bits - 1)

    def encode(self, vectors: Tensor) -> dict[str, Tensor]:
        """See `Codes`."""
        inside = self._basis.into(vectors)
        lengths = torch.linalg.vector_norm(inside, dim=1, keepdim=True)
        levels = self._levels(inside / lengths.clamp(min=1e-30), self._low, self._step)
        decoded = self._low + self._step * levels
        # The length that loses least, given the direction.
        fitted = (inside * decoded).sum(1) / decoded.square().sum(1).clamp(min=1e-30)
        codes = levels.to(torch.uint8)
        if self.bits == 4:
            half_width = (codes.shape[1] + 1) // 2
            low, high = codes[:, :half_width].clone(), codes[:, half_width:]
            low[:, : high.shape[1]] |= high << 4
            codes = low
        return {"codes": codes, "length": half(fitted, self._unit)}

    def decode(self, parts: Mapping[str, Tensor]) -> Tensor:
        """Approximate vectors, (n, D).

        Args:
            parts: From `encode`.
        """
        directions = self._low + self._step * unpacked(parts["codes"], self.bits, len(self._low))
        return self._basis.back(directions * (parts["length"].float() * self._unit)[:, None])

    def prepare(self, queries: Tensor) -> Tensor:
        """See `ScannedCodes`: weights of the levels, then the share of ``low``."""
        inside = self._basis.into(queries) * self._unit
        return torch.cat([inside * self._step, (inside @ self._low)[:, None]], 1)

    def products(self, prepared: Tensor, parts: Mapping[str, Tensor]) -> Tensor:
        """See `ScannedCodes`."""
        scores = level_products(prepared[:, :-1], prepared[:, -1], parts["codes"], self.bits)
        return scores.mul_(parts["length"].float())

    def state(self) -> dict[str, Tensor]:
        """See `Codes`."""
        assert self._basis.matrix is not None, "fit first"
        return {
            "matrix": self._basis.matrix,
            "low": self._low,
            "step": self._step,
            "unit": self._unit,
        }

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """See `Codes`."""
        shapes = {"matrix": 2, "low": 1, "step": 1, "unit": 0}
        self._basis.matrix, self._low, self._step, self._unit = take_state(state, shapes)
