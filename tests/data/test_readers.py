import gzip
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys.data import readers
from recsys.data.readers import count_rows, read_chunks, resolve_files
from recsys.data.source import Source
from recsys.errors import DataError


def read(source: Source, columns: list[str], **options: bool) -> dict[str, list]:
    tables = [pa.Table.from_batches([c.columns]) for c in read_chunks(source, columns, **options)]
    return pa.concat_tables(tables).to_pydict()


def test_csv(write):
    source = write('a,b,c\n1,"x, y",\n2,"say ""hi""",7\n')
    assert read(source, ["c", "b"]) == {"c": [None, b"7"], "b": [b"x, y", b'say "hi"']}


def test_csv_with_windows_line_ends_and_byte_order_mark(write):
    source = write(b"\xef\xbb\xbfa,b\r\n1,2\r\n3,4")
    assert read(source, ["a", "b"]) == {"a": [b"1", b"3"], "b": [b"2", b"4"]}


def test_tsv_without_header_and_without_quotes(write):
    source = write('1\tx"y\t\n0\t"\tz\n', format="tsv", columns=("l", "a", "b"), quoted=False)
    assert read(source, ["a", "b"]) == {"a": [b'x"y', b'"'], "b": [None, b"z"]}


def test_gzip(write):
    source = write(gzip.compress(b"a,b\n1,2\n"), name="log.csv.gz")
    assert read(source, ["b"]) == {"b": [b"2"]}


def test_null_values(write):
    source = write("a,b\n?,NA\n,1\n", null_values=("?", "NA"))
    assert read(source, ["a", "b"]) == {"a": [None, b""], "b": [None, b"1"]}


def test_libfm(write):
    source = write(
        "1 17:1 203:1\n-1 18:1.0 4:1\n", format="libfm", columns=("label", "user", "item")
    )
    assert read(source, ["label", "user", "item"]) == {
        "label": [b"1", b"-1"],
        "user": [b"17", b"18"],
        "item": [b"203", b"4"],
    }


def test_libfm_with_a_value_other_than_one(write):
    source = write("1 17:1\n0 18:0.5\n", format="libfm", columns=("label", "user"))
    with pytest.raises(
        DataError, match=r"expected `id:1`, got b'18:0.5'.*\n.*row 2, column `user`"
    ):
        read(source, ["label", "user"])


def test_parquet(tmp_path):
    table = pa.table({"a": [1, None], "b": [["x"], []], "c": [1.5, 2.5]})
    pq.write_table(table, tmp_path / "log.parquet")
    source = Source(files=(str(tmp_path / "log.parquet"),), format="parquet")
    assert read(source, ["b", "a"]) == {"b": [["x"], []], "a": [1, None]}
    assert count_rows(source, ["a"]) == 2


def test_files_in_order_with_positions_in_the_source(tmp_path):
    for name, text in (("b.csv", "a\n3\n4\n"), ("a.csv", "a\n1\n2\n"), ("z.csv", "a\n0\n")):
        (tmp_path / name).write_text(text)
    source = Source(files=(str(tmp_path / "z.csv"), str(tmp_path / "[ab].csv")), format="csv")
    chunks = list(read_chunks(source, ["a"]))
    assert [c.columns.to_pydict()["a"] for c in chunks] == [[b"0"], [b"1", b"2"], [b"3", b"4"]]
    assert [(c.start + c.rows).tolist() for c in chunks] == [[0], [1, 2], [3, 4]]
    assert resolve_files(Source(files=(str(tmp_path),), format="csv")) == [
        str(tmp_path / name) for name in ("a.csv", "b.csv", "z.csv")
    ]


@pytest.mark.parametrize("block", [40, 64, 1 << 20])
def test_ragged_lines_keep_the_row_numbers_right(write, monkeypatch, block):
    monkeypatch.setattr(readers, "BLOCK_BYTES", block)
    ragged = [0, 5, 6, 30, 49]
    lines = ["1,2,3" if row in ragged else f"{row},{row * row}" for row in range(50)]
    source = write("a,b\n" + "\n".join(lines) + "\n")
    chunks = list(read_chunks(source, ["b"], keep_ragged=True))
    found = {int(r): b for c in chunks for r, b in zip(c.rows, c.columns["b"].to_pylist())}
    assert found == {r: str(r * r).encode() for r in range(50) if r not in ragged}
    lines_aside = [line for chunk in chunks for line in chunk.ragged]
    assert [line.row for line in lines_aside] == ragged
    assert lines_aside[0].reason == "expected 2 cells, got 3"
    assert lines_aside[0].text == "1,2,3"
    assert count_rows(source, ["a"]) == 50
    for chunk in chunks:
        assert (np.diff(chunk.rows) > 0).all()


