import numpy as np
import pytest

from recsys.errors import DataError
from recsys.graph.bundle_assembly import assemble
from recsys.graph.bundles import BundleData, Bundles
from recsys.graph.interactions import Interactions, InteractionSplits, Names


def bundles():
    return Bundles(
        Names(["a", "b", "c"]), Names([7, 8, 9, 10]),
        np.array([0, 0, 1, 2, 2]), np.array([0, 2, 1, 0, 3]),
    )  # fmt: skip


def test_sizes_offsets_and_items():
    found = bundles()
    assert found.sizes().tolist() == [2, 1, 2]
    assert found.offsets().tolist() == [0, 2, 3, 5]
    assert [found.items_of(n).tolist() for n in range(3)] == [[0, 2], [1], [0, 3]]
    assert found.items_without_bundle == 0


def test_take_numbers_anew_and_keeps_items():
    part = bundles().take(np.array([0, 2]))
    assert part.bundles.values.tolist() == ["a", "c"]
    assert (part.bundle.tolist(), part.item.tolist()) == ([0, 0, 1, 1], [0, 2, 0, 3])
    assert part.num_items == 4 and part.items_without_bundle == 1
    with pytest.raises(DataError, match="rising numbers"):
        bundles().take(np.array([2, 0]))


def test_as_interactions():
    log = bundles().interactions()
    assert log.num_users == 3 and log.user_degrees().tolist() == [2, 1, 2]


@pytest.mark.parametrize(
    ("bundle", "item", "text"),
    [
        ([0, 1], [0, 1], r"bundle `c` is empty, as are 0 others"),
        ([0, 1, 3], [0, 1, 1], "numbers of bundles from 0 to 2, got 0 to 3"),
        ([0, 1, 2], [0, 1, 4], "numbers of items from 0 to 3, got 0 to 4"),
        ([0, 1, 2], [0, -1, 2], "numbers of items from 0 to 3, got -1 to 2"),
        ([0, 0, 1, 2], [1, 1, 0, 0], "every pair once"),
        ([0, 2, 1], [1, 1, 0], "every pair once"),
        ([0, 1, 2], [1, 1], "as many items as bundles"),
    ],
)
def test_what_is_refused(bundle, item, text):
    with pytest.raises(DataError, match=text):
        Bundles(Names(["a", "b", "c"]), Names(range(4)), np.array(bundle), np.array(item))


def test_parts_of_the_data_fit_each_other():
    data = assemble({"train": ([1, 2], ["a", "b"])}, (["a", "b"], [7, 8]), ([1], [8]))
    other = Interactions(Names([5]), data.items, np.array([0]), np.array([0]))
    with pytest.raises(DataError, match="user_item: expected the 2 users"):
        BundleData(data.user_bundle, data.bundles, other)
    wrong = InteractionSplits(Interactions(data.users, Names(["a"]), np.array([0]), np.array([0])))
    with pytest.raises(DataError, match=r"user_bundle.train: expected the 2 bundles"):
        BundleData(wrong, data.bundles)
    with pytest.raises(DataError, match="item_texts: expected 2 values, got 1"):
        BundleData(data.user_bundle, data.bundles, item_texts=("x",))
    with pytest.raises(DataError, match="finite numbers of at least 0"):
        BundleData(data.user_bundle, data.bundles, item_prices=np.array([1.0, np.nan]))


def test_cold_bundles():
    data = assemble({"train": ([1], ["a"]), "test": ([1], ["b"])}, (["a", "b"], [7, 8]))
    assert data.cold_bundles().tolist() == [1]
