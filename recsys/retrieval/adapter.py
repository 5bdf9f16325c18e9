"""A relevance cut-off that knows the query: scores become probabilities, one threshold fits all.

Scores of one query mean something else than the same scores of another. A small network reads the
query and gives the parameters of a rising map from scores to probabilities, so the order within a
query stays, and only where its list ends is learned.

Stability: experimental
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recsys.errors import CheckpointError, DataError
from recsys.metrics.ece import expected_calibration_error
from recsys.metrics.pr_auc import pr_auc
from recsys.retrieval.checks import as_vectors
from recsys.retrieval.item_ids import plain
from recsys.retrieval.results import SearchResult

_NETWORK = ("first", "first_bias", "second", "second_bias")
_STATE = (*_NETWORK, "mean", "deviation", "scale", "positives", "version")
_BATCH = 2048


class Pairs(NamedTuple):
    """Hits of queries and whether they are relevant."""

    which: NDArray[np.int64]
    """Number of the query of every pair."""
    scores: NDArray[np.float32]
    """As the index gives them."""
    labels: NDArray[np.bool_]
    """Whether relevant."""


@dataclasses.dataclass(frozen=True, slots=True)
class AdapterReport:
    """What an adapter does on queries it was not fitted on.

    Args:
        raw_pr_auc: Of the scores as they are, over the pairs of all queries.
        pr_auc: Of the probabilities.
        ece: Expected calibration error of the probabilities.
        threshold: From `CosineAdapter.threshold`.
        precision: Of what is kept.
        recall: Share of the relevant pairs that is kept.
        kept: Pairs a query.
        empty: Share of the queries with nothing left.
    """

    raw_pr_auc: float
    pr_auc: float
    ece: float
    threshold: float
    precision: float
    recall: float
    kept: float
    empty: float


def labelled(found: SearchResult, relevant: Sequence[Any]) -> Pairs:
    """The hits of a search with their labels, to fit an adapter on.

    Take the lists that will be cut, say the best 100: their misses are the negatives that count.

    Args:
        found: Lists of some queries.
        relevant: Ids that are relevant to each of them.

    Raises:
        DataError: There are not as many lists as queries.

    Example:
        >>> from recsys.retrieval.index import Index
        >>> found = Index(np.eye(3), ["a", "b", "c"]).search([[1.0, 2.0, 3.0]], k=2)
        >>> labelled(found, [["b", "z"]]).labels.tolist()
        [False, True]
    """
    if len(relevant) != len(found):
        raise DataError(f"expected relevant ids for {len(found):,} queries, got {len(relevant):,}.")
    labels = [np.zeros(0, bool)]
    for hits, wanted in zip(found, relevant):
        known = set(plain(wanted).tolist() if hasattr(plain(wanted), "tolist") else wanted)
        labels.append(np.array([item in known for item in hits.ids.tolist()], bool))
    which = np.repeat(np.arange(len(found)), np.diff(found.offsets))
    usable = ~found.fallback[which]
    return Pairs(which[usable], found.scores[usable], np.concatenate(labels)[usable])


class CosineAdapter:
    """``p = sigmoid(a sign(s) |s|^c + b)``, with a, c > 0 and b read from the query.

    Scores are divided by their mean size first, so they need not be cosines.

    Args:
        hidden: Width of the network.
        version: Of the model that made the queries; an index of another version refuses it.
        seed: Of the start, the split and the batches.

    Source:
        Rossi et al., "Relevance Filtering for Embedding-based Retrieval", CIKM 2024, the power map
        of its four; its abstract and secondary sources were read. The network, the scale of scores
        and the threshold from queries held out of the fit are ours.

    Example:
        >>> random = np.random.default_rng(0)
        >>> queries = random.normal(size=(200, 4))
        >>> which = np.repeat(np.arange(200), 20)
        >>> scores = random.random(4000)
        >>> labels = scores > np.where(queries[which, 0] > 0, 0.8, 0.2)
        >>> adapter = CosineAdapter().fit(queries, which, scores, labels)
        >>> chances = adapter.probabilities(queries[:1], [0, 0], [0.3, 0.9])
        >>> bool(chances[0] < chances[1])
        True
        >>> 0.0 < adapter.threshold(recall=0.8) < 1.0
        True
    """

    def __init__(self, hidden: int = 128, version: str | None = None, seed: int = 0) -> None:
        self.hidden, self.version, self.seed = hidden, version, seed
        self._state: dict[str, Tensor] = {}

    @property
    def dim(self) -> int:
        """Values of a query.

        Raises:
            DataError: It was not fitted.
        """
        return len(self._fitted()["mean"])

    def _fitted(self) -> dict[str, Tensor]:
        if not self._state:
            raise DataError("the adapter has not been fitted. Call `fit` first.")
        return self._state

    def fit(
        self,
        queries: Any,
        which: Any,
        scores: Any,
        labels: Any,
        *,
        epochs: int = 60,
        held_out: float = 0.25,
    ) -> Self:
        """Learns from labelled pairs, best of queries that training did not see.

        Some queries are held out: they choose the epoch (least logloss), and later the threshold.

        Args:
            queries: Query vectors.
            which: Number of the query of every pair.
            scores: Of every pair.
            labels: 1 or 0.
            epochs: Passes over the pairs.
            held_out: Share of the queries that is held out.

        Returns:
            Itself.

        Raises:
            DataError: Shapes differ, values are not finite, or one of the two parts has no
                relevant or no irrelevant pair.

        Shape:
            - queries: (Q, D)
            - which, scores, labels: (P,)
        """
        table = as_vectors(queries, "queries")
        number, score, label = _pairs(which, scores, labels, len(table))
        random = torch.Generator().manual_seed(self.seed)
        order = torch.randperm(len(table), generator=random)
        outside = torch.zeros(len(table), dtype=torch.bool)
        outside[order[: max(1, round(held_out * len(table)))]] = True
        judged = outside[number]
        for part, name in ((~judged, "fitting"), (judged, "held-out")):
            if not 0 < int(label[part].sum()) < int(part.sum()):
                raise DataError(
                    f"the {name} queries need relevant and irrelevant pairs: "
                    f"{int(label[part].sum()):,} of {int(part.sum()):,} are relevant. Give more "
                    "queries, or longer lists."
                )
        mean = table[~outside].mean(0)
        deviation = (table[~outside] - mean).square().mean(0).sqrt().clamp(min=1e-6)
        scale = score[~judged].abs().mean().clamp(min=1e-12)
        state = {"mean": mean, "deviation": deviation, "scale": scale}
        network = _start(table.shape[1], self.hidden, float(label[~judged].mean()), random)
        pairs = (table, number, score, label)
        best = _train(network, state, pairs, ~judged, epochs, random)
        text = "" if self.version is None else "=" + self.version
        state |= {
            **best,
            "version": torch.tensor(list(text.encode()), dtype=torch.uint8),
        }
        wanted = judged & (label > 0)
        chances = _logits(state, state, table, number[wanted], score[wanted]).sigmoid()
        state["positives"] = chances.sort().values
        self._state = state
        return self

    def probabilities(self, queries: Any, which: Any, scores: Any) -> NDArray[np.float32]:
        """Of relevance of hits.

        Args:
            queries: Query vectors.
            which: Number of the query of every hit.
            scores: Of every hit.

        Raises:
            DataError: It was not fitted, or the queries are of another dimension.

        Shape:
            - queries: (Q, D)
            - which, scores, output: (P,)
        """
        table = as_vectors(queries, "queries")
        if table.shape[1] != self.dim:
            raise DataError(
                f"the adapter was fitted on queries of {self.dim} values, got {table.shape[1]}."
            )
        number, score, _ = _pairs(which, scores, None, len(table))
        return _logits(self._state, self._state, table, number, score).sigmoid().numpy()

    def threshold(self, recall: float = 0.8) -> float:
        """The probability above which this share of the relevant held-out hits lies.

        Args:
            recall: Share to keep, above 0, at most 1.

        Raises:
            DataError: ``recall`` is out of range, or it was not fitted.
        """
        if not 0 < recall <= 1:
            raise DataError(f"`recall` must be above 0 and at most 1, got {recall}.")
        positives = self._fitted()["positives"]
        return float(positives[math.floor((1 - recall) * len(positives) + 1e-9)])

    def report(
        self, queries: Any, which: Any, scores: Any, labels: Any, recall: float = 0.8
    ) -> AdapterReport:
        """Judges it on other queries than those of `fit`.

        Args:
            queries: Query vectors.
            which: Number of the query of every pair.
            scores: Of every pair.
            labels: 1 or 0.
            recall: For the threshold.

        Raises:
            DataError: Shapes differ, or it was not fitted.
        """
        chances = self.probabilities(queries, which, scores)
        number, score, label = _pairs(which, scores, labels, len(plain(queries)))
        limit = self.threshold(recall)
        kept, wanted = chances >= limit, label.numpy() > 0
        right = int((kept & wanted).sum())
        asked = number.unique().numpy()
        return AdapterReport(
            raw_pr_auc=pr_auc(label, score),
            pr_auc=pr_auc(label, chances),
            ece=expected_calibration_error(label, chances),
            threshold=limit,
            precision=right / max(1, int(kept.sum())),
            recall=right / max(1, int(wanted.sum())),
            kept=float(kept.sum()) / max(1, len(asked)),
            empty=1 - len(np.unique(number.numpy()[kept])) / max(1, len(asked)),
        )

    def state(self) -> dict[str, Tensor]:
        """All it knows, for a safetensors file.

        Raises:
            DataError: It was not fitted.
        """
        return {name: tensor.contiguous() for name, tensor in self._fitted().items()}

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor]) -> CosineAdapter:
        """The adapter that gave a state.

        Args:
            state: From `state`.

        Raises:
            CheckpointError: Something is missing.
        """
        missing = [name for name in _STATE if name not in state]
        if missing:
            raise CheckpointError(f"the adapter is damaged: {', '.join(missing)} is missing.")
        text = bytes(state["version"].tolist()).decode()
        made = cls(state["first"].shape[1], version=text[1:] if text else None)
        made._state = dict(state)
        return made


def _pairs(which: Any, scores: Any, labels: Any, size: int) -> tuple[Tensor, Tensor, Tensor]:
    number = torch.from_numpy(np.array(plain(which), dtype=np.int64).reshape(-1))
    score = torch.from_numpy(np.array(plain(scores), dtype=np.float32).reshape(-1))
    label = torch.zeros(len(score))
    if labels is not None:
        label = torch.from_numpy(np.array(plain(labels), dtype=np.float32).reshape(-1))
    if not len(number) == len(score) == len(label):
        raise DataError(
            f"`which`, `scores` and `labels` must be of one length, got {len(number):,}, "
            f"{len(score):,} and {len(label):,}."
        )
    if len(number) and not 0 <= int(number.min()) <= int(number.max()) < size:
        raise DataError(f"`which` must be numbers of the {size:,} queries, from 0.")
    if not bool(score.isfinite().all()) or not bool(((label == 0) | (label == 1)).all()):
        raise DataError("`scores` must be finite, and `labels` 1 or 0.")
    return number, score, label


def _start(dim: int, hidden: int, rate: float, random: torch.Generator) -> dict[str, Tensor]:
    network = {
        "first": torch.randn(dim, hidden, generator=random) / math.sqrt(dim),
        "first_bias": torch.zeros(hidden),
        "second": 0.1 * torch.randn(hidden, 3, generator=random) / math.sqrt(hidden),
        "second_bias": torch.tensor([0.5, math.log(rate / (1 - rate)) - 1.0, 0.4]),
    }
    return {name: tensor.requires_grad_() for name, tensor in network.items()}


def _logits(
    network: Mapping[str, Tensor],
    state: Mapping[str, Tensor],
    queries: Tensor,
    which: Tensor,
    scores: Tensor,
) -> Tensor:
    hidden = ((queries - state["mean"]) / state["deviation"]).clamp(-10, 10)
    hidden = torch.relu(hidden @ network["first"] + network["first_bias"])
    slope, shift, power = (hidden @ network["second"] + network["second_bias"])[which].unbind(1)
    softplus = torch.nn.functional.softplus
    scaled = scores / state["scale"]
    # The floor keeps the gradient of the power finite at a score of zero.
    size = scaled.abs().clamp(1e-6, 1e6) ** (softplus(power) + 0.1)
    return softplus(slope) * scaled.sign() * size + shift


def _train(
    network: dict[str, Tensor],
    state: Mapping[str, Tensor],
    pairs: tuple[Tensor, Tensor, Tensor, Tensor],
    fitting: Tensor,
    epochs: int,
    random: torch.Generator,
) -> dict[str, Tensor]:
    """Weights of the epoch with the least logloss on the pairs that do not train."""
    queries, which, scores, labels = pairs
    optimizer = torch.optim.AdamW(network.values(), lr=1e-3)
    loss_of: Callable[..., Tensor] = torch.nn.functional.binary_cross_entropy_with_logits
    rows, others = fitting.nonzero()[:, 0], ~fitting
    best, least = {n: t.detach().clone() for n, t in network.items()}, math.inf
    for _ in range(epochs):
        order = rows[torch.randperm(len(rows), generator=random)]
        for part in order.split(_BATCH):
            asked, own = which[part].unique(return_inverse=True)
            logits = _logits(network, state, queries[asked], own, scores[part])
            optimizer.zero_grad()
            loss_of(logits, labels[part]).backward()
            optimizer.step()
        with torch.no_grad():
            logits = _logits(network, state, queries, which[others], scores[others])
            loss = float(loss_of(logits, labels[others]))
        if loss < least:
            best, least = {n: t.detach().clone() for n, t in network.items()}, loss
    return best
