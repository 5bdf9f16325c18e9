"""MostPop: counts, for everybody."""

import pytest
import torch
from scipy.sparse import csr_array

from recsys.errors import ConfigError, DataError, TrainingError
from recsys.graph.interaction_graph import InteractionGraph
from recsys.models.graph.most_pop import MostPop

USER, ITEM = torch.tensor([0, 0, 1, 2]), torch.tensor([1, 3, 1, 1])


def test_counts_and_weights_by_hand():
    model = MostPop(MostPop.Config(), InteractionGraph(4, 4, USER, ITEM))
    model.fit(lambda line: None)
    assert model.scores(torch.tensor([3, 0])).tolist() == [[0, 3, 0, 1]] * 2
    weight = torch.tensor([0.5, 2.0, 1.0, 4.0])
    model = MostPop(MostPop.Config(), InteractionGraph(4, 4, USER, ITEM, weight))
    model.fit(lambda line: None)
    assert model.scores_of(csr_array((1, 4))).tolist() == [[0, 5.5, 0, 2]]


def test_scores_may_be_masked_in_place():
    model = MostPop(MostPop.Config(), InteractionGraph(4, 4, USER, ITEM))
    model.fit(lambda line: None)
    scores = model.scores_of(csr_array((2, 4)))
    scores[0, 1] = -1
    assert scores[1, 1] == 3


def test_errors():
    graph = InteractionGraph(4, 4, USER, ITEM)
    with pytest.raises(TrainingError, match="expected a fitted model"):
        MostPop(MostPop.Config(), graph).scores(torch.tensor([0]))
    model = MostPop(MostPop.Config(), graph)
    model.fit(lambda line: None)
    with pytest.raises(DataError, match="expected a history with 4 columns"):
        model.scores_of(csr_array((1, 3)))
    config = MostPop.Config.model_validate(
        {"compression": {"scheme": {"kind": "unified"}, "ratio": 0.5}}
    )
    with pytest.raises(ConfigError, match="MostPop has no embedding tables"):
        MostPop(config, graph)
