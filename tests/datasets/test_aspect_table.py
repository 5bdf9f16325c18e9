from typing import ClassVar

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys.datasets.aspect_table import AspectTable
from recsys.errors import DataError
from recsys.testing.aspect_dataset import AspectDatasetConformance

ITEMS = "id,text\n1,red ball\n2,red car\n3,\n"
LABELS = "id,aspect,label\n1,colour,red\n2,colour,red\n3,colour,red\n2,kind,car\n3,kind,car\n"
COLUMNS = {"item": "id"}


def write(folder, items=ITEMS, labels=LABELS, **more):
    (folder / "items.csv").write_text(items)
    (folder / "labels.csv").write_text(labels)
    return AspectTable.Config(
        items=str(folder / "items.csv"), labels=str(folder / "labels.csv"), columns=COLUMNS, **more
    )


class TestAspectTable(AspectDatasetConformance):
    dataset = AspectTable
    pairs: ClassVar = {"colour": 3, "kind": 1}

    def config(self, folder):
        return write(folder, rule={"valid": 0, "test": 0.4})


def test_parquet_with_numbers_and_named_aspects(tmp_path):
    pq.write_table(pa.table({"id": [1, 2], "text": ["a", None]}), tmp_path / "items.parquet")
    config = write(tmp_path, aspects=("kind",), rule={"unknown": "drop"})
    config = config.model_copy(update={"items": str(tmp_path / "items.parquet")})
    table = AspectTable(config).table(tmp_path)
    assert table.items.values.tolist() == ["1", "2"] and table.texts == ("a", "")
    assert table.report["unknown_rows"] == 1 and table.aspects == ("kind",)


@pytest.mark.parametrize(
    ("files", "text"),
    [
        ({"items": "id,text\n1,a\n1,b\n"}, r"item `1` is there twice.*\n.*items.csv, row 2"),
        ({"items": "id,text\n,a\n"}, "item has no id"),
        ({"items": "id,words\n1,a\n"}, "text"),
        ({"labels": "id,aspect,label\n9,kind,car\n"}, "item `9` has a label and no text"),
        ({"labels": "id,aspect,label\n1,kind\n"}, "Is the file complete"),
        ({"labels": "id,aspect,label\n1,kind,\n"}, "no label is left of 1 rows"),
    ],
)
def test_what_is_refused(tmp_path, files, text):
    with pytest.raises(DataError, match=text):
        AspectTable(write(tmp_path, **files)).table(tmp_path)


def test_a_path_is_needed(tmp_path):
    with pytest.raises(DataError, match=r"`path` is needed. Set `items` and `labels`"):
        AspectTable(AspectTable.Config()).table(tmp_path)
