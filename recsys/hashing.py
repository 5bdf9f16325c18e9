"""Salted 64-bit hashes that are the same in every process, on every machine, in numpy and torch.

Integers use splitmix64, strings xxh3. Results are int64, because torch and Arrow have no full
support for uint64; the bits are those of the unsigned hash.

Source:
    Steele, Lea, Flood, "Fast Splittable Pseudorandom Number Generators", OOPSLA 2014 (splitmix64,
    with the constants of Vigna's public-domain C version). xxh3: Collet's xxHash specification.

Stability: caller
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import xxhash

if TYPE_CHECKING:
    from torch import Tensor

    Ints = TypeVar("Ints", np.ndarray, Tensor)

_GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)
_FIRST = 0xBF58476D1CE4E5B9 - (1 << 64)
_SECOND = 0x94D049BB133111EB - (1 << 64)
_MASK63 = (1 << 63) - 1


def splitmix64(values: Ints) -> Ints:
    """The splitmix64 finaliser of ``value + golden gamma``: a bijection of 64-bit integers.

    Args:
        values: int64 array or tensor, of at least one dimension.

    Returns:
        int64 of the same shape and kind.

    Example:
        >>> [hex(int(h) & (2**64 - 1)) for h in splitmix64(np.array([0]))]
        ['0xe220a8397b1dcdaf']
    """
    # Shifts of signed integers copy the sign bit, so every shift is followed by a mask.
    mixed = values + _GOLDEN
    mixed = (mixed ^ ((mixed >> 30) & ((1 << 34) - 1))) * _FIRST
    mixed = (mixed ^ ((mixed >> 27) & ((1 << 37) - 1))) * _SECOND
    return mixed ^ ((mixed >> 31) & ((1 << 33) - 1))


def hash_ints(values: Ints, salt: int = 0) -> Ints:
    """Salted hash of integers; another salt gives an unrelated hash.

    Args:
        values: int64 array or tensor.
        salt: Seed.

    Returns:
        int64 of the same shape and kind.
    """
    return splitmix64(values ^ _salt_word(salt))


def hash_strings(values: Iterable[str | bytes], salt: int = 0) -> np.ndarray:
    """Salted xxh3 of strings (their UTF-8 bytes). Give distinct values where there are repeats.

    Args:
        values: Text or bytes; both kinds of the same bytes hash alike.
        salt: Seed.

    Returns:
        int64, one for every value.

    Example:
        >>> bool((hash_strings(["a"]) == hash_strings([b"a"])).all())
        True
    """
    seed = salt & ((1 << 64) - 1)
    digest = xxhash.xxh3_64_intdigest
    texts = (value.encode() if isinstance(value, str) else value for value in values)
    hashes = np.fromiter((digest(text, seed) for text in texts), np.uint64)
    return hashes.view(np.int64)


def to_buckets(hashes: Ints, num_buckets: int) -> Ints:
    """Hashes as bucket numbers ``0 .. num_buckets - 1`` (lower 63 bits modulo the number).

    Args:
        hashes: int64 array or tensor.
        num_buckets: How many.
    """
    return (hashes & _MASK63) % num_buckets


def to_unit(hashes: np.ndarray) -> np.ndarray:
    """Hashes as numbers in [0, 1), uniform, from the upper 53 bits.

    Args:
        hashes: int64 array.
    """
    return (hashes.view(np.uint64) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _salt_word(salt: int) -> int:
    return int(splitmix64(np.array([salt], np.int64))[0])
