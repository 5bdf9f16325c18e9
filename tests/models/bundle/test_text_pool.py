import numpy as np
import pytest
import torch
from scipy.sparse import csr_array

from recsys.errors import ConfigError
from recsys.graph.interaction_graph import InteractionGraph
from recsys.graph.item_features import ItemFeatures
from recsys.models.bundle.text_pool import TextPool
from recsys.testing.cf import CFModelConformance


class TestTextPool(CFModelConformance):
    model = TextPool
    config = TextPool.Config()
    equivariant = False  # texts have the numbers of the items


def test_scores_are_mean_cosines():
    texts = ("red pen", "red", "pen", "")
    graph = InteractionGraph(1, 4, torch.tensor([0]), torch.tensor([0]),
                             features=ItemFeatures(4, texts))  # fmt: skip
    model = TextPool(TextPool.Config(), graph)
    model.fit(print)
    found = model.scores_of(csr_array(np.array([[0, 1.0, 1, 0], [0, 0, 0, 1]])))
    # both words are equally rare: (1, 1) / sqrt 2 against (1, 0) and (0, 1)
    half = 2**-0.5
    expected = torch.tensor([[half, 0.5, 0.5, 0.0], [0.0, 0.0, 0.0, 0.0]])
    torch.testing.assert_close(found, expected)


def test_items_need_texts():
    graph = InteractionGraph(1, 4, torch.tensor([0]), torch.tensor([0]))
    with pytest.raises(ConfigError, match="reads texts of items"):
        TextPool(TextPool.Config(), graph)
