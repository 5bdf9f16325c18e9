import numpy as np

from recsys.datasets.planted_bundles import PlantedBundles
from recsys.evaluate.ranked_lists import history_matrix
from recsys.graph.bundle_completion import CompletionRule, split_completion
from recsys.graph.bundles import Bundles
from recsys.graph.interactions import Names


def test_bundles_are_users_and_given_items_are_told_apart_from_training():
    bundle, item = np.repeat(np.arange(6), 3), np.tile([0, 1, 2], 6) + np.repeat([0, 1], 9)
    whole = Bundles(Names([f"b{n}" for n in range(6)]), Names(range(4)), bundle, item)
    found = split_completion(whole, CompletionRule(valid=0.34, test=0.34))
    splits = found.splits()
    assert splits.given is not None and len(splits.train.users) == 6
    parts = [splits.train, splits.given, splits.valid, splits.test]
    assert sum(map(len, parts)) == len(item)
    for number, name in enumerate(splits.train.users.values):
        inside = np.concatenate([part.item[part.user == number] for part in parts])
        (place,) = whole.bundles.numbers([name])
        assert sorted(inside) == whole.items_of(place).tolist()
    learnt = np.unique(splits.train.user)
    assert learnt.tolist() == [0, 1]
    assert not np.isin(splits.given.user, learnt).any()
    assert history_matrix(splits.given).sum(1).tolist() == splits.given.user_degrees().tolist()


def test_a_data_set_gives_them_with_features(tmp_path):
    data = PlantedBundles(PlantedBundles.Config(task="complete", num_users=20, num_bundles=50))
    splits = data.splits(tmp_path)
    graph = data.graph(splits.train, tmp_path)
    assert graph.num_users == 50 and graph.contents is None and graph.features is not None
    assert graph.features.prices is not None and graph.features.user_item is not None
    assert len(graph.features.categories or ()) == graph.num_items
