"""UltraGCN: what endless propagation would lead to, as weights in the loss.

Train it: ``recsys train --config configs/graph/ultra_gcn.yaml``.

Stability: caller
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from pydantic import Field
from scipy.sparse import csr_array
from torch import Tensor

from recsys.cf_graph import PairModel
from recsys.graph.interaction_graph import InteractionGraph
from recsys.graph.item_similarity import row_blocks, top_of_rows
from recsys.graph.products import scaled, sums, transposed
from recsys.losses.ranking import batch_scores
from recsys.losses.ultragcn import ultragcn_beta, ultragcn_constraint, ultragcn_item_items
from recsys.types import PairBatch


class UltraGCN(PairModel):
    """Vectors are the rows of the tables; the graph is in the weights of a cross entropy.

    Over the pairs (u, i) of a batch and their N negatives n, means of

        - (w1 + w2 beta_ui) ln sigmoid(s_ui)
        - (negative_weight / N) sum_n (w3 + w4 beta_un) ln sigmoid(-s_un)
        - item_weight sum_j omega_ij ln sigmoid(s_uj)

    with ``beta_ui = sqrt(d_u + 1) / d_u / sqrt(d_i + 1)`` and j the ``num_neighbors`` items with
    the largest ``omega_ij = G_ij sqrt(g_i + 1) / g_i / sqrt(g_j + 1)``, where ``G = R^T R`` counts
    shared users and g are its row sums. G is computed in blocks of rows and never held as a whole.
    A step looks up the rows of its batch alone, where ``l2_of`` is ``batch``; negatives may be
    shared by the batch (``sampling.shared``).

    Args:
        config: Weights, neighbours.
        graph: The training pairs.

    Source:
        Mao et al., "UltraGCN: Ultra Simplification of Graph Convolutional Networks for
        Recommendation", CIKM 2021, and the official code, whose omega has the form
        of beta and counts an item among its own neighbours. Weights by default are those for
        Gowalla. Differs: means over a batch where the code has sums, so the L2 is divided by the
        size of the batch.

    Example:
        >>> from recsys.graph.interaction_graph import InteractionGraph
        >>> graph = InteractionGraph(2, 3, torch.tensor([0, 0, 1]), torch.tensor([0, 1, 2]))
        >>> model = UltraGCN(UltraGCN.Config(num_neighbors=2), graph)
        >>> numbers, weights = model.neighbors()
        >>> numbers.tolist()  # item 2 shares its user with nobody
        [[0, 1], [0, 1], [2, 0]]
        >>> [[round(w, 3) for w in row] for row in weights.tolist()]
        [[0.5, 0.5], [0.5, 0.5], [1.0, 0.0]]
    """

    class Config(PairModel.Config):
        """Options of UltraGCN."""

        init_std: float = Field(default=1e-4, ge=0)
        """Standard deviation of start values."""
        w1: float = Field(default=1e-6, ge=0)
        """Weight of every pair."""
        w2: float = Field(default=1.0, ge=0)
        """Weight of beta of a pair."""
        w3: float = Field(default=1e-6, ge=0)
        """Weight of every negative."""
        w4: float = Field(default=1.0, ge=0)
        """Weight of beta of a negative."""
        negative_weight: float = Field(default=300.0, ge=0)
        """Of the mean over negatives."""
        item_weight: float = Field(default=5e-4, ge=0)
        """Of the neighbours of items (lambda); 0 leaves them out."""
        num_neighbors: int = Field(default=10, ge=1)
        """Of an item."""
        with_itself: bool = True
        """Whether an item may be its own neighbour."""
        l2: float = Field(default=1e-4, ge=0)
        """Weight of half the squares of rows (gamma), divided by the size of the batch."""
        l2_of: Literal["all", "batch"] = "all"
        """Of which rows: all, or those that the batch uses, each once."""

    config: Config

    def __init__(self, config: Config, graph: InteractionGraph) -> None:
        super().__init__(config, graph)
        for name, degrees in (("user", graph.user_degrees()), ("item", graph.item_degrees())):
            self.register_buffer(f"{name}_degrees", degrees, persistent=False)
        self._neighbors: tuple[Tensor, Tensor] | None = None

    user_degrees: Tensor
    item_degrees: Tensor

    def neighbors(self) -> tuple[Tensor, Tensor]:
        """Numbers and omega of the neighbours of every item, (I, K) each; 0 where there are fewer.

        Computed when first needed.
        """
        if self._neighbors is None:
            found = self._graph_of_items()
            counts = np.diff(found.indptr)
            place = np.arange(found.nnz) - np.repeat(found.indptr[:-1], counts)
            row = np.repeat(np.arange(len(counts)), counts)
            numbers = np.zeros((len(counts), self.config.num_neighbors), np.int64)
            weights = np.zeros(numbers.shape, np.float32)
            numbers[row, place], weights[row, place] = found.indices, found.data
            device = self.item_degrees.device
            self._neighbors = (
                torch.from_numpy(numbers).to(device), torch.from_numpy(weights).to(device)
            )  # fmt: skip
        return self._neighbors

    def _graph_of_items(self) -> csr_array:
        """The neighbours of every item with their omega, sparse (I, I)."""
        matrix = self.graph.matrix()
        matrix = csr_array((np.ones_like(matrix.data), matrix.indices, matrix.indptr), matrix.shape)
        back = transposed(matrix)
        total = back @ sums(matrix, 1)  # row sums of R^T R
        if not self.config.with_itself:
            total = total - sums(matrix, 0)
        left = np.sqrt(total + 1) / np.maximum(total, 1)
        right = 1 / np.sqrt(total + 1)
        indptr, indices, data = [np.zeros(1, np.int64)], [], []
        for start, stop in row_blocks(back, matrix):
            block = csr_array(back[start:stop] @ matrix)
            block.sort_indices()
            block = scaled(block, left[start:stop], right)
            if not self.config.with_itself:
                rows = np.repeat(np.arange(start, stop), np.diff(block.indptr))
                block.data[block.indices == rows] = 0
                block.eliminate_zeros()
            block = top_of_rows(block, self.config.num_neighbors)
            indptr.append(indptr[-1][-1] + block.indptr[1:].astype(np.int64))
            indices.append(block.indices)
            data.append(block.data)
        parts = (np.concatenate(part) for part in (data, indices, indptr))
        return csr_array(tuple(parts), shape=(len(total), len(total)))

    def loss(self, batch: PairBatch) -> Tensor:
        """See `EmbeddingModel`."""
        config, negatives = self.config, self.negatives_of(batch)
        size = batch.batch_size
        parts, omega = [batch.item, negatives.reshape(-1)], None
        if config.item_weight:
            numbers, omega = (found[batch.item] for found in self.neighbors())
            parts.append(numbers.reshape(-1))
        wanted, at = torch.cat(parts).unique(return_inverse=True)
        users, user_at = batch.user.unique(return_inverse=True)
        user_rows, item_rows = self.look_up(users, wanted)
        user = user_rows[user_at]
        item, others, *near = item_rows[at].split([len(part) for part in parts])
        vectors = user, item, others.view(*negatives.shape, -1)
        positive, scores = batch_scores(vectors, batch)
        degrees = self.user_degrees[batch.user]
        loss = ultragcn_constraint(
            positive, scores,
            config.w1 + config.w2 * ultragcn_beta(degrees, self.item_degrees[batch.item]),
            config.w3 + config.w4 * ultragcn_beta(
                degrees[:, None], self.item_degrees[negatives]
            ).expand_as(scores),
            config.negative_weight,
        )  # fmt: skip
        if omega is not None:
            near_scores = (user.unsqueeze(1) * near[0].view(size, config.num_neighbors, -1)).sum(2)
            loss = loss + config.item_weight * ultragcn_item_items(near_scores, omega)
        if config.l2:
            rows = [self.rows()] if config.l2_of == "all" else [user_rows, item_rows]
            squares = sum(part.square().sum() for part in rows)
            loss = loss + config.l2 / size * 0.5 * squares
        return loss
