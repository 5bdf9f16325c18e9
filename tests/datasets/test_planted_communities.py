from typing import ClassVar

import numpy as np
import pytest

from recsys.datasets.planted_communities import PlantedCommunities
from recsys.errors import ConfigError
from recsys.graph.splitting import GivenSplit, LeaveOneOut
from recsys.testing.interaction_dataset import InteractionDatasetConformance


class TestPlantedCommunities(InteractionDatasetConformance):
    dataset = PlantedCommunities
    # Two items of every user: one for test, one stays (halves go up, one item stays).
    counts: ClassVar = {"train": 30, "valid": 0, "test": 30}

    def config(self, folder):
        return PlantedCommunities.Config(
            num_users=30, num_items=20, mean_items=2, min_items=2,
            split={"kind": "by_user", "test": 0.5},
        )  # fmt: skip

    def test_by_time_of_each_user(self, tmp_path):
        config = self.config(tmp_path).model_copy(update={"split": LeaveOneOut()})
        splits = PlantedCommunities(config).splits(tmp_path)
        last = dict(zip(splits.test.user.tolist(), splits.test.time.tolist()))
        for user, time in zip(splits.train.user.tolist(), splits.train.time.tolist()):
            assert time < last[user]


def test_the_oracle_is_of_the_users_asked_for(tmp_path):
    data = PlantedCommunities(PlantedCommunities.Config(num_users=40, num_items=30))
    scores = data.oracle(np.array([7, 3]))
    np.testing.assert_array_equal(scores[1], data.oracle(np.arange(40))[3])
    log = data.splits(tmp_path).train
    seen = np.zeros((40, 30), bool)
    seen[log.user, log.item] = True
    whole = data.oracle(np.arange(40))
    assert whole[seen].mean() > 1.5 * whole[~seen].mean()


def test_made_pairs_are_not_split_already(tmp_path):
    data = PlantedCommunities(PlantedCommunities.Config(split=GivenSplit()))
    with pytest.raises(ConfigError, match="kind=given is for data that come as train and test"):
        data.splits(tmp_path)
