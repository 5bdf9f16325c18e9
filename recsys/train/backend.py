"""Hands a model's tables to the optimizer on the backend that was asked for.

Stability: internal
"""

from __future__ import annotations

import importlib
import importlib.util
from typing import Literal

from recsys.base import RecModel
from recsys.config import EmbeddingConfig
from recsys.embeddings.optimizer import EmbeddingOptimizer
from recsys.errors import ConfigError, ShardingError
from recsys.schema import MultiValued
from recsys.train.ranks import Ranks

Backend = Literal["local", "torchrec"]


def choose_backend(asked: str, ranks: Ranks, device: str) -> Backend:
    """``auto`` is local for one CPU process, torchrec otherwise.

    Args:
        asked: ``auto``, ``local`` or ``torchrec``.
        ranks: Of the job.
        device: ``cpu`` or ``cuda``.

    Raises:
        ConfigError: Local tables on several ranks.
    """
    if asked == "local" and ranks.world_size > 1:
        raise ConfigError(
            f"embedding.backend=local holds tables in one process, got {ranks.world_size} ranks. "
            "Use backend=torchrec (or auto), or one rank."
        )
    if asked == "auto":
        return "local" if ranks.world_size == 1 and device == "cpu" else "torchrec"
    return "torchrec" if asked == "torchrec" else "local"


def attach_tables(
    model: RecModel, config: EmbeddingConfig, backend: Backend, device: str = "cpu"
) -> EmbeddingOptimizer | None:
    """Gives the tables to their optimizer.

    Args:
        model: Start values drawn.
        config: What to run.
        backend: From `choose_backend`.
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
    if importlib.util.find_spec("torchrec") is None:
        raise ShardingError(
            "embedding.backend=torchrec needs torchrec and fbgemm, which are not installed. "
            "Install recsys[sharded] with fbgemm-gpu-cpu (see the README), or use one process "
            "with backend=local."
        )
    door = importlib.import_module("recsys.embeddings.torchrec_backend")
    bags = (feature for feature in model.schema.keyed if isinstance(feature, MultiValued))
    options = door.ShardingOptions(weighted=any(feature.weights for feature in bags))
    return door.to_torchrec(model.embeddings, config, options, device)
