import gzip

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys.data.source import Source
from recsys.errors import DataError
from recsys.graph.cleaning import Cleaning
from recsys.graph.log_reader import LogColumns, atomic_source, read_atomic, read_log
from recsys.testing.dataset import shared_pack

CSV = "who,what,when,stars\nbob,9,30,4.5\nann,10,10,2\nbob,9,20,1\n"
COLUMNS = LogColumns(user="who", item="what", time="when", weight="stars")


def csv(folder, text, name="log.csv"):
    (folder / name).write_text(text)
    return Source(files=(str(folder / name),), format="csv")


def test_csv_by_hand(tmp_path):
    log, report = read_log(csv(tmp_path, CSV), COLUMNS)
    assert log.users.values.tolist() == ["ann", "bob"]
    assert log.items.values.tolist() == ["10", "9"]  # text, in its own order
    assert (log.user.tolist(), log.item.tolist()) == ([0, 1], [0, 1])
    assert (log.time.tolist(), log.weight.tolist()) == ([10, 30], [2.0, 4.5])
    assert (report["rows"], report["duplicate_rows"]) == (3, 1)
    assert log.items.numbers(["9", "11"]).tolist() == [1, -1]


def test_ids_as_integers(tmp_path):
    columns = LogColumns(user="what", item="when", ids="int")
    log, _ = read_log(csv(tmp_path, CSV), columns)
    assert log.users.values.tolist() == [9, 10] and log.items.values.tolist() == [10, 20, 30]
    with pytest.raises(DataError, match=r"(?s)a whole number, got 'bob'.*log.csv, row 1, column"):
        read_log(csv(tmp_path, CSV), columns.model_copy(update={"item": "who"}))


def test_iso_times_and_kinds_over_two_files(tmp_path):
    csv(tmp_path, "u,i,t,k\na,x,2024-01-02,view\n", "1.csv")
    csv(tmp_path, "u,i,t,k\na,x,2024-01-01T12:00:00,buy\nb,x,2024-01-01,view\n", "2.csv")
    source = Source(files=(str(tmp_path / "1.csv"), str(tmp_path / "2.csv")), format="csv")
    columns = LogColumns(user="u", item="i", time="t", kind="k")
    log, _ = read_log(source, columns)
    assert (log.time - 1_704_067_200_000_000).tolist() == [86_400_000_000, 0]
    assert [log.kinds[kind] for kind in log.kind] == ["view", "view"]
    (tmp_path / "2.csv").write_text("u,i,t,k\na,x,2024-01-01,view\nb,x,soon,view\n")
    with pytest.raises(DataError, match=r"(?s)an ISO time like '2024-01-02', got 'soon'.*2.csv, r"):
        read_log(source, columns)


def test_times_with_a_zone(tmp_path):
    text = "user_id,item_id,t\na,x,2024-01-01T00:00:00Z\nb,x,2024-01-01T02:00:00+01:00\n"
    log, _ = read_log(csv(tmp_path, text), LogColumns(time="t"))
    assert (log.time - 1_704_067_200_000_000).tolist() == [0, 3_600_000_000]


def test_other_forms_of_text_in_parquet(tmp_path):
    coded = pa.array(["b", "a"]).dictionary_encode()
    table = pa.table({"user_id": pa.array(["x", "y"], pa.large_string()), "item_id": coded,
                      "w": pa.array(["2", "1.5"], pa.large_string())})  # fmt: skip
    pq.write_table(table, tmp_path / "log.parquet")
    source = Source(files=(str(tmp_path / "log.parquet"),), format="parquet")
    log, _ = read_log(source, LogColumns(weight="w"))
    assert log.items.values[log.item].tolist() == ["b", "a"]
    assert log.weight.tolist() == [2.0, 1.5]


@pytest.mark.parametrize("ids", ["stored", "text", "int"])
def test_parquet_keeps_its_types(tmp_path, ids):
    table = pa.table({"user_id": [7, 5, 7], "item_id": [1, 1, 2], "t": [1.5, 2.5, 3.5]})
    pq.write_table(table, tmp_path / "log.parquet")
    source = Source(files=(str(tmp_path / "log.parquet"),), format="parquet")
    log, _ = read_log(source, LogColumns(time="t", ids=ids))
    assert log.users.values.tolist() == (["5", "7"] if ids == "text" else [5, 7])
    assert log.time.tolist() == [2.5, 1.5, 3.5]


def test_files_of_different_types_are_refused(tmp_path):
    for name, values in (("a", [1]), ("b", ["x"])):
        pq.write_table(
            pa.table({"user_id": values, "item_id": values}), tmp_path / f"{name}.parquet"
        )
    source = Source(files=(str(tmp_path / "*.parquet"),), format="parquet")
    with pytest.raises(DataError, match=r"expected one type in all files, got \['int64', 'string'"):
        read_log(source, LogColumns())


