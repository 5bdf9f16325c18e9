import json
from typing import ClassVar

import pytest

from recsys.datasets.scirex import SciREX
from recsys.errors import DataError
from recsys.testing.aspect_dataset import AspectDatasetConformance
from recsys.testing.dataset import shared_pack


def paper(name, *relations):
    keys = ("Task", "Material", "Metric", "Method")
    return {"doc_id": name, "words": ["A", "paper", "on", name],
            "n_ary_relations": [dict(zip(keys, row)) for row in relations]}  # fmt: skip


PAPERS = [
    paper("a", ("QA", "SQuAD", "F1", "A"), ("QA", "bAbi", "EM", "A")),
    paper("b", ("QA", "SQuAD", "EM", "B")),
    paper("c", ("NER", "bAbi", "F1", "B")),
]


class TestSciREX(AspectDatasetConformance):
    dataset = SciREX
    pairs: ClassVar = {"task": 1, "dataset": 2, "metric": 2}

    def config(self, folder):
        (folder / "train_docs").mkdir()
        for found in PAPERS:
            (folder / "train_docs" / f"{found['doc_id']}.json").write_text(json.dumps(found))
        return SciREX.Config(path=str(folder), rule={"valid": 0, "test": 0.34})


def test_lines_and_words(tmp_path):
    (tmp_path / "train.jsonl").write_text("\n".join(json.dumps(found) for found in PAPERS))
    config = SciREX.Config(path=str(tmp_path), aspects=("method",), num_words=2)
    table = SciREX(config).table(tmp_path)
    assert table.texts == ("A paper",) * 3 and table.report["pairs:method"] == 1


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ('{"doc_id": "a"', "expected JSON"),
        ('{"doc_id": "a"}', "expected a paper with doc_id, words and n_ary_relations"),
        ("[1, 2]", "expected a paper"),
        (json.dumps(PAPERS[0]) + "\n" + json.dumps(PAPERS[0]), "paper a is there twice"),
    ],
)
def test_what_is_refused(tmp_path, text, error):
    (tmp_path / "train.jsonl").write_text(text)
    with pytest.raises(DataError, match=error):
        SciREX(SciREX.Config(path=str(tmp_path))).table(tmp_path)


def test_no_files(tmp_path):
    with pytest.raises(DataError, match=r"expected `\*.json` or `\*.jsonl`.*allenai/SciREX"):
        SciREX(SciREX.Config(path=str(tmp_path))).table(tmp_path)


def test_the_real_pack(tmp_path):
    path = str(shared_pack("scirex_train", "scirex_train"))
    every = ("task", "dataset", "metric", "method")
    table = SciREX(SciREX.Config(path=path, aspects=every)).table(tmp_path)
    assert len(table) == 306 and all(table.texts)
    assert [table.report[f"pairs:{aspect}"] for aspect in every] == [1170, 928, 2623, 6]
    assert [table.report[f"labels:{aspect}"] for aspect in every] == [127, 345, 150, 443]
