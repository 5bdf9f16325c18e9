import numpy as np

from recsys.datasets.planted_concepts import PlantedConcepts
from recsys.testing.any_dataset import AnyDatasetConformance


class TestSuite(AnyDatasetConformance):
    dataset = PlantedConcepts

    def config(self, folder):
        return PlantedConcepts.Config(num_queries=30, num_items=12)


def test_the_truth_is_what_it_says(tmp_path):
    config = PlantedConcepts.Config(num_queries=60, num_items=40, told=1.0, relevant=3)
    found = PlantedConcepts(config).matches(tmp_path)
    of_query, of_item = np.zeros((60, 24)), np.zeros((40, 24))
    of_query[found.query_concepts.user, found.query_concepts.item] = 1
    of_item[found.item_concepts.user, found.item_concepts.item] = 1
    assert (of_query.sum(1) == 4).all() and (of_item.sum(1) == 4).all()
    shared, right = of_query @ of_item.T, np.zeros((60, 40), bool)
    for part in (found.relevance.train, found.relevance.valid, found.relevance.test):
        right[part.user, part.item] = True
    assert (right.sum(1) == 3).all()
    worst = np.where(right, shared, np.inf).min(1)
    assert (worst >= np.where(right, -np.inf, shared).max(1)).all()
    for concept in np.flatnonzero(of_query[5]):
        assert f"c{concept:02}w" in found.query_texts[5]


def test_splits_are_by_query_and_concepts_are_told_by_chance(tmp_path):
    data = PlantedConcepts(PlantedConcepts.Config())
    splits = data.splits(tmp_path)
    parts = {name: set(part.user.tolist()) for name, part in splits.items()}
    assert [len(part) for part in parts.values()] == [420, 60, 120]
    assert len(set.union(*parts.values())) == 600
    told = len(data.matches(tmp_path).item_concepts) / (150 * 4)
    assert 0.6 < told < 0.8
    graph = data.graph(splits.train, tmp_path)
    assert graph.descriptions.item_texts == data.matches(tmp_path).item_texts
