import hashlib
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys.data import files
from recsys.data.files import (
    ParquetParts,
    conversion_digest,
    fetch,
    find_file,
    needed_path,
    read_copy,
    require,
    text_column,
)
from recsys.data.readers import read_chunks
from recsys.data.source import Source
from recsys.errors import DataError


def test_find_file_takes_a_file_or_the_first_name_in_a_folder(tmp_path):
    (tmp_path / "b").write_text("")
    assert find_file(tmp_path / "b", ["a"], "") == tmp_path / "b"
    assert find_file(str(tmp_path), ["a", "b"], "") == tmp_path / "b"
    (tmp_path / "a").write_text("")
    assert find_file(tmp_path, ["a", "b"], "") == tmp_path / "a"
    with pytest.raises(DataError, match=r"expected `x` or `y` in .*holds \['a', 'b'\]. Get it."):
        find_file(tmp_path, ["x", "y"], "Get it.")
    with pytest.raises(DataError, match="that path does not exist"):
        find_file(tmp_path / "no", ["x"], "")


def test_needed_path():
    assert needed_path("here", "Set", "") == "here"
    with pytest.raises(DataError, match=r"Set cannot be fetched by a program: `path` is needed"):
        needed_path(None, "Set", "Ask.")


def test_fetch_checks_what_it_gets(tmp_path):
    (tmp_path / "web").mkdir()
    file = tmp_path / "web" / "a.txt"
    file.write_text("content")
    (tmp_path / "downloads").mkdir()
    (tmp_path / "downloads" / "a.txt").write_text("content")
    checksum = "sha256:" + hashlib.sha256(b"content").hexdigest()
    # Already there: no network is asked.
    assert fetch("https://example.invalid/a.txt", checksum, tmp_path).read_text() == "content"
    with pytest.raises(DataError, match=r"example.invalid/b.txt could not be fetched.*set `path`"):
        fetch("https://example.invalid/b.txt", checksum, tmp_path)


def test_conversion_digest_follows_files_and_options(tmp_path):
    file = tmp_path / "a"
    file.write_text("1")
    os.utime(file, ns=(1, 1))
    first = conversion_digest([file], {"x": 1})
    assert conversion_digest([file], {"x": 1}) == first
    assert conversion_digest([file], {"x": 2}) != first
    os.utime(file, ns=(1, 2))
    assert conversion_digest([file], {"x": 1}) != first


def test_parquet_parts(tmp_path):
    with ParquetParts(tmp_path) as parts:
        for k in range(3):
            parts.write("even" if k % 2 == 0 else "odd", pa.table({"k": [k]}))
    assert pq.read_table(tmp_path / "even.parquet")["k"].to_pylist() == [0, 2]
    assert pq.read_table(tmp_path / "odd.parquet")["k"].to_pylist() == [1]


def _chunk(tmp_path, content):
    (tmp_path / "log.csv").write_bytes(content)
    source = Source(files=(str(tmp_path / "log.csv"),), format="csv")
    (chunk,) = read_chunks(source, ("a",))
    return chunk


def test_text_column_strips_and_finds_bad_cells(tmp_path):
    chunk = _chunk(tmp_path, b"a,b\n x ,1\n ,2\n,3\n")
    assert text_column(chunk, "a").to_pylist() == ["x", None, None]
    chunk = _chunk(tmp_path, b"a,b\nx,1\n\xff,2\n")
    with pytest.raises(DataError, match=r"(?s)expected UTF-8, got b'\\xff'.*log.csv, row 2"):
        text_column(chunk, "a")


def test_require_names_the_first_bad_row(tmp_path):
    chunk = _chunk(tmp_path, b"a,b\nx,1\ny,2\nz,3\n")
    cells = text_column(chunk, "a")
    require(pa.array([True, True, True]), "letters", cells, chunk, "a")
    with pytest.raises(DataError, match=r"(?s)expected letters, got 'y'.*row 2, column `a`"):
        require(pa.array([True, None, False]), "letters", cells, chunk, "a")


def test_read_copy_names_the_users_file(tmp_path):
    source = Source(files=("copy",), format="csv", columns=("a", "b"))
    copy, file = tmp_path / "copy", tmp_path / "mine.dat"
    (chunk,) = read_copy(file, copy, ["1,2\n", "3,4\n"], source, ("b",))
    assert chunk.columns["b"].to_pylist() == [b"2", b"4"]
    assert chunk.file == str(file) and not copy.exists()
    with pytest.raises(DataError, match=r"(?s)expected 2 cells, got 1.*mine.dat, row 2"):
        list(read_copy(file, copy, ["1,2\n", "3\n"], source, ("b",)))
    (chunk,) = read_copy(file, copy, ["1,\udcff\n"], source, ("b",))
    with pytest.raises(DataError, match=r"(?s)expected UTF-8, got b'\\xff'.*mine.dat, row 1"):
        text_column(chunk, "b")
    assert not copy.exists()


def test_row_groups_are_bounded(tmp_path):
    with ParquetParts(tmp_path) as parts:
        parts.write("rows", pa.table({"k": range(files.ROW_GROUP + 1)}))
    assert pq.ParquetFile(tmp_path / "rows.parquet").num_row_groups == 2
