"""Whole bundles from a recommender that completes them: greedy or by beams, under rules.

Stability: experimental
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from pydantic import Field
from scipy.sparse import csr_array

from recsys.errors import ConfigError, DataError, TrainingError, did_you_mean
from recsys.graph.item_features import ItemFeatures
from recsys.schema import Frozen
from recsys.serving.recommender import Filter, Recommender


class BundleRules(Frozen):
    """What a bundle must be like, given items counted."""

    size: int = Field(default=4, ge=1)
    """Items of it."""
    max_price: float | None = Field(default=None, ge=0)
    """The most that its items cost together."""
    most_each: int | None = Field(default=None, ge=1)
    """The most items whose last category, the most special one, is the same."""
    most: dict[str, int] = Field(default_factory=dict)
    """The most items of a category, by its name."""
    least: dict[str, int] = Field(default_factory=dict)
    """The fewest items of a category. An item of two such categories counts in both, but room is
    kept for both apart."""
    diversity: float = Field(default=0.0, ge=0)
    """How much likeness costs: so many times the largest likeness to an item that is in already
    is taken from the logarithm of an item's share."""
    beams: int = Field(default=1, ge=1)
    """Bundles that are followed side by side; 1 is greedy."""


@dataclasses.dataclass(frozen=True, slots=True)
class MadeBundle:
    """A bundle that was put together.

    Args:
        items: Ids, those given first, then in the order they were chosen.
        given: How many were given.
        score: Sum of the logarithms of the shares of the chosen items, less what likeness costs.
        price: Of all items; None where prices are not known.
    """

    items: tuple[Any, ...]
    given: int
    score: float
    price: float | None


@dataclasses.dataclass(frozen=True, slots=True)
class _Beam:
    items: tuple[int, ...]
    score: float


