from typing import ClassVar

import numpy as np
import pytest

from recsys.datasets.last_fm import LastFM
from recsys.errors import DataError
from recsys.testing.dataset import shared_pack
from recsys.testing.interaction_dataset import InteractionDatasetConformance

PLAYS = "2\t5\t10\n2\t6\t3\n3\t5\t2e+02\n3\t7\t1\n"


class TestLastFM(InteractionDatasetConformance):
    dataset = LastFM
    counts: ClassVar = {"train": 2, "valid": 2, "test": 1}

    def config(self, folder):
        (folder / "data1.txt").write_text(PLAYS)
        (folder / "test1.txt").write_text("2\t8\t1\n")
        (folder / "trustnetwork.txt").write_text("2\t3\n3\t9\n")
        return LastFM.Config(path=str(folder), split={"valid": 0.5})

    def test_plays_and_trust(self, tmp_path):
        data = self.made(tmp_path)
        splits = data.splits(tmp_path)
        assert splits.train.users.values.tolist() == [2, 3, 9]  # 9 is in the network alone
        assert sorted([*splits.train.weight, *splits.valid.weight]) == [1.0, 3.0, 10.0, 200.0]
        assert data.trust(tmp_path).tolist() == [[0, 1], [1, 2]]
        (tmp_path / "trustnetwork.txt").unlink()
        assert data.trust(tmp_path).shape == (2, 0)
        assert data.splits(tmp_path).train.num_users == 2

    def test_a_cut_file(self, tmp_path):
        data = self.made(tmp_path)
        (tmp_path / "trustnetwork.txt").write_text("2\t3\n3")
        with pytest.raises(DataError, match=r"(?s)may have been cut.*trustnetwork.txt"):
            data.splits(tmp_path)
        (tmp_path / "test1.txt").unlink()
        with pytest.raises(DataError, match=r"expected `test1.txt` in .*LightGCN-PyTorch"):
            data.splits(tmp_path)


def test_the_real_pack(tmp_path):
    folder = shared_pack("lastfm_lightgcn", "lastfm_lightgcn")
    data = LastFM(LastFM.Config(path=str(folder), split={"valid": 0}))
    splits = data.splits(tmp_path)
    assert (splits.train.num_users, splits.train.num_items) == (1_892, 4_489)
    assert (len(splits.train), len(splits.test), splits.valid) == (42_135, 10_533, None)
    assert splits.report["test_users_without_train_items"] == 2
    assert splits.report["test_items_not_in_train"] == 13
    assert data.trust(tmp_path).shape == (2, 25_434)
    np.testing.assert_array_equal(splits.train.users.values, np.arange(1, 1_893))
