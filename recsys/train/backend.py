"""Hands a model's tables to the optimizer on the backend that was asked for.

Stability: internal
"""

from __future__ import annotations

from torch import nn

from recsys.base import RecModel
from recsys.cf import CFModel
from recsys.embeddings.backend import Backend, torchrec_module
from recsys.embeddings.optimizer import EmbeddingOptimizer
from recsys.fit_config import EmbeddingConfig
from recsys.schema import MultiValued


def attach_tables(
    model: RecModel, config: EmbeddingConfig, backend: Backend, device: str = "cpu"
) -> EmbeddingOptimizer | None:
    """Gives the tables to their optimizer.

    Args:
        model: Start values drawn.
        config: What to run.
        backend: From `recsys.embeddings.backend.resolve_backend`.
        device: Where the shards live.

    Returns:
        The optimizer, None for a model without tables.

    Raises:
        ShardingError: torchrec is asked for and not installed.
    """
    if not model.embeddings.groups:
        return None
    if backend == "local":
        return model.embeddings.attach_optimizer(config)
    bags = (feature for feature in model.schema.keyed if isinstance(feature, MultiValued))
    door = torchrec_module()
    weighted = any(feature.weights for feature in bags)
    # A collaborative filter reads every row by itself, not sums of bags.
    single = isinstance(model, CFModel)
    unpooled = tuple(t.name for t in model.embeddings.store.tables) if single else ()
    options = door.ShardingOptions(config.sharding, unpooled, weighted)
    return door.to_torchrec(model.embeddings, config, options, device)


def is_meta(model: RecModel) -> bool:
    """Whether a model was built without memory.

    Args:
        model: Any.
    """
    return any(parameter.is_meta for parameter in model.parameters())


def materialize(model: RecModel, device: str) -> None:
    """Takes memory for everything but the tables, without values.

    Args:
        model: Built on ``meta``, its tables to be sharded; changed in place.
        device: Where it is trained.
    """
    store = model.embeddings.store
    tables = set(store.modules()) if isinstance(store, nn.Module) else set()
    for module in model.modules():
        if module not in tables:
            module.to_empty(device=device, recurse=False)
