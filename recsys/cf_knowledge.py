"""What collaborative filters with a knowledge graph share: rows of all entities, start vectors.

Stability: caller
"""

from __future__ import annotations

import torch
from torch import Tensor

from recsys.cf import CFModel
from recsys.cf_graph import RankedPairModel
from recsys.embeddings.scheme import Full
from recsys.errors import ConfigError
from recsys.graph.collaborative_knowledge import CollaborativeKnowledge, checked_knowledge
from recsys.graph.interaction_graph import FIRST_INDEX, InteractionGraph
from recsys.graph.start_vectors import read_start_vectors
from recsys.schema import Categorical, Schema


class KnowledgeModel(RankedPairModel):
    """A model with rows for users, items and all other entities of a knowledge graph.

    Entities that are no items have a third table, ``entity``, in the same collection, so it may be
    compressed or sharded like the others.

    Args:
        config: An instance of the class's own ``Config``.
        graph: The training pairs, with a knowledge graph.

    Raises:
        ConfigError: There is no knowledge graph.
        DataError: It is about other items.
    """

    needs_knowledge = True

    class Config(RankedPairModel.Config):
        """Options that models with a knowledge graph share."""

        start_vectors: str | None = None
        """Users and items start from the vectors of a trained model (its folder, or a safetensors
        file), say of MFBPR; None draws them. Other entities are drawn either way."""

    def __init__(self, config: Config, graph: InteractionGraph) -> None:
        super().__init__(config, graph)
        self._start, self._width = config.start_vectors, config.embedding_dim
        self.knowledge = CollaborativeKnowledge.of(graph)

    @classmethod
    def schema_of(cls, config: CFModel.Config, graph: InteractionGraph) -> Schema:
        """See `CFModel`: a table of the entities that are no items, if there are any."""
        schema = super().schema_of(config, graph)
        others = len(checked_knowledge(graph).entities) - graph.num_items
        if not others:
            return schema
        entity = Categorical(name="entity", num_embeddings=others + FIRST_INDEX)
        return schema.model_copy(update={"features": (*schema.features, entity)})

    def node_rows(self) -> Tensor:
        """Rows of all nodes with their gradient: users, items, other entities, (N, D)."""
        return self.rows_of(*self.schema.keys)

    def reset_parameters(self, seed: int) -> None:
        """Draws all start values anew; with ``start_vectors`` users and items get those.

        Args:
            seed: Any integer from 0.
        """
        super().reset_parameters(seed)
        if self._start is not None:
            self.start_from(*read_start_vectors(self._start, self.graph, self._width))

    def start_from(self, users: Tensor, items: Tensor) -> None:
        """Puts vectors into the tables of users and items.

        Args:
            users: (U, D).
            items: (I, D).

        Raises:
            ConfigError: A table is compressed: no row of it belongs to one user or item.
        """
        for table, values in (("user", users), ("item", items)):
            name = f"embedding.{table}"
            if not isinstance(self.embeddings.schemes[name], Full):
                raise ConfigError(
                    f"start_vectors: the table `{table}` is compressed, so it cannot start from "
                    "given rows. Remove `start_vectors` or `compression`."
                )
            places = torch.arange(FIRST_INDEX, FIRST_INDEX + len(values), device=self.device)
            self.embeddings.store.write_rows(name, places, values.to(self.device))
