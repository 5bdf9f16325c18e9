"""Citation graphs Cora, CiteSeer and PubMed with Planetoid's split.

Papers with words as features and a field as class; 20 training papers a class, 500 to validate,
1,000 to test. Cora: 2,708 papers, 5,278 undirected edges, 1,433 words, 7 classes. Files, either of

- ``<name>.npz`` without pickled objects: ``indptr``, ``indices``, ``data``, ``shape`` (features),
  ``labels``, ``edges`` (pairs), ``train``, ``val``, ``test``;
- github.com/tkipf/gcn/gcn/data: ``ind.<name>.x``, ``.tx``, ``.allx``, ``.y``, ``.ty``, ``.ally``,
  ``.graph`` (pickles, read by `recsys.graph.planetoid_files`, which runs nothing that they name)
  and ``ind.<name>.test.index``.

Licence: none stated; the data are from CiteSeer and PubMed. Published accuracy: Cora 81.5 (GCN),
84.4 +- .5 (DAGNN, 100 runs); a logistic regression on words alone 56.6.

Traps:
    - Features are 0 and 1 (TF-IDF in PubMed); published models divide each row by its sum.
    - In CiteSeer some test nodes have no features and no class; they stay as nodes and are in no
      split.
    - Papers choose the epoch by the 500 validation labels, more than there are to train on.

Stability: caller
"""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field
from scipy.sparse import csr_array, vstack

from recsys.data.files import find_file, needed_path
from recsys.errors import DataError
from recsys.graph.labelled_nodes import LabelledNodes
from recsys.graph.node_dataset import NodeDataset
from recsys.graph.number_files import read_columns
from recsys.graph.planetoid_files import read_array, read_graph, read_matrix
from recsys.graph.products import size

_ADVICE = (
    "Get the files ind.<name>.* from https://github.com/tkipf/gcn (gcn/data), put them into one "
    "folder, and set `path` to it."
)
_Parts = tuple[csr_array, np.ndarray, np.ndarray, dict[str, np.ndarray]]
_CLASSES = {
    "cora": ("Theory", "Reinforcement_Learning", "Genetic_Algorithms", "Neural_Networks",
             "Probabilistic_Methods", "Case_Based", "Rule_Learning"),
}  # fmt: skip


class Planetoid(NodeDataset):
    """A citation graph with the split that most papers report on.

    Args:
        config: Which graph, and where its files are.

    Raises:
        DataError: From `nodes`: files are missing, cut or malformed.

    Source:
        Yang et al., "Revisiting Semi-Supervised Learning with Graph Embeddings", ICML 2016; Kipf
        and Welling, ICLR 2017, gcn/utils.py.
    """

    homepage = "https://github.com/kimiyoung/planetoid"
    licence = "none stated"

    class Config(NodeDataset.Config):
        """Which graph, and where its files are."""

        path: str | None = None
        """Folder with the files."""
        name: Literal["cora", "citeseer", "pubmed"] = "cora"
        """Which graph."""
        normalize_features: bool = True
        """Divide the features of every node by their sum."""
        num_valid: int = Field(default=500, ge=1)
        """Nodes to validate on, where the files do not say: those after the training nodes."""

    config: Config

    def nodes(self, cache_dir: Path) -> LabelledNodes:
        """Reads the graph."""
        del cache_dir
        name = self.config.name
        path = needed_path(self.config.path, "A Planetoid graph", _ADVICE)
        file = find_file(path, [f"{name}.npz", f"ind.{name}.graph"], _ADVICE)
        found = _read_npz(file) if file.suffix == ".npz" else self._read_raw(file.parent)
        features, labels, edges, splits = found
        if self.config.normalize_features:
            sums = features.sum(1)
            scale = np.divide(1, sums, out=np.zeros_like(sums), where=sums != 0)
            features = csr_array(features.multiply(scale[:, None]), dtype=np.float32)
        classes = _CLASSES.get(name, tuple(f"class {c}" for c in range(labels.max() + 1)))
        if labels.max() >= len(classes):
            raise DataError(f"expected {len(classes)} classes, got {labels.max() + 1}.",
                            file=str(file))  # fmt: skip
        report = {
            "nodes_without_a_class": int((labels < 0).sum()),
            "nodes_without_features": int((features.indptr[1:] == features.indptr[:-1]).sum()),
        }
        return LabelledNodes(
            "paper", {"paper": len(labels)}, labels, classes, splits,
            {("paper", "cites", "paper"): edges}, {"paper": features}, report=report,
        )  # fmt: skip

    def _read_raw(self, folder: Path) -> _Parts:
        """The files of Planetoid, put in order as in Kipf's code."""
        files = {
            part: find_file(folder, [f"ind.{self.config.name}.{part}"], _ADVICE)
            for part in ("tx", "allx", "y", "ty", "ally", "graph", "test.index")
        }
        (tested,) = read_columns(files["test.index"], ("node",))
        matrices = {part: read_matrix(files[part]) for part in ("tx", "allx")}
        classes = {part: read_array(files[part]) for part in ("y", "ty", "ally")}
        known, given = (size(matrices[part])[0] for part in ("allx", "tx"))
        same = known == len(classes["ally"]) and given == len(classes["ty"]) == len(tested)
        if not same or len(tested) == 0 or tested.min() < known:
            raise DataError(
                f"the parts of {self.config.name} do not fit: {known} and {len(classes['ally'])} "
                f"rows of allx and ally, {given}, {len(classes['ty'])} and {len(tested)} of tx, ty "
                "and test.index. Fetch them anew, all from one place."
            )
        total = int(tested.max()) + 1
        place = csr_array((np.ones(given, np.float32), (tested - known, np.arange(given))),
                          shape=(total - known, given))  # fmt: skip
        features = csr_array(vstack([matrices["allx"], place @ matrices["tx"]]), dtype=np.float32)
        labels = np.full(total, -1, np.int64)
        for rows, one_hot in ((np.arange(known), classes["ally"]), (tested, classes["ty"])):
            labels[rows] = np.where(one_hot.any(1), one_hot.argmax(1), -1)
        train = np.arange(len(classes["y"]))
        valid = np.arange(len(train), min(len(train) + self.config.num_valid, known))
        splits = {"train": train, "valid": valid, "test": np.sort(tested)}
        splits = {name: part[labels[part] >= 0] for name, part in splits.items()}
        return features, labels, read_graph(files["graph"]), splits


def _read_npz(file: Path) -> _Parts:
    """Plain arrays; a file with pickled objects is refused by numpy."""
    try:
        with np.load(file, allow_pickle=False) as arrays:
            parts = {name: arrays[name] for name in arrays.files}
        features = csr_array(
            (parts["data"].astype(np.float32), parts["indices"], parts["indptr"]),
            shape=tuple(int(count) for count in parts["shape"]),
        )
        features.check_format(full_check=True)
        edges = parts["edges"].astype(np.int64).reshape(-1, 2).T
        keys = {"train": "train", "valid": "val", "test": "test"}
        splits = {name: parts[key].astype(np.int64) for name, key in keys.items()}
        return features, parts["labels"].astype(np.int64), edges, splits
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"expected arrays of a graph: {error}. Fetch it anew.",
                        file=str(file)) from None  # fmt: skip
