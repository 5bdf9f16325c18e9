from typing import ClassVar

import numpy as np
import pytest

from recsys.datasets.bundle_rec import BundleRec
from recsys.errors import DataError
from recsys.testing.bundle_dataset import BundleDatasetConformance
from recsys.testing.dataset import shared_pack

# Ten users, a session each, of two bundles with items (2 b, 2 b + 1), b from 0 to 19.
BUNDLES = range(20)
FILES = {
    "bundle_item": "bundle ID,item ID\n"
    + "".join(f"{b},{2 * b}\n{b},{2 * b + 1}\n" for b in BUNDLES),
    "session_bundle": "session ID,bundle ID\n" + "".join(f"{b // 2},{b}\n" for b in BUNDLES),
    "user_bundle": "user ID,bundle ID,timestamp\n" + "".join(f"{b // 2},{b},5\n" for b in BUNDLES),
    "user_item": "user ID,item ID,timestamp\n" + "".join(f"{i // 4},{i},5\n" for i in range(40)),
    "item_titles": "item ID,titles\n" + "".join(f'{i},"A, ""{i}"""\n' for i in range(40)),
    "item_categories": "item ID,categories\n"
    + "".join(f'{i},"[[All,Part {i % 2}],[All,Rest]]"\n' for i in range(40)),
    "bundle_intent": "bundle ID,intent\n" + "".join(f"{b},want {b}\n" for b in BUNDLES),
}  # fmt: skip


def write(folder, **other):
    for name, text in (FILES | other).items():
        (folder / f"{name}.csv").write_text(text)
    return BundleRec.Config(path=str(folder))


class TestBundleRec(BundleDatasetConformance):
    dataset = BundleRec
    # A tenth and a fifth of ten sessions.
    counts: ClassVar = {"train": 14, "valid": 2, "test": 4}

    def config(self, folder):
        return write(folder)


def test_nothing_of_held_out_sessions_is_told(tmp_path):
    data = BundleRec(write(tmp_path))
    found, made = data.completion(tmp_path), data.bundle_data(tmp_path)
    held = np.concatenate([part.given.bundles.values for _, part in found.held_out()])
    assert len(held) == 6 and set((held // 2).tolist()).isdisjoint(made.user_item.user.tolist())
    assert made.report["pairs_of_held_out_sessions"] == 12 and len(made.user_item) == 28
    assert set((found.train.bundles.values // 2).tolist()).isdisjoint((held // 2).tolist())
    np.testing.assert_array_equal(found.user_item.keys, made.user_item.keys)
    np.testing.assert_array_equal(
        np.sort(made.user_bundle.test.item), np.sort(found.test.given.bundles.values)
    )


def test_texts_and_categories(tmp_path):
    data = BundleRec(write(tmp_path)).bundle_data(tmp_path)
    assert data.item_texts[3] == 'A, "3"' and data.bundle_texts[19] == "want 19"
    assert data.item_categories[3] == ("All", "Part 1", "Rest")


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        ("session_bundle", "session ID,bundle ID\n0,0\n", "bundle 1 has no session"),
        (
            "session_bundle",
            "session ID,bundle ID\n0,77\n",
            "bundle of session_bundle.csv .*77.* is not known",
        ),
        ("item_titles", "item ID,titles\n0,a\n0,b\n", "has a number twice"),
        ("item_titles", "item ID,titles\n0,a\n", "item `1` is not among the 1 known items"),
        ("bundle_item", "bundle ID,item\n0,0\n", "item ID"),
    ],
)
def test_what_is_refused(tmp_path, name, content, text):
    with pytest.raises(DataError, match=text):
        BundleRec(write(tmp_path, **{name: content})).bundle_data(tmp_path)
    categories = "item ID,categories\n" + "".join(f"{i},x\n" for i in range(40))
    with pytest.raises(DataError, match=r"expected categories as \[\[A,B\],\[C\]\], got 'x'"):
        BundleRec(write(tmp_path, item_categories=categories)).bundle_data(tmp_path)


def test_the_real_pack(tmp_path):
    path = str(shared_pack("bundlerec_electronic", "bundlerec_electronic"))
    data = BundleRec(BundleRec.Config(path=path))
    made, found = data.bundle_data(tmp_path), data.completion(tmp_path)
    assert (made.num_users, made.num_items, made.num_bundles) == (888, 3499, 1750)
    assert len(made.bundles.item) == 6165 and made.bundles.sizes().mean() == pytest.approx(
        3.52, abs=0.005
    )
    assert sum(len(split) for _, split in made.user_bundle.items()) == 1750
    assert [len(found.train), len(found.valid), len(found.test)] == [1226, 175, 349]
    assert len(made.user_item) + made.report["pairs_of_held_out_sessions"] == 4461
    assert made.item_texts[0].startswith("ASUS") or all(made.item_texts)
