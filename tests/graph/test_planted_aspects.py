import re

import numpy as np

from recsys.graph.planted_aspects import PlantedAspects, PlantedAspectsConfig


def counts(truth, aspect):
    """How often each label of an aspect is named in every text, read from the text."""
    found = np.zeros((len(truth.texts), truth.config.num_labels), int)
    for row, text in enumerate(truth.texts):
        for label in re.findall(rf"\ba{aspect}l(\d+)w\d+\b", text):
            found[row, int(label)] += 1
    return found


def test_texts_carry_the_labels():
    truth = PlantedAspects.of(PlantedAspectsConfig(num_items=400))
    for aspect, many in enumerate((8, 4, 2)):
        found = counts(truth, aspect)
        assert (found.sum(1) == many).all()
        own = found[np.arange(400), truth.labels[:, aspect]].sum() / found.sum()
        assert abs(own - 0.8) < 0.05
    assert len(re.findall(r"\bn\d+\b", truth.texts[0])) == 6


def test_the_oracle_is_bayes():
    truth = PlantedAspects.of(PlantedAspectsConfig(num_items=30, num_labels=5, noise=0.3))
    times = counts(truth, 1)
    weights = 0.7**times * (0.3 / 4) ** (4 - times)
    np.testing.assert_allclose(truth.posterior(1), weights / weights.sum(1, keepdims=True))


def test_without_noise_or_with_nothing_but_it():
    truth = PlantedAspects.of(PlantedAspectsConfig(noise=0))
    np.testing.assert_array_equal(truth.posterior(2).max(1), 1)
    truth = PlantedAspects.of(PlantedAspectsConfig(noise=1, num_labels=2))
    np.testing.assert_array_equal(truth.posterior(2).argmax(1), truth.labels[:, 2])


def test_aspects_are_independent_and_seeded():
    truth = PlantedAspects.of(PlantedAspectsConfig(num_items=4000, num_labels=3))
    table = np.histogram2d(truth.labels[:, 0], truth.labels[:, 1], bins=3)[0]
    expected = table.sum(1, keepdims=True) * table.sum(0) / table.sum()
    assert ((table - expected) ** 2 / expected).sum() < 24  # chi-square of 4: p < 1e-4
    again = PlantedAspects.of(PlantedAspectsConfig(num_items=4000, num_labels=3))
    other = PlantedAspects.of(PlantedAspectsConfig(num_items=4000, num_labels=3, seed=8))
    assert truth.texts == again.texts and truth.texts[0] != other.texts[0]
