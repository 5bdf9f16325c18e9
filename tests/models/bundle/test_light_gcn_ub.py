"""LightGCN-UB is LightGCN on users and bundles."""

import pytest
import torch

from recsys.errors import ConfigError
from recsys.models.bundle.light_gcn_ub import LightGCNUB
from recsys.models.graph.light_gcn import LightGCN
from recsys.testing.bundle import BundleModelConformance, small_bundles
from recsys.types import PairBatch

BATCH = PairBatch(torch.tensor([0, 2]), torch.tensor([1, 2]), torch.tensor([[2, 3], [0, 1]]))


class TestSuite(BundleModelConformance):
    model = LightGCNUB
    config = LightGCNUB.Config(embedding_dim=8, init_std=0.1)
    looks_inside = False


def built(cls, **options):
    config = cls.Config(embedding_dim=6, num_layers=2, init_std=0.1, l2=0.3, **options)
    made = cls(config, small_bundles(user_item=False))
    made.reset_parameters(1)
    return made


def test_vectors_loss_gradient_and_messages_are_those_of_light_gcn():
    mine, other = built(LightGCNUB), built(LightGCN)
    losses = [made.loss(BATCH) for made in (mine, other)]
    torch.testing.assert_close(*losses)
    grads = [
        torch.autograd.grad(loss, made.embeddings.table_parameters())[0]
        for loss, made in zip(losses, (mine, other))
    ]
    torch.testing.assert_close(*grads)
    for made in (mine, other):
        made.eval()
    torch.testing.assert_close(mine.vectors(), other.vectors())
    torch.testing.assert_close(mine.messages(), other.messages())
    history = mine.graph.matrix()[[1]]
    torch.testing.assert_close(mine.scores_of(history), other.scores_of(history))


def test_it_has_no_rows_for_items_and_folds_in_where_it_is_linear():
    assert set(built(LightGCNUB).schema.keys) == {"user", "item"}
    with pytest.raises(ConfigError, match="LightGCNUB has no vectors of users"):
        built(LightGCNUB, normalize_layers=True).eval().messages()
