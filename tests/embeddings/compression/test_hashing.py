"""The hash encoder against integer arithmetic in plain Python."""

from __future__ import annotations

import pytest
import torch
import xxhash
from torch import Tensor

from recsys.embeddings import kernels
from recsys.embeddings.compression.hashing import HashEncoder

WORD = (1 << 64) - 1


def reference(index: int, name: str, salt: int, buckets: int) -> int:
    """Unbounded integers, reduced to 64 bits by hand."""
    if index == 0:
        return 0
    x = (index + 0x9E3779B97F4A7C15) & WORD
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & WORD
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & WORD
    x ^= x >> 31
    upper = ((x * (xxhash.xxh3_64_intdigest(name.encode(), salt) | 1)) & WORD) >> 32
    return 1 + (upper * buckets >> 32)


def encoder(names: list[str], buckets: list[int], salt: int = 0) -> HashEncoder:
    made = HashEncoder(names, buckets, salt)
    made.initialize()
    return made


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("buckets", [[7, 7], [1, 1000], [2**31 - 2, 5]])
def test_rows_are_the_definition(buckets, compiled, monkeypatch):
    if not compiled:
        monkeypatch.setattr(kernels, "library", lambda: None)
    elif kernels.library() is None:
        pytest.skip("kernels were not built")
    indices = [0, 1, 2, 3, 1000, 0, 2**31 - 1]
    got = encoder(["a#0", "a#1"], buckets, 3)(torch.tensor(indices, dtype=torch.int32))
    for name, count, rows in zip(("a#0", "a#1"), buckets, got):
        assert rows.dtype == torch.int32
        assert rows.tolist() == [reference(index, name, 3, count) for index in indices]


def test_names_and_salt_decide():
    indices = torch.arange(100, dtype=torch.int32)
    a, b, again = encoder(["a", "b", "a"], [50] * 3)(indices)
    assert torch.equal(a, again)
    assert not torch.equal(a, b)
    assert not torch.equal(a, encoder(["a"], [50], salt=1)(indices)[0])


def even(rows: Tensor, buckets: int) -> float:
    """Chi-squared over its degrees of freedom: 1 for random rows."""
    counts = torch.bincount(rows, minlength=buckets).double()
    return float(((counts - counts.mean()) ** 2 / counts.mean()).sum() / (buckets - 1))


@pytest.mark.parametrize("stride", [1, 64, 1024])
@pytest.mark.parametrize("buckets", [256, 251])
def test_rows_are_even_and_probes_unrelated(buckets, stride):
    indices = torch.arange(1, 200_001, dtype=torch.int32) * stride
    a, b = (rows.long() - 1 for rows in encoder(["a#0", "a#1"], [buckets] * 2)(indices))
    assert even(a, buckets) == pytest.approx(1, abs=0.4)
    assert even(b, buckets) == pytest.approx(1, abs=0.4)
    assert even(a * buckets + b, buckets**2) == pytest.approx(1, abs=0.03)
    assert even(a[:-1] * buckets + a[1:], buckets**2) == pytest.approx(1, abs=0.03)


def test_meta_is_left_alone():
    with torch.device("meta"):
        made = HashEncoder(["a"], [9], 0)
    made.initialize()
    assert made.salts.is_meta
    rows = made(torch.empty(4, dtype=torch.int32, device="meta"))[0]
    assert rows.shape == (4,)


def test_traced_form_agrees():
    made = encoder(["a#0", "a#1"], [9, 12])
    indices = torch.arange(6, dtype=torch.int32)
    program = torch.export.export(made, (indices,), dynamic_shapes=({0: torch.export.Dim.AUTO},))
    more = torch.arange(50, dtype=torch.int32)
    for got, expected in zip(program.module()(more), made(more)):
        assert torch.equal(got, expected)
