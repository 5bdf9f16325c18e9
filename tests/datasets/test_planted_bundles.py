from typing import ClassVar

import numpy as np

from recsys.datasets.planted_bundles import PlantedBundles
from recsys.testing.bundle_dataset import BundleDatasetConformance


class TestPlantedBundles(BundleDatasetConformance):
    dataset = PlantedBundles
    # Six bundles in all, so at most three of each user: one of three is for test.
    counts: ClassVar = {"train": 60, "test": 30}

    def config(self, folder):
        return PlantedBundles.Config(
            num_users=30, num_bundles=6, num_items=12, cold=0, split={"valid": 0, "test": 0.3},
            completion={"valid": 0.2, "test": 0.2},
        )  # fmt: skip


def ranks(scores, seen, wanted):
    """Share of wanted bundles among the ten best that were not seen."""
    scores = np.where(seen, -np.inf, scores)
    best = np.argsort(-scores, axis=1)[:, :10]
    hits = np.take_along_axis(wanted, best, 1).sum(1)
    asked = wanted.sum(1)
    return (hits[asked > 0] / asked[asked > 0]).mean()


def test_the_oracle_beats_popularity(tmp_path):
    data = PlantedBundles(PlantedBundles.Config())
    made = data.bundle_data(tmp_path)
    seen, wanted = np.zeros((2, 600, 400), bool)
    seen[made.user_bundle.train.user, made.user_bundle.train.item] = True
    wanted[made.user_bundle.test.user, made.user_bundle.test.item] = True
    popular = np.tile(made.user_bundle.train.item_degrees().astype(float), (600, 1))
    oracle = ranks(data.oracle(np.arange(600)), seen, wanted)
    assert oracle > 1.5 * ranks(popular, seen, wanted) > 0


def test_cold_bundles_are_held_out_alone(tmp_path):
    made = PlantedBundles(PlantedBundles.Config(cold=0.1)).bundle_data(tmp_path)
    assert made.report["bundles_without_train_users"] >= 40
    held = np.union1d(made.user_bundle.valid.item, made.user_bundle.test.item)
    assert np.isin(made.cold_bundles(), held).mean() > 0.9
    assert made.report["test_bundles_not_in_train"] > 30


def test_the_completion_oracle_beats_popularity(tmp_path):
    data = PlantedBundles(PlantedBundles.Config())
    test = data.completion(tmp_path).test
    seen, wanted = np.zeros((2, len(test), 300), bool)
    seen[test.given.bundle, test.given.item] = True
    wanted[test.asked.bundle, test.asked.item] = True
    train = data.completion(tmp_path).train
    popular = np.tile(np.bincount(train.item, minlength=300).astype(float), (len(test), 1))
    scores = data.completion_oracle([test.given.items_of(n) for n in range(len(test))])
    assert ranks(scores, seen, wanted) > 2 * ranks(popular, seen, wanted)


def test_items_have_a_category_a_price_and_a_text(tmp_path):
    made = PlantedBundles(PlantedBundles.Config(num_items=20)).bundle_data(tmp_path)
    assert len(made.item_prices) == 20 and made.item_categories[0][0].startswith("category ")
    assert made.item_texts[7].startswith("thing 7 of community")
