import itertools

import numpy as np
import pytest
import torch

from recsys.cf_fitted import FittedModel
from recsys.errors import ConfigError, DataError, TrainingError
from recsys.graph.interaction_graph import InteractionGraph
from recsys.graph.interactions import Interactions, Names
from recsys.graph.item_features import ItemFeatures
from recsys.serving.bundle_maker import BundleMaker, BundleRules
from recsys.serving.recommender import Recommender

NUM = 7
PRICES = np.array([5.0, 1, 2, 8, 3, 4, 1])
CATEGORIES = tuple((("all", "food") if n % 2 else ("all", "drink")) for n in range(NUM))


class Pairwise(FittedModel):
    """Scores are sums of fixed weights of pairs, drawn once."""

    class Config(FittedModel.Config):
        """No options."""

    def fit(self, say):
        self.weights = torch.from_numpy(np.random.default_rng(3).normal(size=(NUM, NUM)))

    def scores_of(self, history):
        return torch.from_numpy(history.toarray()).double() @ self.weights


def maker(features=None):
    names = Names([f"i{n}" for n in range(NUM)])
    pairs = Interactions(Names([0]), names, np.array([0]), np.array([0]))
    about = features or ItemFeatures(NUM, categories=CATEGORIES, prices=PRICES)
    model = Pairwise(Pairwise.Config(), InteractionGraph.of(pairs, features=about))
    model.fit(print)
    return BundleMaker(Recommender(model, pairs))


def value(made, given, order, allowed=None):
    """The score of a bundle by hand."""
    weights, total, inside = made.recommender.model.weights.numpy(), 0.0, list(given)
    for item in order:
        scores = weights[inside].sum(0)
        left = [n for n in (allowed or range(NUM)) if n not in inside]
        total += scores[item] - np.log(np.exp(scores[left]).sum())
        inside.append(item)
    return total


def number(ids):
    return [int(name[1:]) for name in ids]


def best_by_search(made, given, size, fits, allowed=None):
    """The best value of all orders of all bundles that fit."""
    left = [n for n in (allowed or range(NUM)) if n not in given]
    orders = itertools.permutations(left, size - len(given))
    return max(value(made, given, order, allowed) for order in orders
               if fits([*given, *order]))  # fmt: skip


def test_wide_beams_find_the_best_and_greedy_takes_the_best_next_item():
    made = maker()
    (wide,) = made.make(["i2"], BundleRules(size=4, beams=500))
    assert wide.score == pytest.approx(best_by_search(made, [2], 4, lambda items: True))
    (greedy,) = made.make(["i2"], BundleRules(size=4))
    inside = [2]
    for item in number(greedy.items[1:]):
        others = [n for n in range(NUM) if n not in inside]
        assert item == max(others, key=lambda n, i=tuple(inside): value(made, i, [n]))
        inside.append(item)
    assert greedy.score <= wide.score
    assert greedy.score == pytest.approx(value(made, [2], number(greedy.items[1:])))
    assert greedy.price == pytest.approx(PRICES[inside].sum()) and greedy.given == 1


@pytest.mark.parametrize(
    ("rules", "fits"),
    [
        ({"max_price": 9}, lambda items: PRICES[items].sum() <= 9),
        ({"max_price": 7.0}, lambda items: PRICES[items].sum() <= 7),
        ({"most_each": 2}, lambda items: sum(n % 2 for n in items) == 2),
        ({"most": {"drink": 1}}, lambda items: sum(n % 2 == 0 for n in items) <= 1),
        ({"least": {"food": 3}}, lambda items: sum(n % 2 for n in items) >= 3),
        (
            {"least": {"food": 2}, "max_price": 9.0},
            lambda items: sum(n % 2 for n in items) >= 2 and PRICES[items].sum() <= 9,
        ),
    ],
)
def test_rules_are_kept_and_the_best_under_them_is_found(rules, fits):
    made = maker()
    (wide,) = made.make(["i2"], BundleRules(size=4, beams=500, **rules))
    assert fits(number(wide.items))
    assert wide.score == pytest.approx(best_by_search(made, [2], 4, fits))
    for found in made.make(["i2"], BundleRules(size=4, beams=3, **rules), k=3):
        assert fits(number(found.items)) and len(set(found.items)) == 4


