import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from recsys.hashing import hash_ints, hash_strings, splitmix64, to_buckets, to_unit

INT64 = st.integers(-(2**63), 2**63 - 1)


def unsigned(hashes: np.ndarray) -> list[int]:
    return [int(h) & (2**64 - 1) for h in hashes]


def plain_splitmix64(value: int) -> int:
    """Vigna's C code, in Python's own integers."""
    z = (value + 0x9E3779B97F4A7C15) % 2**64
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
    return z ^ (z >> 31)


def test_splitmix64_gives_the_published_sequence_of_seed_0():
    golden = 0x9E3779B97F4A7C15
    states = np.array([0, golden, 2 * golden % 2**64], np.uint64).view(np.int64)
    expected = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    assert unsigned(splitmix64(states)) == expected


@given(st.lists(INT64, min_size=1, max_size=20))
def test_splitmix64_equals_plain_integers_in_numpy_and_torch(values):
    expected = [plain_splitmix64(value % 2**64) for value in values]
    assert unsigned(splitmix64(np.array(values, np.int64))) == expected
    assert unsigned(splitmix64(torch.tensor(values)).numpy()) == expected


@given(st.lists(INT64, min_size=1, max_size=20), st.integers(0, 2**40))
def test_hash_ints_is_the_same_in_numpy_and_torch(values, salt):
    from_numpy = hash_ints(np.array(values, np.int64), salt)
    assert torch.equal(hash_ints(torch.tensor(values), salt), torch.from_numpy(from_numpy))


def test_salts_give_unrelated_hashes():
    values = np.arange(10_000)
    same = to_buckets(hash_ints(values, 1), 10) == to_buckets(hash_ints(values, 2), 10)
    assert 0.09 < same.mean() < 0.11  # one in ten by chance


def test_strings_have_the_hashes_of_xxh3():
    # "" is in the test vectors of the xxHash specification.
    assert unsigned(hash_strings(["", "a"])) == [0x2D06800538D394C2, 0xE6C632B61E964E1F]
    assert hash_strings(["a"], salt=7) != hash_strings(["a"])
    assert hash_strings(["\u00e9"]) == hash_strings(["\u00e9".encode()])
    assert len(hash_strings([])) == 0


def test_hashes_are_the_same_in_another_process():
    code = (
        "import numpy as np; from recsys.hashing import *;"
        "print(int(hash_strings(['user-1'], 3)[0]), int(hash_ints(np.array([-5]), 3)[0]))"
    )
    out = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONHASHSEED": "77"},
    ).stdout.split()
    here = [hash_strings(["user-1"], 3)[0], hash_ints(np.array([-5]), 3)[0]]
    assert [int(value) for value in out] == [int(value) for value in here]


@given(st.lists(INT64, min_size=1, max_size=50), st.integers(1, 2**31))
def test_buckets_are_in_range_in_numpy_and_torch(values, num_buckets):
    buckets = to_buckets(np.array(values, np.int64), num_buckets)
    assert ((buckets >= 0) & (buckets < num_buckets)).all()
    assert to_buckets(torch.tensor(values), num_buckets).tolist() == buckets.tolist()


def test_unit_numbers_are_uniform():
    unit = to_unit(hash_ints(np.arange(100_000), 5))
    assert unit.min() >= 0 and unit.max() < 1
    counts = np.histogram(unit, bins=10, range=(0, 1))[0]
    # chi-square with 9 degrees of freedom: 27.9 is its 99.9 % quantile
    assert ((counts - 10_000) ** 2 / 10_000).sum() < 27.9


@pytest.mark.parametrize("position", range(0, 63, 9))
def test_one_changed_bit_changes_half_of_the_hash(position):
    values = np.arange(1000)
    changed = splitmix64(values) ^ splitmix64(values ^ (1 << position))
    bits = np.unpackbits(changed.view(np.uint8)).mean()
    assert 0.48 < bits < 0.52
