"""Losses of pairs that a model may choose from: what was seen should rank above what was not.

Stability: caller
"""

from __future__ import annotations

import abc
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from recsys.errors import ConfigError
from recsys.losses.bpr import bpr
from recsys.losses.cosine_contrastive import cosine_contrastive
from recsys.losses.direct_au import direct_au
from recsys.losses.sampled_softmax import sampled_softmax, shared_softmax
from recsys.schema import Frozen
from recsys.types import PairBatch

Triple = tuple[Tensor, Tensor, Tensor]
"""Vectors of the users (B, D), of the items (B, D) and of the negatives of a batch: (B, N, D), or
(N, D) where they are shared, with N = 0 where the batch has none."""


def batch_scores(vectors: Triple, batch: PairBatch) -> tuple[Tensor, Tensor]:
    """Dot products of the users with their items and with the negatives.

    Args:
        vectors: Of the batch.
        batch: Says which shared negatives are known: those score ``-inf``.

    Returns:
        (B,) and (B, N).
    """
    user, item, negatives = vectors
    positive = (user * item).sum(-1)
    if negatives.dim() == 3:
        return positive, (user.unsqueeze(1) * negatives).sum(-1)
    scores = user @ negatives.T
    if batch.known is not None:
        scores[batch.known[0], batch.known[1]] = -torch.inf
    return positive, scores


class PairLoss(Frozen, abc.ABC):
    """A loss of the pairs of a batch."""

    needs_negatives: ClassVar[bool] = True
    """Whether batches must have negatives."""

    @abc.abstractmethod
    def __call__(self, vectors: Triple, batch: PairBatch, num_items: int) -> Tensor:
        """The loss.

        Args:
            vectors: Of the batch.
            batch: Which pairs and negatives those are.
            num_items: Among which negatives were drawn.

        Returns:
            A scalar with gradient.
        """


class BPRLoss(PairLoss):
    """Bayesian personalized ranking of dot products, see `recsys.losses.bpr`."""

    kind: Literal["bpr"] = "bpr"
    """Says that it is this loss."""

    def __call__(self, vectors: Triple, batch: PairBatch, num_items: int) -> Tensor:
        """See `PairLoss`."""
        return bpr(*batch_scores(vectors, batch))


class CosineContrastiveLoss(PairLoss):
    """Cosines above those of negatives by a margin, see `recsys.losses.cosine_contrastive`."""

    kind: Literal["cosine_contrastive"] = "cosine_contrastive"
    """Says that it is this loss."""
    margin: float = Field(default=0.9, ge=-1, le=1)
    """m: negatives with a smaller cosine cost nothing."""
    negative_weight: float = Field(default=150.0, ge=0)
    """w, of the mean over negatives."""

    def __call__(self, vectors: Triple, batch: PairBatch, num_items: int) -> Tensor:
        """See `PairLoss`."""
        scores = batch_scores(_normalized(vectors), batch)
        return cosine_contrastive(*scores, self.margin, self.negative_weight)


class DirectAULoss(PairLoss):
    """Alignment and uniformity, without negatives, see `recsys.losses.direct_au`."""

    kind: Literal["direct_au"] = "direct_au"
    """Says that it is this loss."""
    gamma: float = Field(default=1.0, ge=0)
    """Weight of uniformity."""
    needs_negatives: ClassVar[bool] = False

    def __call__(self, vectors: Triple, batch: PairBatch, num_items: int) -> Tensor:
        """See `PairLoss`."""
        return direct_au(vectors[0], vectors[1], self.gamma)


