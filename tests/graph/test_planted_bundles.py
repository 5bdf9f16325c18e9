import numpy as np
import pytest

from recsys.errors import ConfigError
from recsys.graph.planted_bundles import PlantedBundles, PlantedBundlesConfig


def test_shares_are_probabilities_of_the_planted_mix():
    config = PlantedBundlesConfig(num_items=200, num_communities=4, num_categories=3, noise=0)
    truth = PlantedBundles.of(config)
    shares = truth.item_shares()
    np.testing.assert_allclose(shares.sum(1), 1)
    for theme in range(8):
        assert shares[theme][truth.community != theme // 2].max() == 0
        by_category = np.bincount(truth.category, shares[theme], 3)
        np.testing.assert_allclose(by_category, truth.mixes[theme], atol=1e-12)


def test_contents_follow_the_shares():
    config = PlantedBundlesConfig(num_bundles=4000, num_items=60, num_communities=2, seed=3,
                                  themes_per_community=1, min_size=1, max_size=1)  # fmt: skip
    truth = PlantedBundles.of(config)
    bundle, item = truth.contents()
    np.testing.assert_array_equal(bundle, np.arange(4000))
    for theme in range(2):
        found = np.bincount(item[truth.theme == theme], minlength=60)
        expected = truth.item_shares()[theme] * found.sum()
        assert ((found - expected) ** 2 / expected).sum() < 110  # chi-square of 59: p < 1e-4


def test_users_draw_by_their_probabilities():
    config = PlantedBundlesConfig(num_users=2000, num_bundles=50, mean_bundles=1)
    truth = PlantedBundles.of(config)
    shares = truth.probabilities(np.arange(2000))
    np.testing.assert_allclose(shares.sum(1), 1)
    user, bundle = truth.user_bundles()
    seen = np.zeros((2000, 50), bool)
    seen[user, bundle] = True
    assert seen.sum(1).min() >= 3
    assert shares[seen].mean() > 2 * shares[~seen].mean()
    user, item = truth.user_items()
    wanted = truth.tastes @ truth.item_shares()
    assert wanted[user, item].mean() > 2 * wanted.mean()


def test_the_completion_oracle_is_bayes():
    truth = PlantedBundles.of(PlantedBundlesConfig(num_items=40, num_communities=3))
    shares = truth.item_shares()
    prior = np.bincount(truth.theme, minlength=6) / len(truth.theme)
    posterior = prior * shares[:, 4] * shares[:, 9]
    expected = (posterior / posterior.sum()) @ shares
    found = truth.completions([np.array([4, 9]), np.array([], int)])
    np.testing.assert_allclose(found[0], expected)
    np.testing.assert_allclose(found[1], prior @ shares)


def test_a_setting_of_one_part_leaves_the_others():
    first = PlantedBundles.of(PlantedBundlesConfig())
    other = PlantedBundles.of(PlantedBundlesConfig(cold=0.5, mean_items=1, num_users=10))
    np.testing.assert_array_equal(first.contents()[1], other.contents()[1])
    assert (first.cold.sum(), other.cold.sum()) == (20, 200)
    assert first.prices().min() > 0


def test_sizes_that_contradict():
    with pytest.raises(ConfigError, match="min_size=4, max_size=3"):
        PlantedBundles.of(PlantedBundlesConfig(min_size=4, max_size=3))
