"""SESA: users and items as codes over named concepts, which say why they match.

Train it: ``recsys train --config configs/aspect/sesa.yaml``.

Stability: caller
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from scipy.sparse import csr_array, vstack
from torch import Tensor, nn
from torch.nn import functional

from recsys.cf import CFModel, EmbeddingModel
from recsys.errors import ConfigError
from recsys.graph.explanation import Explanation, Node, Reason
from recsys.graph.interaction_graph import InteractionGraph
from recsys.graph.interactions import Interactions
from recsys.graph.products import size, sparse_sparse, transposed
from recsys.graph.text_features import TextFeatures, TextOptions
from recsys.losses.in_batch import in_batch
from recsys.schema import FIRST_INDEX, Label, MultiValued, Schema
from recsys.types import Batch, PairBatch

_BLOCK = 1024  # texts that are encoded at once


class SESA(EmbeddingModel):
    """An explicit space: the dimensions of a code are concepts with names, say skills.

        u = sigmoid(W_u x_user + b_u),  v = sigmoid(W_v x_item + b_v),  score = sum_k w_k u_k v_k

    x is the weighted sum of the gram vectors of a text, in one table for both sides, with its
    vector along the principal axes where there is one; w_k is above 0. Loss: the in-batch softmax
    over scores, and ``concept_weight`` times the cross entropy of the codes of users and items with
    known concepts, by known concept. A code is a guess of concepts, so the parts of a score can be
    read: see `explain`. Users and items need nothing but a text, so new ones have codes too.

    ``space="latent"`` is the twin to compare with: the same texts and the same ranking loss,
    inner products of plain vectors of width ``latent_dim``, which nobody can read.

    Served codes are sparse, ``top`` parts of each: items are held so, and users are encoded when
    they are asked for. What `vectors` gives is dense, (users + items) times concepts of 4 bytes.

    Args:
        config: Texts, widths, weights of losses.
        graph: The training pairs, with texts and concepts of users and items.

    Raises:
        ConfigError: The graph has no descriptions.

    Source:
        Bogdanova and Yazdani, "SESA: Supervised Explicit Semantic Analysis", 2017, of which we know
        the idea: encoders into a space of skills, learned from relevance and from known skills.
        The encoder (theirs is recurrent), the weights w and both losses are ours.

    Example:
        >>> from recsys.graph.concepts import concept_matches
        >>> from recsys.graph.splitting import UserSplit
        >>> found = concept_matches(
        ...     {"q": "java coder", "r": "nurse"}, {"dev": "Developer", "med": "Medic"},
        ...     (["q", "r"], ["dev", "med"]), (["q"], ["Java"]), (["dev", "med"], ["Java", "Care"]),
        ...     UserSplit(valid=0, test=0))
        >>> graph = InteractionGraph.of(found.relevance.train, descriptions=found.descriptions)
        >>> model = SESA(SESA.Config(embedding_dim=4), graph)
        >>> model.reset_parameters(1)
        >>> model.eval().codes_of(["a nurse"]).shape
        torch.Size([1, 2])
    """

    needs_descriptions = True
    stores_vectors = False

    class Config(EmbeddingModel.Config):
        """Options of SESA."""

        text: TextOptions = TextOptions()
        """How texts are read; grams are always trained."""
        space: Literal["explicit", "latent"] = "explicit"
        """Whether dimensions are concepts."""
        latent_dim: int = Field(default=64, ge=1)
        """Width of the latent space."""
        concept_weight: float = Field(default=1.0, ge=0)
        """Of the loss of known concepts."""
        top: int | None = Field(default=None, ge=1)
        """Largest parts of a code that count when it is served; None counts all."""
        temperature: float = Field(default=1.0, gt=0)
        """Scores are divided by it in the loss."""

    config: Config

    def __init__(self, config: Config, graph: InteractionGraph) -> None:
        super().__init__(config, graph)
        about = graph.descriptions
        assert about is not None  # schema_of has refused
        self.about, users = about, torch.unique(graph.user).numpy()
        learnt = np.concatenate([users, np.arange(graph.num_items) + graph.num_users])
        self.text = TextFeatures((*about.user_texts, *about.item_texts), config.text, learnt)
        explicit = config.space == "explicit"
        width = len(about.concepts) if explicit else config.latent_dim
        inputs = config.embedding_dim + config.text.axes
        self.users, self.items = (nn.Linear(inputs, width) for _ in range(2))
        self.raw_weights = nn.Parameter(torch.zeros(width)) if explicit else None
        self._known = [_matrix(about.user_concepts), _matrix(about.item_concepts)]
        self._learnt = [users, np.arange(graph.num_items)]
        self._pairs = graph.matrix()
        self._inverted: csr_array | Tensor | None = None

    @classmethod
    def schema_of(cls, config: CFModel.Config, graph: InteractionGraph) -> Schema:
        """See `CFModel`: one table, of the grams of texts."""
        if graph.descriptions is None:
            raise ConfigError(
                "SESA reads texts and concepts, and the data has none. Use a data set of concepts, "
                "say recsys.datasets.onet.ONet."
            )
        assert isinstance(config, SESA.Config)
        if not config.text.trained:
            raise ConfigError("text.trained: SESA trains gram vectors. Leave it out.")
        rows = config.text.num_buckets
        grams = MultiValued(
            name="text", encoding="hash", num_buckets=rows, num_embeddings=rows + FIRST_INDEX,
            pooling="sum", salt=config.text.salt,
        )  # fmt: skip
        return Schema(features=(grams,), labels=(Label(name="interaction"),))

    def reset_parameters(self, seed: int) -> None:
        """See `RecModel`. Codes start at how frequent concepts are, weights at how rare."""
        super().reset_parameters(seed)
        if self.raw_weights is None:
            return
        with torch.no_grad():
            for layer, known, learnt in zip((self.users, self.items), self._known, self._learnt):
                told = known[learnt]
                told = told[np.diff(told.indptr) > 0]
                times = np.asarray(told.sum(0)).ravel()
                share = (times + 0.5) / (size(told)[0] + 1)
                layer.bias.copy_(torch.from_numpy(np.log(share / (1 - share))))
            everybody = sum(np.asarray(known.sum(0)).ravel() for known in self._known)
            total = sum(size(known)[0] for known in self._known)
            rare = 1 + np.log((1 + total) / (1 + everybody))
            self.raw_weights.copy_(torch.from_numpy(np.log(np.expm1(rare))))

    @property
    def weights(self) -> Tensor:
        """w, (K,); ones in the latent space."""
        if self.raw_weights is None:
            return torch.ones(self.config.latent_dim, device=self.device)
        return functional.softplus(self.raw_weights)

    @property
    def knows_unseen_items(self) -> bool:
        """See `CFModel`: by their texts."""
        return True

    @property
    def knows_unseen_users(self) -> bool:
        """See `CFModel`: by their texts."""
        return True

    # --------------------------------------------------------------------------------- codes

    def logits(self, rows: csr_array, kind: Literal["user", "item"]) -> Tensor:
        """What codes are the sigmoid of; in the latent space the vectors.

        Args:
            rows: Weighted grams of texts, from ``text.rows``.
            kind: Which side.

        Returns:
            (n, K).
        """
        lengths = torch.from_numpy(np.diff(rows.indptr).astype(np.int32))
        values = torch.from_numpy(rows.indices.astype(np.int32) + FIRST_INDEX)
        batch = Batch(
            dense=self.text.along_axes(rows), values=values, lengths=lengths,
            labels=torch.zeros(len(lengths), 1), keys=("text",), value_counts=(len(values),),
            value_weights=torch.from_numpy(rows.data),
        ).to(self.device)  # fmt: skip
        pooled = self.embeddings(batch)["embedding"].values
        layer = self.users if kind == "user" else self.items
        return layer(torch.cat([pooled, batch.dense], dim=1))

    def code(self, logits: Tensor) -> Tensor:
        """Codes of logits; outside training with the ``top`` largest parts alone, by w times code.

        Args:
            logits: From `logits`.
        """
        if self.raw_weights is None:
            return logits
        found = logits.sigmoid()
        if self.training or not self._sparse:
            return found
        chosen = (found * self.weights).topk(self.config.top or 1, dim=1).indices
        return torch.zeros_like(found).scatter(1, chosen, found.gather(1, chosen))

    def codes_of(self, texts: Sequence[str], kind: Literal["user", "item"] = "user") -> Tensor:
        """Codes of new users or items, without gradient, (n, K).

        Args:
            texts: Of each.
            kind: What they are.
        """
        return self._joined(self.text.rows_of(texts), kind)

    def encode(self) -> Tensor:
        """See `EmbeddingModel`: codes of users times w, and codes of items."""
        users, items = self._rows("user"), self._rows("item")
        return torch.cat([self._joined(users, "user") * self.weights, self._joined(items, "item")])

    @property
    def _sparse(self) -> bool:
        return self.raw_weights is not None and (self.config.top or np.inf) < len(self.raw_weights)

    def _rows(self, kind: Literal["user", "item"], numbers: np.ndarray | None = None) -> csr_array:
        """Grams of users or items, or of some of them."""
        first, count = 0, self.graph.num_users
        if kind == "item":
            first, count = count, self.graph.num_items
        return self.text.rows((np.arange(count) if numbers is None else numbers) + first)

    def _blocks(self, rows: csr_array, kind: Literal["user", "item"]) -> Iterator[Tensor]:
        """Codes without gradient, (n, K) at once."""
        with torch.no_grad():
            for start in range(0, max(size(rows)[0], 1), _BLOCK):
                yield self.code(self.logits(rows[start : start + _BLOCK], kind))

    def _joined(self, rows: csr_array, kind: Literal["user", "item"]) -> Tensor:
        return torch.cat(list(self._blocks(rows, kind)))

    # --------------------------------------------------------------------------------- scores

    def train(self, mode: bool = True) -> Any:
        """See torch. Codes that were kept for scores are forgotten."""
        self._inverted = None
        return super().train(mode)

    def inverted_index(self) -> csr_array | Tensor:
        """Codes of all items by concept, (K, I); in eval mode they are computed once.

        Returns:
            Sparse where ``top`` is below the number of concepts.
        """
        if self._inverted is not None:
            return self._inverted
        blocks = self._blocks(self._rows("item"), "item")
        if self._sparse:
            found = transposed(vstack([_sparse(block) for block in blocks], format="csr"))
        else:
            found = torch.cat(list(blocks)).T
        if not self.training:
            self._inverted = found
        return found

    def scores(self, users: Tensor) -> Tensor:
        """See `CFModel`."""
        return self._scores(self._rows("user", users.cpu().numpy()))

    def scores_of_texts(self, texts: Sequence[str]) -> Tensor:
        """See `CFModel`."""
        return self._scores(self.text.rows_of(texts))

    def _scores(self, rows: csr_array) -> Tensor:
        index, found = self.inverted_index(), []
        for block in self._blocks(rows, "user"):
            weighted = block * self.weights.detach()
            if isinstance(index, Tensor):
                found.append(weighted @ index)
            else:
                found.append(torch.from_numpy(sparse_sparse(_sparse(weighted), index)))
        return torch.cat(found)

    def pair_scores(self, users: Tensor, items: Tensor) -> Tensor:
        """See `EmbeddingModel`; every item of the batch is encoded once."""
        first = self._joined(self._rows("user", users.cpu().numpy()), "user") * self.weights
        few, place = items.unique(return_inverse=True)
        second = self._joined(self._rows("item", few.cpu().numpy()), "item")
        return (first @ second.T).detach().gather(1, place)

    # ---------------------------------------------------------------------------------- loss

    def loss(self, batch: PairBatch) -> Tensor:
        """See `EmbeddingModel`; negatives are the other items of the batch, whatever it brings."""
        user, item = batch.user.cpu().numpy(), batch.item.cpu().numpy()
        sides = self.text.rows(user), self.text.rows(item + self.graph.num_users)
        users, items = self.logits(sides[0], "user"), self.logits(sides[1], "item")
        seen = torch.from_numpy(self._pairs[user][:, item].toarray() > 0).to(self.device)
        loss = in_batch(
            self.code(users) * self.weights, self.code(items), ids=batch.item, known=seen,
            normalize=False, temperature=self.config.temperature,
        )  # fmt: skip
        if self.raw_weights is None or not self.config.concept_weight:
            return loss
        told = self._told(users, 0, user) + self._told(items, 1, item)
        return loss + self.config.concept_weight * told

    def _told(self, logits: Tensor, side: int, numbers: np.ndarray) -> Tensor:
        """Cross entropy of known concepts, summed over concepts, a known concept."""
        known = self._known[side][numbers]
        some = np.diff(known.indptr) > 0
        if not some.any():
            return logits.new_zeros(())
        labels = torch.from_numpy(known[some].toarray()).to(logits.device)
        chosen = logits[torch.from_numpy(some).to(logits.device)]
        entropy = functional.binary_cross_entropy_with_logits(chosen, labels, reduction="none")
        return (entropy.sum(1) / labels.sum(1)).mean()

    # ------------------------------------------------------------------------------- reasons

    def explain(self, item: int, history: csr_array, user: int | None = None) -> Explanation:
        """By concepts: ``w_k u_k v_k`` of each, which add up to the score. See `CFModel`."""
        del history
        if user is None:
            raise ConfigError(
                "SESA knows users by their texts, not by a history: expected a known user. For a "
                "new one give a text."
            )
        return self._explained(self._rows("user", np.array([user])), item)

    def explain_text(self, text: str, item: int) -> Explanation:
        """See `CFModel`: by concepts."""
        return self._explained(self.text.rows_of([text]), item)

    def _explained(self, user: csr_array, item: int) -> Explanation:
        if self.raw_weights is None:
            raise ConfigError("SESA: a latent space has no concepts to name. Set space=explicit.")
        codes = self._joined(user, "user")[0], self._joined(self._rows("item", np.array([item])),
                                                            "item")[0]  # fmt: skip
        given = (codes[0] * self.weights.detach() * codes[1]).cpu().double().numpy()
        order = np.argsort(-given, kind="stable")
        reasons = tuple(Reason(float(given[k]), (Node("concept", int(k)),)) for k in order
                        if given[k] > 0)  # fmt: skip
        return Explanation(item, reasons, float(given.sum()))


def _sparse(codes: Tensor) -> csr_array:
    return csr_array(codes.cpu().numpy())


def _matrix(pairs: Interactions) -> csr_array:
    """Ones where somebody is known to be about a concept, float32."""
    ones = np.ones(len(pairs), np.float32)
    shape = (pairs.num_users, pairs.num_items)
    return csr_array((ones, (pairs.user, pairs.item)), shape=shape)
