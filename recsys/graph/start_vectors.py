"""Vectors of a trained model to start another one from.

Stability: caller
"""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from recsys.errors import ConfigError, DataError
from recsys.graph.interaction_graph import InteractionGraph

_FILE, _TRAIN = "vectors.safetensors", "train.parquet"


def read_start_vectors(
    path: Path | str, graph: InteractionGraph, width: int
) -> tuple[Tensor, Tensor]:
    """Vectors of users and items by number, from a trained recommender or a safetensors file.

    Of a recommender it is checked that it was trained on the same pairs, so that numbers mean the
    same. A safetensors file has tensors ``user`` and ``item``.

    Args:
        path: Folder of a run or of its model, or a file.
        graph: To learn from.
        width: D of the tables that will start from them.

    Returns:
        (U, D) and (I, D), float32.

    Raises:
        DataError: The file is missing or damaged.
        ConfigError: Shapes differ, or the recommender was trained on other pairs.
    """
    place = Path(path).expanduser()
    candidates = (place, place / _FILE, place / "model" / _FILE)
    file = next((candidate for candidate in candidates if candidate.is_file()), None)
    if file is None:
        raise DataError(
            f"start vectors: there is no {_FILE} in {place}. Give the folder of one seed of a run "
            "(say runs/mf_bpr or runs/mf_bpr/seed-1), or a safetensors file."
        )
    try:
        found = load_file(str(file))
    except (SafetensorError, OSError) as error:
        raise DataError(f"start vectors: {file} cannot be read: {error}") from None
    shapes = {"user": (graph.num_users, width), "item": (graph.num_items, width)}
    for name, shape in shapes.items():
        if name not in found or tuple(found[name].shape) != shape:
            got = tuple(found[name].shape) if name in found else f"only {sorted(found)}"
            raise ConfigError(
                f"start vectors: expected `{name}` of shape {shape} in {file}, got {got}. Train "
                "it on the same data, with an embedding_dim as here."
            )
    if file.name == _FILE and (file.parent / _TRAIN).is_file():
        _check_pairs(file.parent / _TRAIN, graph)
    return found["user"].float(), found["item"].float()


def _check_pairs(file: Path, graph: InteractionGraph) -> None:
    """Numbers mean the same where the pairs are the same."""
    try:
        table = pq.read_table(file, columns=["user", "item"])
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"start vectors: {file} cannot be read: {error}") from None
    pairs = [table[name].to_numpy() for name in ("user", "item")]
    mine = [graph.user.numpy(), graph.item.numpy()]
    if len(pairs[0]) != len(mine[0]) or any((a != b).any() for a, b in zip(pairs, mine)):
        raise ConfigError(
            f"start vectors: the model of {file.parent} was trained on {len(pairs[0]):,} pairs "
            f"that are not the {len(mine[0]):,} here, so its numbers mean other users and items. "
            "Train it on the same data with the same split."
        )
