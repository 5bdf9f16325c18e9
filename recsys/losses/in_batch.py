"""The contrastive loss of a batch: every query should be nearest to its own key.

Whatever contrasts vectors within a batch calls this function: towers, aspects, bundles, codes.

Stability: caller
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from recsys.losses.sampled_softmax import shared_softmax

_SHORT = 1e-4  # shorter vectors are not brought to length 1: their gradient would explode


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Guide:
    """Vectors of a model that is already good, which tell false negatives (GISTEmbed).

    A candidate that the guide finds about as near as the query's own key does not count.

    Args:
        queries: Of the batch by the guide, of any width.
        keys: Likewise.
        margin: How much further than the own key a candidate must be to count.
        relative: Whether the margin is a share of the similarity of the own key.

    Shape:
        - queries, keys: (B, G)
    """

    queries: Tensor
    keys: Tensor
    margin: float = 0.0
    relative: bool = False


def in_batch(
    queries: Tensor,
    keys: Tensor,
    *,
    ids: Tensor | None = None,
    query_ids: Tensor | None = None,
    known: Tensor | None = None,
    log_q: Tensor | None = None,
    correct_own: bool = True,
    weights: Tensor | None = None,
    guide: Guide | None = None,
    negatives: Literal["keys", "all"] = "keys",
    symmetric: bool = False,
    prefixes: Sequence[int] | None = None,
    normalize: bool = True,
    temperature: float = 0.05,
) -> Tensor:
    """Mean over queries of ``-ln (exp s_ii / sum_j exp s_ij)``, s = similarity / temperature.

    The sum runs over the keys of the batch; with ``negatives="all"`` over the other queries as
    well, and over the keys' likeness to the own key. What is hidden does not count, the own key
    always does:

    - columns with the same ``ids`` as the own key, and queries with the same ``query_ids``;
    - ``known`` pairs, say items that the user has seen;
    - what a ``guide`` takes for a false negative.

    ``log_q``, the logarithm of a key's share of all keys, is subtracted from the scores of keys,
    the own one too. Keys with the ``ids`` of the own one then count as the own: it weighs as often
    as the batch has it, since which of them is the own says nothing about the query. So the best
    scores are those of the softmax over everything, for batches of any size.

    Without ``correct_own`` the own key is there for certain and not by a draw: its score is left as
    it is, and the sum over the others, of ``exp (s_ij - log(N q_j))`` with N rows, estimates that
    over everything else. The loss itself tends to that of the softmax over everything as batches
    grow; in small ones its best scores are off.

    With ``prefixes`` the loss is the mean over those of the first entries of all vectors, each
    prefix a vector of its own (Matryoshka). The list is fixed and must end in the full width: what
    is served is what is trained.

    Args:
        queries: One row each.
        keys: The own key of every query.
        ids: Number of every key; equal ones are no negatives of each other.
        query_ids: Number of every query, for ``negatives="all"``.
        known: Whether the query of the row has the key of the column.
        log_q: Logarithm of every key's share of all draws.
        correct_own: Whether ``log_q`` corrects the own key too.
        weights: Of the rows, above 0: with ``ids``, a row of weight 3 is three equal rows.
        guide: Of the batch.
        negatives: ``keys``, or ``all``.
        symmetric: Also the other way round, keys looking for their queries; the mean of both.
        prefixes: Widths in rising order.
        normalize: Whether similarities are cosines; else inner products.
        temperature: Similarities are divided by it.

    Raises:
        ValueError: Shapes do not fit, ``temperature`` is not above 0, or ``prefixes`` do not rise
            to the full width.

    Shape:
        - queries, keys: (B, D)
        - ids, query_ids, log_q, weights: (B,)
        - known: (B, B) bool
        - output: scalar

    Source:
        van den Oord et al., "Representation Learning with Contrastive Predictive Coding", 2018, eq.
        4; logQ: Yi et al., RecSys 2019; guide: Solatorio, "GISTEmbed", 2024 (its three matrices are
        ``negatives="all"``); prefixes: Kusupati et al., "Matryoshka Representation Learning",
        NeurIPS 2022, with the fixed list of Zhuang et al., "Starbucks", 2024.

    Example:
        >>> rows = torch.eye(3)
        >>> in_batch(rows, rows, temperature=1.0)  # -ln(e / (e + 2))
        tensor(0.5514)
        >>> in_batch(rows, rows, ids=torch.tensor([4, 4, 5]), temperature=1.0) < 0.5514
        tensor(True)
    """
    _check(queries, keys, temperature, prefixes)
    back, known_back = None, None if known is None else known.T
    if guide is not None:
        back = dataclasses.replace(guide, queries=guide.keys, keys=guide.queries)
    bias = _Bias.of(ids, log_q, correct_own, weights)
    bias_back = _Bias.of(query_ids, None, correct_own, weights)
    parts = []
    for width in prefixes or (queries.shape[1],):
        one, two = queries[:, :width], keys[:, :width]
        if normalize:
            one, two = (functional.normalize(side, dim=1, eps=_SHORT) for side in (one, two))
        parts.append(
            _one_way(one, two, (ids, query_ids), known, bias, guide, negatives, temperature)
        )
        if symmetric:
            parts.append(
                _one_way(
                    two, one, (query_ids, ids), known_back, bias_back, back, negatives, temperature
                )
            )
    return torch.stack(parts).mean()


class _Bias(NamedTuple):
    """What is added to scores: of keys that are not the own one, and of the own one."""

    others: Tensor | None
    own: Tensor | None
    weights: Tensor | None
    """Of the rows."""

    @classmethod
    def of(
        cls, ids: Tensor | None, log_q: Tensor | None, correct_own: bool, weights: Tensor | None
    ) -> _Bias:
        counts = None if weights is None else weights.log()
        if log_q is None:
            return cls(counts, None, weights)
        own = None
        if correct_own:
            own = _log_copies(ids, torch.ones_like(log_q) if weights is None else weights) - log_q
        else:
            log_q = log_q + math.log(len(log_q) if weights is None else float(weights.sum()))
        return cls(-log_q if counts is None else counts - log_q, own, weights)


def _one_way(
    queries: Tensor,
    keys: Tensor,
    ids: tuple[Tensor | None, Tensor | None],
    known: Tensor | None,
    bias: _Bias,
    guide: Guide | None,
    negatives: Literal["keys", "all"],
    temperature: float,
) -> Tensor:
    """Queries looking for keys; ``ids`` are those of the keys and of the queries."""
    size, device = len(keys), queries.device
    own = torch.eye(size, dtype=torch.bool, device=device)
    if negatives == "keys" and guide is None:
        return shared_softmax(
            queries, keys, keys, bias=bias.others, own_bias=bias.own, weights=bias.weights,
            temperature=temperature,
            hidden=(_hidden(size, ids[0], known, device) | own).nonzero().T,
        )  # fmt: skip
    scores = [queries @ keys.T / temperature]
    hidden = [_hidden(size, ids[0], known, device)]
    positive = scores[0].diagonal()
    if bias.own is not None:
        positive = positive + bias.own
    if bias.others is not None:
        scores[0] = scores[0] + bias.others
    if negatives == "all":
        counts = 0.0 if bias.weights is None else bias.weights.log()
        scores += [queries @ queries.T / temperature + counts, keys @ keys.T / temperature + counts]
        hidden += [_hidden(size, ids[1], None, device), _hidden(size, ids[0], None, device)]
    if guide is not None:
        for mask, near in zip(hidden, _near(guide)):
            mask |= near
    for mask in hidden:
        mask |= own  # the own key stands apart, and nothing else is its own negative
    others = [part.masked_fill(mask, -torch.inf) for part, mask in zip(scores, hidden)]
    rows = torch.cat([positive[:, None], *others], dim=1).logsumexp(1) - positive
    if bias.weights is None:
        return rows.mean()
    return (rows * bias.weights).sum() / bias.weights.sum()


def _log_copies(ids: Tensor | None, weights: Tensor) -> Tensor:
    """Logarithm of how often the batch has the key of every row."""
    if ids is None:
        return weights.log()
    _, place = ids.unique(return_inverse=True)
    return torch.zeros_like(weights).index_add_(0, place, weights)[place].log()


def _hidden(size: int, ids: Tensor | None, known: Tensor | None, device: torch.device) -> Tensor:
    """(B, B): where columns are the same thing as the row's, or known."""
    found = torch.zeros(size, size, dtype=torch.bool, device=device)
    if ids is not None:
        found |= ids[:, None] == ids
    return found if known is None else found | known


