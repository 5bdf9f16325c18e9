"""LATTE for classes of nodes in a graph of several types: attention over paths, layer by layer.

Train it: ``recsys train --config configs/node/latte_classifier.yaml``.

Stability: experimental
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from recsys.embeddings.specs import TableOptions, table_specs
from recsys.embeddings.whole import whole_table
from recsys.graph.feature_projection import FeatureProjection
from recsys.graph.labelled_nodes import LabelledNodes
from recsys.graph.latte_layers import LATTELayers
from recsys.graph.meta_relations import base_relations
from recsys.graph.neighbors import SampledLayers
from recsys.graph.node_batches import NodeBatch
from recsys.node_model import NodeClassifier
from recsys.schema import FIRST_INDEX, Init
from recsys.types import Batch


class LATTEClassifier(NodeClassifier):
    """Attention over meta-relations of one step, two steps, ...; a linear layer tells the class.

    Nodes with features start as ``dropout(relu(X W + b))``, those without as rows of a table. Then
    come the layers of `recsys.graph.meta_relation_attention`, side by side. Loss: cross entropy,
    and the proximity of all layers: attention should tell pairs of a relation from others.

    Args:
        config: Layers, width, heads, dropout, objectives.
        nodes: Of one or several types.

    Source:
        Tran et al., "LATTE: Layer-Stacked Attention for Heterogeneous Network Embedding", arXiv
        2009.08072. Differs: the whole graph in every step, instead of drawn neighbourhoods; paths
        of two steps and more are joined once, see `recsys.graph.meta_relations.decompose`.

    Example:
        >>> import numpy as np
        >>> nodes = LabelledNodes("paper", {"paper": 2, "author": 1}, np.array([0, 1]),
        ...     ("AI", "DB"), {"train": np.array([0])},
        ...     {("paper", "by", "author"): np.array([[0, 1], [0, 0]])},
        ...     {"paper": np.eye(2, dtype=np.float32)})
        >>> model = LATTEClassifier(LATTEClassifier.Config(embedding_dim=4), nodes)
        >>> model.logits().shape, list(model.relation_shares()[1])
        (torch.Size([2, 2]), ['by > rev by (paper)', 'self'])
    """

    class Config(NodeClassifier.Config):
        """Options of LATTE."""

        embedding_dim: int = Field(default=128, ge=1)
        """Width of every layer, and of the tables."""
        num_layers: int = Field(default=2, ge=1)
        """T, steps of the longest paths."""
        heads: int = Field(default=2, ge=1)
        """Heads of attention, which share the width."""
        dropout: float = Field(default=0.2, ge=0, lt=1)
        """Share of inputs and of attention set to zero in training."""
        top: int = Field(default=20, ge=1)
        """Neighbours of a node that are kept in every relation of two steps or more."""
        proximity: float = Field(default=1.0, ge=0)
        """Weight of the proximity loss."""
        proximity_pairs: int | None = Field(default=2048, ge=1)
        """Pairs of every relation that it draws in a step; None takes all."""
        init_std: float = Field(default=0.1, ge=0)
        """Standard deviation of the start values of the tables."""
        tables: dict[str, TableOptions] = Field(default_factory=dict)
        """Exceptions by table: the type of nodes without features."""

    heterogeneous = True
    config: Config

    def __init__(self, config: Config, nodes: LabelledNodes) -> None:
        super().__init__(config, nodes)
        dim = config.embedding_dim
        bare = [feature for feature in self.schema.features if feature.name not in nodes.features]
        self._bare = tuple(feature.name for feature in bare)
        if bare:
            schema = self.schema.model_copy(update={"features": tuple(bare)})
            init = Init(std=config.init_std)
            groups = table_specs(schema, {"embedding": dim}, config.tables, init)
            self.embeddings = self.make_embeddings(groups, schema.keys)
        self.inputs = nn.ModuleList(
            FeatureProjection(rows, dim, 0.0) for rows in nodes.features.values()
        )
        base = base_relations(nodes.counts, nodes.edges)
        self.layers = LATTELayers(
            base, nodes.counts, (nodes.target,), dim, dim, config.num_layers, config.heads,
            config.dropout, top=config.top,
        )  # fmt: skip
        self.output = nn.Linear(config.num_layers * dim, self.num_classes)

    def rows(self) -> dict[str, Tensor]:
        """What the first layer starts from, by type."""
        found = {}
        for name, layer in zip(self.nodes.features, self.inputs):
            x = functional.relu(layer())
            found[name] = functional.dropout(x, self.config.dropout, self.training)
        for name in self._bare:
            whole = whole_table(self.embeddings, "embedding", name)
            found[name] = self._looked_up(name) if whole is None else whole[FIRST_INDEX:]
        return found

    def _looked_up(self, name: str) -> Tensor:
        """All rows of a table that is compressed."""
        count = self.nodes.counts[name]
        sizes = tuple(count if key == name else 0 for key in self._bare)
        lengths = [torch.full((count,), int(key == name)) for key in self._bare]
        batch = Batch(
            dense=torch.zeros(count, 0),
            values=torch.arange(FIRST_INDEX, count + FIRST_INDEX, dtype=torch.int32),
            lengths=torch.cat(lengths).int(), labels=torch.zeros(count, 1),
            keys=self._bare, value_counts=sizes,
        )  # fmt: skip
        return self.embeddings.sequence(batch.to(self.embeddings.store.device), "embedding", name)[
            0
        ]

    def logits(self, sampled: SampledLayers | None = None) -> Tensor:
        """See `NodeClassifier`; the whole graph."""
        del sampled
        return self.output(self.layers(self.rows())[self.nodes.target])

    def loss(self, batch: NodeBatch) -> Tensor:
        """Mean cross entropy of a batch, and the proximity of pairs.

        Args:
            batch: With its labels.
        """
        config = self.config
        negatives = 2 if config.proximity else 0
        found, near = self.layers.with_proximity(self.rows(), config.proximity_pairs, negatives)
        logits = self.output(found[self.nodes.target])[batch.nodes]
        return functional.cross_entropy(logits, batch.labels) + config.proximity * near

    def relation_shares(self) -> list[dict[str, Tensor]]:
        """For every layer how much each target node takes of each relation, (N,) by relation."""
        was_training = self.training
        self.eval()
        try:
            return self.layers.relation_shares(self.rows(), self.nodes.target)
        finally:
            self.train(was_training)
