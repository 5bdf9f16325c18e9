"""A suite that every data set of labelled nodes passes.

Inherit it, say which class and how to configure it::

    class TestMine(NodeDatasetConformance):
        dataset = Mine
        splits = {"train": 8, "valid": 1, "test": 1}

        def config(self, folder):
            write_small_files_in_the_real_format(folder)
            return Mine.Config(path=str(folder))

Stability: caller
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from recsys.graph.node_dataset import NodeDataset
from recsys.graph.nodes_pyg import to_pyg
from recsys.testing.any_dataset import AnyDatasetConformance


class NodeDatasetConformance(AnyDatasetConformance[NodeDataset]):
    """What every data set of labelled nodes must do. Inherit it in a test class."""

    splits: ClassVar[dict[str, int]]
    """Nodes by split, counted by hand in the files that `config` writes."""

    def test_it_is_stable_and_has_the_right_counts(self, tmp_path: Path) -> None:
        """Asking twice gives the same graph; splits are as counted."""
        data = self.made(tmp_path)
        first, second = data.nodes(tmp_path), data.nodes(tmp_path)
        assert first.fingerprint() == second.fingerprint() and first.report == second.report
        assert {name: len(nodes) for name, nodes in first.splits.items()} == self.splits
        assert set(np.unique(first.labels)) - {-1} == set(range(len(first.classes)))

    def test_it_becomes_an_object_of_pyg(self, tmp_path: Path) -> None:
        """With masks of the splits."""
        nodes = self.made(tmp_path).nodes(tmp_path)
        found: Any = to_pyg(nodes)
        store = found if nodes.homogeneous else found[nodes.target]
        assert int(store.train_mask.sum()) == self.splits["train"]
        assert int(store.test_mask.sum()) == self.splits.get("test", 0)
        assert found.validate() and found.num_edges == nodes.num_edges
