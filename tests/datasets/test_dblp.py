from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from sklearn.model_selection import train_test_split

from recsys.datasets.dblp import DBLP
from recsys.errors import DataError
from recsys.testing.node_dataset import NodeDatasetConformance

REAL = Path(__file__).parents[2] / ".data" / "magnn_raw" / "DBLP"


def write(folder):
    """Authors 30 to 90, papers 1 to 8 (8 has no labelled author), terms 5, 6, 7, venues 2, 4."""
    authors = [f"{author}\t{n % 4}\tName {n}\n" for n, author in enumerate(range(90, 20, -10))]
    (folder / "author_label.txt").write_text("".join(authors))
    (folder / "paper_author.txt").write_text(
        "".join(f"{p}\t{20 + 10 * p}\n" for p in range(1, 8)) + "8\t11\n1\t40\n1\t40\n"
    )
    (folder / "paper_term.txt").write_text(
        "".join(f"{p}\t7\n" for p in range(1, 9)) + "1\t5\n2\t5\n3\t6\n8\t9\n"
    )
    (folder / "paper_conf.txt").write_text(
        "".join(f"{p}\t{2 + 2 * (p % 2)}\n" for p in range(1, 9))
    )


class TestSuite(NodeDatasetConformance):
    dataset = DBLP
    splits: ClassVar = {"train": 3, "valid": 1, "test": 3}

    def config(self, folder):
        write(folder)
        return DBLP.Config(path=str(folder), num_valid=1, num_test=3, max_share=0.5)

    def test_the_graph_by_hand(self, tmp_path):
        nodes = DBLP(self.config(tmp_path)).nodes(tmp_path)
        assert nodes.counts == {"author": 7, "paper": 7, "term": 3, "conf": 2}
        assert nodes.names("author").tolist() == [30, 40, 50, 60, 70, 80, 90]
        assert nodes.labels.tolist() == [2, 1, 0, 3, 2, 1, 0]
        by = nodes.edges["paper", "by", "author"]
        assert by.tolist() == [[0, 0, 1, 2, 3, 4, 5, 6], [0, 1, 1, 2, 3, 4, 5, 6]]
        assert nodes.edges["paper", "at", "conf"][1].tolist() == [1, 0, 1, 0, 1, 0, 1]
        # term 7 is in too many papers and 6 in too few: one feature, term 5 of papers 1 and 2
        assert nodes.features["paper"].toarray()[:, 0].tolist() == [1, 1, 0, 0, 0, 0, 0]
        assert nodes.features["author"].toarray()[:, 0].tolist() == [1, 1, 0, 0, 0, 0, 0]
        assert nodes.report == {"papers_of_others_left_out": 1}

    def test_features_are_shares_of_terms(self, tmp_path):
        write(tmp_path)
        config = DBLP.Config(path=str(tmp_path), num_valid=1, num_test=3, max_share=1, min_papers=1)
        features = DBLP(config).nodes(tmp_path).features
        # paper 1 has terms 5 and 7; author 40 wrote papers 1 and 2: both have 5 and 7
        np.testing.assert_allclose(features["paper"].toarray()[0], [0.5, 0, 0.5])
        np.testing.assert_allclose(features["author"].toarray()[1], [0.5, 0, 0.5])
        np.testing.assert_allclose(features["author"].toarray()[2], [0, 0.5, 0.5])


def test_bad_files_are_named(tmp_path):
    with pytest.raises(DataError, match=r"DBLP cannot be fetched by a program"):
        DBLP(DBLP.Config()).nodes(tmp_path)
    write(tmp_path)
    with pytest.raises(DataError, match=r"leave none of 7 authors to train on"):
        DBLP(DBLP.Config(path=str(tmp_path), num_valid=4, num_test=3)).nodes(tmp_path)
    with pytest.raises(DataError, match=r"no term is left as a feature"):
        DBLP(DBLP.Config(path=str(tmp_path), num_valid=1, num_test=1, min_papers=9)).nodes(tmp_path)
    for line, problem in (
        ("30\t7\tName\n", r"an area from 0 to 3 and a name(.|\n)*row 1"),
        ("30\t1\tName\n30\t2\tName\n", r"author 30 is there twice(.|\n)*row 2"),
        ("\n", r"there is no author"),
    ):
        (tmp_path / "author_label.txt").write_text(line)
        with pytest.raises(DataError, match=problem):
            DBLP(DBLP.Config(path=str(tmp_path))).nodes(tmp_path)


def test_the_split_is_that_of_scikit_learn():
    config = DBLP.Config()
    found = DBLP(config)._splits(4057)
    rest, valid = train_test_split(np.arange(4057), test_size=400, random_state=config.seed)
    train, test = train_test_split(rest, test_size=3257, random_state=config.seed)
    for name, expected in (("train", train), ("valid", valid), ("test", test)):
        np.testing.assert_array_equal(found[name], np.sort(expected))


@pytest.mark.skipif(not REAL.is_dir(), reason="needs .data/magnn_raw")
def test_the_real_files():
    nodes = DBLP(DBLP.Config(path=str(REAL))).nodes(REAL)
    assert nodes.counts == {"author": 4057, "paper": 14328, "term": 8898, "conf": 20}
    assert nodes.edges["paper", "by", "author"].shape == (2, 19645)  # as in MAGNN
    assert np.bincount(nodes.labels).tolist() == [1197, 745, 1109, 1006]
    assert [len(nodes.splits[name]) for name in ("train", "valid", "test")] == [400, 400, 3257]
