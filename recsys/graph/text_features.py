"""Texts as bags of hashed grams with weights: rows for embedding tables, and vectors made of them.

A gram is a sequence of words, or of characters within a word. Grams are hashed into buckets, so new
texts need no vocabulary.

Stability: caller
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Self, cast

import numpy as np
import torch
from pydantic import Field, model_validator
from scipy.sparse import csr_array
from scipy.sparse.linalg import svds
from torch import Tensor

from recsys.errors import ConfigError
from recsys.graph.fitted_buffers import FittedBuffers
from recsys.graph.products import scaled, size, sparse_dense, sums
from recsys.hashing import hash_strings, to_buckets
from recsys.schema import Frozen

_WORD = re.compile(r"\w+")


class TextOptions(Frozen):
    """How texts become bags of grams."""

    words: int = Field(default=1, ge=0)
    """Longest sequence of words that is a gram; 0 takes none."""
    characters: tuple[int, int] | None = None
    """Shortest and longest sequence of characters that is a gram, within words and with ``<`` and
    ``>`` at their ends."""
    num_buckets: int = Field(default=1 << 14, ge=1)
    """Rows for grams."""
    trained: bool = True
    """Whether grams have vectors that are trained."""
    axes: int = Field(default=0, ge=0)
    """Width of a vector of every text that is not trained: its weighted grams along the principal
    axes of the texts to learn from (latent semantic analysis). What small data need."""
    salt: int = Field(default=0, ge=0)
    """Seed of the hash."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.words and self.characters is None:
            raise ConfigError("text: expected grams of words or of characters, got none of both.")
        if self.characters is not None and not 1 <= self.characters[0] <= self.characters[1]:
            raise ConfigError(
                "text.characters: expected the shortest and the longest, from 1, got "
                f"{list(self.characters)}."
            )
        if not self.trained and not self.axes:
            raise ConfigError("text: grams that are not trained need `axes`, say axes=64.")
        return self


def grams_of(text: str, options: TextOptions) -> list[str]:
    """The grams of a text, in lower case, each as often as it occurs.

    Args:
        text: Any.
        options: Which grams.

    Example:
        >>> grams_of("Red cars", TextOptions(words=2))
        ['red', 'cars', 'red cars']
        >>> grams_of("red", TextOptions(words=0, characters=(3, 4)))
        ['<re', 'red', 'ed>', '<red', 'red>']
    """
    words = _WORD.findall(text.lower())
    found = [" ".join(words[start : start + length]) for length in range(1, options.words + 1)
             for start in range(len(words) - length + 1)]  # fmt: skip
    if options.characters is not None:
        shortest, longest = options.characters
        for word in words:
            marked = f"<{word}>"
            found += [marked[start : start + length] for length in range(shortest, longest + 1)
                      for start in range(len(marked) - length + 1)]  # fmt: skip
    return found


def count_grams(texts: Sequence[str], options: TextOptions) -> csr_array:
    """How often every bucket is hit by the grams of every text, (texts, buckets) float32.

    Args:
        texts: Any.
        options: Which grams and how many buckets.

    Example:
        >>> counts = count_grams(["a b a", ""], TextOptions(num_buckets=50))
        >>> sorted(counts[[0]].data.tolist()), counts[[1]].nnz
        ([1.0, 2.0], 0)
    """
    numbers: dict[str, int] = {}
    columns, ends = [], [0]
    for text in texts:
        columns += [numbers.setdefault(gram, len(numbers)) for gram in grams_of(text, options)]
        ends.append(len(columns))
    buckets = to_buckets(hash_strings(numbers, options.salt), options.num_buckets)
    column = buckets[np.array(columns, np.int64)] if columns else np.zeros(0, np.int64)
    parts = (np.ones(len(columns), np.float32), column, np.array(ends))
    counts = csr_array(parts, shape=(len(texts), options.num_buckets))
    counts.sum_duplicates()
    return counts


