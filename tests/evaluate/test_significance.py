"""Two models on the same users."""

import numpy as np
import pytest
from scipy import stats

from recsys.errors import DataError
from recsys.evaluate.significance import compare, comparison_table
from recsys.evaluate.user_results import UserResults


def results(values, users=None, protocol="all items"):
    users = np.arange(len(values)) if users is None else np.array(users)
    return UserResults(users, {"recall@20": np.asarray(values, dtype=float)}, protocol)


def test_by_hand():
    found = compare(results([0.0, 0.5, 1.0, 1.0]), results([1.0, 0.5, 1.0, 0.75]))[0]
    assert (found.users, found.wins, found.losses) == (4, 1, 1)
    assert (found.base, found.other, found.difference) == (0.625, 0.8125, 0.1875)
    assert found.interval.low < 0.1875 < found.interval.high and found.bootstrap_p > 0.3


@pytest.mark.parametrize("test", ["wilcoxon", "t"])
def test_p_values_are_those_of_scipy(test):
    random = np.random.default_rng(0)
    first, second = random.random((2, 80))
    second += 0.1
    found = compare(results(first), results(second), test=test)[0]
    two_sided = {"wilcoxon": stats.wilcoxon, "t": stats.ttest_rel}[test](second, first)
    assert found.test_p == pytest.approx(two_sided.pvalue)


def test_the_bootstrap_agrees_with_the_normal_approximation():
    random = np.random.default_rng(1)
    first = random.random(2000)
    second = first + random.normal(0.008, 0.2, 2000)
    found = compare(results(first), results(second), num_samples=4000)[0]
    error = (second - first).std() / np.sqrt(2000)
    assert found.interval.high - found.interval.low == pytest.approx(2 * 1.96 * error, rel=0.08)
    normal = 2 * stats.norm.sf(abs(found.difference) / error)
    assert 0.01 < normal < 0.2 and found.bootstrap_p == pytest.approx(normal, abs=0.03)


def test_few_of_100_equal_models_differ_at_the_5_percent_level():
    random = np.random.default_rng(2)
    found = [
        compare(results(a), results(b), num_samples=200, seed=seed)[0]
        for seed, (a, b) in enumerate(random.random((100, 2, 60)))
    ]
    assert sum(row.bootstrap_p < 0.05 for row in found) <= 12
    assert sum(row.test_p < 0.05 for row in found) <= 12


def test_pairs_matter():
    """The same values in pairs that all improve a little, and in another order."""
    random = np.random.default_rng(3)
    first = random.random(200)
    paired = compare(results(first), results(first + 0.01 * random.random(200)))[0]
    loose = compare(results(first), results(random.permutation(first) + 0.005))[0]
    assert paired.bootstrap_p < 0.01 < 0.1 < loose.bootstrap_p


@pytest.mark.parametrize("test", ["wilcoxon", "t"])
def test_equal_models(test):
    same = results([0.1, 0.2, 0.3])
    found = compare(same, results([0.1, 0.1 + 0.1, 0.1 + 0.2]), test=test)[0]
    assert found.test_p == 1.0 and found.bootstrap_p == 1.0 and found.wins == 0


def test_the_same_step_for_everybody():
    found = compare(results([0.0] * 9), results([0.5] * 9), test="t")[0]
    assert found.test_p == 0.0 and found.interval.low == found.interval.high == 0.5


def test_users_in_another_order_are_put_in_order():
    base = results([0.0, 0.5, 1.0], users=["a", "b", "c"])
    found = compare(base, results([1.0, 0.0, 0.5], users=["c", "a", "b"]))[0]
    assert found.difference == 0.0 and found.wins == found.losses == 0


def test_users_without_a_value_are_left_out():
    found = compare(results([0.0, np.nan, 1.0, 0.2]), results([0.5, 1.0, np.nan, 0.2]))[0]
    assert found.users == 2 and found.difference == 0.25


def test_what_it_refuses():
    base = results([0.0, 1.0])
    with pytest.raises(DataError, match=r"of different users: 1 of 2 .* 2 of 3 not in the first"):
        compare(base, results([0.0, 1.0, 1.0], users=[1, 5, 6]))
    with pytest.raises(DataError, match="computed differently: 'all items' and '9 sampled"):
        compare(base, results([0.0, 1.0], protocol="9 sampled negatives"))
    with pytest.raises(DataError, match=r"`recall@2` is not in both.*Did you mean `recall@20`"):
        compare(base, base, ["recall@2"])
    with pytest.raises(DataError, match="no metric in common"):
        compare(base, UserResults(np.arange(2), {"x": np.zeros(2)}, "all items"))
    with pytest.raises(DataError, match="no user has a value in both"):
        compare(base, results([np.nan, np.nan]))
    with pytest.raises(ValueError, match="`num_samples` at least 2"):
        compare(base, base, num_samples=1)


def test_table():
    text = comparison_table(compare(results([0.0, 1.0]), results([0.5, 1.0])))
    assert text.splitlines()[0].split()[:4] == ["metric", "base", "other", "difference"]
    assert text.splitlines()[2].split()[:4] == ["recall@20", "0.50000", "0.75000", "0.25000"]
