from pathlib import Path

import pytest

from recsys.graph.dataset import InteractionDataset


def test_a_data_set_needs_a_config_of_its_own():
    with pytest.raises(TypeError, match="Plain needs a nested `class Config"):

        class Plain(InteractionDataset):
            def splits(self, cache_dir):
                raise NotImplementedError


def test_without_triples_nothing_is_known():
    class Mine(InteractionDataset):
        class Config(InteractionDataset.Config):
            """No options."""

        def splits(self, cache_dir):
            raise NotImplementedError

    assert Mine(Mine.Config()).knowledge(Path("anywhere")) is None
