import abc

import pytest

from recsys.data.any_dataset import AnyDataset


class Kind(AnyDataset, abc.ABC):
    """A kind without options of its own."""

    @abc.abstractmethod
    def rows(self):
        raise NotImplementedError


class Mine(Kind):
    class Config(Kind.Config):
        num_rows: int = 3

    licence = "mine"

    def rows(self):
        return self.config.num_rows


def test_a_data_set_has_its_options_and_says_what_may_be_done_with_it():
    assert Mine(Mine.Config(num_rows=5)).rows() == 5
    assert (Mine.licence, Mine.homepage, Kind.licence) == ("mine", "", "")


def test_one_that_is_complete_needs_a_config_of_its_own():
    class Half(Kind):
        """Abstract as well."""

    for base, name in ((Half, "Half"), (Mine, "Mine")):
        wanted = rf"^Bad needs a nested `class Config\({name}\.Config\)` of its own\.$"
        with pytest.raises(TypeError, match=wanted):
            type("Bad", (base,), {"rows": lambda self: 0})
