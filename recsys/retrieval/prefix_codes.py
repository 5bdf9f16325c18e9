"""The first values of every vector as its code, for models whose prefixes are vectors of their own.

Stability: experimental
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from recsys.errors import DataError
from recsys.retrieval.codes import ScannedCodes, directions, take_state
from recsys.retrieval.scalar_codes import ScalarCodes

_BLOCK = 4096  # rows


class PrefixCodes(ScannedCodes):
    """Search by the first ``dims`` values; whole vectors score the candidates again.

    Right for vectors that were trained with ``prefixes`` (`recsys.losses.in_batch`), of which
    ``dims`` should be one. Of other vectors take `ScalarCodes` with ``dims``: main directions.

    Args:
        dims: Values to keep.
        bits: Of a value: 32, 16, or 8 and 4 as in `ScalarCodes`.
        normalize: Whether prefixes were trained as cosines: the prefix is then stretched to the
            length of the whole vector, so that what its tail holds does not count against it.

    Raises:
        DataError: ``bits`` or ``dims`` is out of range.

    Source:
        Kusupati et al., "Matryoshka Representation Learning", NeurIPS 2022, adaptive retrieval:
        a short list by a prefix, its order by the whole.

    Example:
        >>> vectors = torch.tensor([[3.0, 4.0, 0.0, 12.0], [1.0, 0.0, 0.0, 0.0]])
        >>> codes = PrefixCodes(2).fitted(vectors)
        >>> codes.decode(codes.encode(vectors))[0]
        tensor([3., 4., 0., 0.])
        >>> codes = PrefixCodes(2, normalize=True).fitted(vectors)
        >>> codes.decode(codes.encode(vectors))[0]
        tensor([ 7.8000, 10.4000,  0.0000,  0.0000])
    """

    kind = "prefix"

    def __init__(self, dims: int, bits: int = 32, normalize: bool = False) -> None:
        if dims < 1:
            raise DataError(f"`dims` must be at least 1, got {dims}.")
        if bits not in (4, 8, 16, 32):
            raise DataError(f"`bits` must be 4, 8, 16 or 32, got {bits}.")
        self.dims, self.bits, self.normalize = dims, bits, normalize
        self._inside = ScalarCodes(bits) if bits < 16 else None
        self._unit = torch.ones(())
        self._width = dims

    @property
    def name(self) -> str:
        """``prefix64``, ``prefix64-sq8``, ``prefix64-f16``, ..."""
        ends = {32: "", 16: "-f16", 8: "-sq8", 4: "-sq4"}
        return f"prefix{self.dims}{ends[self.bits]}"

    def options(self) -> dict[str, int | float | bool | str | None]:
        """See `Codes`."""
        return {"dims": self.dims, "bits": self.bits, "normalize": self.normalize}

    def fit(self, vectors: Tensor) -> None:
        """See `Codes`.

        Args:
            vectors: Float vectors, (N, D).

        Raises:
            DataError: Vectors are shorter than the prefix.
        """
        self._width = vectors.shape[1]
        if self.dims > self._width:
            raise DataError(
                f"`dims` must be at most the {self._width} values of a vector, got {self.dims}."
            )
        prefixes = self._prefixes(vectors)
        if self._inside is not None:
            self._inside.fit(prefixes)
        elif prefixes.numel():
            self._unit = prefixes.abs().max().clamp(min=1e-30)

    def _prefixes(self, vectors: Tensor) -> Tensor:
        prefixes = vectors[:, : self.dims]
        if not self.normalize:
            return prefixes
        lengths = torch.linalg.vector_norm(vectors, dim=1, keepdim=True)
        return directions(prefixes)[0] * lengths

    def encode(self, vectors: Tensor) -> dict[str, Tensor]:
        """See `Codes`."""
        prefixes = self._prefixes(vectors)
        if self._inside is not None:
            return self._inside.encode(prefixes)
        scaled = prefixes / self._unit
        if self.bits == 16:  # later items may be longer than any that was fitted
            return {"codes": scaled.clamp(-65504.0, 65504.0).half()}
        return {"codes": scaled.contiguous()}

    def decode(self, parts: Mapping[str, Tensor]) -> Tensor:
        """Approximate vectors, (n, D), zeros behind the prefix.

        Args:
            parts: From `encode`.
        """
        if self._inside is not None:
            found = self._inside.decode(parts)
        else:
            found = parts["codes"].float() * self._unit
        return torch.nn.functional.pad(found, (0, self._width - self.dims))

    def prepare(self, queries: Tensor) -> Tensor:
        """See `ScannedCodes`."""
        prefixes = queries[:, : self.dims]
        return prefixes * self._unit if self._inside is None else self._inside.prepare(prefixes)

    def products(self, prepared: Tensor, parts: Mapping[str, Tensor]) -> Tensor:
        """See `ScannedCodes`."""
        if self._inside is not None:
            return self._inside.products(prepared, parts)
        blocks = parts["codes"].split(_BLOCK)
        return torch.cat([prepared @ block.float().T for block in blocks], 1)

    def state(self) -> dict[str, Tensor]:
        """See `Codes`."""
        inside = {} if self._inside is None else self._inside.state()
        shape = {"prefix_unit": self._unit, "width": torch.tensor(self._width)}
        return {**inside, **shape}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """See `Codes`."""
        self._unit, width = take_state(state, {"prefix_unit": 0, "width": 0})
        self._width = int(width)
        if self._inside is not None:
            self._inside.load_state(state)
