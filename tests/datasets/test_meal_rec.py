from typing import ClassVar

import numpy as np
import pytest

from recsys.datasets.meal_rec import MealRec
from recsys.errors import DataError
from recsys.testing.bundle_dataset import BundleDatasetConformance
from recsys.testing.dataset import shared_pack

# Meal m has the courses 0, 1 + m and 13: an appetizer and a dessert that all meals share.
FILES = {
    "user_meal_train.txt": "0\t0\n0\t1\n1\t2\n",
    "user_meal_tune.txt": "1\t3\n",
    "user_meal_test.txt": "0\t2\n1\t4\n",
    "user_course.txt": "0\t0\n0\t1\n0\t2\n0\t3\n0\t13\n0\t14\n1\t0\n1\t3\n1\t4\n1\t5\n1\t13\n",
    "meal_course.txt": "".join(f"{m}\t0\n{m}\t{m + 1}\n{m}\t13\n" for m in range(12)),
    "course_category.txt": "0\t0\n13\t2\n13\t2\n" + "".join(f"{c}\t1\n" for c in range(1, 13)),
    "meta_data/user2index.txt": "70\t0\n60\t1\n",
    "meta_data/course2index.txt": "".join(f"{100 + c}\t{14 - c}\n" for c in range(15)),
}


def write(folder, **other):
    (folder / "meta_data").mkdir()
    for name, text in FILES.items():
        (folder / name).write_text(other.get(name.split("/")[-1].removesuffix(".txt"), text))
    return MealRec.Config(path=str(folder))


class TestMealRec(BundleDatasetConformance):
    dataset = MealRec
    counts: ClassVar = {"train": 3, "valid": 1, "test": 2}

    def config(self, folder):
        return write(folder)


def test_courses_that_only_held_out_meals_explain_are_left_out(tmp_path):
    config = write(tmp_path)
    data = MealRec(config).bundle_data(tmp_path)
    # User 0: course 3 is of held-out meal 2; 0 and 13 are of training meals too, 14 of no meal.
    # User 1: 4 and 5 are of held-out meals 3 and 4.
    pairs = list(zip(data.user_item.user.tolist(), data.user_item.item.tolist()))
    assert pairs == [(0, 0), (0, 1), (0, 2), (0, 13), (0, 14), (1, 0), (1, 3), (1, 13)]
    assert data.report["pairs_of_held_out_meals"] == 3
    data = MealRec(config.model_copy(update={"user_course": "all"})).bundle_data(tmp_path)
    assert len(data.user_item) == 11 and data.report["pairs_of_held_out_meals"] == 0


def test_categories_and_original_ids(tmp_path):
    config = write(tmp_path).model_copy(update={"ids": "original"})
    data = MealRec(config).bundle_data(tmp_path)
    assert data.item_categories[0] == ("appetizer",)
    assert data.item_categories[12:] == (("main dish",), ("dessert",), ())
    assert data.users.values.tolist() == [70, 60]
    assert data.items.values.tolist() == list(range(114, 99, -1))
    assert data.user_bundle.train.users.values.tolist() == [70, 60]


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        ("course_category", "0\t3\n", "a category below 3, got 0 and 3"),
        ("user2index", "70\t0\n60\t2\n", "expected every number from 0 to 1 once"),
        ("meal_course", "0\t0\n0\t99\n", "item `99` is not among the 15 known items"),
        ("user_meal_test", "0\t50\n", "bundle `50` is empty"),
    ],
)
def test_what_is_refused(tmp_path, name, content, text):
    with pytest.raises(DataError, match=text):
        MealRec(write(tmp_path, **{name: content})).bundle_data(tmp_path)


def test_the_real_pack(tmp_path):
    path = str(shared_pack("mealrecplus_H", "mealrecplus_H"))
    data = MealRec(MealRec.Config(path=path, user_course="all")).bundle_data(tmp_path)
    assert (data.num_users, data.num_bundles, data.num_items) == (1575, 3817, 7280)
    assert [len(split) for _, split in data.user_bundle.items()] == [37413, 4677, 4677]
    assert (len(data.user_item), len(data.bundles.item)) == (151_148, 11_451)
    assert set(data.bundles.sizes()) == {3} and data.report["items_without_bundle"] == 6338
    # The leak: who took all three courses took the meal, and nobody else did.
    took, inside = np.zeros((1575, 7280), np.float32), np.zeros((3817, 7280), np.float32)
    took[data.user_item.user, data.user_item.item] = 1
    inside[data.bundles.bundle, data.bundles.item] = 1
    told = np.flatnonzero((took @ inside.T).ravel() == 3)
    known = np.concatenate([split.keys for _, split in data.user_bundle.items()])
    np.testing.assert_array_equal(told, np.sort(known))
    data = MealRec(MealRec.Config(path=path)).bundle_data(tmp_path)
    took[:] = 0
    took[data.user_item.user, data.user_item.item] = 1
    full = (took @ inside.T).ravel() == 3
    assert full[data.user_bundle.train.keys].all()
    assert set(np.flatnonzero(full)) <= set(known.tolist())
    shares = [full[split.keys].mean() for _, split in data.user_bundle.items()][1:]
    assert shares == pytest.approx([0.606, 0.612], abs=0.001)
    # Bundles to complete: users' courses do not tell what is asked.
    found = MealRec(MealRec.Config(path=path)).completion(tmp_path)
    assert found.report["pairs_of_held_out_bundles"] == 5555
