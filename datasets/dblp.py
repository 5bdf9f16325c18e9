"""DBLP, four areas of computer science: authors, papers, terms and venues; the areas of authors.

14,475 authors of which 4,057 have an area, 14,376 papers, 8,920 terms, 20 venues. Kept, as in
MAGNN: the authors with an area, their papers (14,328), and the terms and venues of those. Split:
400 to train, 400 to validate, 3,257 to test, drawn with MAGNN's seed by the algorithm of
scikit-learn, so the authors are the same.

Files (github.com/cynricfu/MAGNN, data/raw/DBLP): ``author_label.txt``, ``paper_author.txt``,
``paper_term.txt``, ``paper_conf.txt``, ``term.txt``, ``conf.txt``. Licence: none stated; from
DBLP (CC0).

Features are ours, because those that MAGNN took from HAN are not in these files: of a paper its
terms, of an author those of the papers, each row divided by its sum. Terms in fewer than two
papers, or in more than a tenth of them (words like `the`), are no features. Terms and venues have
no features. So published figures for this data set are near, not equal.

Traps:
    - MAGNN lemmatizes terms and leaves out stop words (7,723 are left); here all terms are nodes.
    - A venue nearly tells the area of its papers, so most of the task is to look two steps away.

Stability: caller
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pydantic import Field
from scipy.sparse import csr_array

from recsys.data.files import find_file, needed_path
from recsys.errors import DataError
from recsys.graph.interactions import Names
from recsys.graph.labelled_nodes import LabelledNodes
from recsys.graph.node_dataset import NodeDataset
from recsys.graph.number_files import read_columns

_ADVICE = (
    "Get the files from https://github.com/cynricfu/MAGNN (data/raw/DBLP), put them into one "
    "folder, and set `path` to it."
)
_CLASSES = ("database", "data mining", "artificial intelligence", "information retrieval")


class DBLP(NodeDataset):
    """Authors, their papers, and what and where these are.

    Args:
        config: Where the files are, and how to split.

    Raises:
        DataError: From `nodes`: files are missing, cut or malformed.

    Source:
        Ji et al., "Graph Regularized Transductive Classification on Heterogeneous Information
        Networks", ECML PKDD 2010; split of Fu et al., "MAGNN", WWW 2020, preprocess_DBLP.ipynb.
    """

    homepage = "https://github.com/cynricfu/MAGNN"
    licence = "none stated; DBLP itself is CC0"

    class Config(NodeDataset.Config):
        """Where the files are, and how to split."""

        path: str | None = None
        """Folder with the files."""
        num_valid: int = Field(default=400, ge=1)
        """Authors to validate on."""
        num_test: int = Field(default=3257, ge=1)
        """Authors to test on; the others train."""
        min_papers: int = Field(default=2, ge=1)
        """A term in fewer papers is no feature."""
        max_share: float = Field(default=0.1, gt=0, le=1)
        """A term in a larger share of the papers is no feature."""
        seed: int = Field(default=1566911444, ge=0, lt=2**32)
        """Of the split."""

    config: Config

    def nodes(self, cache_dir: Path) -> LabelledNodes:
        """Reads the graph."""
        del cache_dir
        files = self._files()
        author, label = _author_labels(files["author_label.txt"])
        pairs = {
            other: np.stack(read_columns(files[f"paper_{other}.txt"], ("paper", other)))
            for other in ("author", "term", "conf")
        }
        pairs["author"] = pairs["author"][:, np.isin(pairs["author"][1], author)]
        papers = np.unique(pairs["author"][0])
        left_out = len(np.unique(np.concatenate([p[0] for p in pairs.values()]))) - len(papers)
        for other in ("term", "conf"):
            pairs[other] = pairs[other][:, np.isin(pairs[other][0], papers)]
        ids = {"author": author, "paper": papers, "term": np.unique(pairs["term"][1]),
               "conf": np.unique(pairs["conf"][1])}  # fmt: skip
        edges = {
            ("paper", name, other): np.unique(
                np.stack([np.searchsorted(papers, pairs[other][0]),
                          np.searchsorted(ids[other], pairs[other][1])]), axis=1)
            for name, other in (("by", "author"), ("about", "term"), ("at", "conf"))
        }  # fmt: skip
        counts = {name: len(values) for name, values in ids.items()}
        return LabelledNodes(
            "author", counts, label, _CLASSES, self._splits(len(author)), edges,
            self._features(edges, counts), {name: Names(values) for name, values in ids.items()},
            {"papers_of_others_left_out": left_out},
        )  # fmt: skip

    def _features(
        self, edges: dict[tuple[str, str, str], np.ndarray], counts: dict[str, int]
    ) -> dict[str, csr_array | np.ndarray]:
        """Terms of papers and of authors, each row divided by its sum."""
        paper, term = edges["paper", "about", "term"]
        times = np.bincount(term, minlength=counts["term"])
        most = self.config.max_share * counts["paper"]
        kept = np.flatnonzero((times >= self.config.min_papers) & (times <= most))
        if not len(kept):
            raise DataError("no term is left as a feature. Lower min_papers or raise max_share.")
        terms = _ones(paper, term, counts["paper"], counts["term"])[:, kept]
        paper, author = edges["paper", "by", "author"]
        wrote = _ones(paper, author, counts["paper"], counts["author"])
        return {"author": _by_sum(csr_array(wrote.T @ terms)), "paper": _by_sum(terms)}

    def _splits(self, count: int) -> dict[str, np.ndarray]:
        """As ``train_test_split`` twice: valid first, then test of the rest."""
        config = self.config
        if config.num_valid + config.num_test >= count:
            raise DataError(
                f"num_valid={config.num_valid} and num_test={config.num_test} leave none of "
                f"{count} authors to train on."
            )
        order = np.random.RandomState(config.seed).permutation(count)
        valid, rest = order[: config.num_valid], order[config.num_valid :]
        order = np.random.RandomState(config.seed).permutation(len(rest))
        test, train = rest[order[: config.num_test]], rest[order[config.num_test :]]
        return {"train": np.sort(train), "valid": np.sort(valid), "test": np.sort(test)}

    def _files(self) -> dict[str, Path]:
        path = needed_path(self.config.path, "DBLP", _ADVICE)
        names = ("author_label.txt", "paper_author.txt", "paper_term.txt", "paper_conf.txt")
        return {name: find_file(path, [name], _ADVICE) for name in names}


def _author_labels(file: Path) -> tuple[np.ndarray, np.ndarray]:
    """Authors and their areas, by rising id."""
    found: dict[int, int] = {}
    for number, line in enumerate(file.read_text(encoding="utf-8", errors="replace").split("\n")):
        parts = line.split("\t")
        if not line.strip():
            continue
        if len(parts) < 3 or not parts[0].isdecimal() or parts[1] not in ("0", "1", "2", "3"):
            raise DataError(
                f"expected an id, an area from 0 to 3 and a name, with tabs between, got "
                f"{line[:40]!r}. Fetch it anew.", file=str(file), row=number + 1,
            )  # fmt: skip
        if int(parts[0]) in found:
            raise DataError(f"author {parts[0]} is there twice.", file=str(file), row=number + 1)
        found[int(parts[0])] = int(parts[1])
    if not found:
        raise DataError("there is no author. Fetch the file anew.", file=str(file))
    ids = np.array(sorted(found), np.int64)
    return ids, np.array([found[int(i)] for i in ids], np.int64)


def _ones(row: np.ndarray, col: np.ndarray, num_rows: int, num_cols: int) -> csr_array:
    return csr_array((np.ones(len(row), np.float32), (row, col)), shape=(num_rows, num_cols))


def _by_sum(rows: csr_array) -> csr_array:
    sums = rows.sum(1)
    scale = np.divide(1, sums, out=np.zeros_like(sums), where=sums > 0)
    return csr_array(rows.multiply(scale[:, None]), dtype=np.float32)