def _near(guide: Guide) -> tuple[Tensor, Tensor, Tensor]:
    """What the guide finds as near as the own key: keys, queries, and keys to the own key."""
    queries = functional.normalize(guide.queries.detach(), dim=1)
    keys = functional.normalize(guide.keys.detach(), dim=1)
    own = (queries * keys).sum(1, keepdim=True)
    least = own - (own.abs() * guide.margin if guide.relative else guide.margin)
    return queries @ keys.T > least, queries @ queries.T > least, keys @ keys.T > least


def _check(
    queries: Tensor, keys: Tensor, temperature: float, prefixes: Sequence[int] | None
) -> None:
    if queries.dim() != 2 or queries.shape != keys.shape:
        raise ValueError(
            f"expected queries and keys (B, D) of one shape, got {tuple(queries.shape)} and "
            f"{tuple(keys.shape)}."
        )
    if not temperature > 0:
        raise ValueError(f"`temperature`: expected a number above 0, got {temperature}.")
    if prefixes is not None:
        rising = all(a < b for a, b in zip((0, *prefixes), prefixes))
        if not prefixes or not rising or prefixes[-1] != queries.shape[1]:
            raise ValueError(
                f"`prefixes`: expected widths that rise to {queries.shape[1]}, the full width, got "
                f"{list(prefixes)}."
            )