def test_a_ragged_line_raises_with_its_row(write):
    with pytest.raises(DataError, match=r"expected 2 cells, got 1: '5'.*\n.*log.csv, row 3$"):
        read(write("a,b\n1,2\n\n3,4\n5\n"), ["a"])


def test_a_missing_column(write):
    with pytest.raises(DataError, match=r"missing: `usr`, `x`. Did you mean `user`\?.*\n.*log.csv"):
        read(write("user,b\n1,2\n"), ["usr", "b", "x"])


def test_a_column_that_is_there_twice(write):
    with pytest.raises(DataError, match=r"there twice.*\n.*log.csv, column `a`"):
        read(write("a,a\n1,2\n"), ["a"])


@pytest.mark.parametrize("text", ["", "\n\n"])
def test_an_empty_file(write, text):
    with pytest.raises(DataError, match=r"the file is empty.*\n.*log.csv"):
        read(write(text), ["a"])


def test_an_empty_file_without_header(write):
    with pytest.raises(DataError, match=r"not readable as csv: Empty CSV file.*\n.*log.csv"):
        read(write("", columns=("a",)), ["a"])


def test_a_file_with_a_header_only(write):
    with pytest.raises(DataError, match=r"the file has no rows.*\n.*log.csv"):
        read(write("a,b\n"), ["a"])


def test_a_header_that_is_not_utf8(write):
    with pytest.raises(DataError, match=r"header line is not UTF-8.*\n.*log.csv"):
        read(write(b"a,\xff\n1,2\n"), ["a"])


def test_a_truncated_gzip_file(write):
    packed = gzip.compress(np.random.default_rng(0).bytes(50_000).hex().encode())
    with pytest.raises(DataError, match=r"Is the file complete\?\n.*log.csv.gz"):
        read(write(packed[:20_000], name="log.csv.gz", columns=("a",)), ["a"])
    with pytest.raises(DataError, match=r"Is the file complete\?\n.*x.csv.gz"):
        read(write(packed[:20_000], name="x.csv.gz"), ["a"])


def test_a_truncated_parquet_file(tmp_path):
    path = tmp_path / "log.parquet"
    pq.write_table(pa.table({"a": list(range(1000))}), path)
    path.write_bytes(path.read_bytes()[:-20])
    source = Source(files=(str(path),), format="parquet")
    for action in (lambda: read(source, ["a"]), lambda: count_rows(source, ["a"])):
        with pytest.raises(
            DataError, match=r"not a readable Parquet file.*Is it complete.*\n.*log"
        ):
            action()


def test_a_gzip_file_cut_off_after_some_blocks(write, monkeypatch):
    monkeypatch.setattr(readers, "BLOCK_BYTES", 4096)
    digits = np.random.default_rng(0).bytes(300_000).hex()
    packed = gzip.compress("\n".join(re.findall(".{40}", digits)).encode())
    source = write(packed[: len(packed) // 2], name="log.csv.gz", columns=("a",))
    with pytest.raises(
        DataError, match=r"not readable as csv after row \d+.*complete\?\n.*log.csv"
    ):
        read(source, ["a"])


def test_a_line_longer_than_a_block(write, monkeypatch):
    monkeypatch.setattr(readers, "BLOCK_BYTES", 1000)
    source = write("a,b\n" + "1,2\n" * 5 + "x" * 5000 + ",3\n")
    with pytest.raises(DataError, match=r"after row 5: a line is longer than 1,000 bytes"):
        read(source, ["a"])


def test_a_parquet_file_with_a_damaged_page(tmp_path):
    path = tmp_path / "log.parquet"
    pq.write_table(pa.table({"a": list(range(10_000))}), path, use_dictionary=False)
    start = pq.ParquetFile(path).metadata.row_group(0).column(0).data_page_offset
    content = path.read_bytes()
    path.write_bytes(content[:start] + b"\xff" * 40 + content[start + 40 :])
    with pytest.raises(DataError, match=r"not a readable Parquet file.*Is it complete.*\n.*log"):
        read(Source(files=(str(path),), format="parquet"), ["a"])


def test_a_parquet_file_without_rows(tmp_path):
    pq.write_table(pa.table({"a": pa.array([], pa.int64())}), tmp_path / "log.parquet")
    with pytest.raises(DataError, match="the file has no rows"):
        read(Source(files=(str(tmp_path / "log.parquet"),), format="parquet"), ["a"])


def test_a_pattern_that_matches_nothing(tmp_path):
    for pattern in ("nothing_*.csv", "log.csv", "."):
        (tmp_path / "sub").mkdir(exist_ok=True)
        with pytest.raises(DataError, match=r"no file matches .*\(looked in "):
            resolve_files(Source(files=(str(tmp_path / "sub" / pattern),), format="csv"))
