import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.errors import DataError
from recsys.graph.number_files import read_columns, read_lists, read_numbers, require_line_end


def written(folder, text):
    file = folder / "numbers.txt"
    file.write_bytes(text.encode())
    return file


def test_tokens_and_lines_by_hand(tmp_path):
    read = read_numbers(written(tmp_path, "0 12  7 \r\n\r\n30\t4\r\n"))
    assert read.values.tolist() == [0, 12, 7, 30, 4]
    assert read.lines.tolist() == [0, 0, 0, 2, 2]
    assert read.num_lines == 3


@given(st.lists(st.lists(st.integers(0, 10**18 - 1), max_size=4), max_size=6))
def test_any_numbers_come_back(tmp_path_factory, rows):
    rows = [[1], *rows]
    text = "".join(" ".join(map(str, row)) + "\n" for row in rows)
    read = read_numbers(written(tmp_path_factory.mktemp("any"), text))
    assert read.values.tolist() == [value for row in rows for value in row]
    assert read.lines.tolist() == [n for n, row in enumerate(rows) for _ in row]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0 1\n2 x7 3\n", r"(?s)expected a whole number, got 'x7'.*row 2"),
        ("0 1\n2 3\n4 1.5\n", r"(?s)expected a whole number, got '1.5'.*row 3"),
        ("0 -1\n", r"(?s)a number that is not negative, got '-1'.*row 1"),
        ("0 1\n2 1234567890123456789\n", r"(?s)up to 18 digits, got '1234567890123456789'.*row 2"),
        ("0 1\n2 3", r"(?s)last line has no line end.*may have been cut.*row 2"),
        ("0 1\n2 3 ", "may have been cut"),
        ("0 1\r2 3\r", "a carriage return stands alone"),
        ("0 1\r2 3\n", "a carriage return stands alone"),
        ("0 1\r", "may have been cut"),
        ("", "has no numbers"),
        ("\n \n", "has no numbers"),
        ("0 1\n\u00e9\n", r"(?s)a whole number, got '\u00e9'.*row 2"),
    ],
)
def test_faults_name_file_and_line(tmp_path, text, message):
    with pytest.raises(DataError, match=message) as caught:
        read_numbers(written(tmp_path, text))
    assert "numbers.txt" in str(caught.value)


def test_a_missing_file(tmp_path):
    with pytest.raises(DataError, match=r"(?s)No such file.*absent.txt"):
        read_numbers(tmp_path / "absent.txt")
    with pytest.raises(DataError, match="No such file"):
        require_line_end(tmp_path / "absent.txt")


def test_columns(tmp_path):
    file = written(tmp_path, "3 4 5\n\n6 7 8\n")
    first, _, third = read_columns(file, ("a", "b", "c"))
    assert (first.tolist(), third.tolist()) == ([3, 6], [5, 8])
    with pytest.raises(DataError, match=r"(?s)expected 2 numbers \(a, b\), got 3.*row 1"):
        read_columns(file, ("a", "b"))
    file = written(tmp_path, "3 4 5\n6 7\n8 9 1\n")  # as many tokens as four lines of two
    with pytest.raises(DataError, match=r"(?s)expected 3 numbers .* got 2.*row 2"):
        read_columns(file, ("a", "b", "c"))


def test_lists(tmp_path):
    user, item, without = read_lists(written(tmp_path, "5 1 2\n7\n\n6 3 \n5 4\n"))
    assert user.tolist() == [5, 5, 6, 5]
    assert item.tolist() == [1, 2, 3, 4]
    np.testing.assert_array_equal(without, [7])


def test_line_ends(tmp_path):
    require_line_end(written(tmp_path, "a\n"))
    with pytest.raises(DataError, match="may have been cut"):
        require_line_end(written(tmp_path, "a\nb"))
    with pytest.raises(DataError, match="is empty"):
        require_line_end(written(tmp_path, ""))
