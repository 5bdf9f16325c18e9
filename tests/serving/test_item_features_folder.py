import numpy as np

from recsys.graph.interactions import Interactions, Names
from recsys.graph.item_features import ItemFeatures
from recsys.serving.item_features_folder import read_features, write_features


def test_features_come_back_as_they_were(tmp_path):
    items = Names(["a", "b"])
    pairs = Interactions(Names([7, 8]), items, np.array([0, 1]), np.array([1, 0]))
    whole = ItemFeatures(
        2, ("red", ""), (("x", "y"), ()), np.array([1.5, 0]), {"photo": np.eye(2)}, pairs
    )
    write_features(tmp_path / "features", whole)
    found = read_features(tmp_path / "features", items)
    assert (found.texts, found.categories) == (whole.texts, whole.categories)
    assert found.prices.tolist() == [1.5, 0] and found.vectors["photo"].tolist() == [[1, 0], [0, 1]]
    assert found.user_item.keys.tolist() == pairs.keys.tolist()
    assert found.user_item.users.values.tolist() == [7, 8]


def test_nothing_known_stays_nothing(tmp_path):
    write_features(tmp_path / "features", ItemFeatures(3))
    found = read_features(tmp_path / "features", Names(["a", "b", "c"]))
    assert (found.num_items, found.texts, found.prices, found.user_item) == (3, None, None, None)
    assert found.categories is None and not found.vectors
