"""Nodes with planted classes: the embedded default of node classification.

Licence: none needed, made by this file. Every node has a class; an edge stays within the class with
probability ``homophily`` and goes anywhere else; words of a node are, with probability ``signal``,
of its class. With ``num_tags`` there is a second type of nodes, without features: tags, each at
home in one class, on the nodes of that class but for the same noise. Split: a few nodes a class to
train on, then valid and test, drawn at random.

Traps:
    - Made data: all edges and words are drawn alike, so nothing is learned about real graphs.
    - With ``homophily`` at ``1 / num_classes`` edges say nothing, and at less they mislead models
      that take neighbours for alike.

Stability: caller
"""

from __future__ import annotations

from pathlib import Path
from typing import Self

import numpy as np
from pydantic import Field, model_validator
from scipy.sparse import csr_array

from recsys.errors import ConfigError
from recsys.graph.labelled_nodes import EdgeType, LabelledNodes
from recsys.graph.node_dataset import NodeDataset


class PlantedNodes(NodeDataset):
    """A made graph of nodes that mostly link to their like.

    Args:
        config: Sizes, seed and strengths.

    Example:
        >>> data = PlantedNodes(PlantedNodes.Config(num_nodes=60, num_classes=3))
        >>> nodes = data.nodes(Path("anywhere"))
        >>> nodes.counts, [len(split) for split in nodes.splits.values()]
        ({'node': 60}, [30, 10, 20])
    """

    licence = "none needed: made by recsys"

    class Config(NodeDataset.Config):
        """Sizes, seed and strengths."""

        num_nodes: int = Field(default=1000, ge=4)
        """Nodes."""
        num_classes: int = Field(default=5, ge=2)
        """Classes, equally many nodes in each."""
        mean_degree: float = Field(default=4.0, ge=0)
        """Edges a node, each counted at both of its ends."""
        homophily: float = Field(default=0.8, ge=0, le=1)
        """Share of edges drawn within a class."""
        num_words: int = Field(default=200, ge=1)
        """Features, each at home in one class."""
        words_per_node: int = Field(default=8, ge=1)
        """Words drawn for a node."""
        signal: float = Field(default=0.3, ge=0, le=1)
        """Share of words of a node's own class; the others are drawn from all."""
        num_tags: int = Field(default=0, ge=0)
        """Nodes of a second type; 0 leaves it out."""
        tags_per_node: int = Field(default=2, ge=1)
        """Tags drawn for a node."""
        train_per_class: int = Field(default=10, ge=1)
        """Training nodes a class."""
        valid: float = Field(default=1 / 3, gt=0, lt=1)
        """Share of the other nodes that validate; the rest is test."""
        seed: int = Field(default=7, ge=0)
        """Another seed, another graph."""

        @model_validator(mode="after")
        def _check(self) -> Self:
            if self.num_classes * self.train_per_class > self.num_nodes - 2:
                raise ConfigError(
                    f"train_per_class: {self.num_classes} classes of {self.train_per_class} need "
                    f"more than num_nodes={self.num_nodes} nodes, two of them for valid and test."
                )
            return self

    config: Config

    def nodes(self, cache_dir: Path) -> LabelledNodes:
        """Made at every call; nothing is written."""
        del cache_dir
        config = self.config
        random = np.random.default_rng(config.seed)
        labels = random.permutation(np.arange(config.num_nodes) % config.num_classes)
        members = [np.flatnonzero(labels == c) for c in range(config.num_classes)]
        splits = self._splits(random, labels, members)
        edges: dict[EdgeType, np.ndarray] = {}
        first = random.integers(
            config.num_nodes, size=round(config.num_nodes * config.mean_degree / 2)
        )
        alike = random.random(len(first)) < config.homophily
        second = random.integers(config.num_nodes, size=len(first))
        for c, mine in enumerate(members):
            here = alike & (labels[first] == c)
            second[here] = random.choice(mine, int(here.sum()))
        pairs = np.stack([first, second])[:, first != second]
        edges["node", "links", "node"] = np.unique(np.concatenate([pairs, pairs[::-1]], 1), axis=1)
        node, word = self._told(random, labels, config.num_words, config.words_per_node)
        ones = np.ones(len(node), np.float32)
        words = csr_array((ones, (node, word)), shape=(config.num_nodes, config.num_words))
        words.data[:] = 1
        counts = {"node": config.num_nodes}
        if config.num_tags:
            counts["tag"] = config.num_tags
            told = self._told(random, labels, config.num_tags, config.tags_per_node)
            edges["node", "has", "tag"] = np.unique(np.stack(told), axis=1)
        classes = tuple(f"class {c}" for c in range(config.num_classes))
        return LabelledNodes("node", counts, labels, classes, splits, edges, {"node": words})

    def _splits(
        self, random: np.random.Generator, labels: np.ndarray, members: list[np.ndarray]
    ) -> dict[str, np.ndarray]:
        """As many training nodes of every class, the others at random."""
        train = [random.choice(mine, min(self.config.train_per_class, len(mine)), replace=False)
                 for mine in members]  # fmt: skip
        chosen = np.sort(np.concatenate(train))
        rest = random.permutation(np.setdiff1d(np.arange(len(labels)), chosen))
        at = max(1, round(len(rest) * self.config.valid))
        return {"train": chosen, "valid": np.sort(rest[:at]), "test": np.sort(rest[at:])}

    def _told(
        self, random: np.random.Generator, labels: np.ndarray, size: int, count: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Nodes and the words (or tags) drawn for them: number w is at home in class w mod C."""
        classes = self.config.num_classes
        node = np.repeat(np.arange(len(labels)), count)
        word = random.integers(size, size=len(node))
        own = random.random(len(node)) < self.config.signal
        block = random.integers(-(-size // classes), size=len(node)) * classes + labels[node]
        return node, np.where(own & (block < size), block, word)