def test_parquet_text_as_integers(tmp_path):
    pq.write_table(pa.table({"user_id": ["7"], "item_id": ["x"]}), tmp_path / "log.parquet")
    source = Source(files=(str(tmp_path / "log.parquet"),), format="parquet")
    with pytest.raises(DataError, match=r"(?s)a whole number, got 'x'.*row 1, column `item_id`"):
        read_log(source, LogColumns(ids="int"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("who,what,when,stars\nbob,9,30,4\nann,10\n", r"(?s)expected 4 cells, got 2.*row 2"),
        ("who,what,when,stars\nbob,9,3,x\n", r"(?s)a number, got 'x'.*row 1, column `stars`"),
        ("who,what,when,stars\nbob,9,3,1\n,9,3,1\n", r"(?s)1 rows have no `user`.*row 2, column"),
        ("who,what,stars\nbob,9,3\n", r"columns are missing: `when`"),
        ("who,what,when,stars\n", "has no rows"),
        ("", "is empty"),
    ],
)
def test_faults_name_file_row_and_column(tmp_path, text, message):
    with pytest.raises(DataError, match=message) as caught:
        read_log(csv(tmp_path, text), COLUMNS)
    assert "log.csv" in str(caught.value)


def test_the_first_bad_cell_is_named_wherever_it_is(tmp_path):
    for bad in (0, 1, 37, 99):
        rows = [f"7,{'x' if n in (bad, 99) else n}\n" for n in range(100)]
        with pytest.raises(DataError, match=rf"(?s)got 'x'.*row {bad + 1:,},"):
            read_log(csv(tmp_path, "user_id,item_id\n" + "".join(rows)), LogColumns(ids="int"))


def test_cut_files(tmp_path):
    whole = gzip.compress(CSV.encode() * 200)
    (tmp_path / "log.csv.gz").write_bytes(whole[: len(whole) // 2])
    source = Source(files=(str(tmp_path / "log.csv.gz"),), format="csv")
    with pytest.raises(DataError, match="Is the file complete"):
        read_log(source, COLUMNS)
    pq.write_table(pa.table({"user_id": [1], "item_id": [1]}), tmp_path / "log.parquet")
    whole = (tmp_path / "log.parquet").read_bytes()
    (tmp_path / "log.parquet").write_bytes(whole[:-9])
    source = Source(files=(str(tmp_path / "log.parquet"),), format="parquet")
    with pytest.raises(DataError, match="not a readable Parquet file"):
        read_log(source, LogColumns())


ATOMIC = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n1\t2\t5\t10\n1\t3\t1\t11\n"
RATED = LogColumns(time="timestamp", weight="rating")


def test_atomic_by_hand(tmp_path):
    (tmp_path / "x.inter").write_text(ATOMIC)
    log, report = read_atomic(tmp_path / "x.inter", RATED, Cleaning(min_weight=3))
    assert (log.users.values.tolist(), log.items.values.tolist()) == (["1"], ["2"])
    assert (log.time.tolist(), report["light_pairs"]) == ([10], 1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (ATOMIC[:-1], "may have been cut"),
        (ATOMIC[:-6] + "\n", r"(?s)expected 4 cells, got 2.*Is the file complete.*row 2"),
        ("user,item\n1,2\n", r"a header of `name:type` cells between tabs, got 'user,item'"),
        ("user_id:token\titem_id:token\n1\t2\n", r"columns are missing: `timestamp`, `rating`"),
        ("", "is empty"),
    ],
)
def test_atomic_faults(tmp_path, text, message):
    (tmp_path / "x.inter").write_text(text)
    with pytest.raises(DataError, match=message) as caught:
        read_atomic(tmp_path / "x.inter", RATED)
    assert "x.inter" in str(caught.value)


def test_a_missing_atomic_file(tmp_path):
    with pytest.raises(DataError, match="No such file"):
        atomic_source(tmp_path / "x.inter")


def test_the_real_atomic_file():
    folder = shared_pack("ml100k_recbole", "ml100k_recbole")
    log, report = read_atomic(folder / "ml-100k.inter", RATED)
    assert (len(log), log.num_users, log.num_items) == (100_000, 943, 1_682)
    assert report["duplicate_rows"] == 0
    # The first row of the file: user 196, item 242, three stars, time 881250949.
    user, item = log.users.require(["196"], "user"), log.items.require(["242"], "item")
    row = int(((log.user == user) & (log.item == item)).argmax())
    assert (log.weight[row], log.time[row]) == (3.0, 881_250_949)