class BundleMaker:
    """Chooses one item after the other, each by its share among all that may follow.

    The share of an item is the softmax of the recommender's scores for the items so far, over the
    items that are allowed and not in yet; without an item so far, its share of the training pairs.
    Items after which the rules could not be met any more, as far as one can see, are not chosen.
    The same set in two orders is one bundle, of the better score.

    Args:
        recommender: Of bundles, trained with ``dataset.task: complete``.
        features: Prices and categories; None takes those that the model was trained with.

    Raises:
        DataError: The features are of other items.
    """

    def __init__(self, recommender: Recommender, features: ItemFeatures | None = None) -> None:
        self.recommender = recommender
        graph = recommender.model.graph
        found = features or graph.features or ItemFeatures(graph.num_items)
        if found.num_items != graph.num_items:
            raise DataError(
                f"features: expected those of {graph.num_items:,} items, got {found.num_items:,}."
            )
        self.prices = None if found.prices is None else found.prices.astype(np.float64)
        self._categories = found.categories
        self._members: dict[str, np.ndarray] = {}
        self._last = np.arange(graph.num_items)
        if found.categories is not None:
            lists: dict[str, list[int]] = {}
            for item, names in enumerate(found.categories):
                for name in set(names):
                    lists.setdefault(name, []).append(item)
            for name, items in lists.items():
                self._members[name] = np.zeros(graph.num_items, bool)
                self._members[name][items] = True
            numbers = {name: number for number, name in enumerate(lists)}
            self._last = np.array([
                numbers[names[-1]] if names else len(numbers) + item
                for item, names in enumerate(found.categories)
            ], np.int64)  # fmt: skip

    def make(
        self,
        given: Sequence[Any] = (),
        rules: BundleRules | None = None,
        k: int = 1,
        filter: Filter | None = None,
        exclude: Sequence[Any] | np.ndarray | None = None,
    ) -> list[MadeBundle]:
        """The best bundles that were found, best first; fewer where fewer were found.

        Args:
            given: Ids of items that are in; may be empty.
            rules: What bundles must be like.
            k: How many; ``rules.beams`` at most.
            filter: Items that may be added, say those in stock; as in `Recommender.recommend`.
            exclude: Ids that may not be added.

        Raises:
            DataError: An item or category is not known, prices or categories are needed and not
                known, given items break a rule, or no bundle was found.
            ConfigError: An option is out of range.
            TrainingError: Scores are NaN.
        """
        rules = rules or BundleRules()
        if not 1 <= k <= rules.beams:
            raise ConfigError(f"k: expected 1 to {rules.beams}, the number of beams, got {k}.")
        self._check(rules)
        start = tuple(self.recommender.items.require(list(given), "item").tolist())
        if len(set(start)) < len(start) or len(start) >= rules.size:
            raise DataError(
                f"given: expected fewer than {rules.size} items, each once, got {len(start)}."
            )
        allowed = self.recommender.mask(filter, exclude)
        allowed[list(start)] = False
        self._check_given(start, rules)
        beams = [_Beam(start, 0.0)]
        for length in range(len(start) + 1, rules.size + 1):
            beams = self._longer(beams, allowed, rules)
            if not beams:
                raise DataError(
                    f"no bundle was found: none of {int(allowed.sum()):,} items can be number "
                    f"{length} of {rules.size} under these rules. Raise beams, or loosen the rules "
                    "or the filter."
                )
        names = self.recommender.items.values
        return [
            MadeBundle(
                tuple(names[list(beam.items)].tolist()), len(start), beam.score,
                None if self.prices is None else float(self.prices[list(beam.items)].sum()),
            ) for beam in beams[:k]
        ]  # fmt: skip

    # ------------------------------------------------------------------------------- one step

    def _longer(self, beams: list[_Beam], allowed: np.ndarray, rules: BundleRules) -> list[_Beam]:
        """The best sets with one item more."""
        best: dict[frozenset[int], _Beam] = {}
        for beam, scores in zip(beams, self._scores(beams)):
            open_ = allowed.copy()
            open_[list(beam.items)] = False
            if not open_.any():
                continue
            kept = scores[open_]
            logs = scores - (kept.max() + np.log(np.exp(kept - kept.max()).sum()))
            if rules.diversity and beam.items:
                logs = logs - rules.diversity * self._likeness(beam.items)
            fits = np.flatnonzero(self._fits(beam.items, open_, rules))
            for item in fits[np.argsort(-logs[fits], kind="stable")][: rules.beams]:
                made = _Beam((*beam.items, int(item)), beam.score + float(logs[item]))
                key = frozenset(made.items)
                if key not in best or made.score > best[key].score:
                    best[key] = made
        return sorted(best.values(), key=lambda beam: -beam.score)[: rules.beams]

    def _scores(self, beams: list[_Beam]) -> np.ndarray:
        """Scores of all items after each, (beams, I) float64."""
        model = self.recommender.model
        if not beams[0].items:
            degrees = model.graph.item_degrees().double().cpu().numpy()
            return np.log(degrees + 1)[None].repeat(len(beams), 0)
        width = len(beams[0].items)
        items = np.sort(np.array([beam.items for beam in beams]), axis=1)
        parts = (np.ones(items.size, np.float32), items.ravel(), np.arange(len(beams) + 1) * width)
        history = csr_array(parts, shape=(len(beams), model.graph.num_items))
        with torch.inference_mode():
            found = model.scores_of(history).cpu().double().numpy()
        if np.isnan(found).any():
            raise TrainingError(
                "scores are NaN. The model is not usable: train it again with a lower learning "
                "rate."
            )
        return found

    def _likeness(self, items: tuple[int, ...]) -> np.ndarray:
        """The largest likeness of every item to one of some, at least 0."""
        found = self.recommender.model.similarities(torch.tensor(items)).cpu().double().numpy()
        return np.maximum(found.max(0), 0)

    def _fits(self, items: tuple[int, ...], open_: np.ndarray, rules: BundleRules) -> np.ndarray:
        """Which open items may come next, so that the rules can still be met as far as seen."""
        chosen, left = list(items), rules.size - len(items) - 1
        fits = open_.copy()
        if open_.sum() <= left:
            return np.zeros_like(fits)
        for name, most in rules.most.items():
            members = self._members[name]
            if members[chosen].sum() >= most:
                fits &= ~members
        if rules.most_each is not None:
            kinds, times = np.unique(self._last[chosen], return_counts=True)
            fits &= ~np.isin(self._last, kinds[times >= rules.most_each])
        missing, dearest = np.zeros(len(fits), np.int64), np.zeros(len(fits))
        for name, least in rules.least.items():
            members = self._members[name]
            need = max(0, least - int(members[chosen].sum()))
            needs = np.where(members, max(0, need - 1), need)
            missing += needs
            there = int((members & open_).sum())
            fits &= needs <= there - (members & open_)
            if self.prices is not None:
                cheap = np.concatenate([[0], np.cumsum(np.sort(self.prices[members & open_]))])
                dearest += cheap[np.minimum(needs, there)]
        fits &= missing <= left
        if rules.max_price is not None and self.prices is not None:
            budget = _most(rules.max_price) - float(self.prices[chosen].sum())
            rest = np.maximum(self._cheapest(open_, left), dearest)
            fits &= self.prices + rest <= budget
        return fits

    def _cheapest(self, open_: np.ndarray, count: int) -> np.ndarray:
        """What the cheapest ``count`` other open items cost, by item."""
        assert self.prices is not None
        numbers = np.flatnonzero(open_)
        order = numbers[np.argsort(self.prices[numbers], kind="stable")]
        found = np.full(len(self.prices), self.prices[order[:count]].sum())
        inside = order[:count]
        found[inside] = self.prices[order[: count + 1]].sum() - self.prices[inside]
        return found

    # --------------------------------------------------------------------------------- checks

    def _check(self, rules: BundleRules) -> None:
        if rules.max_price is not None and self.prices is None:
            raise DataError("max_price: prices of the items are not known. Give `features`.")
        if rules.most_each is not None and self._categories is None:
            raise DataError("most_each: categories of the items are not known. Give `features`.")
        for name in (*rules.most, *rules.least):
            if name not in self._members:
                raise DataError(
                    f"there is no item of category {name!r}. "
                    f"{did_you_mean(name, list(self._members))}"
                )
        if sum(rules.least.values()) > rules.size:
            raise ConfigError(
                f"least: {sum(rules.least.values())} items of categories do not fit into a bundle "
                f"of {rules.size}."
            )

    def _check_given(self, start: tuple[int, ...], rules: BundleRules) -> None:
        items, broken = list(start), ""
        if rules.max_price is not None and self.prices is not None:
            price = float(self.prices[items].sum())
            if price > _most(rules.max_price):
                broken = f"they cost {price:g}, and max_price is {rules.max_price:g}"
        for name, most in rules.most.items():
            if self._members[name][items].sum() > most:
                broken = f"more than {most} are of {name!r}"
        times = np.unique(self._last[items], return_counts=True)[1]
        if rules.most_each is not None and times.max(initial=0) > rules.most_each:
            broken = f"more than {rules.most_each} are of one category"
        if broken:
            raise DataError(f"given: {broken}. Give fewer items, or loosen the rules.")


def _most(price: float) -> float:
    """A price that items may sum to whose prices were rounded to float32."""
    return price * (1 + 2.0**-22)
