"""Intents by hand."""

import torch

from recsys.layers.intents import Intents


def test_users_take_by_their_shares_of_intents():
    """A user who is all of intent 1, which is all of relation 0."""
    layer = Intents(2, 2, 2)
    with torch.no_grad():
        layer.relations.copy_(torch.tensor([[2.0, 0.5], [7.0, 7.0]]))
        layer.mixture.copy_(torch.tensor([[0.0, 99.0], [99.0, 0.0]]))
        layer.latent.copy_(torch.tensor([[-50.0, 0.0], [50.0, 0.0]]))
    users = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    found = layer(users, torch.tensor([[1.0, 10.0], [1.0, 10.0]]))
    torch.testing.assert_close(layer.shares(users)[1], torch.tensor([0.5, 0.5]))
    torch.testing.assert_close(found[0], torch.tensor([3.0, 15.0]))
    torch.testing.assert_close(found[1], torch.tensor([1 + 4.5, 10 * (1 + 3.75)]))