class SoftmaxLoss(PairLoss):
    """The item among itself and the negatives, see `recsys.losses.sampled_softmax`.

    With ``sampling: {negatives: in_batch, shared: true}`` the negatives are the other items of the
    batch, which costs one product of B x B; with ``shared: true`` and other negatives, of B x N.
    Neither is held as a whole. On several ranks a batch is that of a rank.

    Source:
        Wu et al., "On the Effectiveness of Sampled Softmax Loss for Item Recommendation", TOIS
        2024: cosines in training, dot products in ranking, so that lengths, which grow with the
        number of pairs of a node, still count there. Differs: ``log_q_weight``, ``symmetric``,
        items that the user has seen are no negatives.
    """

    kind: Literal["softmax"] = "softmax"
    """Says that it is this loss."""
    temperature: float = Field(default=0.1, gt=0)
    """Scores are divided by it."""
    normalize: bool = True
    """Whether scores are cosines; else dot products."""
    log_q_weight: float = Field(default=0.0, ge=0, le=1)
    """How far scores are corrected for negatives that are drawn often: 1 tends to the softmax over
    all items, 0 pushes items down as often as they are drawn. In a batch, copies of the own item
    count as the own as far, see `recsys.losses.in_batch.in_batch`."""
    symmetric: bool = False
    """Also the user among the users of the batch, the mean of both; for negatives in the batch."""
    dtype: Literal["fp32", "bf16"] = "fp32"
    """Of the products with shared negatives. CPUs with AVX-512 BF16 or AMX compute them about four
    times as fast in bf16, which rounds every product to 8 bits."""

    def __call__(self, vectors: Triple, batch: PairBatch, num_items: int) -> Tensor:
        """See `PairLoss`."""
        if self.normalize:
            vectors = _normalized(vectors)
        if vectors[2].dim() == 3:
            return self._apart(vectors, batch, num_items)
        assert batch.negatives is not None
        if len(batch.negatives) == len(batch.item) and torch.equal(batch.negatives, batch.item):
            return self._in_batch(vectors[0], vectors[1], batch)
        if self.symmetric:
            raise ConfigError(
                "symmetric: expected false, or negatives of the batch "
                "(`sampling: {negatives: in_batch, shared: true}`): users are told from the other "
                "users of the batch."
            )
        user, item, negatives = vectors
        hidden = batch.known
        if hidden is None:
            hidden = (batch.item[:, None] == batch.negatives).nonzero().T
        bias = -self.log_q_weight * self._log_count(batch, num_items)
        return shared_softmax(
            user, item, negatives, bias=bias.expand(len(negatives)), hidden=hidden,
            temperature=self.temperature, dtype=self._product_dtype,
        )  # fmt: skip

    @property
    def _product_dtype(self) -> torch.dtype | None:
        return torch.bfloat16 if self.dtype == "bf16" else None

    def _log_count(self, batch: PairBatch, num_items: int) -> Tensor:
        """Logarithm of how often each negative is expected among those drawn with it."""
        assert batch.negatives is not None
        often = torch.tensor(batch.negatives.shape[-1] / num_items, device=batch.item.device).log()
        if batch.log_q is None:
            return often
        return batch.log_q[batch.negatives] + (often + torch.tensor(num_items).log())

    def _apart(self, vectors: Triple, batch: PairBatch, num_items: int) -> Tensor:
        """Every pair has negatives of its own."""
        log_q = self.log_q_weight * self._log_count(batch, num_items)
        positive, scores = batch_scores(vectors, batch)
        return sampled_softmax(
            positive, scores, log_q=log_q.expand_as(scores), temperature=self.temperature
        )

    def _in_batch(self, user: Tensor, item: Tensor, batch: PairBatch) -> Tensor:
        """Every distinct item once, counted as often as the batch has it."""
        log_q = None
        if self.log_q_weight and batch.log_q is not None:
            log_q = self.log_q_weight * batch.log_q[batch.item]
        known = batch.known
        loss = self._one_way(user, item, batch.item, log_q, known)
        if self.symmetric:
            back = None if known is None else known.flip(0)
            loss = (loss + self._one_way(item, user, batch.user, None, back)) / 2
        return loss

    def _one_way(
        self, queries: Tensor, keys: Tensor, ids: Tensor, log_q: Tensor | None, known: Tensor | None
    ) -> Tensor:
        distinct, place, count = ids.unique(return_inverse=True, return_counts=True)
        rows = torch.arange(len(ids), device=ids.device)
        first = torch.empty_like(distinct).index_copy_(0, place, rows)  # one of its rows
        hidden = torch.stack([rows, place])
        if known is not None:
            hidden = torch.cat([hidden, torch.stack([known[0], place[known[1]]])], 1)
        bias, own_bias = count.to(keys.dtype).log(), None
        if log_q is not None:
            own_bias = self.log_q_weight * bias[place] - log_q  # its copies count as the own
            bias = bias - log_q[first]
        return shared_softmax(
            queries, keys, functional.embedding(first, keys), bias=bias, own_bias=own_bias,
            hidden=hidden,
            temperature=self.temperature, dtype=self._product_dtype,
        )  # fmt: skip


RankingLoss = Annotated[
    BPRLoss | SoftmaxLoss | CosineContrastiveLoss | DirectAULoss, Field(discriminator="kind")
]
"""What ``ranking_loss`` of a model's options may be."""


def _normalized(vectors: Triple) -> Triple:
    user, item, negatives = vectors
    return (
        functional.normalize(user, dim=1),
        functional.normalize(item, dim=1),
        functional.normalize(negatives, dim=-1),
    )
