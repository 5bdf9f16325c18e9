from typing import ClassVar

import numpy as np

from recsys.datasets.planted_aspects import PlantedAspects
from recsys.testing.aspect_dataset import AspectDatasetConformance


class TestPlantedAspects(AspectDatasetConformance):
    dataset = PlantedAspects
    # Labels of the three items by seed 0: (1, 1), (1, 0), (0, 0).
    pairs: ClassVar = {"aspect 0": 1, "aspect 1": 1}

    def config(self, folder):
        return PlantedAspects.Config(num_items=3, num_labels=2, num_aspects=2, seed=0,
                                     rule={"valid": 0, "test": 0})  # fmt: skip


def precision(vectors, table, aspect, k=10):
    """Share of items of the same label among the k nearest test items."""
    members = table.members("test")
    label = np.zeros(len(table), int)
    item, of = table.labels_in(aspect)
    label[item] = of
    scores = vectors[members] @ vectors[members].T
    np.fill_diagonal(scores, -np.inf)
    best = np.argsort(-scores, axis=1)[:, :k]
    return (label[members][best] == label[members][:, None]).mean()


def test_the_oracle_finds_its_aspect_and_no_other(tmp_path):
    data = PlantedAspects(PlantedAspects.Config(num_labels=4))
    table = data.table(tmp_path)
    own = precision(data.oracle(1), table, "aspect 1")
    assert own > 0.7
    assert abs(precision(data.oracle(1), table, "aspect 0") - 0.25) < 0.08
    generic = np.concatenate([data.oracle(n) * (3 - n) for n in range(3)], 1)
    assert precision(generic, table, "aspect 1") < own
