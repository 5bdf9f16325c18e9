"""CLHE: completes bundles from what is known of their items.

Train it: ``recsys train --config configs/bundle/clhe.yaml``.

Stability: caller
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from scipy.sparse import csr_array
from torch import Tensor, nn
from torch.nn import functional

from recsys.cf import CFModel, EmbeddingModel
from recsys.errors import ConfigError
from recsys.graph.epoch_loader import EpochLoader, InTurn
from recsys.graph.explanation import Explanation
from recsys.graph.fitted_buffers import check_history
from recsys.graph.interaction_graph import FIRST_INDEX, InteractionGraph
from recsys.graph.item_spectrum import ItemSpectrum, unit_rows
from recsys.graph.negatives import SamplingConfig
from recsys.graph.products import size
from recsys.graph.set_batches import SetBatch, SetLoader
from recsys.graph.text_features import TextFeatures, TextOptions
from recsys.layers.item_tokens import ItemTokens
from recsys.layers.set_encoder import SetEncoder
from recsys.losses.in_batch import in_batch
from recsys.schema import Categorical, Label, Schema

_BLOCK = 1024  # sets that are encoded at once


class CLHE(EmbeddingModel):
    """Contrastive learning-enhanced hierarchical encoder.

        m_i = sum_c norm(MLP_c(norm(x_ic)))         contents and text of item i, as far as known
        F_i = norm([m_i; v_i; p_i])                  v_i an id's row, p_i = W_f cf_i
        f_i = mean over tokens of softmax(F_i W_q (F_i W_k)^T / sqrt(D)) F_i
        e_b = set encoder of f_i, i in b             `recsys.layers.set_encoder.SetEncoder`
        score = e_b . g_i                            g_i as f_i, from parameters of its own

    p_i of an item without feedback is m_i; so is v_i of an item that no bundle to learn from has.
    Where nothing is known of the content, m_i is v_i. Loss: the mean over bundles of the cross
    entropy of their items, by a softmax over all items; ``item_weight`` times an in-batch contrast
    of two views of every item of the batch; ``bundle_weight`` times that of a bundle and a view of
    it with few of its items. Bundles of the same items are no negatives of each other.

    Bundles are the users of the pairs (``dataset.task: complete``). Any part of a bundle has scores
    (`scores_of`), so bundles may be new; items need a number, but no bundle.

    Args:
        config: Features, widths, views and weights.
        graph: Bundles and items; ``features`` say what is known of the items.

    Raises:
        ConfigError: The options contradict each other.

    Source:
        Ma et al., "Leveraging Multimodal Features and Item-level User Feedback for Bundle
        Construction", WSDM 2024; code: Xiaohao-Liu/CLHE. Differs: the attention over items is
        trained (in the code its weights are no parameters) and is an option; a view's left-out
        items are masked (there they become item 0); ``tokens`` leaves out the share that is asked
        for (there the others); replaced items are drawn from all (there from the first few);
        feedback without vectors brought along is the spectrum of the pairs of users and items, not
        LightGCN; a cold item has no row. ``reconstruct="held_out"`` and ``cold_items`` are ours.

    Example:
        >>> graph = InteractionGraph(2, 3, torch.tensor([0, 0, 1]), torch.tensor([0, 1, 2]))
        >>> model = CLHE(CLHE.Config(embedding_dim=4), graph)
        >>> model.reset_parameters(1)
        >>> model.eval().scores_of(csr_array(np.array([[1, 0, 0]], np.float32))).shape
        torch.Size([1, 3])
    """

    needs_features = True

    class Config(EmbeddingModel.Config):
        """Options of CLHE."""

        text: TextOptions | None = TextOptions(trained=False, axes=64)
        """How texts become vectors, by their ``axes``; null leaves them out."""
        feedback: str | None = None
        """Which of the vectors that items bring is user feedback; null takes the spectrum of who
        took which item, where that is known. All others are contents."""
        feedback_dim: int = Field(default=64, ge=0)
        """Width of that spectrum; 0 leaves feedback out."""
        hidden: int = Field(default=256, ge=1)
        """Width of the last hidden layer of the content encoders."""
        pool: Literal["mean", "attention"] = "mean"
        """How a bundle's vector comes from those of its items."""
        num_layers: int = Field(default=1, ge=1)
        """Of attention over items."""
        layer_norm: bool = True
        """Whether items of a bundle are layer-normed."""
        reconstruct: Literal["all", "held_out"] = "all"
        """What is asked of a training bundle: all its items by all its items, or those that
        ``keep`` leaves out by the others, as in judging."""
        keep: float = Field(default=0.5, gt=0, lt=1)
        """Share of a bundle's items in its view, and that is given where others are held out."""
        item_view: Literal["none", "features", "noise", "tokens"] = "tokens"
        """How two views of an item differ: by dropout of entries, by noise, by tokens left out."""
        dropout: float = Field(default=0.2, ge=0, lt=1)
        """Share of entries or tokens that a view of an item lacks."""
        noise: float = Field(default=0.02, ge=0)
        """Standard deviation of the noise of a view."""
        item_weight: float = Field(default=0.1, ge=0)
        """Of the contrast of items; 0 leaves it out."""
        item_temperature: float = Field(default=0.2, gt=0)
        """Of the contrast of items."""
        bundle_view: Literal["drop", "replace"] = "drop"
        """Whether a bundle's view lacks items, or has others in their place."""
        bundle_weight: float = Field(default=0.5, ge=0)
        """Of the contrast of bundles; 0 leaves it out."""
        bundle_temperature: float = Field(default=0.2, gt=0)
        """Of the contrast of bundles."""
        cold_items: Literal["negatives", "left_out"] = "negatives"
        """Whether items of no training bundle are in the softmax, as in the paper."""
        max_items: int = Field(default=200, ge=2)
        """Larger bundles are cut to so many items in training, drawn anew in every epoch."""

    config: Config

    def __init__(self, config: Config, graph: InteractionGraph) -> None:
        super().__init__(config, graph)
        features = graph.features
        brought = {} if features is None else dict(features.vectors)
        if config.feedback is not None and config.feedback not in brought:
            raise ConfigError(
                f"feedback: items bring no vectors `{config.feedback}`, but {sorted(brought)}. "
                "Name one of them, see `item_vectors` of the experiment."
            )
        told = brought.pop(config.feedback) if config.feedback is not None else None
        self._contents = [torch.from_numpy(unit_rows(each)) for each in brought.values()]
        self.text: TextFeatures | None = None
        widths = [each.shape[1] for each in self._contents]
        if features is not None and features.texts is not None and config.text is not None:
            if not config.text.axes:
                raise ConfigError("text.axes: CLHE reads texts along axes. Set it, say to 64.")
            everything = np.arange(graph.num_items)
            self.text = TextFeatures(features.texts, config.text, everything)
            widths.append(config.text.axes)
        self._told = None if told is None else torch.from_numpy(told)
        self.spectrum: ItemSpectrum | None = None
        feedback = 0 if told is None else told.shape[1]
        pairs = None if features is None else features.user_item
        if told is None and pairs is not None and config.feedback_dim:
            self.spectrum, feedback = ItemSpectrum(pairs, config.feedback_dim), config.feedback_dim
        parts = (widths, feedback, config.embedding_dim, config.hidden)
        self.encoder, self.decoder = (ItemTokens(*parts) for _ in range(2))
        self.sets = SetEncoder(
            config.embedding_dim, config.pool, config.num_layers, config.layer_norm
        )
        width = config.embedding_dim
        projects = config.item_view in ("features", "noise")
        self.projector = nn.Linear(width, width) if projects else nn.Identity()
        self._warm = graph.item_degrees() > 0
        self._twins = _numbers_of_sets(graph)
        self._inputs: tuple[list[Tensor], Tensor | None] | None = None
        self._items: Tensor | None = None

    @classmethod
    def schema_of(cls, config: CFModel.Config, graph: InteractionGraph) -> Schema:
        """See `CFModel`: rows of items in bundles, and as candidates. Bundles have none."""
        del config
        return Schema(
            features=tuple(
                Categorical(name=name, num_embeddings=graph.num_items + FIRST_INDEX)
                for name in ("item", "candidate")
            ),
            labels=(Label(name="inside"),),
        )

    @property
    def knows_unseen_items(self) -> bool:
        """See `CFModel`: by their contents."""
        return self.text is not None or bool(self._contents)

    def train(self, mode: bool = True) -> Any:
        """See torch. What was computed for scores is forgotten."""
        self._items = None
        return super().train(mode)

    def reset_parameters(self, seed: int) -> None:
        """See `RecModel`."""
        self._inputs = self._items = None
        super().reset_parameters(seed)

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """See torch. What was computed from former weights is forgotten."""
        self._inputs = self._items = None
        return super().load_state_dict(*args, **kwargs)

    # --------------------------------------------------------------------------------- items

    def inputs(self) -> tuple[list[Tensor], Tensor | None]:
        """What is known of all items and is not trained: contents, and feedback or None.

        Rows of zeros say that nothing is known. Each content row has length 1.
        """
        if self._inputs is None:
            contents, feedback = list(self._contents), self._told
            if self.text is not None:
                rows = self.text.rows(np.arange(self.graph.num_items))
                contents.append(functional.normalize(self.text.along_axes(rows), dim=1))
            if self.spectrum is not None:
                feedback = self.spectrum.values
            self._inputs = ([each.to(self.device) for each in contents],
                            None if feedback is None else feedback.to(self.device))  # fmt: skip
        return self._inputs

    def tokens(self, table: Literal["item", "candidate"], items: Tensor) -> Tensor:
        """Tokens of items, each of length 1, with their gradient.

        Args:
            table: Whether for items in bundles, or for candidates.
            items: Numbers, (n,) int64.

        Returns:
            (n, T, D), T from 1 to 3.
        """
        encoder = self.encoder if table == "item" else self.decoder
        contents, feedback = self.inputs()
        ids = functional.embedding(items, self.rows_of(table))
        warm = self._warm.to(items.device)[items]
        chosen = None if feedback is None else feedback[items]
        return encoder(ids, warm, [each[items] for each in contents], chosen)

    def fused(self, table: Literal["item", "candidate"], tokens: Tensor) -> Tensor:
        """One vector of the tokens of every item.

        Args:
            table: As for `tokens`.
            tokens: (n, T, D).

        Returns:
            (n, D).
        """
        return (self.encoder if table == "item" else self.decoder).fuse(tokens)

    def items_in_bundles(self) -> Tensor:
        """Vectors of all items in bundles, f, (I, D); in eval mode computed once."""
        if self._items is not None:
            return self._items
        everything = torch.arange(self.graph.num_items, device=self.device)
        found = self.fused("item", self.tokens("item", everything))
        if not self.training:
            self._items = found.detach()
        return found

    def candidates(self) -> Tensor:
        """Vectors of all items as candidates, g, (I, D)."""
        everything = torch.arange(self.graph.num_items, device=self.device)
        return self.fused("candidate", self.tokens("candidate", everything))

    # ------------------------------------------------------------------------------- bundles

    def encode(self) -> Tensor:
        """See `EmbeddingModel`: e of all bundles and g of all items."""
        return torch.cat([self._bundles(self.graph.matrix()), self.candidates()])

    def folded_in(self, neighbours: csr_array, kind: Literal["user", "item"] = "user") -> Tensor:
        """Vectors of new bundles from their items. See `EmbeddingModel`.

        Args:
            neighbours: Sparse (B, I); an item counts once.
            kind: ``user``, a bundle.

        Raises:
            ConfigError: Items are new: they are known by features, not by bundles.
        """
        if kind == "item":
            raise ConfigError(
                "CLHE knows items by their features: a new item needs a number, features and no "
                "bundle. Train with it among the items."
            )
        check_history(neighbours, self.graph.num_items)
        with torch.no_grad():
            return self._bundles(neighbours).cpu()

    def _bundles(self, history: csr_array) -> Tensor:
        items, count = self.items_in_bundles(), size(history)[0]
        blocks = []
        for start in range(0, max(count, 1), _BLOCK):
            part = history[start : start + _BLOCK]
            batch = SetBatch.of(part, torch.zeros(size(part)[0])).to(self.device)
            blocks.append(self.sets(functional.embedding(batch.items, items), batch.real))
        return torch.cat(blocks)

    def explain(self, item: int, history: csr_array, user: int | None = None) -> Explanation:
        """What every item of the bundle gives; needs ``pool: mean``. See `CFModel`."""
        del user
        if self.config.pool != "mean":
            raise ConfigError(
                "CLHE with attention has scores that are no sum over items. Use pool=mean."
            )
        with torch.no_grad():
            seen = torch.from_numpy(history.indices.astype(np.int64))
            parts = self.sets.normed(self.items_in_bundles()[seen]) / max(1, len(seen))
            given = (parts.cpu() @ self.vectors()[1][item].cpu()).numpy()
        return Explanation.of_items(item, history.indices, given, float(given.sum()))

    # ---------------------------------------------------------------------------------- loss

    def loader(
        self,
        sampling: SamplingConfig | None = None,
        batch_size: int = 256,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> EpochLoader[Any] | InTurn:
        """Batches of whole bundles. See `EmbeddingModel`.

        Raises:
            ConfigError: Negatives are asked for; all items are.
        """
        asked = sampling is not None and "negatives" in sampling.model_fields_set
        if sampling is not None and asked and sampling.negatives != "none":
            raise ConfigError(
                "sampling.negatives: CLHE compares with all items. Set it to none, or leave it out."
            )
        return SetLoader(
            self.graph, batch_size, seed, rank, world_size, self.config.max_items
        )  # fmt: skip

    def loss(self, batch: Any) -> Tensor:
        """See `EmbeddingModel`.

        Args:
            batch: A `SetBatch` of training bundles.
        """
        config = self.config
        kept = self._kept(batch.real)
        seen, other = batch.items, batch.items
        if config.bundle_view == "replace" and config.bundle_weight:
            drawn = torch.randint(self.graph.num_items, seen.shape).to(seen.device)
            other = torch.where(kept, seen, drawn)
        places = torch.cat([seen[batch.real], other[batch.real]])
        items, place = places.unique(return_inverse=True)
        tokens = self.tokens("item", items)
        found = self.fused("item", tokens)
        first, second = place.chunk(2)
        given = kept if config.reconstruct == "held_out" else batch.real
        bundles = self.sets(_spread(found, first, batch.real), given)
        loss = self.reconstruction(bundles, batch, given)
        if config.item_weight:
            inside = first.unique()
            loss = loss + config.item_weight * self.item_contrast(
                functional.embedding(inside, found), tokens[inside], items[inside]
            )
        if config.bundle_weight:
            real = kept if config.bundle_view == "drop" else batch.real
            view = self.sets(_spread(found, second, batch.real), real)
            if config.reconstruct == "held_out":
                bundles = self.sets(_spread(found, first, batch.real), batch.real)
            loss = loss + config.bundle_weight * in_batch(
                bundles, view, ids=self._twins.to(batch.user.device)[batch.user],
                temperature=config.bundle_temperature,
            )  # fmt: skip
        return loss

    def reconstruction(self, bundles: Tensor, batch: SetBatch, given: Tensor) -> Tensor:
        """Mean over bundles of the mean over asked items of ``-ln softmax_i(e_b . g_i)``.

        Args:
            bundles: e, (B, D).
            batch: Whole bundles.
            given: What e was made of, (B, N) bool. Where others are held out, given items are
                neither asked nor compared with.
        """
        scores = bundles @ self.candidates().T
        asked = batch.real
        if self.config.cold_items == "left_out":
            scores = scores.masked_fill(~self._warm.to(scores.device), -torch.inf)
        if self.config.reconstruct == "held_out":
            asked = batch.real & ~given
            row, column = given.nonzero(as_tuple=True)
            scores = scores.index_put(
                (row, batch.items[row, column]), scores.new_tensor(-torch.inf)
            )
        found = torch.where(asked, scores.log_softmax(1).gather(1, batch.items), 0.0)
        counts = asked.sum(1)
        some = (counts > 0).sum().clamp(min=1)
        return -(found.sum(1) / counts.clamp(min=1)).sum() / some

    def item_contrast(self, found: Tensor, tokens: Tensor, items: Tensor) -> Tensor:
        """The contrast of two views of every item.

        Args:
            found: f, (n, D).
            tokens: That they were made of, (n, T, D).
            items: Their numbers, each once.
        """
        views = [self._view(found, tokens) for _ in range(2)]
        return in_batch(*views, ids=items, temperature=self.config.item_temperature)

    def _view(self, found: Tensor, tokens: Tensor) -> Tensor:
        config, kind = self.config, self.config.item_view
        if kind == "features":
            return self.projector(functional.dropout(found, config.dropout))
        if kind == "noise":
            drawn = torch.randn(found.shape).to(found.device)
            return self.projector(found + config.noise * drawn)
        if kind == "tokens":
            left_out = (torch.rand(tokens.shape[:2]) < config.dropout).to(tokens.device)
            return self.fused("item", tokens.masked_fill(left_out[:, :, None], 0))
        return found

    def _kept(self, real: Tensor) -> Tensor:
        """Random places of every bundle, (B, N) bool: at least one, and not all of two or more."""
        counts = real.sum(1, keepdim=True)
        many = torch.round(counts * self.config.keep + 0.5)
        many = torch.minimum(many, counts - 1).clamp(min=1)
        keys = torch.rand(real.shape).to(real.device).masked_fill(~real, 2)
        return (keys.argsort(1).argsort(1) < many) & real


def _spread(found: Tensor, place: Tensor, real: Tensor) -> Tensor:
    """Vectors at the real places, (B, N, D); zeros elsewhere."""
    rows = functional.embedding(place, found)
    return rows.new_zeros(*real.shape, rows.shape[1]).masked_scatter(real[:, :, None], rows)


def _numbers_of_sets(graph: InteractionGraph) -> Tensor:
    """A number of every user's set of items; equal sets have equal numbers."""
    matrix, numbers = graph.matrix(), {}
    rows = (matrix.indices[a:b].tobytes() for a, b in zip(matrix.indptr, matrix.indptr[1:]))
    return torch.tensor([numbers.setdefault(row, len(numbers)) for row in rows])
