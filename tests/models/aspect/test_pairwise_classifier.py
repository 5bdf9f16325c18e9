"""PairwiseClassifier against its equations."""

from __future__ import annotations

import numpy as np
import torch

from recsys.graph.aspect_batches import AspectBatch
from recsys.graph.text_features import TextOptions
from recsys.models.aspect.pairwise_classifier import PairwiseClassifier
from recsys.testing.aspects import AspectModelConformance, tiny_aspects

CONFIG = PairwiseClassifier.Config(text=TextOptions(num_buckets=300), embedding_dim=8, vector_dim=6)


class TestSuite(AspectModelConformance):
    model = PairwiseClassifier
    config = CONFIG

    def test_it_tells_pairs_apart(self):
        model = self.build()
        self.train_some(model, 25)
        train = torch.from_numpy(model.table.members("train"))
        train = train[train < 47]
        first, second = (ends.ravel() for ends in np.meshgrid(train, train))
        apart = first != second
        first, second = torch.from_numpy(first[apart]), torch.from_numpy(second[apart])
        same = first % 3 == second % 3  # the colour
        found = model.probability(first, second, "colour")
        assert found[same].mean() > found[~same].mean() + 0.3


def test_loss_and_probability_are_those_of_the_equations():
    model = PairwiseClassifier(CONFIG, tiny_aspects())
    model.reset_parameters(2)
    items = torch.tensor([1, 6, 4, 8, 2, 5])
    z = model.encode(model.features(items), 1)

    def p(i, j):
        both = torch.cat([(z[i] - z[j]).abs(), z[i] * z[j]])
        return model.classifiers[1](both).sigmoid().squeeze()

    found = model.probability(items[:1], items[3:4], "kind")
    torch.testing.assert_close(found, p(0, 3).detach()[None])
    torch.testing.assert_close(found, model.probability(items[3:4], items[:1], "kind"))
    alike = torch.eye(3, dtype=torch.bool)
    alike[2, 1] = True
    batch = AspectBatch(1, items[:3], items[3:], alike)
    # negatives: of the first anchor (with the positive of the last); the second has none by
    # ratio, the third none because it is like the positive of the one before it
    parts = [p(0, 3), p(1, 4), p(2, 5), 1 - p(0, 5)]
    torch.testing.assert_close(model.loss(batch), -torch.stack(parts).log().mean())
