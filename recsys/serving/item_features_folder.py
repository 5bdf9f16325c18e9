"""Features of items as a folder.

    items.parquet           a row an item: text, categories, price, as far as they are known
    vectors.safetensors     vectors by name, if there are any
    user_item.parquet       who took which item, if that is known; users.parquet has their ids

Stability: internal
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors.numpy import load_file, save_file

from recsys.graph.interactions import Interactions, Names
from recsys.graph.item_features import ItemFeatures

TABLE = "items.parquet"
"""What is always in the folder."""
_VECTORS, _PAIRS, _USERS = "vectors.safetensors", "user_item.parquet", "users.parquet"


def write_features(folder: Path, features: ItemFeatures) -> None:
    """Writes a folder that does not exist yet.

    Args:
        folder: Made here.
        features: Of all items.
    """
    folder.mkdir()
    columns: dict[str, pa.Array] = {"number": pa.array(np.arange(features.num_items))}
    if features.texts is not None:
        columns["text"] = pa.array(features.texts, pa.string())
    if features.categories is not None:
        columns["categories"] = pa.array(
            [list(each) for each in features.categories], pa.list_(pa.string())
        )
    if features.prices is not None:
        columns["price"] = pa.array(features.prices)
    pq.write_table(pa.table(columns), folder / TABLE, compression="zstd")
    if features.vectors:
        vectors = {name: np.ascontiguousarray(each) for name, each in features.vectors.items()}
        save_file(vectors, folder / _VECTORS)
    pairs = features.user_item
    if pairs is not None:
        found = {"user": pairs.user.astype(np.int32), "item": pairs.item.astype(np.int32)}
        pq.write_table(pa.table(found), folder / _PAIRS, compression="zstd")
        pq.write_table(pa.table({"id": pa.array(pairs.users.values)}), folder / _USERS)


def read_features(folder: Path, items: Names) -> ItemFeatures:
    """Reads what `write_features` wrote.

    Args:
        folder: With its files.
        items: Ids of all items.
    """
    table = pq.read_table(folder / TABLE)
    texts = categories = prices = pairs = None
    if "text" in table.column_names:
        texts = tuple(table["text"].to_pylist())
    if "categories" in table.column_names:
        categories = tuple(tuple(each) for each in table["categories"].to_pylist())
    if "price" in table.column_names:
        prices = table["price"].to_numpy()
    vectors = load_file(folder / _VECTORS) if (folder / _VECTORS).is_file() else {}
    if (folder / _PAIRS).is_file():
        found = pq.read_table(folder / _PAIRS)
        user, item = (found[name].to_numpy().astype(np.int64) for name in ("user", "item"))
        users = Names(pq.read_table(folder / _USERS)["id"].to_numpy())
        pairs = Interactions(users, items, user, item)
    return ItemFeatures(table.num_rows, texts, categories, prices, vectors, pairs)
