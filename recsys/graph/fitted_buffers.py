"""State that a fit computes and a state dict holds, whose shapes the code does not know.

Stability: internal
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor, nn

from recsys.errors import DataError, TrainingError
from recsys.graph.products import size


class FittedBuffers(nn.Module):
    """A module with buffers that are empty until something fills them.

    What is loaded says their shapes. They are computed on with numpy and scipy, on the CPU.

    Example:
        >>> class Mean(FittedBuffers):
        ...     def __init__(self) -> None:
        ...         super().__init__()
        ...         self.add_buffers(mean=torch.float32)
        >>> fitted, fresh = Mean(), Mean()
        >>> fitted.mean = torch.ones(2)
        >>> fresh.load_state_dict(fitted.state_dict()), fresh.mean.tolist()
        (<All keys matched successfully>, [1.0, 1.0])
    """

    def add_buffers(self, **dtypes: torch.dtype) -> None:
        """Registers empty buffers.

        Args:
            **dtypes: Of every buffer, by name.
        """
        for name, dtype in dtypes.items():
            self.register_buffer(name, torch.empty(0, dtype=dtype))

    def require(self, filled: bool) -> None:
        """Refuses to go on where nothing was computed yet.

        Args:
            filled: Whether it was.

        Raises:
            TrainingError: It was not.
        """
        if not filled:
            raise TrainingError(
                "expected a fitted model, got one that was only built: there is nothing to score "
                "with. Call `fit`, or load the state of a fitted one."
            )

    def _load_from_state_dict(
        self,
        state_dict: Any,
        prefix: str,
        local_metadata: Any,
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        """Buffers take the shapes of what is loaded: only a fit knows them."""
        for name, buffer in list(self._buffers.items()):
            found = state_dict.get(prefix + name)
            if found is not None and buffer is not None:
                setattr(self, name, torch.empty_like(found, device=buffer.device))
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )


def check_history(history: csr_array, num_items: int) -> None:
    """Refuses a history whose columns are not the items.

    Args:
        history: Sparse (B, I).
        num_items: I.

    Raises:
        DataError: It has another width.
    """
    if size(history)[1] != num_items:
        raise DataError(
            f"expected a history with {num_items} columns, one an item, got {size(history)[1]}."
        )


def check_weights(matrix: csr_array) -> None:
    """Refuses pairs whose weights are negative, or no numbers.

    Args:
        matrix: Sparse (U, I).

    Raises:
        DataError: There is one.
    """
    wrong = ~(matrix.data >= 0) | np.isinf(matrix.data)
    if wrong.any():
        raise DataError(
            f"expected weights of pairs from 0, got {matrix.data[wrong][0]}. Train without weights "
            "(`weighted: false`), or shift them."
        )


def csr_of(indptr: Tensor, indices: Tensor, values: Tensor, num_columns: int) -> csr_array:
    """The sparse matrix that three buffers hold, without a copy where they are on the CPU.

    Args:
        indptr: Where every row begins, and the end of the last.
        indices: Columns.
        values: Of every entry.
        num_columns: Width of the matrix.
    """
    parts = (values.cpu().numpy(), indices.cpu().numpy(), indptr.cpu().numpy())
    return csr_array(parts, shape=(len(indptr) - 1, num_columns))


def buffers_of(matrix: csr_array) -> tuple[Tensor, Tensor, Tensor]:
    """A sparse matrix as ``indptr, indices, values``; positions have 32 bits where that is enough.

    Args:
        matrix: float32.
    """
    small = max(matrix.nnz, *size(matrix)) < 2**31
    dtype = np.int32 if small else np.int64
    indptr, indices = matrix.indptr.astype(dtype), matrix.indices.astype(dtype)
    values = matrix.data.astype(np.float32, copy=False)
    return torch.from_numpy(indptr), torch.from_numpy(indices), torch.from_numpy(values)
