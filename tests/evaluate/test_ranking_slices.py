"""Groups of users and items by their training interactions."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.evaluate.ranking_slices import degree_groups


def test_groups_of_equal_weight():
    """Degrees 1..8 weigh 36: the half is reached at 6 (21), so 1..6 and 7..8."""
    degrees = np.arange(1, 9)
    groups = degree_groups(degrees, degrees, 0, 2)
    assert groups.names == ("new (0)", "1-6", "7 or more")
    assert groups.codes.tolist() == [1] * 6 + [2] * 2


def test_new_and_cold_come_first():
    groups = degree_groups(np.array([0, 1, 2, 3, 9]), np.ones(5), 3, 1)
    assert groups.names == ("new (0)", "cold (1-2)", "3 or more")
    assert groups.codes.tolist() == [0, 1, 1, 2, 2]


@pytest.mark.parametrize("degrees", [[], [0, 0], [7, 7, 7]])
def test_degrees_that_cannot_be_divided(degrees):
    groups = degree_groups(np.array(degrees, dtype=np.int64), np.zeros(len(degrees)), 5, 4)
    assert groups.codes.tolist() == [2 if degree else 0 for degree in degrees]


@given(st.lists(st.integers(0, 30), min_size=1, max_size=30), st.integers(0, 6), st.integers(1, 5))
@settings(max_examples=150, deadline=None)
def test_names_say_what_is_in_the_group(degrees, cold, number):
    groups = degree_groups(np.array(degrees), np.array(degrees), cold, number)
    assert len(groups.names) <= number + 2
    for degree, code in zip(degrees, groups.codes.tolist()):
        text = groups.names[code].removeprefix("cold (").removeprefix("new (").removesuffix(")")
        low, _, high = text.removesuffix(" or more").partition("-")
        top = 10**9 if text.endswith("or more") else int(high or low)
        assert int(low) <= degree <= top, (degree, groups.names)
        assert ("cold" in groups.names[code]) == (0 < degree < cold)
