import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.errors import ConfigError, DataError
from recsys.graph.bundle_completion import (
    BundleCompletion,
    CompletionRule,
    HeldOutBundles,
    split_completion,
)
from recsys.graph.bundles import Bundles
from recsys.graph.interactions import Names


def bundles_of(sizes, num_items=12):
    sets = [np.sort(np.random.default_rng(n).permutation(num_items)[:size])
            for n, size in enumerate(sizes)]  # fmt: skip
    return Bundles(
        Names(np.arange(len(sizes))), Names(np.arange(num_items)),
        np.repeat(np.arange(len(sizes)), sizes), np.concatenate(sets),
    )  # fmt: skip


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(1, 9), min_size=12, max_size=40),
    st.integers(0, 5),
    st.one_of(st.none(), st.integers(1, 12)),
)
def test_every_bundle_is_whole_and_in_one_split(sizes, seed, number):
    whole = bundles_of([2, 3, 4, *sizes])
    usable = sum(size > 1 for size in [2, 3, 4, *sizes])
    if usable < 10:
        return
    rule = CompletionRule(valid=0.1, test=0.2, seed=seed, given=number)
    found = split_completion(whole, rule)
    assert found.report["bundles_of_one_item"] == len(whole) - usable
    assert len(found.train) + len(found.valid) + len(found.test) == usable
    assert len(found.test) == round(usable * 0.2)
    for _, part in found.held_out():
        for place, bundle in enumerate(part.given.bundles.values.tolist()):
            known, asked = part.given.items_of(place), part.asked.items_of(place)
            size = len(whole.items_of(bundle))
            many = int(size / 2 + 0.5) if number is None else number
            assert len(known) == max(1, min(many, size - 1))
            assert sorted([*known, *asked]) == whole.items_of(bundle).tolist()


def test_groups_stay_together_and_seeds_differ():
    whole, groups = bundles_of([3] * 60), np.arange(60) // 3
    found = split_completion(whole, CompletionRule(), groups)
    ids = [found.train.bundles.values, found.valid.given.bundles.values,
           found.test.given.bundles.values]  # fmt: skip
    seen = [set(groups[part].tolist()) for part in ids]
    assert not (seen[0] & seen[1] or seen[0] & seen[2] or seen[1] & seen[2])
    assert [len(part) for part in ids] == [42, 6, 12]
    other = split_completion(whole, CompletionRule(seed=1), groups)
    assert set(other.test.given.bundles.values) != set(ids[2])


def test_oddities_are_counted():
    """Bundles 0, 1 and 2 are the same; whichever is held out, its twins teach."""
    whole = Bundles(Names(range(3)), Names(range(3)), np.repeat(np.arange(3), 2),
                    np.array([0, 1] * 3))  # fmt: skip
    found = split_completion(whole, CompletionRule(valid=0, test=0.34))
    assert found.report["test_bundles_as_in_train"] == 1
    assert found.report["test_asked_items_not_in_train"] == 0
    lonely = Bundles(Names(range(2)), Names(range(4)), np.array([0, 0, 1, 1]), np.arange(4))
    found = split_completion(lonely, CompletionRule(valid=0, test=0.5))
    assert found.report["test_asked_items_not_in_train"] == 1
    assert found.report["test_bundles_as_in_train"] == 0


def test_what_is_refused():
    whole = bundles_of([3] * 10)
    with pytest.raises(ConfigError, match="nothing is left"):
        split_completion(whole, CompletionRule(valid=0.5, test=0.5))
    with pytest.raises(DataError, match="no bundle of two items or more is in valid, of 2"):
        split_completion(bundles_of([3, 3, 1]), CompletionRule())
    with pytest.raises(DataError, match="groups: expected one of each of 10"):
        split_completion(whole, CompletionRule(), np.zeros(3))
    part = split_completion(whole, CompletionRule()).test
    with pytest.raises(DataError, match="an item is given and asked"):
        HeldOutBundles(part.given, part.given)
    with pytest.raises(DataError, match="both parts of the same bundles"):
        HeldOutBundles(part.given, whole)
    with pytest.raises(DataError, match="a bundle is in two splits"):
        BundleCompletion(whole, part)
