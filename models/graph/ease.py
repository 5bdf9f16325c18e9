"""Linear regression of every item on all others, in closed form.

Train it: ``recsys train --config configs/graph/ease.yaml``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from pydantic import Field
from scipy.sparse import csc_array, csr_array

from recsys.cf_fitted import ItemSimilarityModel
from recsys.embeddings.host_memory import free_memory
from recsys.errors import ConfigError
from recsys.graph.dense_inverse import gram_matrix, inverse_error, invert_in_place

_ROWS = 1024
_MOST_ERROR = 0.01


class EASE(ItemSimilarityModel):
    """The weights that best give every item from the others, ridge-regularized.

    ``min |R - R W|^2 + l2 |W|^2`` with a diagonal of 0: with ``P = (R^T R + l2 I)^-1``,
    ``w_ij = -p_ij / p_jj``. Needs memory for I x I numbers and about I^3 operations: 7.3 GB and 12
    minutes of one core for the 41,000 items of Gowalla. Where there are more items than memory
    allows, use `SLIM` with ``candidates``, `ItemKNN` or `GFCF`.

    Args:
        config: Regularization, precision, pruning.
        graph: The training pairs.

    Raises:
        ConfigError: `fit`: the matrix does not fit the free memory, or ``l2`` is too small for the
            precision.

    Source:
        Steck, "Embarrassingly Shallow Autoencoders for Sparse Data", WWW 2019, Algorithm 1.

    Example:
        >>> from recsys.graph.interaction_graph import InteractionGraph
        >>> graph = InteractionGraph(2, 2, torch.tensor([0, 0, 1]), torch.tensor([0, 1, 1]))
        >>> model = EASE(EASE.Config(l2=1.0), graph)
        >>> model.fit(lambda line: None)
        >>> torch.allclose(model.scores(torch.tensor([1])), torch.tensor([[1 / (2 + 1), 0]]))
        True

    Stability: caller
    """

    class Config(ItemSimilarityModel.Config):
        """Options of `EASE`."""

        l2: float = Field(default=80.0, gt=0)
        """Regularization, in units of pairs. Large catalogues with few pairs want less."""
        precision: Literal["float32", "float64"] = "float32"
        """Of the inverse. float64 takes twice the memory and the time; see what `fit` refuses."""
        top_k: int | None = Field(default=None, ge=1)
        """Largest weights (by absolute value) kept of those that give an item; None for all."""

    config: Config

    def fit(self, say: Callable[[str], None]) -> None:
        """Inverts the Gram matrix of the items."""
        size, wide = self.graph.num_items, self.config.precision == "float64"
        need, free = size * size * (12 if wide else 4), free_memory()
        if free is not None and need > free:
            raise ConfigError(
                f"EASE needs {need:,} bytes for the weights of {size:,} x {size:,} items in "
                f"{self.config.precision}, and {free:,} are free. Use float32, a data set with "
                "fewer items (k-core), or SLIM with `candidates`."
            )
        say(f"Gram matrix of {size:,} items, {need / 1e9:.1f} GB")
        matrix = gram_matrix(self.graph.matrix(), self.config.l2, self.config.precision)
        say(f"inverting it: {size**3:.1e} operations")
        invert_in_place(matrix)
        error = inverse_error(self.graph.matrix(), self.config.l2, matrix)
        if not error < _MOST_ERROR:
            raise ConfigError(
                f"the inverse is wrong by {error:.1%} of its product with a vector, expected less "
                f"than {_MOST_ERROR:.0%}: {self.config.precision} is not enough for `l2` = "
                f"{self.config.l2:g} on this data. Raise `l2`, or set `precision: float64`."
            )
        scale = -1 / matrix.diagonal()
        blocks = []
        for start in range(0, size, _ROWS):  # rows are columns: the inverse is symmetric
            part = slice(start, start + _ROWS)
            if self.config.top_k is None:
                matrix[part] *= scale
            else:
                matrix[part] *= scale[part, None]
            matrix[
                range(start, start + len(scale[part])), range(start, start + len(scale[part]))
            ] = 0
            if self.config.top_k is not None:
                blocks.append(_largest(matrix[part], self.config.top_k))
        if self.config.top_k is None:
            self.weights.assign(torch.from_numpy(matrix.astype(np.float32, copy=False)))
        else:
            self.weights.assign(_columns(blocks, size))


def _largest(rows: np.ndarray, top_k: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions and values of the largest entries of every row, by absolute value."""
    found = torch.from_numpy(rows)
    positions = found.abs().topk(min(top_k, rows.shape[1]), dim=1).indices
    return positions.numpy(), found.gather(1, positions).float().numpy()


def _columns(blocks: list[tuple[np.ndarray, np.ndarray]], size: int) -> csr_array:
    """The matrix whose columns are given by positions and values."""
    positions = np.concatenate([b[0] for b in blocks])
    values = np.concatenate([b[1] for b in blocks])
    begins = np.arange(0, positions.size + 1, positions.shape[1])
    found = csr_array(csc_array((values.ravel(), positions.ravel(), begins), (size, size)).tocsr())
    found.eliminate_zeros()
    return found
