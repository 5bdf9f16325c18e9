"""What torchrec is given: one parent of all tables, and batches as its own type.

Stability: internal
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torchrec
from torch import nn

from recsys.embeddings.ids import Ids
from recsys.errors import ShardingError


def to_kjt(ids: Ids, keys: Sequence[str], weighted: bool = False) -> torchrec.KeyedJaggedTensor:
    """The same indices as torchrec's type, without a copy.

    Args:
        ids: What is looked up.
        keys: Name of every slot.
        weighted: Whether weights are expected.

    Raises:
        ShardingError: Weights come unexpected.
    """
    if ids.weights is not None and not weighted:
        raise ShardingError(
            "the batch carries `value_weights`, but the tables were sharded without. "
            "Pass ShardingOptions(weighted=True) to to_torchrec."
        )
    weights = ids.weights
    if weighted and weights is None:
        weights = torch.ones_like(ids.values, dtype=torch.float32)
    return torchrec.KeyedJaggedTensor(
        keys=list(keys), values=ids.values, lengths=ids.lengths, weights=weights
    )


class ShardedTables(nn.Module):
    """What torchrec shards: pooled tables as ``ebc``, unpooled ones of width D as ``ec<D>``.

    Args:
        bags: Pooled tables.
        rows: Unpooled tables. torchrec wants one width a collection.
        weighted: Whether batches carry weights.
    """

    def __init__(
        self,
        bags: list[torchrec.EmbeddingBagConfig],
        rows: list[torchrec.EmbeddingConfig],
        weighted: bool,
    ) -> None:
        super().__init__()
        meta = torch.device("meta")
        if bags:
            self.ebc = torchrec.EmbeddingBagCollection(bags, is_weighted=weighted, device=meta)
        for dim in sorted({config.embedding_dim for config in rows}):
            mine = [config for config in rows if config.embedding_dim == dim]
            self.add_module(f"ec{dim}", torchrec.EmbeddingCollection(mine, device=meta))

    def configs(self) -> list[Any]:
        """The table configurations of every collection."""
        return [
            module.embedding_bag_configs()
            if isinstance(module, torchrec.EmbeddingBagCollection)
            else module.embedding_configs()
            for module in self.children()
            if isinstance(module, (torchrec.EmbeddingBagCollection, torchrec.EmbeddingCollection))
        ]

    def forward(self, kjt: torchrec.KeyedJaggedTensor) -> dict[str, Any]:
        """Output of every collection."""
        return {name: module(kjt) for name, module in self.named_children()}
