import numpy as np
import pytest
import torch

from recsys.errors import DataError
from recsys.graph.interaction_graph import InteractionGraph
from recsys.graph.interactions import Interactions, Names
from recsys.graph.item_features import ItemFeatures


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"texts": ("a",)}, r"texts: expected one of each of 2 items, got 1"),
        ({"prices": np.array([1, np.nan])}, r"prices: expected finite numbers"),
        ({"vectors": {"photo": np.zeros(2)}}, r"vectors\.photo: expected \(items, width\)"),
        ({"vectors": {"photo": np.full((2, 1), np.inf)}}, r"vectors\.photo: expected finite"),
        (
            {"user_item": Interactions(Names([0]), Names([0]), np.array([0]), np.array([0]))},
            "user_item: expected pairs with 2 items, got 1",
        ),
    ],
)
def test_features_of_other_items_are_refused(parts, message):
    with pytest.raises(DataError, match=message):
        ItemFeatures(2, **parts)


def test_a_graph_refuses_features_of_other_items():
    with pytest.raises(DataError, match="features: expected those of 3 items"):
        InteractionGraph(
            1, 3, torch.tensor([0]), torch.tensor([0]), features=ItemFeatures(2)
        )  # fmt: skip