class TextFeatures(FittedBuffers):
    """Bags of the texts a model knows, and of new ones, weighted by what training texts say.

        w = (1 + ln(times in the text)) (1 + ln((1 + N) / (1 + texts with it)))

    scaled so that the squares of a text's weights sum to 1; N texts are learned from. `initialize`,
    which a model's ``reset_parameters`` calls, fits; a state dict brings what was fitted.

    Args:
        texts: That the model knows.
        options: Which grams.
        learnt: Numbers of the texts to learn from.

    Example:
        >>> texts = TextFeatures(["red car", "red ball", "blue"], TextOptions(), np.array([0, 1]))
        >>> texts.initialize()
        >>> red, car = sorted(texts.rows(np.array([0])).data.tolist())
        >>> round(car / red, 4) == round(float(1 + np.log(3 / 2)), 4)
        True
    """

    idf: Tensor
    axes: Tensor

    def __init__(self, texts: Sequence[str], options: TextOptions, learnt: np.ndarray) -> None:
        super().__init__()
        self.options, self.counts, self._learnt = options, count_grams(texts, options), learnt
        self.add_buffers(idf=torch.float32, axes=torch.float32)

    def initialize(self, generator: object = None) -> None:
        """Fits weights and axes; nothing is drawn."""
        del generator
        learnt = self.counts[self._learnt]
        times = sums(learnt > 0, 0)
        idf = 1 + np.log((1 + size(learnt)[0]) / (1 + times))
        device = self.idf.device
        self.idf = torch.from_numpy(idf.astype(np.float32)).to(device)
        axes = principal_axes(self._weighted(learnt), self.options.axes)
        self.axes = torch.from_numpy(axes).to(device)

    def rows(self, numbers: np.ndarray) -> csr_array:
        """Weights of known texts.

        Args:
            numbers: Which.

        Returns:
            Sparse (n, buckets) float32.

        Raises:
            TrainingError: Nothing was fitted yet.
        """
        return self._weighted(self.counts[numbers])

    def rows_of(self, texts: Sequence[str]) -> csr_array:
        """Weights of any texts; see `rows`.

        Args:
            texts: New ones.
        """
        return self._weighted(count_grams(texts, self.options))

    def along_axes(self, rows: csr_array) -> Tensor:
        """Texts along the principal axes, (n, axes) float32; see `TextOptions`.

        Args:
            rows: From `rows`.
        """
        return sparse_dense(rows, self.axes.cpu())

    def _weighted(self, counts: csr_array) -> csr_array:
        self.require(bool(len(self.idf)))
        parts = (1 + np.log(counts.data), counts.indices, counts.indptr)
        weighted = scaled(csr_array(parts, shape=size(counts)), None, self.idf.cpu().numpy())
        lengths = np.sqrt(sums(weighted.power(2), 1))
        return scaled(weighted, 1 / np.where(lengths > 0, lengths, 1), None)


def principal_axes(rows: csr_array, count: int) -> np.ndarray:
    """The right singular vectors of the largest singular values, (columns, count) float32.

    Args:
        rows: Sparse.
        count: How many; those that the rows do not have are zero.

    Example:
        >>> rows = csr_array(np.array([[3.0, 0, 0], [0, 2, 0], [0, 0, 1]], np.float32))
        >>> principal_axes(rows, 2).tolist()
        [[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]
    """
    height, width = size(rows)
    found = np.zeros((width, count), np.float32)
    wanted = min(count, min(height, width) - 1)
    if wanted > 0:
        # The start vector is what makes it the same every time.
        start = np.random.default_rng(0).normal(size=min(height, width))
        _, values, axes = cast(Any, svds(rows.astype(np.float64), wanted, v0=start))
        order = np.argsort(-values, kind="stable")
        axes = axes[order][values[order] > 1e-9]
        largest = np.abs(axes).argmax(1)
        signs = np.where(axes[np.arange(len(axes)), largest] < 0, -1.0, 1.0)
        found[:, : len(axes)] = (axes * signs[:, None]).T
    return np.where(np.abs(found) < 1e-12, 0, found)