def test_what_is_not_in_stock_is_never_added():
    made, stock = maker(), ["i0", "i3", "i4", "i6"]
    rules = BundleRules(size=4, beams=100)
    (found,) = made.make(["i2"], rules, filter=stock, exclude=["i4"])
    assert set(found.items) == {"i2", "i0", "i3", "i6"}
    (found,) = made.make(["i2"], BundleRules(size=3, beams=100), filter=stock)
    wanted = best_by_search(made, [2], 3, lambda items: True, [0, 3, 4, 6])
    assert found.score == pytest.approx(wanted)


def test_the_same_set_is_one_bundle_and_nothing_may_be_given():
    made = maker()
    found = made.make([], BundleRules(size=2, beams=30), k=30)
    sets = [frozenset(each.items) for each in found]
    assert len(set(sets)) == len(sets) == NUM * (NUM - 1) // 2
    scores = [each.score for each in found]
    assert scores == sorted(scores, reverse=True)
    (first,) = made.make([], BundleRules(size=1))
    assert first.items == ("i0",) and first.score == pytest.approx(np.log(2 / (NUM + 1)))


def test_likeness_costs():
    made = maker()
    plain = made.make(["i2"], BundleRules(size=2))[0]
    near = made.recommender.model.similarities(torch.tensor([2]))[0].numpy()
    apart = made.make(["i2"], BundleRules(size=2, diversity=100.0))[0]
    chosen = number(apart.items)[1]
    assert near[chosen] <= 0 < near[number(plain.items)[1]]
    assert apart.score == pytest.approx(value(made, [2], [chosen]))


def test_what_cannot_be_met_is_said():
    made = maker()
    with pytest.raises(DataError, match="none of 6 items can be number 2 of 4"):
        made.make(["i2"], BundleRules(size=4, max_price=5.0))
    with pytest.raises(DataError, match="none of 0 items"):
        made.make(["i2"], filter=[])
    with pytest.raises(DataError, match="they cost 8, and max_price is 7"):
        made.make(["i3"], BundleRules(max_price=7))
    with pytest.raises(DataError, match="more than 1 are of one category"):
        made.make(["i1", "i3"], BundleRules(most_each=1))
    with pytest.raises(DataError, match=r"no item of category 'foods'.*food"):
        made.make([], BundleRules(least={"foods": 1}))
    with pytest.raises(ConfigError, match="5 items of categories do not fit"):
        made.make([], BundleRules(least={"food": 5}))
    with pytest.raises(DataError, match="fewer than 2 items, each once"):
        made.make(["i1", "i1"], BundleRules(size=2))
    with pytest.raises(ConfigError, match="k: expected 1 to 1"):
        made.make([], k=2)
    bare = maker(ItemFeatures(NUM))
    with pytest.raises(DataError, match="prices of the items are not known"):
        bare.make([], BundleRules(max_price=3))
    with pytest.raises(DataError, match="item 'x' is not known"):
        bare.make(["x"])


@pytest.mark.parametrize("price", [59.99, 0.1, 12345.67])
def test_prices_are_compared_as_they_were_written(price):
    """Prices are float32: 59.99 is 59.990002 there, and three times .1 is not .3."""
    made = maker(ItemFeatures(NUM, prices=np.full(NUM, price, np.float32)))
    (found,) = made.make([], BundleRules(size=3, max_price=round(3 * price, 2)))
    assert found.price == pytest.approx(3 * price)
    with pytest.raises(DataError, match="no bundle was found"):
        made.make([], BundleRules(size=3, max_price=round(3 * price - 0.01, 2)))
    assert made.make(["i1", "i2"], BundleRules(size=3, max_price=round(3 * price, 2)))


def test_scores_that_are_no_numbers_are_refused():
    made = maker()
    made.recommender.model.weights[2, 3] = float("nan")
    with pytest.raises(TrainingError, match=r"scores are NaN\. .* train it again"):
        made.make(["i2"], BundleRules(size=3))
