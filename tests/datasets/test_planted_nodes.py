from typing import ClassVar

import numpy as np
import pytest
from pydantic import ValidationError

from recsys.datasets.planted_nodes import PlantedNodes
from recsys.testing.node_dataset import NodeDatasetConformance


class TestSuite(NodeDatasetConformance):
    dataset = PlantedNodes
    splits: ClassVar = {"train": 12, "valid": 12, "test": 36}

    def config(self, folder):
        return PlantedNodes.Config(num_nodes=60, num_classes=4, train_per_class=3, valid=0.25)


class TestSuiteWithTags(TestSuite):
    def config(self, folder):
        return super().config(folder).model_copy(update={"num_tags": 8})


def test_edges_words_and_tags_are_as_asked():
    config = PlantedNodes.Config(
        num_nodes=4000, num_classes=4, mean_degree=6, homophily=0.6, signal=0.5, num_tags=400
    )
    nodes = PlantedNodes(config).nodes(None)
    labels = nodes.labels
    assert np.bincount(labels).tolist() == [1000] * 4
    first, second = nodes.undirected()
    assert len(first) == nodes.edges["node", "links", "node"].shape[1]  # both directions are there
    assert len(first) / 4000 == pytest.approx(6, abs=0.05)
    # .6 within the class, and a quarter of the others by chance
    assert (labels[first] == labels[second]).mean() == pytest.approx(0.7, abs=0.02)
    for word, node, share in (
        (*reversed(nodes.features["node"].nonzero()), 0.625),
        (*reversed(nodes.edges["node", "has", "tag"]), 0.625),
    ):
        assert (word % 4 == labels[node]).mean() == pytest.approx(share, abs=0.03)
    assert np.bincount(labels[nodes.splits["train"]]).tolist() == [10] * 4
    other = PlantedNodes(config.model_copy(update={"seed": 8})).nodes(None)
    assert other.fingerprint() != nodes.fingerprint()


def test_too_few_nodes_to_hold_any_out():
    with pytest.raises(ValidationError, match=r"5 classes of 10 need more than num_nodes=50"):
        PlantedNodes.Config(num_nodes=50)
