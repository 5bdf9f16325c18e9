"""A trained classifier of nodes as a folder: weights, and what graph they are about. No pickle.

    model.json          format, class path, config, metadata, versions, SHA-256 of every file
    model.safetensors   weights
    nodes.json          target, counts, classes, fingerprint of the graph

The graph is not in it: it is that of the data set, and is checked by its fingerprint.

Stability: caller
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from safetensors.torch import load_file

from recsys.errors import CheckpointError
from recsys.graph.labelled_nodes import LabelledNodes
from recsys.node_model import NodeClassifier
from recsys.serving.artefact import WEIGHTS
from recsys.serving.folder import (
    NODES,
    artefact_folder,
    filling,
    read_manifest,
    stored_config,
    trusted_class,
    verify,
    write_folder,
)
from recsys.serving.weights_file import write_weights


def save_classifier(
    directory: Path | str, model: NodeClassifier, metadata: Mapping[str, Any] | None = None
) -> Path:
    """Writes a classifier, whole or not at all; replaces an older one.

    Args:
        directory: The folder.
        model: Trained.
        metadata: Whatever else should travel along, as JSON values.

    Returns:
        The folder.

    Raises:
        CheckpointError: The folder exists and holds something else.
    """

    def write(draft: Path) -> None:
        write_weights(draft / WEIGHTS, model.state_dict())
        text = json.dumps(_about(model.nodes), indent=1, ensure_ascii=False) + "\n"
        (draft / NODES).write_text(text, encoding="utf-8")

    return write_folder(directory, model, metadata or {}, write)


def load_classifier(
    directory: Path | str, nodes: LabelledNodes, model_class: type[NodeClassifier] | None = None
) -> NodeClassifier:
    """Reads a classifier after checking every file against its checksum.

    Args:
        directory: The folder, or a run folder with ``model/`` in it.
        nodes: The graph that it was trained on.
        model_class: The model's class, where it is not one of ``recsys.models``.

    Returns:
        In eval mode, on the CPU.

    Raises:
        CheckpointError: A file is missing, damaged or of another format version, the class is
            not trusted, or graph, weights and config do not fit.
    """
    folder = artefact_folder(directory)
    manifest = read_manifest(folder)
    if NODES not in manifest["files"]:
        raise CheckpointError(
            f"{folder} holds {str(manifest['class']).rpartition('.')[2]}, which is no classifier "
            "of nodes."
        )
    verify(folder, manifest["files"], [WEIGHTS, NODES], "nodes")
    cls = trusted_class(folder, manifest["class"], NodeClassifier, model_class)
    before = json.loads((folder / NODES).read_text(encoding="utf-8"))
    if before != _about(nodes):
        raise CheckpointError(
            f"{folder}: the model was trained on another graph ({before['counts']} nodes, now "
            f"{dict(nodes.counts)}; fingerprint {before['fingerprint']}, now "
            f"{nodes.fingerprint()}). Restore the data, or train again."
        )
    config = stored_config(folder, manifest, cls)
    with filling(folder, cls):
        model = cast(Any, cls)(config, nodes)
        model.load_state_dict(load_file(str(folder / WEIGHTS)))
    return model.eval()


def _about(nodes: LabelledNodes) -> dict[str, Any]:
    """What a classifier is about."""
    return {
        "target": nodes.target,
        "counts": dict(nodes.counts),
        "classes": list(nodes.classes),
        "fingerprint": nodes.fingerprint(),
    }
