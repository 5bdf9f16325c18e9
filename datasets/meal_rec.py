"""MealRec+: meals of three courses (appetizer, main dish, dessert) as bundles.

MealRec+H (the dense half): 1,575 users, 3,817 meals, 7,280 courses; users' meals 37,413 to train,
4,677 to tune, 4,677 to test; 151,148 users' courses; 11,451 courses of meals (three of each). Every
course has at most one category. Source: github.com/WUT-IDEA/MealRecPlus, folder
``MealRec+/MealRec+H``. Licence: none stated. Split: as given, 8 : 1 : 1 over pairs.

Texts of courses are in a file that the repository keeps apart (Git LFS), so there are none here.

Traps:
    - Users' courses give users' meals away: a user took a meal if and only if the user took all of
      its three courses (46,767 pairs of a user and a meal have all three, and these are the 46,767
      of the files, counted). With ``user_course=all``, as published, "all three taken" finds every
      held-out meal and nothing else. By default courses that only held-out meals of a user explain
      are left out for that user, and counted (``pairs_of_held_out_meals``).
    - Even so 61 % of the held-out pairs are told: their three courses are in training meals of the
      user, and no other untaken meal has that. This follows from the way pairs were simulated, not
      from a leak of ours: a model that counts known courses may be far above one of pairs alone.
    - 6,338 of 7,280 courses are in no meal; meals share the other 942, so many meals differ in one
      course alone.
    - A course's category is its place in meals, not a kind of food.

Stability: caller
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np

from recsys.data.files import find_file, needed_path
from recsys.errors import DataError
from recsys.graph.bundle_assembly import BundleNames, assemble
from recsys.graph.bundle_dataset import BundleDataset
from recsys.graph.bundles import BundleData
from recsys.graph.interactions import Names
from recsys.graph.number_files import read_columns
from recsys.graph.splitting import GivenSplit
from recsys.graph.told_pairs import only_held_out

_ADVICE = (
    "Get the folder MealRec+/MealRec+H (or MealRec+L) of https://github.com/WUT-IDEA/MealRecPlus, "
    "and set `path` to it."
)
Pairs = tuple[np.ndarray, np.ndarray]

_COURSES = ("appetizer", "main dish", "dessert")
_FILES = {
    "train": "user_meal_train.txt",
    "valid": "user_meal_tune.txt",
    "test": "user_meal_test.txt",
}


class MealRec(BundleDataset):
    """Meals as bundles of courses.

    Args:
        config: Where the files are.

    Raises:
        DataError: From `bundle_data`: files are missing, cut or malformed.

    Source:
        Li et al., "MealRec+: A Meal Recommendation Dataset with Meal-Course Affiliation for
        Personalization and Healthiness", SIGIR 2024.
    """

    homepage = "https://github.com/WUT-IDEA/MealRecPlus"
    licence = "none stated by the repository"

    class Config(BundleDataset.Config):
        """Where the files are."""

        path: str | None = None
        """Folder with the files."""
        user_course: Literal["without_held_out", "all"] = "without_held_out"
        """Courses of users: without those that only held-out meals explain, or all, as published,
        which tells the held-out meals."""
        ids: Literal["numbers", "original"] = "numbers"
        """Ids of users and courses: numbers of the files, or those of ``meta_data`` (of
        allrecipes.com)."""

    config: Config

    def bundle_data(self, cache_dir: Path) -> BundleData:
        """Reads the files."""
        del cache_dir
        path = Path(needed_path(self.config.path, "MealRec+", _ADVICE)).expanduser()
        taken = {part: _pairs(path, name, ("user", "meal")) for part, name in _FILES.items()}
        content = _pairs(path, "meal_course.txt", ("meal", "course"))
        alone = _pairs(path, "user_course.txt", ("user", "course"))
        left_out = 0
        if self.config.user_course == "without_held_out":
            alone, left_out = _without_held_out(alone, taken, content)
        users = _original(path, "user2index.txt")
        courses = _original(path, "course2index.txt")
        names = BundleNames(Names(np.arange(len(users))), None, Names(np.arange(len(courses))))
        data = assemble(taken, content, alone, names, GivenSplit())
        categories = _categories(path, len(courses))
        if self.config.ids == "original":
            data = _renamed(data, Names(users), Names(courses))
        report = data.report | {"pairs_of_held_out_meals": left_out}
        return dataclasses.replace(data, item_categories=categories, report=report)


def _pairs(path: Path, name: str, columns: tuple[str, str]) -> Pairs:
    found = read_columns(find_file(path, [name], _ADVICE), columns)
    return found[0], found[1]


def _original(path: Path, name: str) -> np.ndarray:
    """The original id of every number; numbers must be 0, 1, 2 ... in some order."""
    file = find_file(path / "meta_data", [name], _ADVICE)
    original, number = read_columns(file, ("id", "number"))
    if not np.array_equal(np.sort(number), np.arange(len(number))):
        raise DataError(
            f"expected every number from 0 to {len(number) - 1} once. Fetch it anew.",
            file=str(file),
        )
    return original[np.argsort(number)]


def _categories(path: Path, count: int) -> tuple[tuple[str, ...], ...]:
    """The place in meals of every course; none of those in no meal."""
    file = find_file(path, ["course_category.txt"], _ADVICE)
    course, category = read_columns(file, ("course", "category"))
    wrong = (course >= count) | (category >= len(_COURSES))
    if wrong.any():
        row = int(np.argmax(wrong))
        raise DataError(
            f"expected a course below {count} and a category below {len(_COURSES)}, got "
            f"{course[row]} and {category[row]}.", file=str(file), row=row + 1,
        )  # fmt: skip
    found: list[tuple[str, ...]] = [()] * count
    for pair in np.unique(course * len(_COURSES) + category).tolist():
        number, place = divmod(pair, len(_COURSES))
        found[number] = (*found[number], _COURSES[place])
    return tuple(found)


def _without_held_out(
    alone: Pairs, taken: Mapping[str, Pairs], content: Pairs
) -> tuple[Pairs, int]:
    """The pairs of users and courses that are not of held-out meals alone; number left out."""
    held = [np.concatenate([taken["valid"][end], taken["test"][end]]) for end in (0, 1)]
    told = only_held_out(alone, (held[0], held[1]), taken["train"], content)
    return (alone[0][~told], alone[1][~told]), int(told.sum())


def _renamed(data: BundleData, users: Names, courses: Names) -> BundleData:
    """The same data with other ids of users and items."""
    parts = {name: dataclasses.replace(split, users=users)
             for name, split in data.user_bundle.items()}  # fmt: skip
    assert data.user_item is not None
    return dataclasses.replace(
        data, user_bundle=dataclasses.replace(data.user_bundle, **parts),
        bundles=dataclasses.replace(data.bundles, items=courses),
        user_item=dataclasses.replace(data.user_item, users=users, items=courses),
    )  # fmt: skip
