"""Which backend holds the tables: one process's memory, or torchrec's shards.

Stability: caller
"""

from __future__ import annotations

import importlib
import importlib.util
from types import ModuleType
from typing import Literal

from recsys.errors import ShardingError

Backend = Literal["local", "torchrec"]


def resolve_backend(
    requested: Literal["auto", "local", "torchrec"], device: str, world_size: int
) -> Backend:
    """Decides what ``backend: auto`` means here.

    Args:
        requested: From the configuration. ``auto`` is ``local`` for one CPU process, else
            ``torchrec``.
        device: ``cpu`` or ``cuda``.
        world_size: Number of ranks.

    Raises:
        ShardingError: ``local`` for several ranks, or torchrec is needed and not installed.

    Example:
        >>> resolve_backend("auto", "cpu", world_size=1)
        'local'
    """
    several = world_size > 1
    if requested == "local" and several:
        raise ShardingError(
            f"embedding.backend=local holds tables in one process, got {world_size} ranks. "
            "Use backend=torchrec or auto, or one rank."
        )
    if requested == "local" or (requested == "auto" and device == "cpu" and not several):
        return "local"
    missing = [name for name in ("torchrec", "fbgemm_gpu") if not importlib.util.find_spec(name)]
    if missing:
        raise ShardingError(
            f"embedding.backend={requested} on {device} with {world_size} rank(s) needs torchrec, "
            f"but {missing} cannot be found. Install it: `pip install ./packaging/fbgemm-gpu "
            "torchrec==1.8.0`, or set embedding.backend=local for one process."
        )
    return "torchrec"


def torchrec_module() -> ModuleType:
    """`recsys.embeddings.torchrec_backend`, imported only now: models never load torchrec.

    Raises:
        ShardingError: torchrec is not installed.
    """
    resolve_backend("torchrec", "cpu", world_size=1)
    return importlib.import_module("recsys.embeddings.torchrec_backend")
