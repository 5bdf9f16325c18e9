"""Items whose aspects are planted in their texts: made here, with the best vectors known.

Aspects are independent: an item has one label of each, drawn alike. A label has words of its own;
the text of an item holds ``words_per_label`` of each of its labels' words, each replaced with
chance ``noise`` by one of another label of the same aspect, and ``noise_words`` words that say
nothing, all in random order. So two items that share a label of one aspect share words, and nothing
says they share one of another: a generic vector mixes the aspects, one for each keeps them apart.

Stability: internal
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from recsys.schema import Frozen

_ROLES = ("labels", "words", "noise", "order")


class PlantedAspectsConfig(Frozen):
    """Sizes, seed and strengths of planted aspects."""

    num_items: int = Field(default=600, ge=2)
    """Items."""
    num_aspects: int = Field(default=3, ge=1)
    """Aspects."""
    num_labels: int = Field(default=12, ge=2)
    """Labels of every aspect."""
    words_of_label: int = Field(default=6, ge=1)
    """Different words that a label has."""
    words_per_label: tuple[int, ...] = Field(default=(8, 4, 2), min_length=1)
    """Words in a text of the label of the first aspect, the second, ...; the last one holds for
    all others. The first aspect is what generic vectors lean to."""
    noise: float = Field(default=0.2, ge=0, le=1)
    """Chance of a word to be one of another label of its aspect."""
    noise_words: int = Field(default=6, ge=0)
    """Words in a text that say nothing."""
    num_noise_words: int = Field(default=300, ge=1)
    """Different words that say nothing."""
    seed: int = Field(default=7, ge=0)
    """Another seed, another truth."""


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class PlantedAspects:
    """The truth, and the texts that carry it.

    Args:
        config: Sizes, seed and strengths.
        labels: Label of every item in every aspect.
        words: Of which label of its aspect every word of every item is.
        texts: Of every item.

    Shape:
        - labels: (items, aspects) int64
        - words: aspects times (items, words of the aspect) int64

    Example:
        >>> truth = PlantedAspects.of(PlantedAspectsConfig(num_items=4, noise=0, noise_words=0))
        >>> len(truth.texts[0].split()), truth.labels.shape
        (14, (4, 3))
        >>> posterior = truth.posterior(0)
        >>> bool((posterior.argmax(1) == truth.labels[:, 0]).all())
        True
    """

    config: PlantedAspectsConfig
    labels: NDArray[np.int64]
    words: tuple[NDArray[np.int64], ...]
    texts: tuple[str, ...]

    @classmethod
    def of(cls, config: PlantedAspectsConfig) -> PlantedAspects:
        """Plants the truth.

        Args:
            config: Sizes, seed and strengths.
        """
        items, random = config.num_items, _random(config, "labels")
        labels = random.integers(config.num_labels, size=(items, config.num_aspects))
        random, found, columns = _random(config, "words"), [], []
        for aspect in range(config.num_aspects):
            many = config.words_per_label[min(aspect, len(config.words_per_label) - 1)]
            step = random.integers(1, config.num_labels, size=(items, many))
            other = random.random((items, many)) < config.noise
            of = (labels[:, [aspect]] + np.where(other, step, 0)) % config.num_labels
            which = random.integers(config.words_of_label, size=(items, many))
            found.append(of)
            columns.append(_named(f"a{aspect}l", of, which))
        random = _random(config, "noise")
        nothing = random.integers(config.num_noise_words, size=(items, config.noise_words))
        columns.append(np.char.add("n", nothing.astype(str)))
        whole = np.concatenate(columns, 1)
        whole = _random(config, "order").permuted(whole, axis=1)
        return cls(config, labels, tuple(found), tuple(" ".join(row) for row in whole))

    def posterior(self, aspect: int) -> NDArray[np.float64]:
        """The probability of every label of an aspect, given the text: the oracle's vectors.

        Ranking items by the product of two rows, the chance to share the label, is the best.

        Args:
            aspect: Its number.

        Returns:
            (items, labels), rows summing to 1.
        """
        noise, count = self.config.noise, self.config.num_labels
        words = self.words[aspect]
        times = np.stack([np.bincount(row, minlength=count) for row in words])
        with np.errstate(divide="ignore"):
            own, other = np.log(1 - noise), np.log(noise / (count - 1))
        logs = _product(times, own) + _product(words.shape[1] - times, other)
        shares = np.exp(logs - logs.max(1, keepdims=True))
        return shares / shares.sum(1, keepdims=True)


def _product(times: NDArray[np.int64], log: float) -> NDArray[np.float64]:
    """``times * log``, where no times an impossible word is no matter."""
    return np.where(times > 0, times * log if np.isfinite(log) else -np.inf, 0.0)


def _named(prefix: str, of: NDArray[np.int64], which: NDArray[np.int64]) -> NDArray[np.str_]:
    """Words like ``a0l3w5``."""
    label = np.char.add(prefix, of.astype(str))
    return np.char.add(np.char.add(label, "w"), which.astype(str))


def _random(config: PlantedAspectsConfig, role: str) -> np.random.Generator:
    """An own stream for every part, so that a setting of one leaves the others as they are."""
    return np.random.default_rng([config.seed, _ROLES.index(role)])
