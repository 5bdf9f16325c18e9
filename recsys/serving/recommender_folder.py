"""A trained collaborative filter as a folder: weights, ids, what was seen, vectors.

    model.json             as of any model, see `recsys.serving.folder`
    model.safetensors      weights
    users.parquet          ids of users by number
    items.parquet          ids of items by number
    train.parquet          the pairs that the model was built from: user, item, weight
    seen.parquet           pairs of other splits, which are left out of recommendations too
    knowledge/             the knowledge graph, if there is one
    contents/              what is in the items, where they are bundles
    descriptions/          texts and concepts of users and items, if there are any
    features/              what is known of the items beside the pairs, if there is anything
    vectors.safetensors    final vectors of users and items, for models that have them

Stability: caller
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors.torch import load_file, save_file
from torch import Tensor

from recsys.cf import CFModel, EmbeddingModel
from recsys.errors import CheckpointError, RecsysError
from recsys.graph.bundles import BundleContents, Bundles
from recsys.graph.concepts import Descriptions
from recsys.graph.interaction_graph import InteractionGraph
from recsys.graph.interactions import Interactions, Names
from recsys.graph.knowledge import KnowledgeGraph
from recsys.serving.artefact import WEIGHTS
from recsys.serving.folder import (
    USERS,
    artefact_folder,
    check_kind,
    filling,
    read_manifest,
    stored_config,
    trusted_class,
    verify,
    version_of,
    write_folder,
)
from recsys.serving.item_features_folder import TABLE, read_features, write_features
from recsys.serving.weights_file import Stored as StoredTensor
from recsys.serving.weights_file import write_weights

VECTORS = "vectors.safetensors"
_ITEMS, _TRAIN, _SEEN = "items.parquet", "train.parquet", "seen.parquet"
_KNOWLEDGE, _CONTENTS, _DESCRIPTIONS = "knowledge", "contents", "descriptions"
_FEATURES = "features"
_PAIRS, _CONCEPTS, _ABOUT = "pairs.parquet", "concepts.parquet", "concepts_of_"


class Stored(NamedTuple):
    """What a folder holds."""

    model: CFModel
    """In eval mode, on the CPU, with its vectors where it has any."""
    train: Interactions
    """What it was built from."""
    seen: Interactions
    """All pairs that were known, those of ``train`` too."""
    metadata: dict[str, Any]
    """What the trainer wrote down."""
    version: str
    """Of the model, see `recsys.serving.folder.artefact_version`."""


def save_recommender(
    directory: Path | str,
    model: CFModel,
    train: Interactions,
    others: Sequence[Interactions] = (),
    metadata: Mapping[str, Any] | None = None,
    state: Mapping[str, Tensor | StoredTensor] | None = None,
) -> Path:
    """Writes a collaborative filter, whole or not at all; replaces an older one.

    Args:
        directory: The folder.
        model: In eval mode.
        train: What it was built from.
        others: Interactions of other splits, with the same users and items.
        metadata: Whatever else should travel along, as JSON values.
        state: Weights to write instead of ``model.state_dict()``, say those of a checkpoint that
            ranks wrote in parts.

    Returns:
        The folder.

    Raises:
        CheckpointError: The folder exists and is not an artefact.
    """

    def write(draft: Path) -> None:
        write_weights(draft / WEIGHTS, model.state_dict() if state is None else state)
        for name, names in ((USERS, train.users), (_ITEMS, train.items)):
            pq.write_table(pa.table({"id": pa.array(names.values)}), draft / name)
        _write_pairs(draft / _TRAIN, [train], model.graph.weight is not None)
        _write_pairs(draft / _SEEN, others, False)
        if model.graph.knowledge is not None:
            _write_knowledge(draft / _KNOWLEDGE, model.graph.knowledge)
        if model.graph.contents is not None:
            _write_contents(draft / _CONTENTS, model.graph.contents)
        if model.graph.descriptions is not None:
            _write_descriptions(draft / _DESCRIPTIONS, model.graph.descriptions)
        if model.graph.features is not None:
            write_features(draft / _FEATURES, model.graph.features)
        if _has_vectors(type(model)):
            users, items = cast(EmbeddingModel, model).vectors()
            vectors = {"user": users.clone().contiguous(), "item": items.clone().contiguous()}
            save_file(vectors, str(draft / VECTORS))

    return write_folder(directory, model, metadata or {}, write)


def load_recommender(
    directory: Path | str, model_class: type[CFModel] | None = None, weights: bool = True
) -> Stored:
    """Reads a collaborative filter after checking every file against its checksum.

    Args:
        directory: The folder, or a run folder with ``model/`` in it.
        model_class: The model's class, where it is not one of ``recsys.models``.
        weights: Whether to read the weights of a model with stored vectors too: without them it
            can serve, but neither be trained further nor encode anew.

    Raises:
        CheckpointError: A file is missing, damaged or of another format version, the class is
            not trusted, or weights and config do not fit.
    """
    folder = artefact_folder(directory)
    manifest = read_manifest(folder)
    check_kind(folder, manifest, lists=True)
    cls = trusted_class(folder, manifest["class"], CFModel, model_class)
    needed = [WEIGHTS, USERS, _ITEMS, _TRAIN, _SEEN]
    needed += [VECTORS] if _has_vectors(cls) else []
    verify(folder, manifest["files"], needed, _KNOWLEDGE)
    config = stored_config(folder, manifest, cls)
    try:
        train, seen, graph = _read_graph(folder, manifest["files"])
        model = cast(Any, cls)(config, graph)
    except RecsysError as error:
        raise CheckpointError(f"{folder}: its files do not fit each other: {error}") from None
    with filling(folder, cls):
        if weights or not _has_vectors(cls):
            model.load_state_dict(load_file(str(folder / WEIGHTS)))
        model.eval()
        if _has_vectors(cls):
            vectors = load_file(str(folder / VECTORS))
            model.keep_vectors(vectors["user"], vectors["item"])
    return Stored(model, train, seen, manifest["metadata"], version_of(manifest))


def _has_vectors(cls: type[CFModel]) -> bool:
    """Whether folders hold vectors of the class, so that it serves without its weights."""
    return issubclass(cls, EmbeddingModel) and cls.stores_vectors


def _read_graph(
    folder: Path, files: Mapping[str, str]
) -> tuple[Interactions, Interactions, InteractionGraph]:
    """What the model was built from, all that was seen, and the graph."""
    users, items = (
        Names(pq.read_table(folder / name)["id"].to_numpy()) for name in (USERS, _ITEMS)
    )
    train = _read_pairs(folder / _TRAIN, users, items)
    seen = train.union(_read_pairs(folder / _SEEN, users, items))
    knowledge = _read_knowledge(folder / _KNOWLEDGE) if (folder / _KNOWLEDGE).is_dir() else None
    contents = None
    if f"{_CONTENTS}/{_ITEMS}" in files:
        has_pairs = f"{_CONTENTS}/{_TRAIN}" in files
        contents = _read_contents(folder / _CONTENTS, users, items, has_pairs)
    about = None
    if f"{_DESCRIPTIONS}/{_CONCEPTS}" in files:
        about = _read_descriptions(folder / _DESCRIPTIONS, users, items)
    features = None
    if f"{_FEATURES}/{TABLE}" in files:
        features = read_features(folder / _FEATURES, items)
    weighted = train.weight is not None
    graph = InteractionGraph.of(train, knowledge, weighted, contents, about, features)
    return train, seen, graph


def _write_pairs(path: Path, parts: Sequence[Interactions], weighted: bool) -> None:
    columns: dict[str, Any] = {
        name: np.concatenate([np.zeros(0, np.int32), *(getattr(p, name) for p in parts)]).astype(
            np.int32
        )
        for name in ("user", "item")
    }
    if weighted:
        columns["weight"] = np.concatenate([p.weight for p in parts if p.weight is not None])
    pq.write_table(pa.table(columns), path, compression="zstd")


def _read_pairs(path: Path, users: Names, items: Names) -> Interactions:
    table = pq.read_table(path)
    user, item = (table[name].to_numpy().astype(np.int64) for name in ("user", "item"))
    weight = table["weight"].to_numpy() if "weight" in table.column_names else None
    order = np.lexsort((item, user))
    weight = None if weight is None else weight[order]
    return Interactions(users, items, user[order], item[order], weight=weight)


def _write_knowledge(folder: Path, graph: KnowledgeGraph) -> None:
    folder.mkdir()
    triples = {name: getattr(graph, name) for name in ("head", "relation", "tail")}
    pq.write_table(pa.table(triples), folder / "triples.parquet", compression="zstd")
    pq.write_table(pa.table({"id": pa.array(graph.entities.values)}), folder / "entities.parquet")
    table = pa.table({"id": pa.array(graph.relations.values)})
    metadata = {b"num_items": str(graph.num_items).encode()}
    pq.write_table(table.replace_schema_metadata(metadata), folder / "relations.parquet")


def _read_knowledge(folder: Path) -> KnowledgeGraph:
    triples = pq.read_table(folder / "triples.parquet")
    relations = pq.read_table(folder / "relations.parquet")
    return KnowledgeGraph(
        entities=Names(pq.read_table(folder / "entities.parquet")["id"].to_numpy()),
        relations=Names(relations["id"].to_numpy()),
        num_items=int((relations.schema.metadata or {})[b"num_items"]),
        **{name: triples[name].to_numpy().copy() for name in ("head", "relation", "tail")},
    )


def _write_contents(folder: Path, contents: BundleContents) -> None:
    """Ids of the items of bundles, what is in which bundle, and who took which item."""
    folder.mkdir()
    ids = pa.array(contents.bundles.items.values)
    pq.write_table(pa.table({"id": ids}), folder / _ITEMS)
    pairs = {name: getattr(contents.bundles, name).astype(np.int32) for name in ("bundle", "item")}
    pq.write_table(pa.table(pairs), folder / _PAIRS, compression="zstd")
    if contents.user_item is not None:
        _write_pairs(folder / _TRAIN, [contents.user_item], False)


def _read_contents(folder: Path, users: Names, bundles: Names, has_pairs: bool) -> BundleContents:
    items = Names(pq.read_table(folder / _ITEMS)["id"].to_numpy())
    table = pq.read_table(folder / _PAIRS)
    bundle, item = (table[name].to_numpy().astype(np.int64) for name in ("bundle", "item"))
    alone = _read_pairs(folder / _TRAIN, users, items) if has_pairs else None
    return BundleContents(Bundles(bundles, items, bundle, item), alone)


def _write_descriptions(folder: Path, about: Descriptions) -> None:
    """Names of the concepts; texts of users and of items, and which is about what."""
    folder.mkdir()
    pq.write_table(pa.table({"id": pa.array(about.concepts.values)}), folder / _CONCEPTS)
    sides = ((USERS, about.user_texts, about.user_concepts),
             (_ITEMS, about.item_texts, about.item_concepts))  # fmt: skip
    for name, texts, pairs in sides:
        pq.write_table(pa.table({"text": list(texts)}), folder / name, compression="zstd")
        _write_pairs(folder / f"{_ABOUT}{name}", [pairs], False)


def _read_descriptions(folder: Path, users: Names, items: Names) -> Descriptions:
    concepts = Names(pq.read_table(folder / _CONCEPTS)["id"].to_numpy())
    texts = [tuple(pq.read_table(folder / name)["text"].to_pylist()) for name in (USERS, _ITEMS)]
    pairs = [_read_pairs(folder / f"{_ABOUT}{name}", names, concepts)
             for name, names in ((USERS, users), (_ITEMS, items))]  # fmt: skip
    return Descriptions(pairs[0], pairs[1], texts[0], texts[1])
