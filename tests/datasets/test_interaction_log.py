from typing import ClassVar

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from recsys.data.source import Source
from recsys.datasets.interaction_log import InteractionLog
from recsys.errors import DataError
from recsys.testing.interaction_dataset import InteractionDatasetConformance

HEAD = "user_id,item_id,stars,ts\n"
# Nobody else has item z, so the 2-core has a, b, c with items x, y, w: nine pairs.
ROWS = "".join(
    f"{user},{item},{stars},{time}\n"
    for time, (user, item, stars) in enumerate(
        [*((user, item, 5) for item in "xyw" for user in "abc"), ("a", "z", 5), ("a", "x", 4)]
    )
)


def source(file):
    return Source(files=(str(file),), format="csv")


class TestInteractionLog(InteractionDatasetConformance):
    dataset = InteractionLog
    counts: ClassVar = {"train": 3, "valid": 3, "test": 3}

    def config(self, folder):
        (folder / "log.csv").write_text(HEAD + ROWS)
        return InteractionLog.Config(
            source=source(folder / "log.csv"),
            columns={"weight": "stars", "time": "ts"},
            cleaning={"min_user": 2, "min_item": 2},
            split={"kind": "leave_one_out"},
        )

    def test_report_and_order(self, tmp_path):
        splits = self.made(tmp_path).splits(tmp_path)
        assert splits.report["duplicate_rows"] == 1
        assert splits.report["core_items"] == 1
        assert splits.train.items.values.tolist() == ["w", "x", "y"]
        # a, x was rated again at the end, so it is a's last item, y the first that is left.
        items = splits.train.items.values
        assert items[splits.test.item].tolist() == ["x", "w", "w"]
        assert items[splits.train.item].tolist() == ["y", "x", "x"]


def test_files_that_come_split_share_their_names(tmp_path):
    for name, pairs in (("train", "a,x\na,y\nb,x\n"), ("test", "b,z\nc,y\na,x\n")):
        (tmp_path / f"{name}.csv").write_text(f"user_id,item_id\n{pairs}")
    config = InteractionLog.Config(
        source=source(tmp_path / "train.csv"),
        test=source(tmp_path / "test.csv"),
        split={"kind": "given", "valid": 0},
    )
    splits = InteractionLog(config).splits(tmp_path)
    assert splits.train.users.values.tolist() == ["a", "b", "c"]
    assert splits.test.items.values[splits.test.item].tolist() == ["z", "y"]
    report = splits.report
    assert (report["rows"], report["test_pairs_seen"], report["test_items_not_in_train"]) == (
        6,
        1,
        1,
    )
    assert report["test_users_without_train_items"] == 1


def test_parquet(tmp_path):
    table = pa.table({"user_id": [3, 1, 1], "item_id": [9, 9, 8]})
    pq.write_table(table, tmp_path / "log.parquet")
    files = Source(files=(str(tmp_path / "log.parquet"),), format="parquet")
    config = InteractionLog.Config(source=files, split={"kind": "by_user", "valid": 0, "test": 0})
    splits = InteractionLog(config).splits(tmp_path)
    assert splits.valid is None and splits.test is None
    assert splits.train.users.values.tolist() == [1, 3]


def test_options_that_contradict(tmp_path):
    one = source(tmp_path / "log.csv")
    with pytest.raises(ValidationError, match=r"`valid` and `test` files go with split.kind=given"):
        InteractionLog.Config(source=one, test=one)
    with pytest.raises(ValidationError, match=r"`valid` and `test` files go with split.kind=given"):
        InteractionLog.Config(source=one, split={"kind": "given"})
    with pytest.raises(ValidationError, match=r"a k-core .* is taken before a split"):
        InteractionLog.Config(
            source=one, test=one, split={"kind": "given"}, cleaning={"min_user": 2}
        )


def test_a_missing_file(tmp_path):
    data = InteractionLog(InteractionLog.Config(source=source(tmp_path / "absent.csv")))
    with pytest.raises(DataError, match=r"no file matches"):
        data.splits(tmp_path)
