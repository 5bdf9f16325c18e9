"""Parts of whole tensors: what one rank holds of tables and of their optimizer's state.

Stability: experimental
"""

from __future__ import annotations

import dataclasses

from torch import Tensor


@dataclasses.dataclass(frozen=True, slots=True)
class TensorPart:
    """A block of a tensor that is spread over ranks.

    Args:
        name: Of the whole tensor.
        offsets: Where the block starts in it, a number a dimension.
        size: Of the whole tensor.
        values: The block, a view of what is trained.
    """

    name: str
    offsets: tuple[int, ...]
    size: tuple[int, ...]
    values: Tensor
